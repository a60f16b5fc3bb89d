"""Figures to watch while PPO trains: explained variance beside that of a class oracle, the policy's
own reward, alarms. Pure. Shapes: N learnt tokens of a rollout.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rl.episode import ACTIONS, Episode, Part
from rl.ppo import Experience
from rl.report.summary import by_slice, mean, summarize

# Figure, the most that is healthy, what more of it means.
LIMITS = (
    ("malformed", 0.3, "the policy writes gibberish"),
    ("entropy_text", 2.0, "the policy writes gibberish"),  # nats per token
    # Nats per episode. Not k3, which a branch that is played but never taken makes huge.
    ("kl", 5.0, "the policy has left the warm-up behind"),
)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(R - V) / Var(R); 0 for a constant prediction, 1 for a perfect one, nan when R is
    constant or there is none."""
    variance = returns.var(unbiased=False) if len(returns) else 0.0
    if not variance > 0:
        return float("nan")
    return float(1 - (returns - values).var(unbiased=False) / variance)


def class_means(returns: Tensor, classes: Tensor) -> Tensor:
    """The class oracle's value: every return [N] replaced by the mean of its class (int64 [N])."""
    count = torch.bincount(classes).clamp(min=1)
    total = torch.bincount(classes, weights=returns.double())
    return (total / count)[classes].float()


def token_classes(episode: Episode) -> list[tuple]:
    """The class oracle's class of every learnt token: the question's slice, and its part: decision,
    query, direct answer, answer after a hit, answer after a miss. What a value head could know,
    roughly."""
    names = {part: part.name for part in ACTIONS}
    if episode.turns:
        names[Part.ANSWER] = "after hit" if episode.hit else "after miss"
    return [(episode.question.slice, names[part]) for part in episode.parts if part in names]


def value_statistics(experience: Experience) -> dict[str, float]:
    """Explained variance of the value head and of the class oracle, over all tokens and over
    decisions."""
    names: dict[tuple, int] = {}
    classes = [c for e in experience.episodes for c in token_classes(e)]
    numbers = [names.setdefault(c, len(names)) for c in classes]
    columns = experience.returns, experience.values, experience.decision
    returns, predicted, decision = (x[experience.mask] for x in columns)
    oracle = class_means(returns, torch.tensor(numbers, device=returns.device))
    statistics = {}
    for name, values in (("ev", predicted), ("ev_oracle", oracle)):
        only = explained_variance(values[decision], returns[decision])
        statistics[f"{name}_decision"] = only
        statistics[f"{name}_all"] = explained_variance(values, returns)
    return statistics


def policy_reward(episodes: Sequence[Episode], both: bool) -> float:
    """Mean reward of the policy's own mixture: where both branches of each question were played,
    weighted by P([RETRIEVE])."""
    if not both:
        return summarize(episodes)["reward"]
    pairs = zip(episodes[::2], episodes[1::2], strict=True)
    return mean([a.p_retrieve * a.reward + (1 - a.p_retrieve) * b.reward for a, b in pairs])


def dev_figures(greedy: Sequence[Episode], sampled: Sequence[Episode]) -> dict:
    """What a dev evaluation logs: figures of greedy and of sampled episodes, and per slice."""
    figures = {"greedy": summarize(greedy), "greedy_slices": by_slice(greedy)}
    return figures | {"sampled": summarize(sampled), "sampled_slices": by_slice(sampled)}


def dev_line(dev: dict, training: dict | None = None) -> str:
    """dev_figures in a line, with retrieval per slice, and a line for each alarm. training: the
    last iteration's line of metrics.jsonl."""
    figures = dev["greedy"]
    rates = {name: f["retrieval"] for name, f in dev["greedy_slices"].items()}
    shown = [f"{name} {figures[name]:.3f}" for name in ("reward", "em", "hit", "retrieval")]
    line = "  ".join([*shown, *(f"{name} {rate:.2f}" for name, rate in rates.items())])
    found = alarms(list(rates.values()) or [figures["retrieval"]], {**(training or {}), **figures})
    return "\n  warning: ".join([line, *found])


def alarms(retrieval: Sequence[float], figures: dict) -> list[str]:
    """What looks wrong, [] if nothing does; docs/metrics.md says what to do about each.

    retrieval: its rate on every slice; figures: malformed, entropy_text, kl, as far as known.
    """
    found = []
    if min(retrieval) > 0.95 or max(retrieval) < 0.05:
        rates = f"{min(retrieval):.0%} to {max(retrieval):.0%}"
        found.append(f"the decision has collapsed: retrieval is {rates} on every slice")
    for name, limit, meaning in LIMITS:
        if abs(figures.get(name, 0)) > limit:
            found.append(f"{meaning}: {name} is {figures[name]:.2f}, above {limit:g}")
    return found
