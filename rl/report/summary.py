"""Episodes -> figures. Pure: no file, no model. Fractions, not percent.

Every figure is a mean over episodes; one over nothing (hit@k without any retrieval) is NaN.
Left out: where episodes come from (evaluation.py), how figures are shown (text.py, page.py).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rl.episode import Episode, Part

DIRECT, RETRIEVE = "direct only", "always retrieve, own query"  # rows of the two forced branches
OWN = "own decision"  # the row of a table that is the policy as it decides, greedy
METRICS = ("em", "f1", "retrieval", "queries", "calls", "hit", "reward", "malformed", "p_retrieve")
COLUMNS = ("rows", *METRICS)
# On P([RETRIEVE]), of a sweep.
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def summarize(episodes: Sequence[Episode]) -> dict[str, float]:
    """The figures of METRICS (docs/metrics.md), and `rows`, the number of episodes. The reward is
    the environment's, without KL penalty."""
    return {
        "rows": len(episodes),
        "em": mean([e.exact_match for e in episodes]),
        "f1": mean([e.f1 for e in episodes]),
        "retrieval": mean([e.retrievals > 0 for e in episodes]),
        "queries": mean([e.retrievals for e in episodes]),
        "calls": mean([policy_calls(e) for e in episodes]),
        "hit": mean([e.hit for e in episodes if e.retrievals]),
        "reward": mean([e.reward for e in episodes]),
        "malformed": mean([e.malformed for e in episodes]),
        "p_retrieve": mean([e.p_retrieve for e in episodes]),
    }


def policy_calls(episode: Episode) -> int:
    """Texts that the policy wrote, queries and answers; a given query is not one of them."""
    pairs = pairwise(episode.parts)
    return sum(part in (Part.QUERY, Part.ANSWER) and part != before for before, part in pairs)


def by_slice(episodes: Sequence[Episode]) -> dict[str, dict[str, float]]:
    """summarize per slice, in order of first appearance; {} in a world without slices."""
    names = dict.fromkeys(e.question.slice for e in episodes if e.question.slice is not None)
    return {name: summarize([e for e in episodes if e.question.slice == name]) for name in names}


def calibration(
    direct: Sequence[Episode], retrieved: Sequence[Episode], bins: int = 10
) -> list[tuple[float, float, float, float]]:
    """Per bin of P([RETRIEVE]): its mean, and the mean gain in reward of retrieving with its 95 %
    interval (normal approximation), from both branches of the same questions."""
    p = np.array([e.p_retrieve for e in direct])
    gains = np.array([b.reward - a.reward for a, b in zip(direct, retrieved, strict=True)])
    place = np.minimum(bins - 1, (bins * p).astype(int))
    points = []
    for i in np.unique(place):
        gain = gains[place == i]
        half = 1.96 * gain.std() / len(gain) ** 0.5
        points.append((mean(p[place == i]), mean(gain), mean(gain) - half, mean(gain) + half))
    return points


def paired_interval(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]], draws: int = 2000
) -> tuple[float, float, float]:
    """Mean of a - b over the same questions and its 95 % bootstrap interval (percentile method).
    pairs: (a, b) of question sets of equal weight, each of which is resampled by itself."""
    differences = [np.asarray(a) - np.asarray(b) for a, b in pairs]
    rng = np.random.default_rng(0)
    means = [
        np.mean([d[rng.integers(0, len(d), len(d))].mean() for d in differences])
        for _ in range(draws)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.mean([d.mean() for d in differences])), float(low), float(high)


def sweep(played: dict[str, list[Episode]]) -> dict:
    """{"points": {row: figures}, "curve": [{"threshold": t, figures}, ...]} of row -> episodes.
    A threshold on the first P([RETRIEVE]) plays what one of the two forced rows has played, later
    decisions of a quota above 1 included."""
    pairs = list(zip(played[DIRECT], played[RETRIEVE], strict=True))
    better = [max(pair, key=lambda e: e.reward) for pair in pairs]
    rows = played | {"better branch of each question": better}
    curve = {t: [b if b.p_retrieve > t else a for a, b in pairs] for t in THRESHOLDS}
    return {
        "points": {row: summarize(episodes) for row, episodes in rows.items()},
        "curve": [{"threshold": t, **summarize(episodes)} for t, episodes in curve.items()],
    }
