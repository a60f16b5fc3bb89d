"""Which numbers a machine multiplies: bf16 where that is faster, else fp32. Weights, losses and
sums are fp32 always.

Left out: fp16 with loss scaling, fp8, TF32 (torch's own switch).
"""

import time

import torch
from torch.nn import functional as F

from rl import ranks

DTYPES = ("auto", "bf16", "fp32")
ROUNDS = 8


def precision(device: str, dtype: str) -> torch.autocast:
    """The autocast of one forward pass: bf16 multiplications, fp32 master weights and losses."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bf16")


def choose_dtype(name: str, device: str) -> str:
    """ "bf16" or "fp32": `name` itself unless it is "auto". Auto is bf16 on CUDA, and on a CPU
    what a measurement of some milliseconds finds faster (bf16 with AMX or AVX512_BF16). All ranks
    get rank 0's choice."""
    if name != "auto":
        return name
    if torch.device(device).type == "cuda":
        return "bf16"
    [choice] = ranks.map(lambda _: faster(), [None])
    return choice


def faster() -> str:
    """The dtype in which one thread does a small policy's usual work sooner: a linear layer [1024,
    256] x [256, 768] and its backward pass, casts included; the least of some interleaved rounds.
    """
    x, weight = torch.ones(1024, 256), torch.ones(768, 256, requires_grad=True)
    seconds = {"fp32": [], "bf16": []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for dtype in list(seconds) * ROUNDS:
        start = time.perf_counter()
        with precision("cpu", dtype), torch.enable_grad():
            F.linear(x, weight).sum().backward()
        seconds[dtype].append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return min(seconds, key=lambda dtype: min(seconds[dtype]))
