"""Alarms: each of the three by itself, none for healthy figures."""

import pytest

from rl.report.diagnostics import LIMITS, alarms, dev_line

HEALTHY = {"malformed": 0.01, "entropy_text": 0.35, "kl": 0.4}
RATES = [0.1, 0.9, 0.3]


def test_healthy_figures_give_no_alarm():
    assert alarms(RATES, HEALTHY) == alarms(RATES, {}) == []
    nan = float("nan")
    assert alarms(RATES, HEALTHY | {"kl": nan}) == [], "nothing was learnt, nothing is known"


@pytest.mark.parametrize("name, limit", [(name, limit) for name, limit, _ in LIMITS])
def test_each_figure_has_its_alarm(name, limit):
    assert alarms(RATES, HEALTHY | {name: limit}) == []
    [text] = alarms(RATES, HEALTHY | {name: limit + 1})
    assert f"{name} is {limit + 1:.2f}, above {limit:g}" in text


def test_a_collapsed_decision():
    [text] = alarms([0.97, 1.0], HEALTHY)
    assert text == "the decision has collapsed: retrieval is 97% to 100% on every slice"
    assert len(alarms([0.0, 0.01], HEALTHY | {"kl": -100, "malformed": 0.9})) == 3


@pytest.mark.parametrize(
    "rates, alarm",
    [([0.96, 1.0], True), ([0.0, 0.04], True), ([0.0, 1.0], False), ([0.94, 1.0], False)],
)
def test_one_slice_on_which_it_differs_is_no_collapse(rates, alarm):
    assert bool(alarms(rates, HEALTHY)) == alarm


def test_the_line_of_a_dev_evaluation():
    greedy = {"reward": 1.0, "em": 0.5, "hit": 0.25, "retrieval": 0.5, "malformed": 0.4}
    dev = {"greedy": greedy, "greedy_slices": {"tail": {"retrieval": 0.75}}}
    line, warning = dev_line(dev, {"kl": 1.0}).splitlines()
    assert line == "reward 1.000  em 0.500  hit 0.250  retrieval 0.500  tail 0.75"
    assert warning == "  warning: the policy writes gibberish: malformed is 0.40, above 0.3"
    assert len(dev_line(dev, {"kl": 99.0}).splitlines()) == 3
