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
from rl.advantages import generalized_advantages, whiten
from rl.episode import Episode, collate
from rl.runs.parallel import backward
from rl.scoring import by_length, score


@dataclass(frozen=True)
class PPOConfig:
    clip: float = 0.2
    gamma: float = 1.0
    lam: float = 1.0
    epochs: int = 1  # a second pass over the same noise gained less than fresh episodes do
    minibatch: int = 64  # episodes per optimiser step
    micro_batches: int = 4  # of similar length, inside one optimiser step
    temperature: float = 1.0  # of text; the decision's is 1
    decision_weight: float = 2.0
    decision_entropy: float = 0.1
    text_entropy: float = 0.0
    max_grad_norm: float = 1.0
    target_kl: float = 0.1  # stop an update early when the mean k3 to the old policy exceeds this
    value: bool = True  # False: no value head, the advantage is the reward to come minus the mean over the rollout
    value_clip: float = 0.5
    value_steps: int = 50
    value_batch: int = 1024


@dataclass
class Experience:
    """A rollout, scored once; fixed while the policy is updated on it. Tensors are [N] over all episodes in order."""

    episodes: list[Episode]
    offsets: list[int]  # episode e owns action tokens offsets[e] : offsets[e + 1]
    decision: Tensor  # bool
    log_probs: Tensor  # under the policy that played
    reference_log_probs: Tensor
    weight: Tensor  # importance weight: pi_old / behaviour for decisions, 1 for text
    values: Tensor
    features: Tensor  # [N, 3 D]
    advantages: Tensor  # whitened over the whole rollout
    returns: Tensor

    @property
    def k1(self) -> Tensor:
        """log pi - log pi_ref at every action token: unbiased, of either sign (Schulman, "Approximating KL divergence")."""
        return self.log_probs - self.reference_log_probs

    @property
    def k3(self) -> Tensor:
        """(q/p - 1) - log(q/p) with q = pi_ref: unbiased as well, never negative."""
        return torch.expm1(-self.k1) + self.k1

    def per_episode(self, x: Tensor) -> Tensor:
        """Sum of x [N] over each episode's action tokens, [E]."""
        return torch.stack([part.sum() for part in x.split(self.counts)])

    @property
    def counts(self) -> list[int]:
        return [b - a for a, b in zip(self.offsets, self.offsets[1:])]


@torch.no_grad()
def collect(
    policy: Policy,
    reference: Policy,
    episodes: list[Episode],
    tokenizer: Tokenizer,
    beta: float,
    config: PPOConfig,
    paired: bool = False,
    score_batch: int = 64,
    spread: Callable = map,
) -> Experience:
    """Score a rollout under the policy and the reference, penalise, and compute advantages.

    paired: episodes come two by two, the same question on both branches (Decoding.both); the decision's advantage is
    then measured against the policy's own mixture of the two returns instead of the value head.
    """
    policy.eval()

    def score_group(group: list[int]) -> zip:
        batch = collate([episodes[i] for i in group], tokenizer.pad, policy.device)
        own = score(policy, batch, tokenizer, config.temperature)
        other = score(reference, batch, tokenizer, config.temperature)
        counts = torch.bincount(batch.rows, minlength=len(group)).tolist()
        columns = (
            batch.decision,
            own.log_probs,
            other.log_probs,
            policy.value_head(own.features),
            own.features,
        )
        return zip(*(x.split(counts) for x in columns))

    groups = by_length(episodes, score_batch)
    parts: list = [None] * len(episodes)
    for group, scored in zip(groups, spread(score_group, groups)):
        for i, part in zip(group, scored):
            parts[i] = part
    decision, log_probs, reference_log_probs, values, features = (torch.cat(x) for x in zip(*parts))
    counts = [len(part[0]) for part in parts]
    offsets = [0, *torch.tensor(counts).cumsum(0).tolist()]

    weight = torch.ones_like(log_probs)
    behaviour = torch.tensor([b for e in episodes for b in e.behaviour], device=log_probs.device)
    weight[decision] = log_probs[decision].exp() / behaviour

    values = values if config.value else torch.zeros_like(values)  # whitening takes the mean away
    paid = torch.tensor([r for e in episodes for r in action_rewards(e)], device=log_probs.device)
    rewards = paid - beta * (log_probs - reference_log_probs)
    mask = torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]
    grid = lambda x: torch.zeros(mask.shape).masked_scatter(mask, x.cpu())
    advantages = generalized_advantages(
        grid(rewards), grid(values), mask, config.gamma, config.lam
    )[mask].to(values.device)
    returns = advantages + values
    if paired:
        advantages = paired_decision_advantages(
            advantages, returns, log_probs, torch.tensor(offsets[:-1], device=values.device)
        )
    return Experience(
        episodes,
        offsets,
        decision,
        log_probs,
        reference_log_probs,
        weight,
        values,
        features,
        whiten(advantages),
        returns,
    )


