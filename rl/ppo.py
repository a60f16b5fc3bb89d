"""Proximal policy optimisation of whole retrieval episodes, from a rollout to the next policy.

    experience = score_rollout(policy, reference, episodes, ...)    log-probs and values
    rewards = penalised_rewards(experience, beta)                   environment reward - beta KL
    experience = with_advantages(experience, rewards, ...)          GAE, both branches, whitening
    ppo_update(policy, optimizer, experience, ...)                  epochs of clipped steps
    update_value_head(head, optimizer, features, returns, ...)      regression on a replay

The KL penalty is part of the reward (Ziegler et al., 2019). Policy loss (Schulman et al., 2017,
eq. 7), a mean over the learnt tokens of a *minibatch*:
    mean(w max(-A r, -A clip(r, 1 - eps, 1 + eps))) - entropy bonus,    r = pi(a|s) / pi_old(a|s)
A decision that was not sampled from pi_old but with probability b carries the importance weight
w = pi_old(a|s) / b, so that b is the exact denominator while the clip stays around the old policy.

Left out on purpose: a shared value trunk (the value head reads detached features), advantage
clipping, reward scaling.

Shapes: E episodes, A learnt tokens of the longest, N of all of them, n of a batch, D width.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from model import Policy, Tokenizer
from rl import ranks
from rl.episode import Batch, Episode, collate
from rl.scoring import Scores, by_length, entropy, score

MAX_GRAD_NORM = 1.0
VALUE_CLIP = 0.5  # how far a value may move in one update
VALUE_STEPS, VALUE_BATCH = 50, 1024  # of the value head per update: steps, tokens of a step


def _option(default, help: str, **limits):
    """A field that is a flag of train_ppo.py, too."""
    return field(default=default, metadata={"help": help, "group": "PPO", "least": 0, **limits})


@dataclass
class PPOConfig:
    clip: float = _option(0.2, "clip range of the ratio", least=1e-6)
    gamma: float = _option(1.0, "discount", most=1)
    lam: float = _option(1.0, "GAE lambda; 1 is Monte Carlo against the value head", most=1)
    epochs: int = _option(1, "passes over each rollout", least=1)
    minibatch: int = _option(64, "episodes per optimiser step", least=1, pretrained=32)
    micro_tokens: int = _option(0, "tokens per forward pass, padding included; 0: by device")
    temperature: float = _option(1.0, "temperature of text; that of decisions is 1", least=0.01)
    decision_weight: float = _option(2.0, "loss weight of decisions", pretrained=16.0)
    decision_entropy: float = _option(0.1, "entropy bonus of decisions", pretrained=0.5)
    text_entropy: float = _option(0.0, "entropy bonus of text")
    target_kl: float = _option(0.1, "end an update when its mean KL to the old policy exceeds this")
    value: bool = _option(True, "use the value head; without: the mean of the rollout as baseline")


@dataclass
class Experience:
    """A rollout, scored once. Each row [A] is an episode: its learnt tokens, then zeros."""

    episodes: list[Episode]
    features: Tensor  # [N, 3 D], what the value head reads
    mask: Tensor  # bool [E, A], as all that follow: which are tokens
    weight: Tensor  # importance weight: pi_old / behaviour for decisions, 1 for text
    decision: Tensor  # bool
    log_probs: Tensor  # under the policy that played
    reference_log_probs: Tensor
    values: Tensor  # V of the state before each token
    advantages: Tensor | None = None  # whitened over the whole rollout
    returns: Tensor | None = None

    @property
    def k1(self) -> Tensor:
        """log pi - log pi_ref: unbiased, of either sign (Schulman, "Approximating KL")."""
        return self.log_probs - self.reference_log_probs


def k3(log_ratio: Tensor) -> Tensor:
    """(q/p - 1) - log(q/p), given log(q/p): unbiased as well, never negative."""
    return torch.expm1(log_ratio) - log_ratio


@torch.no_grad()
def score_rollout(
    policy: Policy,
    reference: Policy,
    episodes: list[Episode],
    tokenizer: Tokenizer,
    config: PPOConfig,
) -> Experience:
    """Score the learnt tokens of some episodes; ranks share the work."""
    policy.eval()

    def score_group(group: list[int]) -> tuple[Tensor, ...]:
        batch = collate([episodes[i] for i in group], tokenizer.pad, policy.device)
        own = score(policy, batch, tokenizer, config.temperature)
        other = score(reference, batch, tokenizer, config.temperature)
        features = own.features()
        values = policy.value_head(features) * config.value
        whose = torch.tensor(group, device=policy.device).long()[batch.rows]  # episodes, [n]
        return whose, features, batch.decision, own.log_probs, other.log_probs, values

    groups = by_length(episodes, policy.read_tokens, range(len(episodes)))
    scored = zip(*ranks.gather(map(score_group, groups)), strict=True)
    whose, *columns = (torch.cat(column) for column in scored)
    order = whose.argsort(stable=True)  # back to the order of the episodes
    features, *columns = (column[order] for column in columns)  # [N, ...]
    counts = torch.bincount(whose, minlength=len(episodes)).tolist()
    ones = torch.ones(len(whose), device=policy.device)
    rows = [pad_sequence(x.split(counts), batch_first=True) for x in (ones, *columns)]  # [E, A]
    weight, decision, log_probs, *_ = rows
    mask = weight.bool()
    behaviour = [probability for episode in episodes for probability in episode.behaviour]
    weight[decision] = log_probs[decision].exp() / torch.tensor(behaviour, device=policy.device)
    return Experience(episodes, features, mask, *rows)


def penalised_rewards(experience: Experience, beta: float) -> Tensor:
    """reward_t = environment reward - beta (log pi_old - log pi_ref), float32 [E, A]."""
    earned = [zip(e.rewards, e.mask(), strict=True) for e in experience.episodes]
    rewards = [torch.tensor([r for r, learnt in row if learnt]) for row in earned]
    rewards = pad_sequence(rewards, batch_first=True).to(experience.mask.device)
    return rewards - beta * experience.k1


def generalized_advantages(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """GAE (Schulman et al., 2016, eq. 16): float32 [E, A] -> advantages [E, A].

    values[:, i] is V of the state before token i; the state after the last one is terminal (V = 0).
    Shorter rows are padded on the right with zeros, which change nothing.
    """
    advantages = torch.zeros_like(rewards)
    running = next_value = torch.zeros_like(rewards[:, 0])  # next_value: V after token i
    for i in reversed(range(rewards.shape[1])):
        delta = rewards[:, i] + gamma * next_value - values[:, i]
        running = delta + gamma * lam * running
        next_value = values[:, i]
        advantages[:, i] = running
    return advantages


def paired_advantages(returns: Tensor, log_probs: Tensor) -> Tensor:
    """Of the first decisions, float32 [E]: G_a - E_pi[G], with the exact expectation over the two
    branches of a question, episodes 2 i and 2 i + 1, in place of a value head's estimate."""
    branch_returns, probabilities = returns.view(-1, 2), log_probs.exp().view(-1, 2)
    expected = (branch_returns * probabilities).sum(-1, keepdim=True)
    return (branch_returns - expected).flatten()


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Zero mean, unit variance over the tokens of the whole rollout, never of a micro-batch;
    float32 [E, A], 0 where mask is False."""
    tokens = x[mask]
    return torch.where(mask, (x - tokens.mean()) / (tokens.std(unbiased=False) + 1e-8), 0.0)


def with_advantages(
    experience: Experience, rewards: Tensor, config: PPOConfig, both: bool = False
) -> Experience:
    """The experience with its returns (A + V) and whitened advantages. both: episodes come in
    pairs, the same question on both branches (Decoding.both)."""
    values = experience.values
    advantages = generalized_advantages(rewards, values, config.gamma, config.lam)
    returns = advantages + values
    if both:
        advantages[:, 0] = paired_advantages(returns[:, 0], experience.log_probs[:, 0])
    advantages = whiten(advantages, experience.mask)
    return replace(experience, advantages=advantages, returns=returns)


def ppo_loss(
    scores: Scores, batch: Batch, experience: Experience, members: list[int], config: PPOConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """The summed loss of the learnt tokens of a batch, and their log ratios and entropies [n].
    members: the episodes of the batch. The caller divides by the number of tokens of the whole
    minibatch."""
    mask = experience.mask[members]  # bool [b, A]
    advantages = experience.advantages[members][mask]
    log_ratio = scores.log_probs - experience.log_probs[members][mask]
    ratio = log_ratio.exp()
    surrogate = -advantages * ratio
    clipped_surrogate = -advantages * ratio.clamp(1 - config.clip, 1 + config.clip)
    policy_loss = experience.weight[members][mask] * torch.maximum(surrogate, clipped_surrogate)
    token_weight = torch.where(batch.decision, config.decision_weight, 1.0)
    entropy_weight = torch.where(batch.decision, config.decision_entropy, config.text_entropy)
    text = scores.text if config.text_entropy else scores.text.detach()  # of V entries a token
    entropies = torch.where(batch.decision, entropy(scores.decision), entropy(text))
    loss = (token_weight * policy_loss - entropy_weight * entropies).sum()
    return loss, log_ratio.detach(), entropies.detach()


def ppo_update(
    policy: Policy,
    optimizer: Optimizer,
    experience: Experience,
    tokenizer: Tokenizer,
    config: PPOConfig,
    generator: Generator | None = None,
) -> dict[str, float]:
    """Epochs of clipped steps on one rollout; returns the figures to watch. Raises
    FloatingPointError.

    Minibatches are random episodes, never sorted by length: sorting makes them all-answer or
    all-retrieve and biases the decision. Only micro-batches inside a step hold similar lengths.
    """
    count = len(experience.episodes)
    orders = [torch.randperm(count, generator=generator) for _ in range(config.epochs)]
    minibatches = [chosen.tolist() for order in orders for chosen in order.split(config.minibatch)]
    seen, norms, stopped = [], [], False
    size = config.micro_tokens or policy.micro_tokens
    for minibatch in minibatches:
        tokens = int(experience.mask[minibatch].sum())  # of all micro-batches and ranks
        optimizer.zero_grad(set_to_none=True)
        own = []
        for members in by_length(experience.episodes, size, minibatch):
            batch = collate([experience.episodes[i] for i in members], tokenizer.pad, policy.device)
            scores = score(policy, batch, tokenizer, config.temperature)
            loss, *figures = ppo_loss(scores, batch, experience, members, config)
            (loss / tokens).backward()
            own.append((batch.decision, *figures))
        norms.append(ranks.clip_gradients(policy.trunk_parameters(), MAX_GRAD_NORM))
        everybody = ranks.gather(own)
        seen += everybody
        stopped = statistics(everybody, config.clip)["k3_old"] > config.target_kl
        if stopped:
            break
        optimizer.step()
        torch.clear_autocast_cache()  # it holds bf16 copies of the weights before this step
    return statistics(seen, config.clip) | {
        "grad_norm": sum(norms) / len(norms),
        "optimizer_steps": len(norms) - int(stopped),
        "stopped_early": float(stopped),
    }


def statistics(seen: list[tuple[Tensor, Tensor, Tensor]], clip: float) -> dict[str, float]:
    """Means over some batches' (decision, log ratio, entropy) [n], of decisions and text apart."""
    decision, log_ratio, entropy = (torch.cat(column) for column in zip(*seen, strict=True))
    clipped = ((log_ratio.exp() - 1).abs() > clip).float()
    return {
        "clip_fraction": float(clipped.mean()),
        "clip_fraction_decision": float(clipped[decision].mean()),
        "max_log_ratio": float(log_ratio.abs().max()),
        "k3_old": float(k3(log_ratio).mean()),
        "entropy_decision": float(entropy[decision].mean()),
        "entropy_text": float(entropy[~decision].mean()),
    }


