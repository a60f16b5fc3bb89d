"""Tables by hand, as Markdown and as HTML; what a comparison compares."""

from rl.report.evaluation import Result
from rl.report.summary import DIRECT, METRICS, OWN
from rl.report.text import Table, cell, comparison


def test_markdown_by_hand():
    table = Table("T", ["", "em"], [["a", "0.500"], ["longer", "-"]])
    assert table.markdown().splitlines() == [
        "## T",
        "",
        "|        | em    |",
        "| ------ | ----- |",
        "| a      | 0.500 |",
        "| longer | -     |",
    ]


def test_html_is_escaped():
    html = Table("<b>", ["<i>", "x"], [["<u>", "<s>"]]).html()
    assert "<h3>&lt;b&gt;</h3>" in html and "<tr><th>&lt;i&gt;</th><th>x</th></tr>" in html
    assert "<tr><th>&lt;u&gt;</th><td>&lt;s&gt;</td></tr>" in html


def test_cells():
    assert [cell(v) for v in (12, 0.5, float("nan"), None)] == ["12", "0.500", "-", "-"]


def result(*rewards: float, em: float = 0.0, slices: tuple[str, ...] = ()) -> Result:
    metrics = dict.fromkeys(METRICS, 0.25) | {"hit": None}
    about = {"rows": len(rewards), "metrics": metrics}
    about["slices"] = {name: {"rows": 1, **metrics} for name in slices}
    return Result(about, [{"reward": r, "em": em} for r in rewards], [])


def test_a_comparison():
    """Rewards 2 and 0 against 1 and -1: a difference of 1 in every question has no width."""
    best = result(2.0, 0.0, em=1.0, slices=("tail", "absent"))
    results = {("a", OWN): result(1.0, -1.0, slices=("tail", "absent")), ("b", OWN): best}
    rows, slices, minus = comparison({("a", DIRECT): result(0.0, 0.0), **results}, {})
    assert [line[:3] for line in rows.rows] == [
        ["a: direct only", "2", "0.250"],
        ["a: own decision", "2", "0.250"],
        ["b: own decision", "2", "0.250"],
    ]
    assert rows.rows[0][rows.head.index("hit")] == "-"
    assert [line[0] for line in slices.rows] == ["a: tail", "b: tail", "a: absent", "b: absent"]
    assert minus.title.startswith("b, own decision, minus each") and len(minus.rows) == 2
    assert minus.rows[0][1].startswith("+1.000 [+0.000, +2.000]")
    one = "+1.000 [+1.000, +1.000]"
    assert minus.rows[1] == ["a: own decision", one, one]


def test_what_cannot_be_compared_is_left_out():
    [rows] = comparison({("a", "force answer"): result(1.0)}, {})
    assert len(rows.rows) == 1
    assert len(comparison({("a", OWN): result(1.0)}, {})) == 1, "nothing to take away"
