"""The threshold sweep against what each threshold would play, by hand."""

import math

import pytest

from data import Question
from rl import Episode, Turn
from rl.report.summary import THRESHOLDS, mixed, sweep


def episode(p: float, reward: float, retrieves: bool) -> Episode:
    turns = [Turn("q", [], [])] * retrieves
    return Episode(Question("q", "?", ("x",)), rewards=[reward], turns=turns, p_retrieve=p)


DIRECT = [episode(0.1, 2.0, False), episode(0.6, 0.0, False), episode(0.9, 0.0, False)]
RETRIEVED = [episode(0.1, 1.8, True), episode(0.6, 1.8, True), episode(0.9, -0.2, True)]


def test_each_threshold_picks_a_branch():
    at = mixed(DIRECT, RETRIEVED)
    assert {0.1, 0.6, 0.9, *THRESHOLDS} <= at.keys() and list(at) == sorted(at)
    retrieves = {t: [e.retrievals for e in episodes] for t, episodes in at.items()}
    assert retrieves[0.0] == [1, 1, 1] and retrieves[1.0] == [0, 0, 0]
    assert retrieves[0.1] == [0, 1, 1], "not above its own value"
    assert retrieves[0.5] == [0, 1, 1] and retrieves[0.6] == [0, 0, 1]


def test_figures_of_the_curve_and_of_the_better_branch():
    swept = sweep({"d": DIRECT, "r": RETRIEVED}, "d", "r", None)
    [middle] = [m for m in swept["curve"] if m["threshold"] == 0.5]
    assert middle["reward"] == pytest.approx((2.0 + 1.8 - 0.2) / 3)
    assert middle["retrieval"] == pytest.approx(2 / 3)
    better = swept["points"]["better branch of each question"]
    assert better["reward"] == pytest.approx((2.0 + 1.8 + 0.0) / 3)
    assert swept["points"]["r"]["reward"] == pytest.approx(3.4 / 3)
    assert math.isnan(swept["points"]["d"]["hit"])


def test_a_larger_quota_plays_each_threshold():
    played = []

    def replay(threshold: float) -> list[Episode]:
        played.append(threshold)
        return DIRECT

    swept = sweep({"d": DIRECT, "r": RETRIEVED}, "d", "r", replay)
    assert played == THRESHOLDS == [m["threshold"] for m in swept["curve"]]
