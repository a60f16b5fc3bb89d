"""Proximal policy optimisation of whole retrieval episodes: the losses and one update.

    ppo_update(policy, optimizer, experience, ...)    epochs of clipped policy steps on a rollout
    update_value_head(head, optimizer, ...)           a regression on a replay of value features

Policy loss (Schulman et al., 2017, eq. 7), a mean over the learnt tokens of a *minibatch*:
    mean(w max(-A r, -A clip(r, 1 - eps, 1 + eps))) - entropy bonus,    r = pi(a|s) / pi_old(a|s)
A decision that was not sampled from pi_old but with probability b carries the importance weight
w = pi_old(a|s) / b, so that b is the exact denominator while the clip stays around the old policy.

Left out on purpose: a shared value trunk (the value head reads detached features), advantage
clipping, reward scaling. Shapes: N learnt tokens, episode by episode; D width.
"""

import torch
from torch import Tensor, nn

from model import Policy, Tokenizer
from rl import ranks
from rl.episode import Batch, collate
from rl.experience import Experience, PPOConfig
from rl.scoring import Scores, by_length, score


def ppo_loss(
    scores: Scores, batch: Batch, experience: Experience, at: Tensor, config: PPOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The summed loss of a batch's learnt tokens [n], and statistics of each. at: where they stand
    in the experience, int64 [n]. The caller divides by the number of tokens of the whole
    minibatch."""
    advantages, weight = experience.advantages[at], experience.weight[at]
    log_ratio = scores.log_probs - experience.log_probs[at]
    ratio = log_ratio.exp()
    surrogate = -advantages * ratio
    clipped_surrogate = -advantages * ratio.clamp(1 - config.clip, 1 + config.clip)
    policy_loss = weight * torch.maximum(surrogate, clipped_surrogate)
    token_weight = torch.where(batch.decision, config.decision_weight, 1.0)
    entropy_weight = torch.where(batch.decision, config.decision_entropy, config.text_entropy)
    loss = (token_weight * policy_loss - entropy_weight * scores.entropy).sum()
    statistics = {
        "decision": batch.decision,
        "clipped": ((ratio - 1).abs() > config.clip).float(),
        "log_ratio": log_ratio.detach(),
        "k3_old": (torch.expm1(log_ratio) - log_ratio).detach(),
        "entropy": scores.entropy.detach(),
    }
    return loss, statistics


def ppo_update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    experience: Experience,
    tokenizer: Tokenizer,
    config: PPOConfig,
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """Epochs of clipped steps on one rollout; returns the figures to watch. Raises
    FloatingPointError.

    Minibatches are random episodes, never sorted by length: sorting makes them all-answer or
    all-retrieve and biases the decision. Only micro-batches inside a step hold similar lengths.
    """
    statistics, norms, stopped = [], [], False
    orders = [
        torch.randperm(len(experience.episodes), generator=generator) for _ in range(config.epochs)
    ]
    minibatches = [chosen.tolist() for order in orders for chosen in order.split(config.minibatch)]
    for minibatch in minibatches:
        groups = by_length([experience.episodes[i].tokens for i in minibatch], config.micro_batch)
        tokens = sum(experience.counts[i] for i in minibatch)  # of all micro-batches and ranks
        optimizer.zero_grad(set_to_none=True)
        own = []
        for group in ranks.share(groups):
            members = [minibatch[i] for i in group]
            episodes = [experience.episodes[i] for i in members]
            batch = collate(episodes, tokenizer.pad, policy.device, experience.learn)
            scores = score(policy, batch, tokenizer, config.temperature)
            loss, found = ppo_loss(scores, batch, experience, experience.tokens_of(members), config)
            (loss / tokens).backward()
            own.append(found)
        ranks.reduce_gradients(policy.trunk_parameters())
        norm = nn.utils.clip_grad_norm_(policy.trunk_parameters(), config.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError("the gradient of the policy is NaN or infinite")
        everybody = ranks.gather(own, len(groups))
        statistics += everybody
        norms.append(float(norm))
        stopped = float(torch.cat([x["k3_old"] for x in everybody]).mean()) > config.target_kl
        if stopped:
            break
        optimizer.step()
        torch.clear_autocast_cache()  # it holds bf16 copies of the weights before this step
    figures = summary({name: torch.cat([x[name] for x in statistics]) for name in statistics[0]})
    return figures | {
        "grad_norm": sum(norms) / len(norms),
        "optimizer_steps": len(norms) - int(stopped),
        "stopped_early": float(stopped),
    }


def summary(statistics: dict[str, Tensor]) -> dict[str, float]:
    """Means over the tokens of an update [N], of decisions and text apart."""
    decision = statistics["decision"]
    clipped, entropy = statistics["clipped"], statistics["entropy"]
    return {
        "clip_fraction": float(clipped.mean()),
        "clip_fraction_decision": float(clipped[decision].mean()),
        "max_log_ratio": float(statistics["log_ratio"].abs().max()),
        "k3_old": float(statistics["k3_old"].mean()),
        "entropy_decision": float(entropy[decision].mean()),
        "entropy_text": float(entropy[~decision].mean()),
    }


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Clipped squared error (PPO2): a prediction may move at most `clip` away from the old one."""
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2).mean()


def update_value_head(
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    returns: Tensor,
    config: PPOConfig,
    generator: torch.Generator | None = None,
) -> float:
    """Regress the value head on a replay of (features [M, 3 D], returns [M]); returns the mean
    loss.

    The features are detached, so older iterations stay useful; the old V of the clipped loss is the
    head's before this update. Raises FloatingPointError.
    """
    head.eval()
    with torch.no_grad():
        old = head(features.float())
    head.train()
    losses = []
    for _ in range(config.value_steps):  # every rank the same: less work than to share it
        rows = torch.randint(len(returns), (config.value_batch,), generator=generator)
        rows = rows.to(returns.device)
        loss = value_loss(head(features[rows].float()), old[rows], returns[rows], config.value_clip)
        if not torch.isfinite(loss):
            raise FloatingPointError("the loss of the value head is NaN or infinite")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    head.eval()
    return float(torch.stack(losses).mean())


def adapt_beta(beta: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """Adaptive KL controller (Ziegler et al., 2019): kl is the mean over episodes of the summed
    k1."""
    return beta * (1 + max(-0.2, min(0.2, kl / target - 1)) * episodes / horizon)
