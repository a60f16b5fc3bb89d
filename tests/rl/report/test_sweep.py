"""The threshold sweep by hand."""

import math

import pytest

from data import Question
from rl import Episode, Turn
from rl.report.summary import DIRECT, RETRIEVE, THRESHOLDS, sweep
from rl.report.text import comparison


def episode(p: float, reward: float, retrieves: bool) -> Episode:
    turns = [Turn("q", [], [])] * retrieves
    return Episode(Question("q", "?", ("x",)), rewards=[reward], turns=turns, p_retrieve=p)


PLAYED = {
    DIRECT: [episode(0.1, 2.0, False), episode(0.6, 0.0, False), episode(0.9, 0.0, False)],
    RETRIEVE: [episode(0.1, 1.8, True), episode(0.6, 1.8, True), episode(0.9, -0.2, True)],
}


def test_each_threshold_picks_a_branch():
    curve = {m["threshold"]: m for m in sweep(PLAYED)["curve"]}
    assert tuple(curve) == THRESHOLDS
    retrieval = {t: round(3 * m["retrieval"]) for t, m in curve.items()}
    assert retrieval[0.0] == 3 and retrieval[1.0] == 0
    assert retrieval[0.1] == 2, "not above its own value"
    assert retrieval[0.5] == 2 and retrieval[0.6] == 1
    assert curve[0.5]["reward"] == pytest.approx((2.0 + 1.8 - 0.2) / 3)


def test_figures_of_each_row_and_of_the_better_branch():
    points = sweep(PLAYED)["points"]
    assert points["better branch of each question"]["reward"] == pytest.approx(3.8 / 3)
    assert points[RETRIEVE]["reward"] == pytest.approx(3.4 / 3)
    assert math.isnan(points[DIRECT]["hit"])


def test_the_table_of_a_sweep():
    [table] = comparison({}, {"a": sweep(PLAYED)})
    assert table.title == "a: threshold sweep"
    labels = [label for label, *_ in table.rows]
    assert labels[3] == "P([RETRIEVE]) > 0.1" and labels[-1] == "better branch of each question"
