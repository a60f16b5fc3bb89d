"""Separate modules: which tokens each learns, with which label and weight; and the command, stopped and resumed."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from data import Question
from rl import Episode
from rl.study.modules import KINDS, Module
from tests.test_scripts import SFT, call, message

from .oracle import read
from .tiny import QUESTIONS, TOKENIZER, environment, text


def module(kind: str, played: list[Episode] | None = None, **env) -> Module:
    """A module without policies: `play` returns what it is given."""
    m = Module.__new__(Module)
    m.kind, m.tokenizer, m.env = kind, TOKENIZER, environment(**env)
    m.world = SimpleNamespace(corpus=m.env.corpus)
    m.play = lambda questions, names, decoding, generator=None: [
        e for e in played if bool(e.turns) == (decoding.force != "answer")
    ]
    return m


def episode(
    *passages: list[int],
    question: Question = QUESTIONS[0],
    answer: str = "Caldis",
    quota: int = 1,
    reward: float = 0.0,
) -> Episode:
    """One that retrieved these passages, one list for each retrieval, as a policy plays it that owns no token."""
    e, env = Episode(question), environment(quota=quota)
    e.state([TOKENIZER.bos, *TOKENIZER.encode(question.question)])
    for rows in passages:
        e.action([TOKENIZER.retrieve, *text("salt road")], -0.2, False, False)
        env.index.rows = lambda query: rows
        (turn,) = env.search(["salt road"])
        e.turns.append(turn)
        e.state(env.observe(turn, TOKENIZER))
    e.action([TOKENIZER.answer, *text(answer)], reward + 0.2 * len(passages), False, False)
    e.exact_match = float(answer in question.answers)
    e.hit = any(
        env.corpus[row].id in question.gold_passages or () for rows in passages for row in rows
    )
    return e


def learnt(example) -> list[tuple[int, bool]]:
    e = example.episode
    return [(t, d) for t, mine, d in zip(e.tokens, e.action_mask, e.decision_mask) if mine]


def test_the_reader_learns_the_right_answer_where_the_passages_hold_it():
    found, missed = episode([1, 3]), episode([0, 3])
    (example,) = module("reader", [found, missed]).examples([], [], None)
    assert learnt(example) == [(t, False) for t in text("Ada Quill")] and example.weight == 1.0
    reading = read(example.episode.tokens, TOKENIZER, 1, 8, 6)
    assert (
        reading.actions[-1].words == "Ada Quill"
        and example.episode.tokens[: len(found.tokens) - len(text("Caldis"))]
        == found.tokens[: -len(text("Caldis"))]
    )


def test_the_rewriter_learns_from_what_was_found():
    found, missed = episode([1, 3]), episode([0, 3])
    assert [e.episode for e in module("rewriter", [found, missed]).examples([], [], None)] == [
        found
    ]


def test_the_decision_learns_whether_the_direct_answer_is_right():
    right, wrong = episode(answer="Ada Quill"), episode()
    examples = module("decision-right", [right, wrong]).examples([], [], None)
    assert [learnt(e) for e in examples] == [
        [(TOKENIZER.answer, True)],
        [(TOKENIZER.retrieve, True)],
    ] and [e.weight for e in examples] == [1.0, 1.0]
    assert all(
        e.episode.tokens[:-1] == [TOKENIZER.bos, *TOKENIZER.encode(QUESTIONS[0].question)]
        for e in examples
    )


def test_the_decision_learns_the_better_branch_weighted_by_the_difference():
    direct = [episode(reward=2.0), episode(reward=0.0), episode(reward=0.3), episode(reward=0.5)]
    asked = [
        episode([0], reward=1.8),
        episode([0], reward=1.8),
        episode([0], reward=0.3),
        episode([0], reward=-0.2),
    ]
    examples = module("decision-reward", direct + asked).examples([], [], None)
    mean = (0.2 + 1.8 + 0.0 + 0.7) / 4  # no difference, nothing to learn
    assert [learnt(e)[0][0] for e in examples] == [
        TOKENIZER.answer,
        TOKENIZER.retrieve,
        TOKENIZER.answer,
    ]
    assert [e.weight for e in examples] == pytest.approx([0.2 / mean, 1.8 / mean, 0.7 / mean])


@pytest.mark.parametrize(
    "quota, searches, decisions",
    [(1, [[1]], ""), (2, [[1]], "A"), (2, [[0], [1]], "R"), (3, [[0], [1]], "RA")],
)
@pytest.mark.parametrize("kind", ["decision-right", "decision-reward"])
def test_later_decisions_are_learnt_from_episodes_that_ended_right(
    kind, quota, searches, decisions
):
    direct = [episode(reward=1.0), episode(reward=1.0)]
    right, wrong = (
        episode(*searches, answer=answer, quota=quota, reward=0.5)
        for answer in ("Ada Quill", "Caldis")
    )
    first, second, *later = module(kind, [*direct, right, wrong], quota=quota).examples(
        [], [], None
    )
    assert [learnt(e) for e in later] == (
        [[({"R": TOKENIZER.retrieve, "A": TOKENIZER.answer}[d], True) for d in decisions]]
        if decisions
        else []
    )


# ------------------------------------------------------------------------------------------------- the command

SMALL = ["--steps", "5", "--episodes", "24", "--quota", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    root = tmp_path_factory.mktemp("warm")
    assert call("sft", *SFT, "--quota", "2", "--out", root / "sft").code == 0
    return root / "sft"


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_that_was_stopped_goes_on_to_the_same_bits(warm, tmp_path, kind, monkeypatch):
    others = ["--query", warm, "--reader", warm] if kind == "decision-reward" else []
    argv = [
        kind,
        "--init",
        warm,
        *SMALL,
        *others,
        "--episodes",
        "240" if kind in ("reader", "rewriter") else "24",
    ]  # hits are rare here
    assert call("modules", *argv, "--out", tmp_path / "whole").code == 0
    step = Module.step

    def interrupted(self, number):
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Module, "step", interrupted)
        assert (
            call("modules", *argv, "--out", tmp_path / "parts", "--save-seconds", "0").code == 130
        )
    assert call("modules", *argv, "--out", tmp_path / "parts").code == 0
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    moved = any(
        not torch.equal(whole[name], tensor)
        for name, tensor in load_file(warm / "model.safetensors").items()
    )
    lines = [
        json.loads(line) for line in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()
    ]
    assert (
        [line["step"] for line in lines] == list(range(5))
        and moved == any(line["examples"] for line in lines)
        and moved
    )
    assert (
        "already holds the finished run" in call("modules", *argv, "--out", tmp_path / "whole").out
    )


def test_bad_arguments(warm, tmp_path):
    assert "the kinds are reader, rewriter, decision-right, decision-reward" in message(
        "modules", "writer", "--init", warm, "--out", tmp_path / "x"
    )
    assert "--query and --reader are for decision-reward" in message(
        "modules", "reader", "--query", warm, "--init", warm, "--out", tmp_path / "x"
    )
    assert "would be overwritten" in message("modules", "reader", "--init", warm, "--out", warm)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "flags, problem",
    [
        (
            ["--learn", "query,query"],
            "--learn query,query: some of decision,query,answer, each once",
        ),
        (["--learn", "reading"], "some of decision,query,answer"),
        (["--reader", "X"], "--reader X goes with a --learn without answer"),
        (["--force", "retrieve"], "--force retrieve goes with a --learn without decision"),
    ],
)
def test_bad_parts(warm, tmp_path, flags, problem):
    assert problem in message("ppo", "--init", warm, "--out", tmp_path / "x", *flags)


@pytest.mark.parametrize(
    "flags",
    [
        ["--learn", "query", "--force", "retrieve", "--reader"],
        ["--learn", "answer"],
        ["--learn", "decision"],
        ["--no-value"],
    ],
)
def test_ppo_of_a_part(warm, tmp_path, flags):
    flags = [*flags, warm] if flags[-1] == "--reader" else flags
    result = call(
        "ppo",
        "--init",
        warm,
        "--out",
        tmp_path / "x",
        "--iterations",
        "2",
        "--value-warmup",
        "1",
        "--episodes",
        "24",
        "--eval-rows",
        "20",
        "--quota",
        "2",
        "--threads",
        "1",
        *flags,
    )
    assert result.code == 0, result.err
    line = [
        json.loads(line)
        for line in (tmp_path / "x/metrics.jsonl").read_text().splitlines()
        if '"slices"' in line
    ][-1]
    assert line["optimizer_steps"] >= 1 and ("value_loss" in line) == ("--no-value" not in flags)
    assert (
        (line["retrieval"] + line["malformed"] >= 1)
        if "--force" in flags
        else line["retrieval"] < 1
    )
