"""Returns and advantages over action tokens. Pure functions on padded rows, one row an episode.

Observation tokens do not exist here: an episode's row holds its action tokens alone, one after the other across all
turns, so inserting any number of observation tokens changes nothing (DESIGN, section 3).

Shapes: E episodes, N action tokens of the longest; mask marks the real ones, which lie on the left.
"""

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> Tensor:
    """GAE (Schulman et al., 2016, eq. 16): float32 [E, N] -> advantages [E, N], 0 where mask is False.

    values[:, i] is V of the state before action token i; the state after the last one is terminal (V = 0).
    """
    advantages = torch.zeros_like(rewards)
    running = torch.zeros(len(rewards), device=rewards.device)
    after = torch.zeros_like(running)  # V of the state after token i
    for i in reversed(range(rewards.shape[1])):
        delta = rewards[:, i] + gamma * after - values[:, i]
        running = torch.where(mask[:, i], delta + gamma * lam * running, running)
        after = torch.where(mask[:, i], values[:, i], after)
        advantages[:, i] = torch.where(mask[:, i], running, advantages[:, i])
    return advantages


def whiten(x: Tensor) -> Tensor:
    """Zero mean, unit variance over all given tokens [N] (call it on the whole rollout, never on a micro-batch)."""
    return (x - x.mean()) / (x.std(unbiased=False) + 1e-8)
