"""What a study leaves: study.json, report.md, a page without markup of the data; bad input."""

import json
import re
from html.parser import HTMLParser

import pytest

from rl.report import page
from rl.study.study import StudyArgs, compare, heading, trade_off, write
from rl.study.systems import JOINT
from rl.study.table import TOGETHER, tables
from tests.rl.study.test_table import study_of
from tests.test_scripts import message

MARKUP = '</script><img src="https://x/" onerror="y"><!--'


class Page(HTMLParser):
    """Titles of the sections, and all tags with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.titles = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "h2" and data.strip():
            self.titles.append(data)


def test_everything_that_a_study_leaves(tmp_path, capsys):
    study = study_of("main")
    for figures in study["seeds"].values():
        figures["world"], figures["rows"] = MARKUP, {"popqa": 3}
    write(study, tmp_path, tmp_path / "pages/study.html")
    shown, pages = tables(study)
    assert json.loads((tmp_path / "study.json").read_text()) == study
    report, out = (tmp_path / "report.md").read_text(), capsys.readouterr().out
    assert all(table.markdown() in report for table in (*shown, *pages))
    assert all(table.markdown() in out for table in shown)
    assert not any(table.markdown() in out for table in pages)
    assert f"World {MARKUP}, split test, greedy, rows: popqa 3; seeds 0, 1" in report
    text = (tmp_path / "pages/study.html").read_text()
    html = Page(text)
    expected = ["Retrieval and what it buys, together", *(t.title for t in (*shown, *pages))]
    assert [title for title in html.titles if title != "Episodes"] == expected
    assert not {"img", "link", "iframe"} & {tag for tag, _ in html.tags}
    assert not any({"src", "href", "onerror"} & a.keys() for _, a in html.tags)
    assert "{{" not in text and not re.search(r"\bnan\b", text)


def test_the_page_holds_the_training_of_joint_in_every_seed(tmp_path):
    lines = [{"iteration": i, "reward_policy": i, "p_retrieve": 0.5, "kl": 0.0} for i in range(3)]
    folder = tmp_path / "seed-1/joint"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(study_of("main"), tmp_path, tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert f"{folder}: joint PPO" in text and "seed-0/joint" not in text


def test_the_chart_holds_the_figures_of_the_tables():
    study = study_of()
    titles = dict(re.findall("<title>([^<]*?): ([^:<]*)</title>", trade_off(study)))
    assert titles[JOINT] == "1.689 at retrieval, % 44.4 %", "the second chart: the reward"
    names = [
        n for n, e in study["seeds"]["0"]["systems"].items() if e["group"] not in ("sweep", "quota")
    ]
    assert set(names) <= titles.keys()
    em = page.section("x", trade_off(study))
    assert "joint: 88.9 % at retrieval, % 44.4 %" in em


def test_the_heading_names_world_split_rows_and_seeds():
    study = study_of("costs")
    study["seeds"]["0"]["rows"] = {"popqa": 1400, "nq": 3}
    assert "World w, split test, greedy, rows: popqa 1,400, nq 3; seeds 0, 1" in heading(study)
    assert f"{TOGETHER.title()}: popqa, ambignq, hotpotqa" in heading(study)


@pytest.mark.parametrize("seeds", ["0,x", "", "1,", "-1"])
def test_seeds_that_are_none(seeds, tmp_path):
    with pytest.raises(ValueError, match="--seeds must be whole numbers with commas"):
        compare(StudyArgs(seeds=seeds, study=str(tmp_path / "x")))
    assert not (tmp_path / "x").exists()


def test_flags_of_other_things_do_not_go_with_compare():
    expected = "--quota does not go with --compare, whose systems are fixed"
    assert message("evaluate", "--compare", "--quota", "1") == expected
