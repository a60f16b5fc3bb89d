"""The report by hand: scales, intervals, what the browser is given."""

import json
import re
from xml.etree.ElementTree import tostring

import pytest

from data import Question
from rl import Episode
from rl.report import page
from rl.report.evaluation import Result
from rl.report.page import (
    Line,
    axis,
    browsed,
    calibration_chart,
    chart,
    embedded,
    sweep_charts,
    thin,
    training,
)
from rl.report.summary import DIRECT, OWN, RETRIEVE

ABOUT = {"world": "w", "set": "s", "split": "test", "rows": 3, "slices": {}}


def record(number: int, **values) -> dict:
    return {
        "id": f"q{number}",
        "question": f"Who is {number}?",
        "answers": ["x"],
        "p_retrieve": 0.25,
        "turns": [],
        "em": 1.0,
        "reward": 2.0,
        "tokens": [["[ANSWER]", 0.0], [" x", 0.0], ["<eos>", 2.0]],
    } | values


def drawn(*charts) -> list[str]:
    return [tostring(svg, encoding="unicode") for svg in charts]


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 100, [0, 50, 100]),
        (-0.95, 0.31, [-1.0, -0.5, 0.0]),
        (0.7, 0.98, [0.7, 0.8, 0.9]),
        (3, 3.5, [3.0, 3.2, 3.4]),
        (2, 2, [1.6, 1.8, 2.0, 2.2, 2.4]),
    ],
)
def test_axes_have_round_ticks_and_margins(low, high, expected):
    at, ticks = axis([low, high], 100, 200)
    assert ticks == pytest.approx(expected)
    if low < high:
        assert (at(low), at(high)) == pytest.approx((100 + 6 / 1.12, 200 - 6 / 1.12))


def test_a_chart_puts_points_where_its_axes_say():
    lines = [Line("a", [(0, 0), (10, 50)])]
    [svg] = drawn(chart("T", lines, "x", "y"))
    path = re.search('points="([^"]*)"', svg)[1]
    (x0, y0), (x1, y1) = [map(float, p.split(",")) for p in path.split()]
    ends = re.findall('text-anchor="end" x="[^"]*" y="([^"]*)">([^<]*)', svg)
    tick = {text: float(y) - 3.5 for y, text in ends}  # text stands 3.5 below its line
    assert y0 == pytest.approx(tick["0"], abs=0.1)
    assert y1 == pytest.approx(tick["0"] + (tick["40"] - tick["0"]) * 50 / 40, abs=0.2)
    assert x1 - x0 == pytest.approx((360 - 46 - 12) / 1.12, abs=0.1), "margins of 6 %"
    assert "<title>a: 50 at 10</title>" in svg


def test_labels_are_escaped():
    [svg] = drawn(chart("<b>", [Line('"<i>', [(0, 1)], "dots")], "&x", "<y>"))
    assert not re.search("<[biy]>", svg)
    assert all(text in svg for text in ('"&lt;i&gt;', "&lt;b&gt;", "&amp;x", "&lt;y&gt;"))


def test_thin_keeps_means():
    halves = [(i + 0.5, 2 * i + 1.0) for i in range(0, 10, 2)]
    assert thin([(i, 2.0 * i) for i in range(10)], 5) == halves
    assert thin([(1, 2), (3, 4)]) == [(1, 2), (3, 4)]


def test_the_browser_gets_every_question_or_an_even_sample(monkeypatch):
    records = [record(i) for i in range(6)]
    few = {("runs/a", OWN): Result(ABOUT | {"rows": 6}, records, [])}
    expected = {
        "checkpoints": ["runs/a"],
        "rows": 6,
        "step": 1,
        "questions": [[r] for r in records],
    }
    assert browsed(few) == expected
    size = sum(len(json.dumps(r)) for r in records)
    monkeypatch.setattr(page, "BROWSER_BYTES", size // 2)
    sampled = browsed(few)
    assert (sampled["step"], sampled["rows"]) == (2, 6)
    assert [q[0]["id"] for q in sampled["questions"]] == ["q0", "q2", "q4"]


def test_embedded_json_holds_no_markup():
    value = {"a": "</script><!--&\u2028\u2029", "b": [1, None]}
    text = embedded(value)
    assert not re.search("[<>&\u2028\u2029]", text) and json.loads(text) == value


def test_a_sweep_has_its_curve_and_its_points():
    ends = [
        {"retrieval": 0.0, "em": 0.2, "reward": 0.4},
        {"retrieval": 1, "em": 0.4, "reward": 0.5},
    ]
    points = {"own decision": {"retrieval": 0.5, "em": 0.45, "reward": 0.7}}
    em, reward = drawn(*sweep_charts("runs/a", {"curve": ends, "points": points}))
    assert "own decision: 0.45 at 0.5" in em
    assert "own decision: 0.7 at 0.5" in reward and "<polyline" in reward


def test_training_curves_of_a_run_and_of_its_best(tmp_path):
    lines = [{"iteration": i, "reward_policy": i, "p_retrieve": 0.5, "kl": None} for i in range(3)]
    dev = {"greedy": {"reward": 0.5, "em": 0.25, "retrieval": 1.0, "hit": None}}
    dev["greedy_slices"] = {"tail": {"retrieval": 0.75}}
    lines.append({"iteration": 2, "dev": dev})
    log = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(log)
    html = training(tmp_path / "best")
    assert f"<h3>{tmp_path}</h3>" in html and "dev retrieval, tail: 0.750 at the end" in html
    assert "Value head" not in html, "nothing was logged of it"
    assert training(tmp_path / "best/eval") == ""


def test_the_loss_of_a_warm_up(tmp_path):
    lines = [{"phase": "read", "step": i, "loss": 4.0 - i} for i in range(3)]
    log = "".join(json.dumps(line) + "\n" for line in [*lines, {"phase": "read", "dev": {"em": 1}}])
    (tmp_path / "metrics.jsonl").write_text(log)
    assert "loss: 2.000 at the end" in training(tmp_path)


def test_calibration_of_both_branches():

    def played(*rewards: float) -> Result:
        pairs = zip((0.2, 0.2, 0.8), rewards, strict=True)
        question = Question("q", "?", ("x",))
        return Result(ABOUT, [], [Episode(question, rewards=[r], p_retrieve=p) for p, r in pairs])

    direct, retrieved = played(2.0, 0.0, 0.0), played(1.8, 1.8, 1.8)
    results = {("a", OWN): direct, ("a", DIRECT): direct, ("a", RETRIEVE): retrieved}
    [svg] = drawn(calibration_chart(results))
    half = 1.96 * 1.0 / 2**0.5  # gains of -.2 and 1.8
    assert f"a: 0.8 at 0.2, interval {0.8 - half:.3g} to {0.8 + half:.3g}" in svg
    assert "a: 1.8 at 0.8, interval 1.8 to 1.8" in svg
