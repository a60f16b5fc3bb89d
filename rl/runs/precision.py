"""Which numbers a machine multiplies: bf16 where that is faster, else fp32. Weights, losses and
sums are fp32 always. Left out: fp16 with loss scaling, fp8, TF32 (torch's own switch)."""

import torch

DTYPES = ("auto", "bf16", "fp32")


def precision(device: str, dtype: str) -> torch.autocast:
    """The autocast of one forward pass: bf16 multiplications, fp32 master weights and losses."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bf16")


def choose_dtype(name: str, device: str) -> str:
    """ "bf16" or "fp32": `name` itself unless it is "auto". Auto is bf16 on CUDA and on a CPU with
    AMX; others multiply it more slowly (AVX-512: 101 against 170 GFLOP/s)."""
    if name != "auto":
        return name
    fast = torch.device(device).type == "cuda" or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"
