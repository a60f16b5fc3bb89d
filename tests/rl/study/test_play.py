"""Playing a seed's systems: who plays, what is played again, the confidence baseline by hand."""

import json

import numpy as np
import pytest
import torch

from data import World
from model import save_policy
from model.pretrained import open_policy
from rl import Decoding, RagEnv, rollout
from rl.report import evaluation
from rl.runs.precision import precision
from rl.study.play import PlayArgs, Player, best_threshold, confidences
from rl.study.roles import Roles
from rl.study.systems import SYSTEMS, System
from tests.rl.tiny import QUESTIONS, TOKENIZER, environment, random_policy, world

# ------------------------------------------------------------------------------- confidence


def test_threshold_by_hand():
    certain, gains = [0.9, 0.4, 0.6, 0.5], [-0.2, 1.8, -2.2, 1.8]
    assert best_threshold([(certain, gains)]) == 0.6, "retrieves below it: the two that are wrong"
    assert best_threshold([(certain, [-0.2] * 4)]) == 0.4, "never"
    assert best_threshold([([0.5] * 3, [1.0] * 3)]) == 2.0, "always"
    assert best_threshold([(certain, [0.0] * 4)]) == 0.4, "for nothing: never"


def test_threshold_against_every_threshold():
    rng = np.random.default_rng(0)
    for _ in range(20):
        sets = [(rng.integers(1, 9, n) / 10, rng.normal(size=n)) for n in (5, 30)]

        def earned(threshold: float, sets=sets) -> float:
            return float(np.mean([np.mean(gains * (c < threshold)) for c, gains in sets]))

        best = max(map(earned, [*np.arange(0, 1.01, 0.05), 2.0]))
        assert earned(best_threshold(sets)) == pytest.approx(best)


def test_confidence_is_the_mean_probability_of_the_text():
    policy = random_policy()
    episodes = rollout(policy, TOKENIZER, environment(), QUESTIONS, Decoding(force="answer"))
    values = confidences(policy, episodes, TOKENIZER, batch_size=3)
    for value, e in zip(values, episodes, strict=True):
        with torch.no_grad():
            p = policy(torch.tensor([e.tokens]))[0][0].softmax(-1)
        text = [i for i, own in enumerate(e.mask()) if own]
        expected = np.mean([float(p[i - 1, e.tokens[i]]) for i in text])
        assert text and value == pytest.approx(expected, abs=1e-5)
        assert e.tokens[text[0] - 1] == TOKENIZER.answer, "the forced decision is no part of it"


# ------------------------------------------------------------------------------- playing

MIXED = System("mixed, N = 2", "main", ("a", "b", "a", "b"), Decoding(force="retrieve"))
ALONE = System("alone", "main", ("a",) * 4)


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
        return Player(seed, PlayArgs(out=str(seed / "eval"), rows=rows, dtype="fp32"))

    return make


def test_every_role_is_played_by_its_own_policy(player):
    p = player()
    played, result = p.result(MIXED, "popqa", "test")
    a, b = (open_policy(p.folder / name)[0] for name in ("a", "b"))
    roles = Roles(a, b, a, b, TOKENIZER.retrieve)
    env = RagEnv(p.world, p.index, quota=2, passage_tokens=16)
    with precision("cpu", "fp32"):
        expected = rollout(roles, TOKENIZER, env, p.questions("popqa", "test"), MIXED.decoding)
    assert [e.tokens for e in played] == [e.tokens for e in expected]
    queries = [[t["query"] for t in r["turns"]] for r in result.records]
    assert queries == [[t.query for t in e.turns] for e in expected]
    [file] = (p.folder / "eval").glob("*.json")
    written = json.loads(file.read_text())
    assert written["metrics"]["queries"] == np.mean([e.retrievals for e in expected])
    assert (written["world"], written["set"], written["split"]) == (p.world.name, "popqa", "test")
    assert written["rows"] == 4 and written["quota"] == 2


def test_only_what_is_missing_or_of_other_weights_is_played(player, monkeypatch):
    played, rollout = [], evaluation.rollout
    monkeypatch.setattr(evaluation, "rollout", lambda *a: played.append(1) or rollout(*a))

    def results(p: Player) -> list:
        return [p.result(s, "popqa", "test")[1].records for s in (MIXED, ALONE)]

    first = results(player())
    assert results(player()) == first and len(played) == 2
    save_policy(player().folder / "b", random_policy(9, max_position_embeddings=512), TOKENIZER, {})
    results(player())
    assert len(played) == 3, "the other system has no part in it"
    assert len(player(rows=2).result(ALONE, "popqa", "test")[0]) == 2 and len(played) == 4
    player(rows=2).result(ALONE._replace(quota=1), "popqa", "test")
    assert len(played) == 5


@pytest.mark.parametrize("threshold, first", [(0, "[RETRIEVE]"), (1, "[ANSWER]")])
def test_a_threshold_of_the_sweep_decides(player, threshold, first):
    system = next(s for s in SYSTEMS if s.name == f"joint, threshold {threshold}")
    _, result = player().result(system, "popqa", "test")
    assert {record["tokens"][0][0] for record in result.records} == {first}


def test_the_confidence_baseline_is_one_of_its_two_branches(player, monkeypatch):
    p = player()
    monkeypatch.setattr("rl.study.play.best_threshold", lambda sets: 0.5)
    played, threshold = p.confidence(["popqa"], [])
    direct, answered = p.result(SYSTEMS[0], "popqa", "test")
    certain = answered.values("confidence")
    assert threshold == 0.5 and 0 < sum(certain) < len(certain)
    for episode, alone, value in zip(played.episodes["popqa"], direct, certain, strict=True):
        assert (episode.reward == alone.reward and not episode.turns) or value < 0.5
    assert isinstance(p.world, World) and played.compute == {"steps": 0, "tokens": 0}
