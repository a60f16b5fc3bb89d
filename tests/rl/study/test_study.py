"""What a study leaves: figures by hand, study.json, report.md, a page without markup of the data;
its subprocesses; bad input."""

import json
import os
import re
import signal
import subprocess
import threading
from functools import partial
from html.parser import HTMLParser

import pytest

from data import Question
from rl import Episode, Turn
from rl.report.summary import paired_interval
from rl.runs.flags import UsageError
from rl.study import study as module
from rl.study import systems
from rl.study.study import StudyArgs, compare, over_seeds, pivot, tables, train, values, write
from rl.study.systems import (
    COSTS,
    JOINT,
    TOGETHER,
    TRAINED,
    UNSEEN,
    System,
    figures_of,
    systems_of,
    together,
)
from tests.test_scripts import message

MARKUP = '</script><img src="https://x/" onerror="y"><!--'
SLICES = {"popqa": ("popular", "tail", "absent"), "hotpotqa": ("comparison", "bridge")}


def row(reward: float, em: float = 0.0, queries: int = 0, slice: str = "tail") -> Episode:
    return Episode(
        Question("q", "?", ("x",), slice=slice),
        rewards=[reward],
        turns=[Turn("q", [], [])] * queries,
        exact_match=em,
        f1=em,
        p_retrieve=0.5,
    )


def played(number: int, system: System) -> dict[str, list[Episode]]:
    """An easy question a set, which all answer at once; a hard one, which joint gets right with one
    retrieval and system `number` wrong with number % 3; in popqa one that nobody knows."""
    episodes, queries = {}, number % 3
    for name in system.sets:
        slices = SLICES.get(name, ("tail", "tail"))
        hard = row(-0.2 * queries, 0.0, queries, slices[1])
        if system.name == JOINT:
            hard = row(1.8, 1.0, 1, slices[1])
        easy = row(2.0, 1.0, 0, slices[0])
        episodes[name] = [easy, hard, *(row(0.0, slice=s) for s in slices[2:])]
    return episodes


def study_of(choice: str = "all", seeds=(0, 1)) -> dict:
    mine = {system: played(i, system) for i, system in enumerate(systems_of(choice))}
    compute = {system: {"steps": 10, "tokens": 1.5, "minutes": 2.0} for system in mine}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(systems, "paired_interval", partial(paired_interval, draws=20))
        figures = figures_of(mine, compute.get, TRAINED)
    one = {
        "world": "w",
        "questions": {"popqa": 1400, "nq": 3},
        "trained": list(TRAINED),
        "unseen": list(UNSEEN),
        "figures": figures,
    }
    return {str(seed): json.loads(json.dumps(one).replace("NaN", "null")) for seed in seeds}


@pytest.fixture(scope="module")
def whole() -> str:
    return json.dumps(study_of())


@pytest.fixture
def study(whole) -> dict:
    return json.loads(whole)


# ------------------------------------------------------------------------------- figures


def test_sets_weigh_the_same_whatever_their_size():
    nan = float("nan")
    figures = [{"em": 1.0, "hit": nan}, {"em": 0.0, "hit": 0.5}, {"em": 0.5, "hit": 1.0}]
    assert together(figures) == {"em": 0.5, "hit": 0.75}
    assert str(together([{"hit": nan}])["hit"]) == "nan"


def rows_of(study: dict) -> list[dict]:
    return [row for seed in study.values() for row in seed["figures"]]


def figure(study: dict, part: str, name: str, system: str = JOINT):
    return values(study["1"]["figures"], system, part, name)[0]


def test_figures_of_a_study(study):
    assert figure(study, TOGETHER, "reward") == pytest.approx((3.8 / 3 + 1.9 + 1.9) / 3)
    assert figure(study, TOGETHER, "em") == pytest.approx(8 / 9)
    assert figure(study, TOGETHER, "retrieval") == pytest.approx(4 / 9)
    em, queries = (2 / 3 + 1 + 1) / 3, (1 / 3 + 1 / 2 + 1 / 2) / 3
    assert figure(study, TOGETHER, "reward at 0.5") == pytest.approx(2 * em - 0.5 * queries)
    assert (
        figure(study, TOGETHER, "steps") == 10
        and values(rows_of(study), JOINT, "popqa", "steps") == []
    )
    assert figure(study, "popqa: tail", "retrieval") == 1.0 and figure(study, "nq", "rows") == 2
    assert values(rows_of(study), "joint, N = 1", TOGETHER, "em") == []
    parts = [r["part"] for r in study["1"]["figures"] if r["system"] == JOINT]
    slices = [f"{name}: {part}" for name, found in SLICES.items() for part in found]
    others = {name for name in (*TRAINED, *UNSEEN) if name not in SLICES}
    assert set(parts) == {*TRAINED, *UNSEEN, *slices, TOGETHER, *(f"{n}: tail" for n in others)}


