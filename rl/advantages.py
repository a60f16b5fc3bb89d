"""Rewards, returns and advantages of learnt tokens. Pure functions.

Observation tokens do not exist here: an episode is the row of its learnt tokens, one after the
other across all turns, so inserting any number of observation tokens changes nothing.

Shapes: E episodes, A learnt tokens of the longest, N learnt tokens of all of them, episode by
episode.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rl.episode import Episode, Part


def token_rewards(episode: Episode, learn: Sequence[Part]) -> list[float]:
    """The environment's reward of every learnt token. What the tokens of others earn (a frozen
    reader's answer) belongs to the learnt token before them, which led there."""
    rewards: list[float] = []
    for reward, part in zip(episode.rewards, episode.parts, strict=True):
        if part in learn:
            rewards.append(reward)
        elif rewards:
            rewards[-1] += reward
    return rewards


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> Tensor:
    """GAE (Schulman et al., 2016, eq. 16): float32 [E, A] -> advantages [E, A], 0 where mask is
    False.

    The mask marks the real tokens, which lie on the left. values[:, i] is V of the state before
    token i; the state after the last one is terminal (V = 0).
    """
    advantages = torch.zeros_like(rewards)
    running = torch.zeros(len(rewards), device=rewards.device)
    next_value = torch.zeros_like(running)  # V of the state after token i
    for i in reversed(range(rewards.shape[1])):
        delta = rewards[:, i] + gamma * next_value - values[:, i]
        running = torch.where(mask[:, i], delta + gamma * lam * running, running)
        next_value = torch.where(mask[:, i], values[:, i], next_value)
        advantages[:, i] = torch.where(mask[:, i], running, advantages[:, i])
    return advantages


def paired_decision_advantages(
    advantages: Tensor, returns: Tensor, log_probs: Tensor, first: Tensor
) -> Tensor:
    """Replace the advantage of each episode's first decision by R_a - E_pi[R], the exact
    expectation over the two branches of its question instead of a value head's estimate.

    All float32 [N]; first int64 [E]: where that decision stands. Episodes 2 i and 2 i + 1 are a
    pair.
    """
    branch_returns = returns[first].view(-1, 2)
    probabilities = log_probs[first].exp().view(-1, 2)
    expected = (branch_returns * probabilities).sum(-1, keepdim=True)
    return advantages.index_put((first,), (branch_returns - expected).flatten())


def whiten(x: Tensor) -> Tensor:
    """Zero mean, unit variance over all tokens [N]: of the whole rollout, never of a
    micro-batch."""
    return (x - x.mean()) / (x.std(unbiased=False) + 1e-8)
