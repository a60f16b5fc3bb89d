"""Episodes -> figures. Pure: no file, no model. Fractions, not percent.

Every figure is a mean over episodes; one over nothing (hit@k without any retrieval) is NaN.
Left out: where episodes come from (evaluation.py), how figures are shown (text.py, charts.py).
"""

from collections.abc import Callable, Sequence

import numpy as np

from rl.episode import Episode, Part

METRICS = ("em", "f1", "retrieval", "queries", "calls", "hit", "reward", "malformed", "p_retrieve")
COLUMNS = ("rows", *METRICS)
THRESHOLDS = [i / 10 for i in range(11)]  # on P([RETRIEVE]), of the sweep's table


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


def by_slice(episodes: Sequence[Episode]) -> dict[str, dict[str, float]]:
    """summarize per slice, in order of first appearance; {} in a world without slices."""
    names = dict.fromkeys(e.question.slice for e in episodes if e.question.slice is not None)
    return {name: summarize([e for e in episodes if e.question.slice == name]) for name in names}


def calibration(
    direct: Sequence[Episode], retrieved: Sequence[Episode], bins: int = 10
) -> list[tuple[float, float, float, float]]:
    """(mean P([RETRIEVE]), mean gain in reward of retrieving, and its 95 % interval, normal
    approximation) per bin of P([RETRIEVE]), from both branches of the same questions."""
    p = np.array([e.p_retrieve for e in direct])
    gains = np.array([b.reward - a.reward for a, b in zip(direct, retrieved, strict=True)])
    place = np.minimum(bins - 1, (bins * p).astype(int))
    points = []
    for i in np.unique(place):
        gain = gains[place == i]
        half = 1.96 * gain.std() / len(gain) ** 0.5
        points.append((mean(p[place == i]), mean(gain), mean(gain) - half, mean(gain) + half))
    return points


# ------------------------------------------------------------------------------------- intervals


def paired_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a - b over the same questions and its 95 % bootstrap interval (percentile method)."""
    return stratified_interval([(a, b)])


def stratified_interval(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]], draws: int = 2000
) -> tuple[float, float, float]:
    """paired_interval over question sets of equal weight; each set is resampled by itself."""
    differences = [np.asarray(a) - np.asarray(b) for a, b in pairs]
    rng = np.random.default_rng(0)
    means = [
        np.mean([d[rng.integers(0, len(d), len(d))].mean() for d in differences])
        for _ in range(draws)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.mean([d.mean() for d in differences])), float(low), float(high)


# ------------------------------------------------------------------------------------- the sweep


def mixed(direct: Sequence[Episode], retrieved: Sequence[Episode]) -> dict[float, list[Episode]]:
    """threshold -> what it plays: the branch of each question that its P([RETRIEVE]) picks.

    Where a question is retrieved for at most once, the two forced rollouts hold what any threshold
    would have played."""
    p = sorted(e.p_retrieve for e in direct)
    steps = {p[len(p) * i // 100] for i in range(100)}  # about 1 % of the questions each
    return {
        t: [b if b.p_retrieve > t else a for a, b in zip(direct, retrieved, strict=True)]
        for t in sorted({*THRESHOLDS, *steps})
    }


def sweep(
    played: dict[str, list[Episode]], direct: str, retrieved: str, replay: Callable | None
) -> dict:
    """{"points": {row: figures}, "curve": [{"threshold": t, figures}, ...]}.

    played: row of the table -> its episodes; `direct` and `retrieved` name the two forced rows.
    replay: threshold -> episodes, where a quota above 1 asks for it, as such a policy decides again
    after each retrieval; else None.
    """
    branches = played[direct], played[retrieved]
    at = {t: replay(t) for t in THRESHOLDS} if replay else mixed(*branches)
    better = [max(pair, key=lambda e: e.reward) for pair in zip(*branches, strict=True)]
    rows = {**played, "better branch of each question": better}
    return {
        "points": {row: summarize(episodes) for row, episodes in rows.items()},
        "curve": [{"threshold": t, **summarize(episodes)} for t, episodes in at.items()],
    }
