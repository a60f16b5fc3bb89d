"""evaluate.py --ask: what is printed for a question, for lines of standard input, for a pipe."""

import io
import json
import os
import sys

import pytest

import evaluate
from data.world import World
from model import save_policy
from rl import Episode, Turn
from rl.report import evaluation
from tests.model.tiny import tiny_config, tiny_policy
from tests.rl.tiny import CORPUS, TOKENIZER, world
from tests.test_scripts import call, message


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """An untrained policy whose own world is four passages in a directory."""
    world().save(tmp_path / "world")
    policy = tiny_policy(tiny_config(len(TOKENIZER), max_position_embeddings=512), seed=0)
    save_policy(
        tmp_path / "policy",
        policy,
        TOKENIZER,
        {"open_world": str(tmp_path / "world"), "passage_tokens": 16},
    )
    return tmp_path / "policy"


@pytest.fixture
def scripted(monkeypatch):
    """Plays what a person would: retrieves for who-questions, else answers at once, or fails."""

    def rollout(policy, tokenizer, env, questions, decoding, *rest):
        [question] = questions
        episode = Episode(
            question,
            p_retrieve=0.25,
            answer="Norland",
            truncated="long" in question.question,
            malformed="bad" in question.question,
        )
        if question.question.startswith("Who"):
            episode.p_retrieve, episode.answer = 0.75, "Ada Quill"
            episode.turns.append(Turn("Salt Road author", [1, 2], [2.5, 1.0]))
        return [episode]

    monkeypatch.setattr(evaluation, "rollout", rollout)


def stdin(monkeypatch, text: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))


def test_one_question(checkpoint, scripted):
    out = call(
        "evaluate", "--checkpoint", checkpoint, "--ask", "Who wrote The Salt Road?"
    ).out.splitlines()
    assert out[:5] == [
        "Who wrote The Salt Road?",
        "  retrieve, P([RETRIEVE]) = 0.750",
        "  query: Salt Road author",
        "    2.500  [s] The Salt Road: A book by Ada Quill.",
        "    1.000  [a] Ada Quill: She was born in Caldis.",
    ]
    answer, seconds = out[5].split("   ")
    assert (
        len(out) == 6
        and answer == "  answer: Ada Quill"
        and seconds.endswith(" s")
        and float(seconds[:-2]) >= 0
    )


def test_lines_of_standard_input(checkpoint, scripted, monkeypatch):
    stdin(monkeypatch, "Where is it?\n\n   \nbad\r\nlong, é".encode())
    out = call("evaluate", "--checkpoint", checkpoint, "--ask", "-").out
    assert [line.partition("   ")[0] for line in out.splitlines()] == [
        "Where is it?",
        "  answer at once, P([RETRIEVE]) = 0.250",
        "  answer: Norland",
        "bad",
        "  answer at once, P([RETRIEVE]) = 0.250",
        "  answer: (malformed: no text, or no end within the budget)",
        "long, é (longer than the context, and cut)",
        "  answer at once, P([RETRIEVE]) = 0.250",
        "  answer: Norland",
    ]


def test_json_is_one_object_a_line_and_nothing_else(checkpoint, scripted, monkeypatch):
    stdin(monkeypatch, b"Who wrote it?\n\nlong\n")
    first, second = map(
        json.loads,
        call("evaluate", "--checkpoint", checkpoint, "--ask", "-", "--json").out.splitlines(),
    )
    assert first.pop("seconds") >= 0 and second.pop("seconds") >= 0
    assert first == {
        "question": "Who wrote it?",
        "p_retrieve": 0.75,
        "answer": "Ada Quill",
        "malformed": False,
        "truncated": False,
        "turns": [
            {
                "query": "Salt Road author",
                "passages": [
                    {**CORPUS[1]._asdict(), "score": 2.5},
                    {**CORPUS[2]._asdict(), "score": 1.0},
                ],
            }
        ],
    }
    assert second == {
        "question": "long",
        "p_retrieve": 0.25,
        "answer": "Norland",
        "malformed": False,
        "truncated": True,
        "turns": [],
    }


