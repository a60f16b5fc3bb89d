"""Separate modules: which tokens each learns, with which label and weight; and the command, stopped
and resumed."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from data import Question
from data.world import World
from rl import Action, Episode, RagEnv
from rl.study.modules import LEARNS, Example, Module
from tests.rl.tiny import QUESTIONS, TOKENIZER, Retriever, environment, text
from tests.test_scripts import call, message


def module(kind: str, played: list[Episode] | None = None) -> Module:
    """A module without policies: `play` returns what it is given."""
    m = Module.__new__(Module)
    m.args, m.tokenizer = SimpleNamespace(kind=kind), TOKENIZER

    def play(env, questions, decoding, generator=None):
        direct = decoding.force == "answer"
        return [e for e in played if bool(e.turns) != direct]

    m.play = play
    return m


def examples(kind: str, played: list[Episode]) -> list[Example]:
    return module(kind, played).examples(environment(), [], None)


def episode(
    *passages: list[int],
    question: Question = QUESTIONS[0],
    answer: str = "Caldis",
    quota: int = 1,
    reward: float | None = None,
) -> Episode:
    """One that retrieved these passages, one list for each retrieval, the first by force."""
    k = len(passages[0]) if passages else 1
    env = environment(Retriever(lambda query: passages[len(e.turns)]), quota=quota, k=k)
    [e] = env.reset([question], TOKENIZER, 512)
    for number in range(len(passages)):
        env.step([e], [Action(True, text("salt road"), free=number > 0)], TOKENIZER)
    free = 0 < len(passages) < quota
    env.step([e], [Action(False, text(answer), free=free)], TOKENIZER)
    if reward is not None:
        e.rewards[-1] += reward - e.reward
    return e


def learnt(kind: str, example: Example) -> list[int]:
    parts = zip(example.episode.tokens, example.episode.parts, strict=True)
    return [token for token, part in parts if part == LEARNS[kind]]


def test_the_reader_learns_the_right_answer_where_the_passages_hold_it():
    found, missed = episode([1, 3]), episode([0, 3])
    [example] = examples("reader", [found, missed])
    assert learnt("reader", example) == text("Ada Quill") and example.weight == 1.0
    before = found.tokens[: -len(text("Caldis"))]
    assert example.episode.tokens == [*before, *text("Ada Quill")]
    assert found.tokens[-len(text("Caldis")) :] == text("Caldis"), "the episode itself is kept"


def test_the_reader_learns_the_answer_under_the_questions_new_name():
    class Renamed(RagEnv):
        def translate(self, question, text):
            return text.replace("Ada", "Una")

    m, found = module("reader", []), episode([1, 3])
    read = m.to_read(Renamed(environment().world, None), found)
    assert read.tokens[-len(text("Una Quill")) :] == text("Una Quill")


def test_the_rewriter_learns_from_what_was_found():
    found, missed = episode([1, 3]), episode([0, 3])
    assert found.hit and not missed.hit
    [example] = examples("rewriter", [found, missed])
    assert example.episode is found and learnt("rewriter", example) == text("salt road")


def test_the_decision_learns_whether_the_direct_answer_is_right():
    kind, right, wrong = "decision-right", episode(answer="Ada Quill"), episode()
    found = examples(kind, [right, wrong])
    assert [learnt(kind, e) for e in found] == [[TOKENIZER.answer], [TOKENIZER.retrieve]]
    assert [e.weight for e in found] == [1.0, 1.0]
    prompt = [TOKENIZER.bos, *TOKENIZER.encode(QUESTIONS[0].question)]
    assert all(e.episode.tokens[:-1] == prompt for e in found)


def test_the_decision_learns_the_better_branch_weighted_by_the_difference():
    kind = "decision-reward"
    direct = [episode(reward=r) for r in (2.0, 0.0, 0.3, 0.5)]
    retrieved = [episode([0], reward=r) for r in (1.8, 1.8, 0.3, -0.2)]
    found = examples(kind, direct + retrieved)
    mean = (0.2 + 1.8 + 0.0 + 0.7) / 4  # no difference, nothing to learn
    answer, retrieve = [TOKENIZER.answer], [TOKENIZER.retrieve]
    assert [learnt(kind, e) for e in found] == [answer, retrieve, answer]
    assert [e.weight for e in found] == pytest.approx([0.2 / mean, 1.8 / mean, 0.7 / mean])


@pytest.mark.parametrize(
    "quota, searches, decisions",
    [(1, [[1]], ""), (2, [[1]], "A"), (2, [[0], [1]], "R"), (3, [[0], [1]], "RA")],
)
@pytest.mark.parametrize("kind", ["decision-right", "decision-reward"])
def test_later_decisions_are_learnt_from_episodes_that_ended_right(
    kind, quota, searches, decisions
):
    direct = [episode(reward=1.0), episode(reward=1.0)]
    right = episode(*searches, answer="Ada Quill", quota=quota, reward=0.5)
    wrong = episode(*searches, answer="Caldis", quota=quota, reward=0.5)
    _, _, *later = examples(kind, [*direct, right, wrong])
    tokens = {"R": TOKENIZER.retrieve, "A": TOKENIZER.answer}
    expected = [[tokens[d] for d in decisions]] if decisions else []
    assert [learnt(kind, e) for e in later] == expected


# ------------------------------------------------------------------------------ the command

WARM_UP = (
    "--passage-tokens 4 --quota 2 --hidden-size 32 --layers 2 --heads 2 --vocab-size 320 "
    "--context 512 --read-steps 70 --mix-steps 4 --episodes 24 --probe 100 --muon-lr .04 --ranks 1"
)
SMALL = ["--steps", "5", "--episodes", "24", "--quota", "2", "--ranks", "1"]


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """On 32 passages a query, for queries that are mostly noise to find something."""
    root = tmp_path_factory.mktemp("warm")
    World.open("tiny").save(root / "world")
    about = root / "world" / "world.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"k": 32}))
    result = call("sft", "--world", root / "world", *WARM_UP.split(), "--out", root / "sft")
    assert result.code == 0, result.err
    return root / "sft"


@pytest.mark.parametrize("kind", LEARNS)
def test_a_module_that_was_stopped_goes_on_to_the_same_bits(warm, tmp_path, kind, monkeypatch):
    others = ["--query", warm, "--reader", warm] if kind == "decision-reward" else []
    episodes = "240" if kind in ("reader", "rewriter") else "24"  # hits are rare here
    argv = ["--kind", kind, "--init", warm, *SMALL, *others, "--episodes", episodes]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert call("modules", *argv, "--out", whole).code == 0
    step = Module.step

    def interrupted(self, number):
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Module, "step", interrupted)
        assert call("modules", *argv, "--out", parts, "--save-seconds", "0").code == 130
    assert call("modules", *argv, "--out", parts).code == 0
    a, b, start = (load_file(path / "model.safetensors") for path in (whole, parts, warm))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], start[name]) for name in a), "it learnt something"
    lines = [json.loads(line) for line in (parts / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(5))
    assert any(line["examples"] for line in lines)
    assert "already holds the finished run" in call("modules", *argv, "--out", whole).out


def test_bad_arguments(warm, tmp_path):
    problem = message("modules", "--kind", "writer", "--init", warm, "--out", tmp_path / "x")
    kinds = "(choose from 'reader', 'rewriter', 'decision-right', 'decision-reward')"
    assert problem.startswith(f"argument --kind: invalid choice: 'writer' {kinds}")
    assert "would be overwritten" in message("modules", "--init", warm, "--out", warm)
    assert not (tmp_path / "x").exists()


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
    small = "--iterations 2 --value-warmup 1 --episodes 64 --eval-rows 60 --quota 2 --ranks 1"
    result = call("ppo", "--init", warm, "--out", tmp_path / "x", *small.split(), *flags)
    assert result.code == 0, result.err
    log = (tmp_path / "x/metrics.jsonl").read_text().splitlines()
    line = [json.loads(line) for line in log if '"slices"' in line][-1]
    assert line["optimizer_steps"] >= 1 and ("value_loss" in line) == ("--no-value" not in flags)
    if "--force" in flags:
        assert line["retrieval"] + line["malformed"] >= 1
    else:
        assert line["retrieval"] < 1
