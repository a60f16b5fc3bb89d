"""The threshold sweep: figures of every threshold on P([RETRIEVE]) beside the baselines' points.

Where a question is retrieved for at most once, the two forced rollouts hold what any threshold
would have played, and P([RETRIEVE]) says which of the two. A larger quota decides again after each
retrieval, so there each threshold is played.
"""

from collections.abc import Callable, Sequence

from rl.episode import Episode
from rl.report.summary import COLUMNS, summarize, table

SHOWN = [i / 10 for i in range(11)]  # thresholds of the printed table


def mixed(direct: Sequence[Episode], retrieved: Sequence[Episode]) -> dict[float, list[Episode]]:
    """threshold -> what it plays: the branch of each question that its P([RETRIEVE]) picks."""
    p = sorted(e.p_retrieve for e in direct)
    steps = {p[len(p) * i // 100] for i in range(100)}  # about 1 % of the questions each
    return {
        t: [b if b.p_retrieve > t else a for a, b in zip(direct, retrieved, strict=True)]
        for t in sorted({*SHOWN, *steps})
    }


def sweep(
    played: dict[str, list[Episode]], direct: str, retrieved: str, replay: Callable | None
) -> dict:
    """{"points": {row: figures}, "curve": [{"threshold": t, figures}, ...]}.

    played: row of the table -> its episodes; `direct` and `retrieved` name the two forced rows.
    replay: threshold -> episodes, where a quota above 1 asks for it; else None.
    """
    branches = played[direct], played[retrieved]
    at = {t: replay(t) for t in SHOWN} if replay else mixed(*branches)
    better = [max(pair, key=lambda e: e.reward) for pair in zip(*branches, strict=True)]
    rows = {**played, "better branch of each question": better}
    return {
        "points": {row: summarize(episodes) for row, episodes in rows.items()},
        "curve": [{"threshold": t, **summarize(episodes)} for t, episodes in at.items()],
    }


def sweep_table(swept: dict) -> str:
    """Plain text: every tenth threshold, and the points."""
    curve = {m["threshold"]: m for m in swept["curve"]}
    shown = [(f"P([RETRIEVE]) > {t:g}", curve[t]) for t in SHOWN]
    return table([*shown, *swept["points"].items()], COLUMNS)
