"""Data parallelism on a CPU: micro-batches in threads of one process, one torch thread each.

    workers = Workers(threads)
    seen = backward(parameters, differentiate, micro_batches, workers.map)

At this size a matmul is too small to be split: a second thread inside every operation makes a training step 1.3 times
as fast, a second micro-batch beside the first one 1.5 times. Torch releases Python's lock during every operation and
throughout a backward pass. Results come in the order of the items and every item is computed by one thread, so a run gives
the same bits with any number of threads. Left out: processes, GPUs (there the kernels are parallel: one worker).
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn


class Workers:
    def __init__(self, threads: int = 0, device: str = "cpu"):
        """threads: 0 = one per core. From here on every torch operation of this process runs on one thread."""
        count = (threads or torch.get_num_threads()) if device == "cpu" else 1
        self.count = count
        if device == "cpu":
            torch.set_num_threads(1)
        self._pool = (
            ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
            if count > 1
            else None
        )

    def map(self, function: Callable, *items: Iterable) -> Iterable:
        """The builtin map, in parallel: results in order, the first exception raised. Gradient mode and autocast belong to
        a thread in torch; the calling thread's are carried over."""
        if self._pool is None:
            return map(function, *items)
        gradients, autocast, dtype = (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
        )

        def call(*item):
            with torch.set_grad_enabled(gradients), torch.autocast("cpu", dtype, enabled=autocast):
                return function(*item)

        return self._pool.map(call, *items)


def backward(
    parameters: list[nn.Parameter],
    differentiate: Callable,
    groups: Iterable,
    spread: Callable = map,
) -> tuple:
    """One gradient from micro-batches: differentiate(group) -> (what was seen, torch.autograd.grad's tuple) on each, spread over
    the workers. Sets .grad to the sum, in the groups' order, and returns what was seen, in that order, too."""
    seen, gradients = zip(*spread(differentiate, groups))
    for parameter, *parts in zip(parameters, *gradients, strict=True):
        parameter.grad = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
    return seen