def action_rewards(episode: Episode) -> list[float]:
    """The environment's reward of every action token. What is paid for the tokens of others (a frozen reader's answer)
    is what the last action before them led to."""
    paid: list[float] = []
    for reward, own in zip(episode.rewards, episode.action_mask):
        if own:
            paid.append(reward)
        elif paid:
            paid[-1] += reward
    return paid


def paired_decision_advantages(
    advantages: Tensor, returns: Tensor, log_probs: Tensor, first: Tensor
) -> Tensor:
    """Replace the advantage of each episode's first decision by R_a - E_pi[R] over the two branches of its question.

    first int64 [E]: index of that decision in the flat tensors [N]; episodes 2 i and 2 i + 1 are a pair.
    """
    branch_returns, probabilities = returns[first].view(-1, 2), log_probs[first].exp().view(-1, 2)
    expected = (branch_returns * probabilities).sum(-1, keepdim=True)
    return advantages.index_put((first,), (branch_returns - expected).flatten())


def policy_loss(
    log_probs: Tensor, old: Tensor, advantages: Tensor, weight: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate at every token [N], to be minimised, and the ratio."""
    ratio = (log_probs - old).exp()
    return weight * torch.maximum(
        -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    ), ratio


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Clipped squared error (PPO2): the prediction may move at most `clip` away from the old one per update."""
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2).mean()


def minibatch_backward(
    policy: Policy,
    experience: Experience,
    chosen: list[int],
    tokenizer: Tokenizer,
    config: PPOConfig,
    spread: Callable = map,
) -> dict[str, Tensor]:
    """The gradient of one minibatch of episodes, and what was seen at its tokens; does not depend on `micro_batches`."""
    episodes, device, trunk = experience.episodes, policy.device, policy.trunk_parameters()
    tokens = sum(experience.offsets[i + 1] - experience.offsets[i] for i in chosen)
    size = -(-len(chosen) // config.micro_batches)

    def differentiate(group: list[int]) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        members = [chosen[i] for i in group]
        at = torch.cat(
            [torch.arange(experience.offsets[i], experience.offsets[i + 1]) for i in members]
        ).to(device)
        batch = collate([episodes[i] for i in members], tokenizer.pad, device)
        scores = score(policy, batch, tokenizer, config.temperature)
        surrogate, ratio = policy_loss(
            scores.log_probs,
            experience.log_probs[at],
            experience.advantages[at],
            experience.weight[at],
            config.clip,
        )
        token_weight = torch.where(batch.decision, config.decision_weight, 1.0)
        bonus = (
            torch.where(batch.decision, config.decision_entropy, config.text_entropy)
            * scores.entropy
        )
        gradient = torch.autograd.grad((token_weight * surrogate - bonus).sum() / tokens, trunk)
        with torch.no_grad():
            log_ratio = scores.log_probs - experience.log_probs[at]
            return {
                "clip_fraction": ((ratio - 1).abs() > config.clip).float(),
                "log_ratio": log_ratio,
                "k3_old": torch.expm1(log_ratio) - log_ratio,
                "entropy": scores.entropy.detach(),
                "decision": batch.decision,
            }, gradient

    seen = backward(
        trunk, differentiate, by_length([episodes[i] for i in chosen], size)[::-1], spread
    )  # longest first: no thread waits
    return {name: torch.cat([x[name] for x in seen]) for name in seen[0]}


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
    for _ in range(config.value_steps):
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