def test_each_answer_comes_before_the_next_question_is_read(checkpoint, scripted, monkeypatch):
    """A program at the other end of two pipes can wait for the answer to its question."""
    answered = []

    class Pipe(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, into) -> int:
            answered.append(sys.stdout.getvalue().count("answer:"))
            line = b"question\n" if len(answered) < 4 else b""
            into[: len(line)] = line
            return len(line)

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Pipe())))
    call("evaluate", "--checkpoint", checkpoint, "--ask", "-")
    assert answered[:4] == [0, 1, 2, 3]


def test_a_questions_file_of_any_system(checkpoint, scripted, monkeypatch):
    """A byte order mark, old line ends, an accent as a letter of its own: the same questions."""
    stdin(monkeypatch, "\ufeffWho was Zoe\u0308?\rWhere?\r".encode())
    out = call("evaluate", "--checkpoint", checkpoint, "--ask", "-", "--json").out
    asked = [json.loads(line)["question"] for line in out.splitlines()]
    assert asked == ["Who was Zo\u00eb?", "Where?"]
    out = call("evaluate", "--checkpoint", checkpoint, "--ask", "Zoe\u0308", "--json").out
    assert json.loads(out)["question"] == "Zo\u00eb"


@pytest.mark.parametrize("force, turns", [("question", 1), ("answer", 0)])
def test_the_real_policy(checkpoint, force, turns):
    """Its own retriever over its own world; a question has no answers, and that is no fault."""
    record = json.loads(
        call(
            "evaluate",
            "--checkpoint",
            checkpoint,
            "--ask",
            "Who is Ada Quill?",
            "--json",
            "--force",
            force,
            "--dataset",
            "none",
        ).out
    )
    assert 0 < record["p_retrieve"] < 1 and len(record["turns"]) == turns
    if turns:
        assert (
            record["turns"][0]["query"] == "Who is Ada Quill?"
            and record["turns"][0]["passages"][0]["id"] == "a"
        )
    assert not (checkpoint / "eval").exists()


def test_another_world(checkpoint, tmp_path):
    result = call(
        "evaluate",
        "--checkpoint",
        checkpoint,
        "--ask",
        "What is the capital of Norland?",
        "--world",
        "tiny",
        "--force",
        "question",
        "--json",
    )
    assert {p["id"] for p in json.loads(result.out)["turns"][0]["passages"]} <= {
        p.id for p in World.open("tiny").corpus
    }


def test_bad_questions(checkpoint, scripted, monkeypatch):
    assert (
        message("evaluate", "--checkpoint", checkpoint, "--ask", " ")
        == "--ask: the question is empty"
    )
    bad = message("evaluate", "--checkpoint", checkpoint, "--ask", os.fsdecode(b"\xff"))
    assert bad.startswith("argument --ask: is not UTF-8 text")
    assert message("evaluate", "--checkpoint", checkpoint, "--json") == "--json goes with --ask"
    said = message("evaluate", "--checkpoint", checkpoint, "--ask", "Who?", "--report", "x.html")
    assert said == "--ask goes with neither --sweep nor --report"
    stdin(monkeypatch, b"Who?\n\xff\n")
    assert (
        message("evaluate", "--checkpoint", checkpoint, "--ask", "-")
        == "standard input:2: not UTF-8 text"
    )


def test_a_reader_that_goes_away(checkpoint, scripted, tmp_path, monkeypatch):
    """`... | head -1` ends quietly: no traceback, and Python's last flush finds somewhere to go."""
    read, write = os.pipe()
    os.close(read)
    stdin(monkeypatch, b"Who?\n" * 3)
    with os.fdopen(write, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(
            sys, "argv", ["evaluate.py", "--checkpoint", str(checkpoint), "--ask", "-", "--json"]
        )
        evaluate.evaluate()
        out.flush()
