"""Ranks: processes that train one policy together (torch.distributed). Alone, everything here does nothing.

    results = share(function, items)     each rank computes its part of the items; all ranks get all results, in order
    reduce(tensors)                      sums tensors over the ranks, in place

Left out: threads, and who starts the ranks (rl/runs/launch.py, torchrun).
"""

from collections.abc import Callable, Sequence

import torch.distributed as dist
from torch import Tensor


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def share(function: Callable, items: Sequence) -> list:
    """[function(item) for item in items], item i computed by rank i % size; the same on all ranks."""
    if size() == 1:
        return [function(item) for item in items]
    gathered: list = [None] * size()
    dist.all_gather_object(gathered, [function(item) for item in items[rank() :: size()]])
    return [gathered[i % size()][i // size()] for i in range(len(items))]


def reduce(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by its sum over the ranks."""
    if size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
