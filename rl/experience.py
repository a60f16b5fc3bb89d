"""What PPO learns from: a rollout, scored once, with rewards and advantages (docs/algorithm.md).

    experience = score_rollout(policy, reference, episodes, ...)     log-probs and values
    rewards = penalised_rewards(experience, beta)                    environment reward - beta KL
    experience = with_advantages(experience, rewards, config, ...)   GAE, both branches, whitening

The KL penalty is part of the reward (Ziegler et al., 2019): -beta (log pi_old - log pi_ref) per
token.

Shapes: N learnt tokens of all episodes, episode by episode; E episodes; D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from model import Policy, Tokenizer
from rl import ranks
from rl.advantages import generalized_advantages, paired_decision_advantages, token_rewards, whiten
from rl.episode import ACTIONS, Episode, Part, collate
from rl.scoring import by_length, score


def _option(default, help: str, **limits):
    """A field that is a flag of train_ppo.py, too."""
    return field(default=default, metadata={"help": help, "group": "PPO", "least": 0, **limits})


@dataclass
class PPOConfig:
    clip: float = _option(0.2, "clip range of the ratio", least=1e-6)
    gamma: float = _option(1.0, "discount", most=1)
    lam: float = _option(1.0, "GAE lambda; 1 is Monte Carlo against the value head", most=1)
    epochs: int = _option(1, "passes over each rollout", least=1)
    minibatch: int = _option(64, "episodes per optimiser step", least=1)
    micro_batch: int = _option(16, "episodes per forward pass, similar lengths together", least=1)
    temperature: float = _option(1.0, "temperature of text; that of decisions is 1", least=1e-6)
    decision_weight: float = _option(2.0, "loss weight of decisions")
    decision_entropy: float = _option(0.1, "entropy bonus of decisions")
    text_entropy: float = _option(0.0, "entropy bonus of text")
    max_grad_norm: float = _option(1.0, "the gradient is cut to this norm", least=1e-6)
    target_kl: float = _option(0.1, "end an update when its mean KL to the old policy exceeds this")
    value: bool = _option(True, "use the value head; without: the mean of the rollout as baseline")
    value_clip: float = _option(0.5, "how far a value may move in one update")
    value_steps: int = _option(50, "steps of the value head per iteration", least=1)
    value_batch: int = _option(1024, "tokens per step of the value head", least=1)


@dataclass
class Experience:
    """A rollout, scored once; fixed while the policy is updated on it. Tensors are [N]."""

    episodes: list[Episode]
    learn: Sequence[Part]
    counts: list[int]  # learnt tokens of each episode
    decision: Tensor  # bool
    log_probs: Tensor  # under the policy that played
    reference_log_probs: Tensor
    weight: Tensor  # importance weight: pi_old / behaviour for decisions, 1 for text
    values: Tensor  # V of the state before each token
    features: Tensor  # [N, 3 D]
    advantages: Tensor | None = None  # whitened over the whole rollout
    returns: Tensor | None = None

    @property
    def k1(self) -> Tensor:
        """log pi - log pi_ref: unbiased, of either sign (Schulman, "Approximating KL
        divergence")."""
        return self.log_probs - self.reference_log_probs

    @property
    def k3(self) -> Tensor:
        """(q/p - 1) - log(q/p) with q = pi_ref: unbiased as well, never negative."""
        return torch.expm1(-self.k1) + self.k1

    def per_episode(self, x: Tensor) -> Tensor:
        """Sum of x [N] over each episode's tokens, [E]."""
        return torch.stack([part.sum() for part in x.split(self.counts)])

    @property
    def first(self) -> Tensor:
        """Where each episode's tokens begin, int64 [E]."""
        counts = torch.tensor(self.counts, device=self.log_probs.device)
        return counts.cumsum(0) - counts

    def tokens_of(self, episodes: Sequence[int]) -> Tensor:
        """Where the tokens of some episodes stand, int64 [n]."""
        ends = self.first.tolist()
        own = [torch.arange(ends[i], ends[i] + self.counts[i]) for i in episodes]
        return torch.cat(own).to(self.log_probs.device)


@torch.no_grad()
def score_rollout(
    policy: Policy,
    reference: Policy,
    episodes: list[Episode],
    tokenizer: Tokenizer,
    config: PPOConfig,
    learn: Sequence[Part] = ACTIONS,
) -> Experience:
    """Log-probs under the policy and the reference, values and their features; ranks share the
    work."""
    policy.eval()

    def score_group(group: list[int]) -> tuple[list[int], tuple[Tensor, ...]]:
        members = [episodes[i] for i in group]
        batch = collate(members, tokenizer.pad, policy.device, learn)
        own = score(policy, batch, tokenizer, config.temperature)
        other = score(reference, batch, tokenizer, config.temperature)
        values = policy.value_head(own.features)
        columns = (batch.decision, own.log_probs, other.log_probs, values, own.features)
        counts = torch.bincount(batch.rows, minlength=len(group)).tolist()
        return counts, columns

    groups = by_length([e.tokens for e in episodes], 4 * config.micro_batch)
    scored: list = [None] * len(episodes)
    for group, (counts, columns) in zip(groups, ranks.map(score_group, groups), strict=True):
        parts = zip(*(x.split(counts) for x in columns), strict=True)
        for i, part in zip(group, parts, strict=True):
            scored[i] = part
    columns = [torch.cat(x) for x in zip(*scored, strict=True)]
    decision, log_probs, reference_log_probs, values, features = columns
    weight = torch.ones_like(log_probs)
    if Part.DECISION in learn:
        behaviour = [b for e in episodes for b in e.behaviour]
        behaviour = torch.tensor(behaviour, device=log_probs.device)
        weight[decision] = log_probs[decision].exp() / behaviour
    if not config.value:
        values = torch.zeros_like(values)  # whitening takes the mean of the returns away
    counts = [len(part[0]) for part in scored]
    return Experience(
        episodes, learn, counts, decision, log_probs, reference_log_probs, weight, values, features
    )


def penalised_rewards(experience: Experience, beta: float) -> Tensor:
    """reward_t = environment reward - beta (log pi_old - log pi_ref), float32 [N]."""
    rewards = [r for e in experience.episodes for r in token_rewards(e, experience.learn)]
    return torch.tensor(rewards, device=experience.log_probs.device) - beta * experience.k1


def with_advantages(
    experience: Experience, rewards: Tensor, config: PPOConfig, both: bool = False
) -> Experience:
    """The experience with its returns (A + V) and whitened advantages.

    both: episodes come two by two, the same question on both branches (Decoding.both).
    """
    counts, values = experience.counts, experience.values
    lengths = torch.tensor(counts)[:, None]
    mask = torch.arange(max(counts)) < lengths  # bool [E, A]
    rows = [torch.zeros(mask.shape).masked_scatter(mask, x.cpu()) for x in (rewards, values)]
    advantages = generalized_advantages(*rows, mask, config.gamma, config.lam)[mask]
    advantages = advantages.to(values.device)
    returns = advantages + values
    if both:
        advantages = paired_decision_advantages(
            advantages, returns, experience.log_probs, experience.first
        )
    return replace(experience, advantages=whiten(advantages), returns=returns)
