"""Episodes -> figures. Pure: no file, no model. Fractions, not percent.

Every figure is a mean over episodes; one over nothing (hit@k without any retrieval) is NaN.
Left out: where episodes come from (results.py), how figures are drawn (page.py).
"""

from collections.abc import Sequence

import numpy as np

from rl.episode import Episode, Part

METRICS = ("em", "f1", "retrieval", "queries", "calls", "hit", "reward", "malformed", "p_retrieve")
COLUMNS = ("rows", *METRICS)


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def summarize(episodes: Sequence[Episode]) -> dict[str, float]:
    """The figures of METRICS, and `rows`, the number of episodes.

    em, f1: of the answer. retrieval: share of questions with at least one retrieval. queries:
    retriever calls per question; calls: of the policy, one for each text that it wrote. hit: share
    of the questions with a retrieval whose passages held what is needed. reward: the environment's,
    without KL penalty. p_retrieve: P([RETRIEVE]) at the first decision.
    """
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
    texts = [part in (Part.QUERY, Part.ANSWER) for part in episode.parts]
    before = [False, *texts[:-1]]
    return sum(now and not earlier for now, earlier in zip(texts, before, strict=False))


def calibration(
    direct: Sequence[Episode], retrieved: Sequence[Episode], bins: int = 10
) -> list[tuple[float, int, int, float]]:
    """(mean P([RETRIEVE]), questions, how many of them retrieving earned more for, mean gain in
    reward) per bin of P([RETRIEVE]), from both branches of the same questions."""
    found: dict[int, list[tuple[float, float]]] = {}
    for a, b in zip(direct, retrieved, strict=True):
        place = min(bins - 1, int(bins * a.p_retrieve))
        found.setdefault(place, []).append((a.p_retrieve, b.reward - a.reward))
    rows = []
    for _, pairs in sorted(found.items()):
        gains = [gain for _, gain in pairs]
        rows.append(
            (mean([p for p, _ in pairs]), len(pairs), sum(g > 0 for g in gains), mean(gains))
        )
    return rows


def by_slice(episodes: Sequence[Episode]) -> dict[str, dict[str, float]]:
    """summarize per slice, in order of first appearance; {} in a world without slices."""
    names = dict.fromkeys(e.question.slice for e in episodes if e.question.slice is not None)
    return {name: summarize([e for e in episodes if e.question.slice == name]) for name in names}


def collapsed(retrieval: Sequence[float]) -> bool:
    """Whether nothing is left of the decision: above 95 % or below 5 % retrieval on every slice."""
    return min(retrieval) > 0.95 or max(retrieval) < 0.05


def paired_interval(
    a: Sequence[float], b: Sequence[float], seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """Mean of a - b over the same questions and its 95 % bootstrap interval (percentile method)."""
    return stratified_interval([(a, b)], seed, draws)


def stratified_interval(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """paired_interval over question sets of equal weight; each set is resampled by itself."""
    differences = [np.asarray(a) - np.asarray(b) for a, b in pairs]
    rng = np.random.default_rng(seed)
    means = [
        np.mean([d[rng.integers(0, len(d), len(d))].mean() for d in differences])
        for _ in range(draws)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.mean([d.mean() for d in differences])), float(low), float(high)


def table(rows: Sequence[tuple[str, dict[str, float]]], columns: Sequence[str]) -> str:
    """Plain text: a label and the chosen columns; counts as integers, rates with three digits."""
    width = max(len(label) for label, _ in rows)
    lines = [" " * width + "".join(f"{c:>11}" for c in columns)]
    for label, figures in rows:
        cells = [figures.get(c, float("nan")) for c in columns]
        lines.append(f"{label:<{width}}" + "".join(f"{cell(value):>11}" for value in cells))
    return "\n".join(lines)


def cell(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if value != value else f"{value:.3f}"
