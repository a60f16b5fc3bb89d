"""The report by hand: scales, intervals, what the browser is given."""

import json
import re

import pytest

from rl.report import page
from rl.report.charts import Axis, Line, chart, interval, thin, ticks
from rl.report.curves import calibration_charts, share_interval, sweep_charts, training
from rl.report.page import browsed, comparison, embedded
from rl.report.results import DIRECT, RETRIEVE, Group, Result


def record(number: int, **values) -> dict:
    return {
        "id": f"q{number}",
        "question": f"Who is {number}?",
        "answers": ["x"],
        "slice": "tail",
        "relation": None,
        "popularity": 1.0,
        "p_retrieve": 0.25,
        "calls": 1,
        "turns": [],
        "answer": "x",
        "em": 1.0,
        "f1": 1.0,
        "hit": False,
        "malformed": False,
        "reward": 2.0,
        "tokens": [["[ANSWER]", 0.0], [" x", 0.0], ["<eos>", 2.0]],
    } | values


def group(records: list[dict]) -> Group:
    about = {"world": "w", "set": "s", "split": "test", "rows": len(records)}
    return Group(about, {("runs/a", "own decision"): Result(about, records)})


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (-1.02, 0.31, [-1.0, -0.5, 0.0]),
        (0.68, 1.0, [0.7, 0.8, 0.9, 1.0]),
        (3, 3.5, [3.0, 3.1, 3.2, 3.3, 3.4, 3.5]),
    ],
)
def test_ticks(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_chart_puts_points_where_its_axes_say():
    svg = chart(
        "T",
        [Line("a", [(0, 0), (10, 50), (20, float("nan")), (20, None)], 2)],
        Axis("x", least=0, most=20),
        Axis("y", " %", least=0, most=100),
    )
    (x0, y0), (x1, y1) = [
        map(float, p.split(",")) for p in re.search('points="([^"]*)"', svg)[1].split()
    ]
    tick = {
        text: float(y)
        for y, text in re.findall(r'text-anchor="end" x="[^"]*" y="([^"]*)">([^<]*)', svg)
    }  # text stands 3.5 below its line
    assert y0 == pytest.approx(tick["0"] - 3.5, abs=0.1) and y1 == pytest.approx(
        (tick["0"] + tick["100"]) / 2 - 3.5, abs=0.1
    )
    assert x1 - x0 == pytest.approx((360 - 46 - 12) / 2, abs=0.1)
    assert "<b>50.0 %</b>" in svg and "nan" not in svg
    assert chart("T", [Line("a", [(0, None)], 0)], Axis("x"), Axis("y")) == "", "nothing to draw"


def test_labels_are_escaped():
    line = Line('"<i>', [(0, 1)], 0, mark="<u>")
    svg = chart("<b>", [line], Axis("&x"), Axis("<y>"), "<s>")
    assert not re.search("<(?!b>1.0</b>)[biuys]>", svg)
    assert all(text in svg for text in ("&quot;&lt;i&gt;", "&lt;u&gt;", "&lt;s&gt;", "&amp;x"))


def test_thin_keeps_means():
    assert thin([(i, 2.0 * i) for i in range(10)], 5) == [
        (i + 0.5, 2 * i + 1.0) for i in range(0, 10, 2)
    ]
    assert thin([(1, 2), (3, 4)]) == [(1, 2), (3, 4)]


def test_an_interval_is_green_only_without_zero():
    cells = ((0.2, 0.1, 0.3), (0.1, -0.1, 0.3), (-0.2, -0.3, -0.1))
    shown = [re.search('class="(\\w+)"', interval(*cell, str))[1] for cell in cells]
    assert shown == ["up", "even", "down"]
    assert interval(2, 1, 3, str).endswith("<b>2</b> [1, 3]</span>")


def test_wilson_interval():
    """Newcombe (1998), table I: 0 of 20 -> [0, .1611] and 15 of 148 -> [.0624, .1605]."""
    assert share_interval(15, 148)[1:] == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert share_interval(0, 20) == pytest.approx((0, 0, 0.1611), abs=5e-5)
    assert share_interval(20, 20)[2] == 1.0


def test_the_browser_gets_every_passage_once_and_a_sample_when_there_is_too_much(monkeypatch):
    turns = [{"query": "x", "passages": [{"id": "p", "title": "t", "text": "u", "score": 1.0}]}]
    few = group([record(i, turns=turns) for i in range(6)])
    data = browsed(few)
    assert (
        data["passages"] == [["t", "u"]]
        and data["sets"][0]["step"] == 1
        and len(data["sets"][0]["questions"]) == 6
    )
    [first] = data["sets"][0]["questions"][0]["episodes"]
    assert first["turns"] == [{"query": "x", "passages": [[0, 1.0]]}]
    assert first["tokens"] == ["[ANSWER]", " x", ["<eos>", 2.0]]
    assert data["checkpoints"] == ["runs/a"]
    monkeypatch.setattr(page, "BROWSER_BYTES", len(json.dumps(few.own["runs/a"].records)) // 4)
    sampled = browsed(few)["sets"][0]
    assert (sampled["step"], sampled["rows"], [q["id"] for q in sampled["questions"]]) == (
        2,
        6,
        ["q0", "q2", "q4"],
    )


def test_embedded_json_holds_no_markup():
    value = {"a": "</script><!--&\u2028\u2029", "b": [1, None]}
    assert (
        not re.search("[<>&\u2028\u2029]", embedded(value)) and json.loads(embedded(value)) == value
    )


def test_differences_are_the_last_policys_own_minus_each_row():
    """Rewards 2 and 0 against 1 and -1: a difference of 1 in every question has no width."""
    about = {"world": "w", "set": "s", "split": "test", "rows": 2, "seconds": 0.5, "slices": {}}
    names = ("em", "f1", "retrieval", "queries", "calls", "malformed")
    metrics = dict.fromkeys(names, 0.5)
    about["metrics"] = {**metrics, "hit": None, "reward": 1.0}
    first = Result(about, [record(0, reward=1.0, em=0.0), record(1, reward=-1.0, em=0.0)])
    last = Result(about, [record(0, reward=2.0, em=1.0), record(1, reward=0.0, em=0.0)])
    html = comparison(Group(about, {("a", "own decision"): first, ("b", "own decision"): last}))
    rows = dict(re.findall("<code>(.)</code> own decision</th>(.*?)</tr>", html))
    assert "<b>+1.000</b> [+1.000, +1.000]" in rows["a"] and "<b>+50.0</b>" in rows["a"]
    assert rows["b"].endswith("<td>-</td><td>-</td>") and "<td>250.0 ms</td>" in rows["b"]


def test_a_sweep_has_its_curve_and_its_points():
    sweep = {
        "curve": [
            {"retrieval": 0.0, "em": 0.2, "reward": 0.4},
            {"retrieval": 1, "em": 0.4, "reward": 0.5},
        ],
        "points": {"own decision": {"retrieval": 0.5, "em": 0.45, "reward": 0.7}},
    }
    em, reward = sweep_charts("runs/a", sweep)
    assert "own decision: 45.0 % at retrieval, % 50.0 %" in em
    assert "own decision: 0.700 at retrieval, % 50.0 %" in reward and "<polyline" in reward


def test_training_curves_of_a_run_and_of_its_best(tmp_path):
    lines = [{"iteration": i, "reward_policy": i, "p_retrieve": 0.5, "kl": None} for i in range(3)]
    dev = {"greedy": {"reward": 0.5, "em": 0.25, "retrieval": 1.0, "hit": None}}
    dev["greedy_slices"] = {"tail": {"retrieval": 0.75}}
    lines.append({"iteration": 2, "dev": dev})
    log = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(log)
    html = training(tmp_path / "best")
    assert f"{tmp_path}: joint PPO" in html and "dev, tail: 75.0 % at iteration 2" in html
    assert "Value head" not in html, "nothing was logged of it"
    assert training(tmp_path / "best/eval") == ""


def test_calibration_needs_both_branches():
    """Retrieving earns more for one of two questions at .2, for the only one at .8."""
    about = {"world": "w", "set": "s", "split": "test", "rows": 3}
    shares = (0.2, 0.2, 0.8)
    direct, retrieved = (
        Result(about, [record(i, p_retrieve=p, reward=r) for i, (p, r) in enumerate(pairs)])
        for pairs in (
            zip(shares, (2.0, 0.0, 0.0), strict=True),
            zip(shares, (1.8, 1.8, 1.8), strict=True),
        )
    )
    results = {("a", "own decision"): direct, ("a", DIRECT): direct}
    assert calibration_charts(Group(about, results)) == []
    results["a", RETRIEVE] = retrieved
    share, gain = calibration_charts(Group(about, results))
    assert "a: 50.0 % [9.5 %, 90.5 %] at" in share and "a: 100.0 % [20.7 %, 100.0 %] at" in share
    assert re.search(r"a: 0\.80 at [^<]* 0\.20<", gain) and re.search(
        r"a: 1\.80 at [^<]* 0\.80<", gain
    )
