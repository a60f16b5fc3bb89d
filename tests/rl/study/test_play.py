"""Playing a seed's systems: who plays, what is played again, the confidence baseline by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model import save_policy
from model.pretrained import open_policy
from rl import Decoding, Episode, RagEnv, rollout
from rl.report import evaluation
from rl.runs.launch import precision
from rl.study.roles import Roles
from rl.study.systems import SYSTEMS, Player, System
from tests.rl.tiny import QUESTIONS, TOKENIZER, random_policy, world

# ------------------------------------------------------------------------------- playing

MIXED = System("mixed, N = 2", "main", ("a", "b", "a", "b"), Decoding(force="retrieve"))
ALONE = System("alone", "main", ("a",) * 4)
SYSTEMS_BY_NAME = {system.name: system for system in SYSTEMS}


@pytest.fixture
def player(tmp_path):
    """player(rows): of a folder whose policies and world are four passages small."""
    world().save(tmp_path / "world")
    info = {"passage_tokens": 16, "open_world": str(tmp_path / "world")}
    seed = tmp_path / "seed-0"
    for number, name in enumerate(("warm-up", "a", "b", "joint")):
        policy = random_policy(number, max_position_embeddings=512)
        save_policy(seed / name, policy, TOKENIZER, info)

    def make(rows: int = 0) -> Player:
        player = Player(seed, SimpleNamespace(rows=rows, device="cpu"))
        player.dtype = "fp32"
        return player

    return make


def test_every_role_is_played_by_its_own_policy(player):
    p = player()
    played = p.play(MIXED, "popqa")
    a, b = (open_policy(p.folder / name)[0] for name in ("a", "b"))
    roles = Roles(a, b, a, b, TOKENIZER.retrieve)
    env = RagEnv(p.world, p.index, quota=2, passage_tokens=16)
    with precision("cpu", "fp32"):
        expected = rollout(roles, TOKENIZER, env, p.questions("popqa", "test"), MIXED.decoding)
    assert [e.tokens for e in played] == [e.tokens for e in expected]
    [file] = (p.folder / "eval").glob("*.json")
    written = json.loads(file.read_text())
    assert written["metrics"]["queries"] == np.mean([e.retrievals for e in expected])
    assert (written["world"], written["set"], written["split"]) == (p.world.name, "popqa", "test")
    assert written["rows"] == 4 and written["quota"] == 2


def test_only_what_is_missing_or_of_other_weights_is_played(player, monkeypatch):
    played, rollout = [], evaluation.rollout
    monkeypatch.setattr(evaluation, "rollout", lambda *a: played.append(1) or rollout(*a))

    def results(p: Player) -> list:
        episodes = [p.play(s, "popqa") for s in (MIXED, ALONE)]
        return [[(e.reward, e.answer, e.retrievals) for e in played] for played in episodes]

    first = results(player())
    assert results(player()) == first and len(played) == 2
    save_policy(player().folder / "b", random_policy(9, max_position_embeddings=512), TOKENIZER, {})
    results(player())
    assert len(played) == 3, "the other system has no part in it"
    assert len(player(rows=2).play(ALONE, "popqa")) == 2 and len(played) == 4
    player(rows=2).play(ALONE._replace(quota=1), "popqa")
    assert len(played) == 5


@pytest.mark.parametrize("threshold, first", [(0, "[RETRIEVE]"), (1, "[ANSWER]")])
def test_a_threshold_of_the_sweep_decides(player, threshold, first):
    system = next(s for s in SYSTEMS if s.name == f"joint, threshold {threshold}")
    p = player()
    tokens = {"[RETRIEVE]": TOKENIZER.retrieve, "[ANSWER]": TOKENIZER.answer}
    assert all(tokens[first] in e.tokens for e in p.play(system, "popqa"))


# ------------------------------------------------------------------------------- confidence

SURE, UNSURE = [0.9, 0.4, 0.6, 0.5], [0.5] * 3


@pytest.mark.parametrize(
    "sets, expected",
    [
        ([(SURE, [-0.2, 1.8, -2.2, 1.8])], 0.6),  # retrieves below it: the two that are wrong
        ([(SURE, [-0.2] * 4)], 0.4),  # never
        ([(UNSURE, [1.0] * 3)], 2.0),  # always
        ([(SURE, [0.0] * 4)], 0.4),  # for nothing: never
        ([(UNSURE, [1.0] * 3), ([0.5] * 9, [-0.9] * 9)], 2.0),  # sets have the same weight
    ],
)
def test_threshold_by_hand(player, monkeypatch, sets, expected):
    def branches(self, name, split):
        confidence, gains = sets[int(name)]
        assert split == "dev"
        rewards = [0.0] * len(gains), gains
        return np.array(confidence), *(
            [Episode(QUESTIONS[0], rewards=[r]) for r in x] for x in rewards
        )

    monkeypatch.setattr(Player, "branches", branches)
    names = [str(i) for i in range(len(sets))]
    monkeypatch.setattr("rl.study.systems.sets_of", lambda world: (names, []))
    assert player().threshold == expected


def test_confidence_is_the_mean_probability_of_the_text(player):
    p = player()
    confidence, direct, _ = p.branches("popqa", "test")
    policy = p.policy("warm-up")
    for value, e in zip(confidence, direct, strict=True):
        with torch.no_grad():
            probabilities = policy(torch.tensor([e.tokens]))[0][0].softmax(-1)
        text = [i for i, own in enumerate(e.mask()) if own]
        expected = np.mean([float(probabilities[i - 1, e.tokens[i]]) for i in text])
        assert text and value == pytest.approx(expected, abs=1e-5)
        assert e.tokens[text[0] - 1] == TOKENIZER.answer, "the forced decision is no part of it"


def test_the_confidence_baseline_is_one_of_its_two_branches(player, monkeypatch):
    p = player()
    confidence, direct, retrieved = p.branches("popqa", "test")
    monkeypatch.setattr(Player, "threshold", float(np.median(confidence)))
    episodes = p.play(SYSTEMS_BY_NAME["confidence"], "popqa")
    rewards = [e.reward for e in episodes]
    sure = confidence >= np.median(confidence)
    assert 0 < sum(sure) < len(sure)
    assert rewards == [
        (a if s else b).reward for s, a, b in zip(sure, direct, retrieved, strict=True)
    ]


# ------------------------------------------------------------------------------- figures


def test_questions_without_slices_are_answerable_or_not(player, tmp_path):
    file = tmp_path / "world/questions/popqa.test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row.pop("slice", None)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = player().questions("popqa", "test")
    assert [q.slice for q in questions] == ["answerable", "answerable", "unanswerable", None]


def test_compute_is_read_from_the_logs(player):
    logs = {
        "warm-up": [{"step": 0, "tokens": 1000, "seconds": 1000.0}],
        "reader": [
            {"step": 0, "tokens": 100, "seconds": 30.0},
            {"step": 1, "tokens": 50, "seconds": 30.0},
            {"phase": "read", "dev": {}},
        ],
        "rewriter-ppo": [
            {"iteration": 0, "dev": {}, "episode": '"tokens": 3'},
            {"iteration": 0, "tokens": 7, "seconds": 20.0},
            {"iteration": 1, "tokens": 9, "optimizer_steps": 6, "seconds": 20.0},
            {"iteration": 2, "tokens": 9, "optimizer_steps": 2, "seconds": 20.0},
        ],
    }
    p = player()
    for name, lines in logs.items():
        (p.folder / name).mkdir(exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (p.folder / name / "metrics.jsonl").write_text(text)
    separate = SYSTEMS_BY_NAME["separate, always retrieve"]
    assert p.compute(separate) == {"steps": 2 + 6 + 2, "tokens": 175e-6, "minutes": 2.0}
    assert p.compute(SYSTEMS[0]) == {"steps": 0, "tokens": 0, "minutes": 0}