def test_joint_minus_a_system(study):
    tail = figure(study, "popqa: tail", "joint_minus", "direct only")
    assert tail == pytest.approx([1.8, 1.8, 1.8]), "no query, no width"
    mean, low, high = figure(study, TOGETHER, "joint_minus", "direct only")
    assert mean == pytest.approx((0.6 + 0.9 + 0.9) / 3) and 0 <= low < mean < high


# ------------------------------------------------------------------------------- tables


def test_a_pivot(study):
    for one in study["1"]["figures"]:
        if (one["system"], one["part"]) == ("SFT, adaptive", TOGETHER):
            one["reward"] += 0.5
            one["hit"] = None
    table = pivot(
        "T", rows_of(study), ["SFT, adaptive", JOINT], [TOGETHER], ["reward", "em", "hit"]
    )
    assert table.head == ["system", "reward", "em", "hit"]
    base = (2 / 3 + 1 + 1) / 3
    assert table.rows[0][1] == f"{base + 0.25:.4g} [{base:.4g}, {base + 0.5:.4g}]"
    assert table.rows[1] == [JOINT, "1.689 [1.689, 1.689]", "0.8889 [0.8889, 0.8889]", "0 [0, 0]"]
    parts = pivot("T", rows_of(study), [JOINT], ["popqa: tail", "nq"], ["retrieval"])
    assert parts.head == ["system", "popqa: tail", "nq"]
    assert parts.rows == [[JOINT, "1 [1, 1]", "0.5 [0.5, 0.5]"]]


def test_cells(study):
    assert over_seeds([0.25]) == "0.25" and over_seeds([]) == "-"
    assert over_seeds([0.2, 0.4]) == "0.3 [0.2, 0.4]"
    differences = [[1.8, 1.8, 1.8], [-0.5, -0.6, 0.1]]
    assert over_seeds(differences) == "+1.800 [+1.800, +1.800]; -0.500 [-0.600, +0.100]"
    assert values(rows_of(study), "direct only", TOGETHER, "hit") == [], "nothing was retrieved"


@pytest.mark.parametrize("choice, ablations", [("all", True), ("main", False)])
def test_the_tables_of_every_choice(choice, ablations):
    shown, pages = tables(rows_of(study_of(choice)), UNSEEN)
    systems = [[line[0] for line in table.rows] for table in shown]
    assert ("no KL" in systems[0]) == ablations and "joint, N = 1" not in systems[0]
    assert "joint, threshold 0.9" in systems[3] and systems[3][-1] == JOINT
    assert {f"reward at {cost:g}" for cost in COSTS} <= set(shown[2].head)
    assert shown[1].head == ["system", TOGETHER, *UNSEEN]
    for table in (*shown, *pages):
        assert table.rows and {len(line) for line in table.rows} == {len(table.head)}, table.title
        assert "nan" not in table.markdown()
    quota = {line[0]: line for line in pages[-1].rows}["joint, N = 1"]
    assert quota[pages[-1].head.index("hotpotqa: bridge")] != "-", "a second retrieval, by part"


# ------------------------------------------------------------------------------- what is written


