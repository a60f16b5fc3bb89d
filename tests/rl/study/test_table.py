"""Every figure of the study's tables by hand."""

import itertools
import json
import math

import pytest

from data import Question
from rl import Episode, Turn
from rl.study.systems import JOINT, TRAINED, UNSEEN, System, systems_of
from rl.study.table import (
    TOGETHER,
    Played,
    Table,
    differences,
    over_seeds,
    pivot,
    rewards_at,
    seed_json,
    tables,
    together,
    values,
)

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


def played(number: int, system: System) -> Played:
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
    seconds = dict.fromkeys(episodes, 0.01)
    return Played(episodes, seconds, {"steps": 10 * number, "tokens": 1000 * number})


def study_of(choice: str = "all", seeds=(0, 1)) -> dict:
    systems = {system: played(i, system) for i, system in enumerate(systems_of(choice))}
    figures = {
        "world": "w",
        "split": "test",
        "rows": {},
        "trained": list(TRAINED),
        "unseen": list(UNSEEN),
        "systems": seed_json(systems, TRAINED, draws=20),
    }
    return {"seeds": {str(seed): json.loads(json.dumps(figures)) for seed in seeds}}


def test_sets_weigh_the_same_whatever_their_size():
    nan = float("nan")
    figures = [{"em": 1.0, "hit": nan}, {"em": 0.0, "hit": 0.5}, {"em": 0.5, "hit": 1.0}]
    assert together(figures) == {"em": 0.5, "hit": 0.75}
    assert math.isnan(together([{"hit": nan}])["hit"])


def test_rewards_at_other_costs():
    at = rewards_at({"em": 0.5, "f1": 0.75, "queries": 1.5, "malformed": 0.25})
    assert at["reward at 0.4"] == pytest.approx(0.5 + 0.75 - 0.6 - 0.25)
    assert at["reward at 0"] == pytest.approx(1.0) and len(at) == 5


def test_figures_of_a_study():
    study = study_of()
    joint = study["seeds"]["1"]["systems"][JOINT]["figures"]
    assert joint[TOGETHER]["reward"] == pytest.approx((3.8 / 3 + 1.9 + 1.9) / 3)
    assert joint[TOGETHER]["em"] == pytest.approx(8 / 9)
    assert joint[TOGETHER]["retrieval"] == pytest.approx(4 / 9)
    em, queries = (2 / 3 + 1 + 1) / 3, (1 / 3 + 1 / 2 + 1 / 2) / 3
    assert joint[TOGETHER]["reward at 0.5"] == pytest.approx(2 * em - 0.5 * queries)
    assert joint["popqa: tail"]["retrieval"] == 1.0 and joint["nq"]["rows"] == 2
    assert TOGETHER not in study["seeds"]["1"]["systems"]["joint, N = 1"]["figures"]
    assert list(joint) == [
        "popqa",
        "popqa: popular",
        "popqa: tail",
        "popqa: absent",
        "ambignq",
        "hotpotqa",
        "hotpotqa: comparison",
        "hotpotqa: bridge",
        *UNSEEN,
        TOGETHER,
    ]


def test_joint_minus_a_system():
    minus = study_of()["seeds"]["0"]["systems"]["direct only"]["joint_minus"]
    assert minus["popqa: tail"]["reward"] == pytest.approx([1.8, 1.8, 1.8]), "no query, no width"
    assert minus[TOGETHER]["reward"][0] == pytest.approx((0.6 + 0.9 + 0.9) / 3)
    assert minus[TOGETHER]["em"][0] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    low, high = minus[TOGETHER]["reward"][1:]
    assert 0 <= low < minus[TOGETHER]["reward"][0] < high


def test_a_pivot():
    study = study_of()
    figures = study["seeds"]["1"]["systems"]["SFT, adaptive"]["figures"]
    figures[TOGETHER]["reward"] += 0.5
    figures[TOGETHER]["hit"] = None
    table = pivot("T", study, ["SFT, adaptive", JOINT], [TOGETHER], ["reward", "em", "hit"])
    assert table.head == ["system", "reward", "EM, %", "hit@k given retrieval, %"]
    base = (2 / 3 + 1 + 1) / 3
    assert table.rows[0][1] == f"{base + 0.25:.3f} [{base:.3f}, {base + 0.5:.3f}]"
    assert table.rows[1][1:] == ["1.689 [1.689, 1.689]", "88.9 [88.9, 88.9]", "0.0 [0.0, 0.0]"]
    parts = pivot("T", study, [JOINT], ["popqa: tail", "nq"], ["retrieval"])
    assert parts.head == ["system", "popqa: tail", "nq"]
    assert parts.rows == [[JOINT, "100.0 [100.0, 100.0]", "50.0 [50.0, 50.0]"]]
    lines = Table("T", ["a", "b"], [["1", "2"]]).markdown().splitlines()
    assert lines == ["## T", "", "| a | b |", "| --- | --- |", "| 1 | 2 |"]


def test_cells():
    assert over_seeds([0.25], 100, ".1f") == "25.0"
    assert over_seeds([0.2, 0.4], 1, ".2f") == "0.30 [0.20, 0.40]" and over_seeds([], 1, "") == "-"
    assert values(study_of(), "direct only", TOGETHER, "hit") == [], "nothing was retrieved"


def test_a_row_of_differences_for_every_seed():
    study = study_of("main")
    table = differences("D", study, ["direct only"], ["popqa: tail", "nq", "none"])
    assert table.head == ["reward of joint minus", "seed", "popqa: tail", "nq", "none"]
    assert [line[:2] for line in table.rows] == [["direct only", "0"], ["direct only", "1"]]
    assert table.rows[0][2] == "+1.800 [+1.800, +1.800]" and table.rows[0][4] == "-"
    em = differences("D", study, ["direct only"], [TOGETHER], "em")
    assert em.rows[1][2].startswith("+44.4 [+")


@pytest.mark.parametrize(
    "choice, there, missing",
    [
        ("all", ["Main", "Ablations", "Cost of", "unseen", "Retrievals at most", "Threshold"], []),
        ("main", ["Main", "unseen", "Retrievals at most", "Threshold"], ["Ablations", "Cost of"]),
        ("ablations", ["Ablations", "Retrievals at most"], ["Main", "Threshold"]),
        ("costs", ["Cost of a retrieval in training"], ["Main", "Ablations"]),
    ],
)
def test_the_tables_of_every_choice(choice, there, missing):
    shown, pages = tables(study_of(choice))
    titles = "\n".join(table.title for table in shown)
    assert all(title in titles for title in there)
    assert not any(title in titles for title in missing)
    for table in itertools.chain(shown, pages):
        assert table.rows and {len(line) for line in table.rows} == {len(table.head)}, table.title
        assert "nan" not in table.markdown()