def value_loss(values: Tensor, old: Tensor, returns: Tensor) -> Tensor:
    """Clipped squared error (PPO2): a prediction may move at most VALUE_CLIP from the old one."""
    clipped = old + (values - old).clamp(-VALUE_CLIP, VALUE_CLIP)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2).mean()


def update_value_head(
    head: nn.Module,
    optimizer: Optimizer,
    features: Tensor,
    returns: Tensor,
    generator: Generator | None = None,
) -> float:
    """Regress the value head on a replay (features [M, 3 D], returns [M]); returns the mean loss.

    The features are detached, so older iterations stay useful; the old V of the clipped loss is the
    head's before this update. Raises FloatingPointError.
    """
    head.eval()
    with torch.no_grad():
        old = head(features.float())
    head.train()
    losses = []
    for _ in range(VALUE_STEPS):  # every rank the same: less work than to share it
        rows = torch.randint(len(returns), (VALUE_BATCH,), generator=generator).to(returns.device)
        loss = value_loss(head(features[rows].float()), old[rows], returns[rows])
        if not torch.isfinite(loss):
            raise FloatingPointError("the loss of the value head is NaN or infinite")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    head.eval()
    return float(torch.stack(losses).mean())


def adapt_beta(beta: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """Adaptive KL controller (Ziegler et al., 2019). kl: the summed k1, mean over episodes."""
    return beta * (1 + max(-0.2, min(0.2, kl / target - 1)) * episodes / horizon)
