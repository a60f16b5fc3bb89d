"""Ranks: processes that train one policy together (torch.distributed). Alone, it does nothing.

Every rank holds the same weights and plays, scores and differentiates its share of the episodes;
gradients are summed once per optimiser step. Same arguments and number of ranks: the same bits.

    for item in share(items): ...        this rank's part of the work
    results = map(function, items)       everybody's results, in order, on all ranks
    reduce(tensors)                      their sums over the ranks, in place

Left out: threads; who starts the ranks (rl/runs/launch.py, torchrun).
"""

import io
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import torch
import torch.distributed as dist
from torch import nn

SMALL = 1 << 18  # elements


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def owner(item: int) -> int:
    """Whose item that is. They are dealt out from the first rank to the last and back, so that of
    items sorted by their length each rank gets about the same total."""
    place = item % (2 * size())
    return min(place, 2 * size() - 1 - place)


def share(items: Sequence) -> list:
    """This rank's items."""
    return [item for i, item in enumerate(items) if owner(i) == rank()]


def gather(results: Iterable) -> list:
    """Everybody's results, those of rank 0 first."""
    if size() == 1:
        return list(results)
    packed: list = [None] * size()
    own = io.BytesIO()
    torch.save(list(results), own)
    dist.all_gather_object(packed, own.getvalue())
    loaded = (torch.load(io.BytesIO(x), here, weights_only=False) for x in packed)
    return [result for shared in loaded for result in shared]


def here(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
    """Where this rank puts a tensor of another one: on its own GPU, if it was on a GPU."""
    return storage if location == "cpu" else storage.cuda()


def map(function: Callable, items: Sequence) -> list:
    """[function(item) for item in items], shared out over the ranks."""
    order = sorted(range(len(items)), key=owner)
    found = dict(zip(order, gather(function(item) for item in share(items)), strict=True))
    return [found[i] for i in range(len(items))]


def most(number: int) -> int:
    """The largest of everybody's numbers."""
    if size() == 1:
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


@torch.no_grad()
def reduce(tensors: Sequence[torch.Tensor]) -> None:
    """Replace every tensor by its sum over the ranks; small neighbours of a type in one call."""
    if size() == 1:
        return
    for _, group in groupby(tensors, lambda x: (x.dtype, x.numel() > SMALL)):
        bucket = list(group)
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> float:
    """Sum the gradients over the ranks and clip their norm; what it was before. Those of a policy
    that lies in slices (rl/runs/shard.py) are sums already. Raises FloatingPointError."""
    reduce([p.grad for p in parameters if not hasattr(p, "full_tensor")])
    norm = nn.utils.clip_grad_norm_(parameters, most)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if not torch.isfinite(norm):
        raise FloatingPointError("the gradient is NaN or infinite")
    return float(norm)