class Page(HTMLParser):
    """Titles of the sections and tables, and all tags with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.titles = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] in ("h2", "h3") and data.strip():
            self.titles.append(data)


def test_everything_that_a_study_leaves(tmp_path, capsys, study):
    for figures in study.values():
        figures["world"] = MARKUP
    write(study, tmp_path)
    shown, pages = tables(rows_of(study), UNSEEN)
    report, out = (tmp_path / "report.md").read_text(), capsys.readouterr().out
    assert json.loads((tmp_path / "study.json").read_text()) == study
    assert all(table.markdown() in report for table in (*shown, *pages))
    assert all(table.markdown() in out for table in shown)
    assert not any(table.markdown() in out for table in pages)
    head = f"World {MARKUP}, test questions: popqa 1,400, nq 3; greedy; seeds 0, 1: mean [least"
    assert head in report and f"{TOGETHER.title()}: popqa, ambignq, hotpotqa" in report
    text = (tmp_path / "report.html").read_text()
    html = Page(text)
    assert {table.title for table in (*shown, *pages)} <= set(html.titles)
    assert not {"img", "link", "iframe"} & {tag for tag, _ in html.tags}
    assert not any({"src", "href", "onerror"} & a.keys() for _, a in html.tags)
    assert "{{" not in text and not re.search(r"\bnan\b", text)
    charts = dict(re.findall("<title>([^<]*?): ([^:<]*)</title>", text))
    assert charts[JOINT] == "1.69 at 0.444", "the second chart: the reward"
    assert "joint: 0.889 at 0.444" in text and charts["no KL"]


def test_the_page_holds_the_training_of_joint_in_every_seed(tmp_path, study):
    lines = [{"iteration": i, "reward_policy": i, "p_retrieve": 0.5, "kl": 0.0} for i in range(3)]
    folder = tmp_path / "seed-1/joint"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(study, tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert f"<h3>{folder}</h3>" in text and "seed-0/joint" not in text


# ------------------------------------------------------------------------------- subprocesses


def test_the_study_runs_everything_in_order_and_then_writes(tmp_path, monkeypatch, study):
    started = []

    def fake(commands, count):
        started.extend((out.name, command[1], count) for out, command in commands.items())

    def fake_play(folder, args):
        started.append((folder.name, args.systems, args.ranks))
        return study["1"]

    monkeypatch.setattr(module, "train", fake)
    monkeypatch.setattr(module, "play", fake_play)
    compare(StudyArgs(seeds="3,3", systems="main", study=str(tmp_path), ranks=1))
    assert started[0] == ("warm-up", "train_sft", 1) and started[-1] == ("seed-3", "main", 1)
    assert len(started) == 9 and len({name for name, *_ in started}) == 9
    assert (tmp_path / "report.html").exists()


def test_a_subprocess_gets_its_folder_and_writes_a_log(tmp_path):
    code = "import sys; print(sys.argv[1:])"
    train({tmp_path / "seed-0/x": ["-c", code, "--kl", "0"]}, 2)
    expected = ["--kl", "0", "--out", f"{tmp_path}/seed-0/x", "--ranks", "2"]
    assert (tmp_path / "seed-0/x.log").read_text() == f"{expected}\n"


def test_a_subprocess_that_fails_ends_the_study(tmp_path):
    code = "import sys; print('so far'); sys.exit('error: out of luck')"
    with pytest.raises(UsageError) as error:
        train({tmp_path / "bad": ["-c", code], tmp_path / "next": ["-c", ""]}, 1)
    log = f"{tmp_path}/bad.log"
    assert str(error.value) == f"bad failed (exit code 1); {log}: error: out of luck"
    assert not (tmp_path / "next.log").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_stops_the_child(tmp_path, number, monkeypatch):
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
    )
    # SIGINT is ignored where a shell has started the tests in the background
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            train({tmp_path / "slow": ["-c", "import time; time.sleep(60)"]}, 1)
    finally:
        for n, handler in handlers.items():
            signal.signal(n, handler)
    assert started[0].wait(10) is not None, "the child is gone"


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("seeds", ["0,x", "", "1,", "-1", "0,99999999999"])
def test_seeds_that_are_none(seeds, tmp_path):
    with pytest.raises(ValueError, match=r"--seeds must be whole numbers below 10\^9 with comm"):
        compare(StudyArgs(seeds=seeds, study=str(tmp_path / "x")))
    assert not (tmp_path / "x").exists()


def test_somebody_elses_folder_is_no_study(tmp_path):
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(UsageError, match="is not empty, and no study made it; choose another"):
        compare(StudyArgs(study=str(tmp_path)))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.md", "mine")]


def test_flags_of_other_things_do_not_go_with_compare():
    problem = message("evaluate", "--compare", "--quota", "1")
    assert problem.startswith("unrecognized arguments: --quota 1 ")
