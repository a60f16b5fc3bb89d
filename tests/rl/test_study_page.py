"""The study's page: every system once, numbers where the axes say, nothing of the data as markup, nothing from a network."""

import json
import re
from html.parser import HTMLParser

import pytest

from rl.report.charts import Axis, Line, beside, chart, span
from rl.study import page as study_page
from rl.study.page import BESIDE, blocks_html, comparison, curves, prices, sections_of, slices
from rl.study.systems import JOINT, TRAINED, UNSEEN
from rl.study.table import TOGETHER
from tests.rl.test_report import record
from tests.rl.test_study import played

MARKUP = '</script><img src="https://x/" onerror="y"><!--'


class Page(HTMLParser):
    """Titles of the sections, row headings of their tables, and all tags with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.titles, self.rows, self.path = [], [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.path = [tag, dict(attributes).get("scope")]

    def handle_data(self, data):
        if self.path[:1] == ["h2"]:
            self.titles.append(data)
        if "row" in self.path:
            self.rows.setdefault(self.titles[-1], []).append(data)
        self.path = []


@pytest.fixture
def folder(tmp_path):
    """What the study's runs leave in its folder, as far as the page reads it."""
    for system in played().systems.values():
        for name in system.sets if system.name in BESIDE else ():
            file = tmp_path / "seed-0/eval" / system.file(name, "test")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"world": MARKUP, "set": name, "split": "test", "rows": 2}))
            turn = {
                "query": MARKUP,
                "passages": [{"id": "p", "title": MARKUP, "text": MARKUP, "score": 1.0}],
            }
            file.with_suffix(".jsonl").write_text(
                "".join(
                    json.dumps(record(i, question=MARKUP, answer=system.name, turns=[turn])) + "\n"
                    for i in range(2)
                )
            )
    (tmp_path / "seed-1/joint").mkdir(parents=True)
    lines = [
        {
            "iteration": i,
            "reward_policy": i,
            "p_retrieve": 0.5,
            "kl": 0.0,
            "hit": 0.5,
            "ev_all": 0.0,
            "ev_oracle_all": 0.0,
        }
        for i in range(3)
    ]
    (tmp_path / "seed-1/joint/metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    return tmp_path


def test_the_page_holds_every_system_once_and_no_markup_of_the_data(folder):
    study = played()
    study.world = MARKUP
    text = study_page.render(study, study.report(), folder)
    page = Page(text.replace("<b>", "").replace("</b>", ""))
    assert page.titles == [
        "Hypotheses",
        "Comparison, together",
        "Retrieval and what it buys, together",
        "Training of joint",
        "Tables",
        "Episodes",
    ]
    assert page.rows["Comparison, together"] == study.group("main", "ablations", "costs")
    assert not {"img", "link", "iframe"} & {tag for tag, _ in page.tags} and not any(
        {"src", "href", "onerror"} & a.keys() for _, a in page.tags
    )
    assert [a.get("type") for tag, a in page.tags if tag == "script"] == [
        "application/json",
        None,
    ] and "{{" not in text
    data = json.loads(re.search('id="data">(.*?)</script>', text)[1])
    assert data["checkpoints"] == ["SFT, adaptive", "separate (b)", JOINT] and len(
        data["sets"]
    ) == len([*TRAINED, *UNSEEN])
    assert [e["answer"] for e in data["sets"][3]["questions"][1]["episodes"]] == data[
        "checkpoints"
    ] and data["passages"] == [[MARKUP] * 2]
    assert f"{folder}/seed-1/joint" in text and f"{folder}/seed-0/joint" not in text, (
        "curves of the logs that are there"
    )


@pytest.mark.parametrize("choice", ["main", "ablations", "costs"])
def test_a_page_of_part_of_the_systems(choice, folder):
    study = played(choice, seeds=(0,))
    text = study_page.render(study, study.report(), folder)
    assert ("every threshold" in text, "price of a retrieval</figcaption>" in text) == (
        choice == "main",
        choice != "main",
    )
    assert not re.search(r"\bnan\b", text)


def test_charts_hold_the_studys_figures():
    study = played()
    reward, em = curves(study)
    titles = lambda svg: dict(re.findall("<title>([^:]*(?:: )?[^:<]*?): ([^<]*)</title>", svg))
    assert (
        titles(em)[JOINT] == "88.9 % [88.9 %, 88.9 %] at retrieval, % 44.4 %"
    )  # EM 8/9, retrieval 4/9: test_figures_of_a_study_by_hand
    assert (
        titles(reward)[JOINT] == "1.689 [1.689, 1.689] at retrieval, % 44.4 %"
        and titles(reward).keys() == titles(em).keys()
    )
    assert titles(em).keys() == {
        *study.group("main", "ablations", "costs"),
        "joint at every threshold on P([RETRIEVE])",
    }
    assert len(re.findall("<circle", em)) == len(study.group("main", "ablations", "costs")) + len(
        study.sweep()
    )
    for seed, retrieval in ((0, 0.2), (1, 0.6)):
        study.figures[seed, "SFT, adaptive", "hotpotqa: bridge"]["retrieval"] = retrieval
    shown = slices(study)
    assert (
        "SFT, adaptive: 40.0 % [20.0 %, 60.0 %] at  bridge<" in shown
        and "joint: 100.0 % [100.0 %, 100.0 %] at  tail<" in shown
    )
    assert [
        shown.index(f">{name}<")
        for name in ("popular", "tail", "absent", "ambignq", "comparison", "bridge")
    ]
    assert "trained at 0.2: 1.778 [1.778, 1.778] at price of a retrieval 0.00" in prices(
        study
    )  # 2 EM


def test_a_range_over_seeds_and_its_bar():
    study = played("main")
    (
        study.figures[0, "direct only", TOGETHER]["reward"],
        study.figures[1, "direct only", TOGETHER]["reward"],
    ) = 0.5, 0.7
    row = re.search("direct only</th>(.*?)</tr>", comparison(study))[1]
    assert "<b>0.600</b> [0.500, 0.700]" in row and row.count('class="interval up"') == 2, (
        "a difference per seed"
    )
    bar = span(2.0, 1.0, 3.0, 1.0, 5.0, str)
    assert 'x1="5.0" x2="60.0"' in bar and 'cx="32.5"' in bar and "<b>2.0</b> [1.0, 3.0]" in bar


def test_marks_stand_beside_their_points():
    assert beside((50, 50), [(50, 50)]) == (50, 39), "above, where nothing else is"
    assert beside((50, 50), [(50, 50), (50, 39)]) == pytest.approx((61, 50)), (
        "clockwise the first that is as free"
    )
    assert beside((50, 50), [(50, 50), (50, 39), (61, 50)]) == pytest.approx((50, 61))
    svg = chart(
        "T",
        [Line("a", [(0.18, 1)], 0, "dots", mark="7"), Line("b", [(0.82, 1)], 1, "dots")],
        Axis("x", names=["u", "v"]),
        Axis("y"),
    )
    assert (
        svg.count(">7</text>") == 1
        and "</span>7 a <b>" in svg
        and "</span>b <b>" in svg
        and "at x u" in svg
        and "at x v" in svg
    )


def test_markdown_becomes_tables():
    text = "# T\n\nWorld <w>.\n\n## A\n\n| x |  | y |\n| --- | --- | --- |\n| **a** | b<c |  |\n\n| z |\n| --- |\n| d |\n\nNote.\n"
    sections = sections_of(text)
    assert sections == {
        "T": ["World &lt;w&gt;."],
        "A": [[["x", "", "y"], ["<b>a</b>", "b&lt;c", ""]], [["z"], ["d"]], "Note."],
    }
    html = blocks_html(sections["A"])
    assert (
        html.count("<table>") == 2
        and '<th scope="row"><b>a</b></th><td>b&lt;c</td><td></td>' in html
        and '<p class="note">Note.</p>' in html
    )
