"""Figures to watch: explained variance beside that of a class oracle."""

import torch
from torch import Tensor

from rl.episode import Episode
from rl.ppo import Experience
from rl.report.summary import summarize


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(R - V) / Var(R); 0 for a constant prediction, 1 for a perfect one, nan when R is constant or there is none."""
    if not len(returns):
        return float("nan")
    variance = returns.var(unbiased=False)
    return (
        float(1 - (returns - values).var(unbiased=False) / variance)
        if variance > 0
        else float("nan")
    )


def class_means(returns: Tensor, classes: Tensor) -> Tensor:
    """The class oracle's value: every return replaced by the mean of its class. float32 [N], int64 [N] -> [N]."""
    count = torch.bincount(classes).clamp(min=1)
    return (torch.bincount(classes, weights=returns.double()) / count)[classes].float()


def value_classes(experience: Experience) -> Tensor:
    """The class oracle's classes, int64 [N]: slice of the question x where in the episode the token stands (decision,
    query, direct answer, answer after a hit, answer after a miss). What a value head could know, roughly."""
    names: dict = {}
    classes = []
    for episode in experience.episodes:
        kind, decided = None, iter(episode.decision_mask)
        for token_is_action, is_decision in zip(episode.action_mask, decided):
            if is_decision:
                kind = "decision"
            if token_is_action:
                classes.append(names.setdefault((episode.question.slice, kind), len(names)))
            if is_decision:
                kind = "query" if episode.turns else "answer"
            elif not token_is_action and kind == "query":
                kind = "after hit" if episode.hit else "after miss"
    return torch.tensor(classes, device=experience.returns.device)


def value_figures(experience: Experience) -> dict[str, float]:
    """Explained variance of the value head at decisions and over all tokens, beside that of the class oracle."""
    decision, everything = experience.decision, torch.ones_like(experience.decision)
    oracle = class_means(experience.returns, value_classes(experience))
    return {
        f"{who}_{where}": explained_variance(values[at], experience.returns[at])
        for who, values in (("ev", experience.values), ("ev_oracle", oracle))
        for where, at in (("decision", decision), ("all", everything))
    }


def policy_reward(episodes: list[Episode], both: bool) -> float:
    """Mean reward of the policy as it decides: with both branches played, their mixture under its P([RETRIEVE])."""
    if not both:
        return summarize(episodes)["reward"]
    pairs = zip(episodes[::2], episodes[1::2])
    return sum(a.p_retrieve * a.reward + (1 - a.p_retrieve) * b.reward for a, b in pairs) / (
        len(episodes) // 2
    )
