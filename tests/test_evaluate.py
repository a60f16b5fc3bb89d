"""evaluate.py from outside, with untrained policies over four passages: costs, labels, what is
checked before anything is played, what reaches a terminal."""

import json

import pytest

from model import save_policy
from rl.report import evaluation
from tests.model.tiny import tiny_config, tiny_policy
from tests.rl.tiny import TOKENIZER, world
from tests.test_scripts import call, message


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint(name, **run info): of an untrained policy whose world is four passages."""
    world().save(tmp_path / "world")

    def make(name: str, seed: int = 0, **info):
        policy = tiny_policy(tiny_config(len(TOKENIZER), max_position_embeddings=512), seed=seed)
        info = {"open_world": str(tmp_path / "world"), "passage_tokens": 16} | info
        save_policy(tmp_path / name, policy, TOKENIZER, info)
        return tmp_path / name

    return make


def run(*argv):
    result = call("evaluate", "--ranks", 1, "--show", 0, *argv)
    assert result.code == 0, result.err
    return result.out


def reward(checkpoint, row: str = ".force-question") -> float:
    [file] = checkpoint.glob(f"eval/*.test{row}.json")
    return json.loads(file.read_text())["metrics"]["reward"]


DEAR = {"exact_match": 1.0, "f1": 1.0, "retrieval_cost": 0.5, "malformed_cost": 2.0}


def test_what_training_charged_is_charged(checkpoint):
    """The raw question is always a retrieval, and this policy's answers are malformed."""
    cheap, dear = checkpoint("cheap"), checkpoint("dear", reward=DEAR)
    out = run("--checkpoint", dear)
    assert "reward 1 EM + 1 F1 - 0.5 per retrieval - 2 if malformed; checkpoints" in out
    assert reward(dear) == pytest.approx(-2.5)
    assert "- 0.2 per retrieval - 1 if malformed" in run("--checkpoint", cheap)
    assert reward(cheap) == pytest.approx(-1.2)
    run("--checkpoint", dear, "--retrieval-cost", 0)
    assert reward(dear) == pytest.approx(-2.0), "a flag overrides, the other weight stays"


def test_two_costs_in_one_table_are_labelled(checkpoint):
    cheap, dear = checkpoint("cheap"), checkpoint("dear", reward=DEAR)
    out = run("--checkpoint", f"{cheap},{dear}")
    assert f"{cheap} (retrieval cost 0.2, malformed cost 1): direct only" in out
    assert f"{dear} (retrieval cost 0.5, malformed cost 2): direct only" in out
    same = run("--checkpoint", f"{cheap},{dear}", "--retrieval-cost", 0.1, "--malformed-cost", 1)
    assert f"{cheap}: direct only" in same and "(retrieval cost" not in same


def test_whatever_differs_in_two_rewards_is_labelled(checkpoint):
    plain, other = checkpoint("plain"), checkpoint("other", reward={"f1": 0.5})
    out = run("--checkpoint", f"{plain},{other}")
    assert f"{plain} (f1 1): direct only" in out and f"{other} (f1 0.5): direct only" in out


@pytest.mark.parametrize("cost", ["--retrieval-cost", "--malformed-cost"])
def test_a_negative_cost_is_refused_and_not_the_checkpoints(checkpoint, cost):
    said = message("evaluate", "--checkpoint", checkpoint("policy"), cost, "-0.2")
    assert said.startswith(f"argument {cost}: must be at least 0, not -0.2")


def test_all_checkpoints_are_opened_before_the_first_is_played(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation, "rollout", pytest.fail)
    good, torn = checkpoint("good"), checkpoint("torn")
    (torn / "model.safetensors").write_bytes(b"no tensors")
    bad = [f"{tmp_path}/none", "", torn]
    for other in bad:
        text = message("evaluate", "--ranks", 1, "--checkpoint", f"{good},{other}")
        assert "no such checkpoint" in text or "no checkpoint here" in text or str(torn) in text
    assert not (good / "eval").exists()


@pytest.mark.parametrize("study", [(), ("--compare",)])
def test_a_report_that_cannot_be_written_is_told_before_anything_is_played(
    checkpoint, monkeypatch, tmp_path, study
):
    monkeypatch.setattr(evaluation, "rollout", pytest.fail)
    what = study or ("--checkpoint", checkpoint("policy"))
    said = message("evaluate", *what, "--study", tmp_path / "study", "--report", tmp_path)
    assert said == f"--report {tmp_path} is not a regular file"
    assert not (tmp_path / "study").exists()


def test_worlds_that_differ_need_a_world(checkpoint, tmp_path):
    one, other = checkpoint("one"), checkpoint("other", open_world="tiny")
    text = message("evaluate", "--ranks", 1, "--checkpoint", f"{one},{other}", "--rows", 2)
    assert text.startswith(
        f"{one} and {other} were trained on different worlds or sets; give --world"
    )


def test_the_report_reads_what_is_current_and_plays_the_rest(checkpoint, monkeypatch, tmp_path):
    policy, played = checkpoint("policy"), []
    rollout = evaluation.rollout

    def counted(policy, tokenizer, env, questions, decoding, *rest):
        played.append(decoding.force)
        return rollout(policy, tokenizer, env, questions, decoding, *rest)

    monkeypatch.setattr(evaluation, "rollout", counted)
    table = run("--checkpoint", policy)
    assert played == ["answer", "question", "retrieve", None]
    again = run("--checkpoint", policy, "--report", tmp_path / "x.html")
    assert len(played) == 4 and table.splitlines()[:6] == again.splitlines()[:6]
    run("--checkpoint", policy, "--report", tmp_path / "x.html", "--rows", 2)
    assert len(played) == 8, "other questions"
    run("--checkpoint", policy, "--report", tmp_path / "x.html", "--rows", 2, "--quota", 2)
    assert len(played) == 12, "another environment"
    checkpoint("policy", seed=1)
    run("--checkpoint", policy, "--report", tmp_path / "x.html", "--rows", 2, "--quota", 2)
    assert len(played) == 16, "other weights"


def test_no_escape_of_a_world_reaches_the_terminal(checkpoint, tmp_path):
    policy = checkpoint("policy")
    for file in (tmp_path / "world").rglob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row |= {key: f"\x1b]0;own\x07{row[key]}" for key in ("title", "question") if key in row}
            if "question" in row:
                row["slice"] = "\x1b[31m"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = call("evaluate", "--ranks", 1, "--checkpoint", policy, "--show", 4)
    assert result.code == 0 and "own" in result.out
    assert not [c for c in result.out + result.err if c != "\n" and not c.isprintable()]
    asked = call(
        "evaluate",
        "--checkpoint",
        policy,
        "--ask",
        "The Salt Road?\x9b",
        "--force",
        "question",
        "--json",
    )
    assert "own" in asked.out and not {"\x1b", "\x07", "\x9b"} & set(asked.out)
    assert json.loads(asked.out)["question"] == "The Salt Road?\x9b", "JSON loses nothing"
