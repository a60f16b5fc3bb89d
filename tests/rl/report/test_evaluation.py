"""Results on disk: written whole, read back, played again only where something differs."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from rl import Decoding, Reward
from rl.report import evaluation
from rl.report.evaluation import Evaluation
from rl.report.summary import METRICS, summarize
from tests.rl.tiny import QUESTIONS, TOKENIZER, environment, random_policy
from tests.shared import ROOT

ASKED = "popqa", "test"
DIRECT = Decoding(force="answer")


@pytest.fixture
def count(monkeypatch):
    """How often something was played."""
    played, rollout = [], evaluation.rollout
    monkeypatch.setattr(evaluation, "rollout", lambda *a: played.append(1) or rollout(*a))
    return played


@pytest.fixture
def e() -> Evaluation:
    policy, about = random_policy(), {"weights_sha256": "a"}
    parts = policy, TOKENIZER, environment(), ASKED, QUESTIONS, about
    return Evaluation("e", *parts, "cpu", "fp32")


def play(e, file, questions=QUESTIONS, decoding=DIRECT, reuse=True):
    return replace(e, questions=questions).play("row", decoding, reuse, file)


def test_a_result_is_written_and_read_back(e, count, tmp_path):
    file = tmp_path / "eval/x.json"
    (about, records, played), same = play(e, file), play(e, file)
    read = same.episodes
    assert same[:2] == (about, records) and len(count) == 1
    expected = {k: pytest.approx(v, abs=1e-6, nan_ok=True) for k, v in summarize(played).items()}
    assert summarize(read) == expected
    about = json.loads(file.read_text())
    assert (about["world"], about["set"], about["split"], about["rows"]) == ("four", *ASKED, 4)
    assert about["metrics"].keys() == set(METRICS) and about["metrics"]["hit"] is None
    assert set(about["slices"]) == {"popular", "tail", "absent"} and about["seconds"] >= 0
    assert about["reward"]["retrieval_cost"] == 0.2


def test_whatever_it_depends_on_has_it_played_again(e, count, tmp_path):
    file = tmp_path / "x.json"
    changes = [
        (e, QUESTIONS, DIRECT),
        (e, QUESTIONS[:3], DIRECT),
        (e, [replace(QUESTIONS[0], answers=("x",)), *QUESTIONS[1:]], DIRECT),
        (e, QUESTIONS, Decoding()),
        (replace(e, about={"weights_sha256": "b"}), QUESTIONS, DIRECT),
        (replace(e, env=environment(quota=2)), QUESTIONS, DIRECT),
        (replace(e, env=environment(k=1)), QUESTIONS, DIRECT),
        (replace(e, env=environment(reward=Reward(f1=0.0))), QUESTIONS, DIRECT),
    ]
    for number, (other, questions, decoding) in enumerate(changes, start=1):
        play(other, file, questions, decoding)
        assert len(count) == number
        play(other, file, questions, decoding)
        assert len(count) == number, "what was just written is current"
    play(other, file, questions, decoding, reuse=False)
    assert len(count) == len(changes) + 1, "asked to play anew"


def test_half_a_result_is_none(e, count, tmp_path):
    file = tmp_path / "x.json"
    play(e, file)
    lines = file.with_suffix(".jsonl").read_text().splitlines(keepends=True)
    file.with_suffix(".jsonl").write_text("".join(lines[:3]))
    play(e, file)
    assert len(count) == 2
    file.with_suffix(".jsonl").unlink()
    play(e, file)
    assert len(count) == 3


def test_figures_beside_the_episodes_of_another_process_are_played_again(e, count, tmp_path):
    """Two processes evaluate one checkpoint: the first to begin may be the last to end."""
    file, other = tmp_path / "x.json", tmp_path / "y.json"
    play(e, file)
    play(replace(e, env=environment(k=1)), other, decoding=Decoding(force="retrieve"))
    other.with_suffix(".jsonl").rename(file.with_suffix(".jsonl"))
    play(e, file)
    assert len(count) == 3


def test_two_processes_write_one_file(tmp_path):
    """Each beside it under a name of its own: no half of one is put in place by the other."""
    path, names = tmp_path / "a.json", []
    for _ in range(2):
        code = "import sys; from pathlib import Path; from model import atomic_write;"
        code += "atomic_write(Path(sys.argv[1]), lambda p: (print(p), p.touch()))"
        said = subprocess.run(
            [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True
        )
        names.append(said.stdout)
    assert len(set(names)) == 2 and list(tmp_path.iterdir()) == [path]


def test_a_seed_decides_what_is_sampled(e):
    sampled = Decoding(1.0, True)
    one, same, other = (
        [x.tokens for x in replace(e, seed=seed, questions=QUESTIONS * 4).answer(sampled)]
        for seed in (0, 0, 1)
    )
    assert one == same != other
