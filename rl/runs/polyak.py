"""Polyak averaging: the last policy of a run is the mean of those of its last iterations.

Greedy decisions, and the answers that a policy knows by heart, differ more from one iteration to
the next than the rewards do. Left out: exponential averages.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class PolyakMean:
    """The running mean of `parameters` over iterations `first` to `last`."""

    def __init__(self, parameters: Sequence[Tensor], first: int, last: int):
        self.parameters, self.first, self.last = parameters, first, last
        self.mean: list[Tensor] = []  # [] before `first`; part of the state of a run

    @torch.no_grad()
    def count(self, iteration: int) -> None:
        """Count the parameters after an iteration in; after the last one the mean takes their
        place."""
        if iteration < self.first:
            return
        self.mean = self.mean or [torch.zeros_like(p) for p in self.parameters]
        for mean, parameter in zip(self.mean, self.parameters, strict=True):
            mean.lerp_(parameter, 1 / (iteration - self.first + 1))
            if iteration == self.last:
                parameter.copy_(mean)
