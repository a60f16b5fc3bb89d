"""Ranks: processes that train one policy together (torch.distributed). Alone, all of this does
nothing.

Every rank holds the same weights and plays, scores and differentiates its share of the episodes;
gradients are summed once per optimiser step. Same arguments and number of ranks: the same bits.

    for item in share(items): ...        this rank's part of the work
    results = map(function, items)       everybody's results, in order, on all ranks
    reduce(tensors)                      their sums over the ranks, in place

Left out: threads; who starts the ranks (rl/runs/launch.py, torchrun).
"""

import io
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import nn

BUCKET = 1 << 22  # elements that are summed in one call


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def share(items: Sequence) -> list:
    """This rank's part, dealt out in turns: first to last, last to first. Of items sorted by their
    length each rank gets about the same total."""
    turns = range(0, len(items), size())
    owners = [rank() if turn // size() % 2 == 0 else size() - 1 - rank() for turn in turns]
    at = [turn + owner for turn, owner in zip(turns, owners, strict=True)]
    return [items[i] for i in at if i < len(items)]


def gather(results: Iterable, total: int) -> list:
    """The results of everybody's `share` of `total` items, in the order of the items."""
    if size() == 1:
        return list(results)
    packed: list = [None] * size()
    own = io.BytesIO()
    torch.save(list(results), own)
    dist.all_gather_object(packed, own.getvalue())
    everybody = [torch.load(io.BytesIO(x), here, weights_only=False) for x in packed]
    ordered = []
    for i in range(total):
        turn, place = divmod(i, size())
        owner = place if turn % 2 == 0 else size() - 1 - place
        ordered.append(everybody[owner][turn])
    return ordered


def here(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
    """Where this rank puts a tensor of another one: on its own GPU, if it was on a GPU."""
    return storage if location == "cpu" else storage.cuda()


def map(function: Callable, items: Sequence) -> list:
    """[function(item) for item in items], shared out over the ranks."""
    return gather((function(item) for item in share(items)), len(items))


@torch.no_grad()
def reduce(tensors: Sequence[torch.Tensor]) -> None:
    """Replace every tensor by its sum over the ranks."""
    if size() == 1:
        return
    for bucket in buckets(tensors):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def reduce_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients over the ranks; a rank that had no share adds zeros."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    reduce([parameter.grad for parameter in parameters])


def buckets(tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Neighbours of one type together, about BUCKET elements each."""
    grouped: list[list[torch.Tensor]] = []
    room = 0
    for tensor in tensors:
        room -= tensor.numel()
        if room < 0 or tensor.dtype != grouped[-1][0].dtype:
            grouped.append([])
            room = BUCKET - tensor.numel()
        grouped[-1].append(tensor)
    return grouped
