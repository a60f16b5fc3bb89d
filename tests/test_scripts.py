"""The three scripts from outside: what bad input says, what a stop leaves behind, and whether
evaluation's files add up.

Scripts run in this process, as one rank, which saves the import of torch; the way a shell sees them
is tests/test_resume.py's.
"""

import contextlib
import io
import json
import resource
import shlex
import shutil
import string
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import evaluate
import rl.environment
import rl.ppo
import rl.runs.flags
import rl.runs.run
import rl.study.modules
import train_ppo
import train_sft
from data.world import World
from model import Tokenizer
from retrieval_cpp import BM25Index
from tests.shared import ROOT

ENTRY = {
    "sft": train_sft.train,
    "ppo": train_ppo.train,
    "evaluate": evaluate.evaluate,
    "modules": rl.study.modules.train,
}
SIZES = shlex.split("--hidden-size 32 --layers 2 --heads 2 --vocab-size 320 --context 512")
ONE = ("--ranks", 1)
SFT = [
    *("--world", "tiny", *SIZES, *ONE),
    *shlex.split("--read-steps 100 --mix-steps 4 --episodes 24 --probe 100 --muon-lr .04"),
    *shlex.split("--direct-popular .8 --direct-other .7"),
]
PPO = [
    *shlex.split("--iterations 3 --value-warmup 1 --episodes 16 --minibatch 8 --epochs 2"),
    *shlex.split("--eval-every 2 --eval-rows 20"),
    *ONE,
]
# after SFT: the last value counts
SHORT = shlex.split("--read-steps 4 --mix-steps 2 --episodes 4 --probe 8")
WEIGHTS = (
    "model.safetensors",
    "value_head.safetensors",
    "training.safetensors",
    "config.json",
    "tokenizer.json",
    "run.json",
)


def call(script: str, *argv) -> SimpleNamespace:
    """Run a script as its command line would, as one rank: exit code, stdout, and what it said last
    on stderr."""
    out, err = io.StringIO(), io.StringIO()
    one = () if "--ranks" in argv else ONE
    saved, sys.argv = sys.argv, [f"{script}.py", *map(str, (*argv, *one))]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            rl.runs.flags.main(ENTRY[script])
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = saved
    said = [
        line[line.rindex("\r") + 1 :] if "\r" in line else line
        for line in err.getvalue().splitlines()
    ]
    return SimpleNamespace(
        code=code,
        out=out.getvalue(),
        err=err.getvalue(),
        errors=[line for line in said if "error" in line.lower()],
    )


def message(script: str, *argv) -> str:
    """The one line that a script stops with."""
    result = call(script, *argv)
    assert result.code == 2, (result.code, result.out, result.err)
    assert (
        len(result.errors) == 1
        and result.errors[0].startswith("error: ")
        and "Traceback" not in result.err
    ), result.err
    return result.errors[0].removeprefix("error: ")


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes()
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A warm-up policy in sft/ and a PPO policy in ppo/, both of the tiny world."""
    root = tmp_path_factory.mktemp("trained")
    for script, argv in (("sft", SFT), ("ppo", ["--init", root / "sft", *PPO])):
        result = call(script, *argv, "--out", root / script)
        assert result.code == 0, result.err
    return root


@pytest.fixture
def world(tmp_path) -> Path:
    """The tiny world as somebody's own directory."""
    World.open("tiny").save(tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture
def checkpoint(trained, tmp_path) -> Path:
    """A copy of the warm-up policy, to be spoilt."""
    return Path(shutil.copytree(trained / "sft", tmp_path / "checkpoint"))


# -------------------------------------------------------------------------------------- bad input


def test_missing_checkpoint(tmp_path):
    assert (
        message("evaluate", "--checkpoint", tmp_path / "none")
        == f"{tmp_path}/none: no such checkpoint directory"
    )
    assert (
        message("ppo", "--init", tmp_path, "--out", tmp_path / "out")
        == f"{tmp_path}: no checkpoint here (config.json not found)"
    )
    assert not (tmp_path / "out").exists()


def test_without_any_run_evaluate_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message("evaluate") == (
        "no checkpoint in runs/sft or runs/ppo; train one (python train_sft.py) or give"
        " --checkpoint"
    )
    assert message("ppo") == "runs/sft: no such checkpoint directory"
    assert list(tmp_path.iterdir()) == []


def test_foreign_checkpoint(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    assert message("evaluate", "--checkpoint", checkpoint) == (
        f"{checkpoint}/config.json: model_type is 'gpt2', expected one of llama, mistral, qwen2,"
        " qwen3"
    )
    (checkpoint / "config.json").write_text(json.dumps(config))
    tensors = load_file(checkpoint / "model.safetensors")
    save_file(tensors | {"model.layers.9.bias": torch.zeros(1)}, checkpoint / "model.safetensors")
    assert (
        message("evaluate", "--checkpoint", checkpoint)
        == f"{checkpoint}/model.safetensors: unknown tensor 'model.layers.9.bias'"
    )
    (checkpoint / "model.safetensors").write_bytes(b"no tensors")
    assert message("ppo", "--init", checkpoint).startswith(
        f"{checkpoint}/model.safetensors: not readable here"
    )


def test_nan_weights_in_a_checkpoint(checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, checkpoint / "model.safetensors")
    for script, flag in (("evaluate", "--checkpoint"), ("ppo", "--init")):
        assert (
            message(script, flag, checkpoint)
            == f"{checkpoint}/model.safetensors: 'model.norm.weight' holds NaN or infinite weights"
        )


def test_tokenizer_that_does_not_fit_the_weights(checkpoint, tmp_path):
    Tokenizer.train(["a world of quite different words " + string.ascii_letters], 300).save(
        checkpoint
    )
    Tokenizer.train((p.text for p in World.open("tiny").corpus), 400).save(checkpoint)
    assert (
        message("evaluate", "--checkpoint", checkpoint)
        == f"{checkpoint}/tokenizer.json: 400 tokens do not fit the 320 rows of the embedding"
    )
    (checkpoint / "tokenizer.json").unlink()
    assert message("ppo", "--init", checkpoint, "--out", tmp_path / "out").startswith(
        f"{checkpoint}/tokenizer.json: not found"
    )
    assert not (tmp_path / "out").exists()


def test_world_that_is_none(tmp_path, world):
    assert message("sft", "--world", tmp_path / "x", "--out", tmp_path / "out").startswith(
        f"{tmp_path}/x: no such directory"
    )
    (world / "corpus.jsonl").unlink()
    assert (
        message("sft", "--world", world, "--out", tmp_path / "out")
        == f"{world}: not a world: it has no corpus.jsonl or corpus.jsonl.gz"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "file, line, problem",
    [
        ("corpus.jsonl", "{", "not JSON"),
        ("corpus.jsonl", '{"title": "t", "text": "x"}', "lacks the field 'id'"),
        ("corpus.jsonl", '{"id": "new", "title": "t"}', "lacks the field 'text'"),
        ("corpus.jsonl", "FIRST", "duplicate id '0', first at FILE:1"),
        ("questions/popqa.train.jsonl", "[1]", "not a JSON object"),
        (
            "questions/popqa.train.jsonl",
            '{"id": "new", "question": "Who?"}',
            "lacks the field 'answers'",
        ),
        (
            "questions/popqa.train.jsonl",
            '{"id": "new", "question": "Who?", "answers": []}',
            "'answers' is empty",
        ),
        ("questions/popqa.train.jsonl", "FIRST", "duplicate id 'train0', first at FILE:1"),
    ],
)
def test_bad_line_of_a_world(world, tmp_path, file, line, problem):
    lines = (world / file).read_text().splitlines()
    if line == "FIRST":
        problem = problem.replace("'0'", repr(json.loads(lines[0])["id"]))
        problem = problem.replace("FILE", f"{world}/{file}")
    (world / file).write_text("\n".join([*lines, lines[0] if line == "FIRST" else line]) + "\n")
    assert (
        message("sft", "--world", world, "--out", tmp_path / "out")
        == f"{world}/{file}:{len(lines) + 1}: {problem}"
    )
    assert not (tmp_path / "out").exists()


def test_unknown_set_or_split_lists_those_that_exist(trained):
    there_are = f"it has: {', '.join(World.open('tiny').splits)}"
    sft = trained / "sft"
    assert (
        message("evaluate", "--checkpoint", sft, "--dataset", "squad")
        == f"world 'tiny' has no questions 'squad.test'; {there_are}"
    )
    assert (
        message("evaluate", "--checkpoint", sft, "--split", "validation")
        == f"world 'tiny' has no questions 'popqa.validation'; {there_are}"
    )
    assert (
        message("ppo", "--init", sft, "--dataset", "squad", "--out", trained / "none")
        == f"world 'tiny' has no questions 'squad.train'; {there_are}"
    )
    assert not (trained / "none").exists()


@pytest.mark.parametrize(
    "script, argv, expected",
    [
        ("sft", ["--red-steps", "3"], "unrecognized arguments: --red-steps 3"),
        (
            "ppo",
            ["--iteration", "3"],
            "unrecognized arguments: --iteration 3",
        ),  # no abbreviations either
        ("evaluate", ["--read-steps", "3"], "unrecognized arguments: --read-steps 3"),
        ("sft", ["--read-steps", "many"], "argument --read-steps: invalid int value: 'many'"),
        ("sft", ["--read-steps", "-1"], "argument --read-steps: must be at least 0, not -1"),
        (  # for which the tokenizer's trainer took 142 GB, and aborted
            "sft",
            ["--vocab-size", "2147483647"],
            "argument --vocab-size: must be at most 1048576, not 2147483647",
        ),
        ("sft", ["--episodes", "0"], "argument --episodes: must be at least 1, not 0"),
        ("ppo", ["--temperature", "0"], "argument --temperature: must be at least 0.01, not 0.0"),
        ("ppo", ["--lr", "nan"], "argument --lr: nan is not a number to compute with"),
        ("ppo", ["--seed", "-1"], "argument --seed: must be at least 0, not -1"),
        ("ppo", ["--rename", "1.5"], "argument --rename: must be at most 1, not 1.5"),
        ("sft", ["--popular-share", "45"], "argument --popular-share: must be at most 1, not 45.0"),
        ("evaluate", ["--threshold", "2"], "argument --threshold: must be at most 1, not 2.0"),
    ],
)
def test_bad_flag(script, argv, expected):
    assert message(script, *argv) == f"{expected} (--help lists what there is)"


def test_an_answer_of_one_token_is_none(tmp_path):
    said = "--answer-tokens must be 0 or at least 2: an answer ends with <eos>"
    assert message("sft", "--answer-tokens", "1", "--out", tmp_path / "out") == said
    assert not (tmp_path / "out").exists()


def test_a_world_that_allows_no_retrieval_is_refused(world, trained, tmp_path):
    about = json.loads((world / "world.json").read_text())
    (world / "world.json").write_text(json.dumps(about | {"quota": 0}))
    sft, ppo = ["sft", *SFT, *SHORT], ["ppo", "--init", trained / "sft", *PPO]
    for argv in (sft, ppo):
        assert message(*argv, "--world", world, "--out", tmp_path / "out") == (
            f"world {about['name']!r} allows no retrieval (quota 0), so there are no two branches"
            " to play; give --quota 1, or to train_ppo.py --no-both"
        )
    assert not (tmp_path / "out").exists()


def test_a_study_needs_questions_to_train_on(world, tmp_path):
    for file in (world / "questions").glob("*.dev.jsonl"):
        file.unlink()
    assert message("evaluate", "--compare", "--world", world, "--study", tmp_path / "study") == (
        f"--compare: world '{world}' has train, dev and test questions of none of popqa, ambignq,"
        " hotpotqa"
    )
    assert not (tmp_path / "study").exists()


def test_bad_choice_lists_the_choices():
    text = message("sft", "--dtype", "fp8")
    assert (
        text.startswith("argument --dtype: invalid choice: 'fp8'")
        and "bf16" in text
        and "fp32" in text
    )


def test_flags_that_exclude_each_other(trained, tmp_path):
    sft = trained / "sft"
    assert (
        message("evaluate", "--checkpoint", sft, "--force", "maybe")
        == "argument --force: invalid choice: 'maybe' (choose from '', 'answer', 'retrieve',"
        " 'question') (--help lists what there is)"
    )
    for pair in (["--force", "answer", "--sample"], ["--sample", "--threshold", ".3"]):
        text = message("evaluate", "--checkpoint", sft, *pair)
        assert text == "--force, --sample and --threshold exclude each other"
    text = message("evaluate", "--compare", "--quota", "1")
    assert text.startswith("unrecognized arguments: --quota 1 ")
    assert (
        message("evaluate", "--compare", "--seeds", "0,x")
        == "--seeds must be whole numbers below 10^9 with commas between them, not '0,x'"
    )
    assert (
        message("ppo", "--init", sft, "--out", sft)
        == f"--out {sft} is --init: the checkpoint would be overwritten"
    )
    assert message("sft", "--world", "tiny", "--hidden-size", "30", "--out", tmp_path / "out") == (
        "hidden_size 30 is not a multiple of num_attention_heads 4"
    )
    assert not (tmp_path / "out").exists()


def test_context_without_room(trained, tmp_path):
    expected = (
        "the context of 64 tokens has no room for a question beside k = 2 passages of 64 tokens, 1"
        " times; lower k, the quota or the passage length"
    )
    assert message("sft", *SFT, "--context", 64, "--out", tmp_path / "out") == expected
    assert not (tmp_path / "out").exists()
    assert "no room for a question beside k = 9 passages" in message(
        "evaluate", "--checkpoint", trained / "sft", "--k", 9
    )


def test_long_questions_are_cut_counted_and_said(world, checkpoint, tmp_path):
    for split in ("train", "dev", "test"):
        file = world / f"questions/popqa.{split}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows[:3]:
            row["question"] += " please" * 500
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[:10]))
    room = 512 - (1 + 32 + 2 + 2 * 65) - (1 + 16) - 1
    said = f"3 of 10 training questions are longer than {room} tokens, and are cut"
    assert said in call("sft", *SFT, *SHORT, "--world", world, "--out", tmp_path / "sft").out
    assert (
        said
        in call(
            "ppo", "--init", tmp_path / "sft", *PPO, "--iterations", 1, "--out", tmp_path / "ppo"
        ).out
    )
    assert (
        "3 questions were longer than the context and were cut"
        in call("evaluate", "--checkpoint", checkpoint, "--world", world).out
    )
    assert (
        json.loads((checkpoint / "eval/tiny.popqa.test.json").read_text())["truncated_questions"]
        == 3
    )


def test_a_retriever_that_fails_stops_everything(trained, tmp_path, monkeypatch):
    def search(self, queries, k):
        raise ConnectionResetError("the index went away")

    monkeypatch.setattr(BM25Index, "search", search)
    for script, argv in (
        ("evaluate", ["--checkpoint", trained / "sft", "--force", "question"]),
        ("sft", [*SFT, "--out", tmp_path / "out"]),
        ("ppo", ["--init", trained / "sft", *PPO, "--out", tmp_path / "out"]),
    ):
        text = message(script, *argv)
        assert text.startswith("the retriever failed on ") and text.endswith(
            "ConnectionResetError: the index went away"
        )
    assert (
        not (tmp_path / "out/config.json").exists()
        and not (trained / "sft/eval/tiny.popqa.test.force-question.json").exists()
    )


# -------------------------------------------------------------------- what a stop leaves behind


def logged(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def stop_at(call_number: int, function, spoil):
    """`function`, until its `call_number`-th call (from 1) returns `spoil` of its result."""
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(None)
        result = function(*args, **kwargs)
        return spoil(result) if len(calls) == call_number else result

    return wrapped


def state_after_each_save(monkeypatch, out: Path) -> list[dict[str, bytes]]:
    """Collects the directory after each save of the run's state."""
    saves, save = [], rl.runs.run.Run.save
    monkeypatch.setattr(
        rl.runs.run.Run, "save", lambda self, *args: (save(self, *args), saves.append(content(out)))
    )
    return saves


def test_nan_loss_in_the_warm_up(tmp_path, monkeypatch):
    saves = state_after_each_save(monkeypatch, tmp_path)
    spoilt = stop_at(4, nn.utils.clip_grad_norm_, lambda norm: norm * float("nan"))
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spoilt)
    assert message("sft", *SFT, *SHORT, "--save-seconds", 0, "--out", tmp_path) == (
        f"read step 3: the gradient is NaN or infinite; the last good state is kept in {tmp_path};"
        " if the same command stops here again, it is ruined already: start over (--fresh) with a"
        " lower learning rate"
    )
    assert content(tmp_path) == saves[-1] and len(saves) == 3


def test_nan_loss_in_ppo(trained, tmp_path, monkeypatch):
    # Iteration 0 trains the value head alone, iteration 1 takes 2 epochs of 2 minibatches.
    spoilt = stop_at(5, nn.utils.clip_grad_norm_, lambda norm: norm * float("nan"))
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spoilt)
    argv = ["--init", trained / "sft", *PPO, "--target-kl", 100, "--save-seconds", 0]
    out = tmp_path / "out"
    saves = state_after_each_save(monkeypatch, out)
    assert message("ppo", *argv, "--out", out) == (
        f"ppo iteration 2: the gradient is NaN or infinite; the last good state is kept in {out};"
        " if the same command stops here again, it is ruined already: go on from"
        f" {out}/best, the best on dev, or start over (--fresh) with a lower learning rate"
    )
    # The dev evaluation before iteration 2 has left its line, and perhaps a better OUT/best.
    left = content(out)
    for name in ("training.safetensors", "lock"):
        assert left[name] == saves[-1][name]
    assert left["metrics.jsonl"].startswith(saves[-1]["metrics.jsonl"])
    assert len(saves) == 2


def test_the_cost_rises_in_training_and_stays_in_dev_evaluations(trained, tmp_path):
    argv = ["--init", trained / "sft", *PPO, "--iterations", 5]
    costs = ["--price-warmup", 0.6, "--retrieval-cost", 0.3]
    result = call("ppo", *argv, *costs, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    lines = logged(tmp_path / "out")

    def reward(figures: dict, cost: float):
        gain = figures["em"] + figures["f1"] - figures["malformed"]
        return pytest.approx(gain - cost * figures["queries"], abs=5e-6)  # as rounded in the log

    training = [line for line in lines if "kl" in line]
    costs = [line["retrieval_cost"] for line in training]
    assert costs == pytest.approx([0, 0.1, 0.2, 0.3, 0.3])
    assert all(x["reward"] == reward(x, x["retrieval_cost"]) for x in training)
    dev = [line["dev"][how] for line in lines if "dev" in line for how in ("greedy", "sampled")]
    assert len(dev) == 8 and all(figures["reward"] == reward(figures, 0.3) for figures in dev)
    assert any(figures["queries"] for figures in dev)


def test_the_cost_is_whole_from_the_first_iteration_unless_said_otherwise():
    args = train_ppo.Args(retrieval_cost=0.3)
    assert [train_ppo.retrieval_cost_at(i, args) for i in (0, 1, 149)] == [0.3] * 3


def test_training_questions_get_new_names_and_dev_questions_keep_theirs(
    trained, tmp_path, monkeypatch
):
    played, rollout = [], train_ppo.rollout

    def recorded(players, tokenizer, env, questions, decoding, *rest):
        names = [getattr(env, "names", {}).get(q, {}) for q in questions]
        played.append((decoding.both, questions, names))
        return rollout(players, tokenizer, env, questions, decoding, *rest)

    monkeypatch.setattr(train_ppo, "rollout", recorded)
    argv = ["--init", trained / "sft", *PPO, "--iterations", 2, "--rename", 1]
    assert call("ppo", *argv, "--out", tmp_path / "out").code == 0
    dev, training = ([x for x in played if x[0] == both] for both in (False, True))
    assert len(dev) == 4 and not any(any(names) for _, _, names in dev)
    assert len(training) == 2 and training[0][2] != training[1][2]
    for _, questions, names in training:
        assert any(names)
        for question, new in zip(questions, names, strict=True):
            assert not new or question.slice != "popular"


def test_nan_before_anything_was_saved(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(
        rl.ppo, "value_loss", stop_at(1, rl.ppo.value_loss, lambda loss: loss * float("inf"))
    )
    assert message("ppo", "--init", trained / "sft", *PPO, "--out", tmp_path) == (
        "ppo iteration 0: the loss of the value head is NaN or infinite; nothing had been saved yet"
    )


@pytest.mark.parametrize("script", ["sft", "ppo"])
def test_disk_full_while_saving(script, trained, tmp_path, monkeypatch):
    """The third save finds no room for more than half of its file; what the second one wrote stays,
    and the run goes on from it."""
    out = tmp_path / script
    argv = [*SFT, *SHORT] if script == "sft" else ["--init", trained / "sft", *PPO]
    assert call(script, *argv, "--out", tmp_path / "whole").code == 0
    saves = state_after_each_save(monkeypatch, out)
    save = rl.runs.run.Run.save

    def full(self, *args):
        if len(saves) == 2:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (len(saves[-1]["training.safetensors"]) // 2, hard)
            )
        save(self, *args)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as limited:
        limited.setattr(rl.runs.run.Run, "save", full)
        try:
            text = message(script, *argv, "--save-seconds", 0, "--out", out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert text.startswith(f"{out}/training.safetensors: could not be written (") and text.endswith(
        "; what was there before is kept"
    )
    left = content(out)
    assert {name: left.get(name) for name in WEIGHTS} == {
        name: saves[1].get(name) for name in WEIGHTS
    }
    assert not [name for name in left if name.endswith(".partial")]
    assert call(script, *argv, "--out", out).code == 0
    for name in ("model.safetensors", "value_head.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_disk_full_while_writing_the_final_checkpoint(trained, checkpoint, monkeypatch):
    """--fresh over a finished run: training has begun, so the old one is gone, but no half of a new
    one appears."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.files.save_file", full)
    assert message("sft", *SFT, *SHORT, "--fresh", "--out", checkpoint) == (
        f"{checkpoint}/read: could not be written ([Errno 28] No space left on device); what was"
        " there before is kept"
    )
    assert (
        message("evaluate", "--checkpoint", checkpoint)
        == f"{checkpoint}: no checkpoint here (config.json not found)"
    )


# ----------------------------------------------------------------------------------- runs on disk


def test_a_finished_run_is_recognised(trained):
    before = content(trained)
    sft, ppo = trained / "sft", trained / "ppo"
    result = call("sft", *SFT, "--out", sft)
    next_one = f"python train_ppo.py --init {sft} --out {ppo}"
    assert (result.code, result.out) == (0, f"finished: {sft}   next: {next_one}\n")
    result = call("ppo", "--init", sft, *PPO, "--out", ppo)
    next_one = f"python evaluate.py --dataset popqa --split test --checkpoint {ppo}"
    said = f"finished: {ppo}   next: {next_one}\n"
    assert (result.code, result.out) == (0, said)
    assert content(trained) == before


def pasted(said: str, *more) -> str:
    """Run the commands that a finished run names as the next ones; what they print."""
    printed = ""
    for command in said.partition("   next: ")[2].split(" && "):
        python, script, *argv = shlex.split(command)
        name = script.removesuffix(".py").removeprefix("train_")
        assert python == "python" and (ROOT / script).exists()
        result = call(name, *argv, *more)
        assert result.code == 0, result.err
        printed += result.out
    return printed


@pytest.mark.parametrize(
    "sets, played",
    [
        (["mine"], "set mine, split test, "),
        (["popqa", "own questions"], "set own questions, split test, "),
        (["untested"], "set untested, split dev, "),
    ],
)
def test_the_next_command_works_when_it_is_pasted(world, tmp_path, sets, played):
    """From one's own world through both trainings to an evaluation, as each says it goes on."""
    questions = world / "questions"
    for split in ("train", "dev", "test"):
        lines = (questions / f"popqa.{split}.jsonl").read_text().splitlines(keepends=True)
        for name in sets:
            (questions / f"{name}.{split}.jsonl").write_text("".join(lines[:30]))
    (questions / "untested.test.jsonl").unlink(missing_ok=True)
    out = tmp_path / "a folder" / "my-sft"
    argv = ["--world", world, "--dataset", ",".join(sets)]
    first = call("sft", *SFT, *SHORT, *argv, "--out", out)
    assert first.code == 0, first.err
    short = ["--iterations", 1, "--value-warmup", 0]
    second = pasted(first.out, *PPO, *short)
    assert f"finished: {tmp_path}/a folder/my-ppo " in second
    third = pasted(second)
    assert played in third and f"checkpoints {tmp_path}/a folder/my-ppo\n" in third


def test_a_world_without_dev_questions_is_trained_and_evaluated_as_it_says(world, tmp_path):
    for file in (world / "questions").glob("*.dev.jsonl"):
        file.unlink()
    questions = len((world / "questions/popqa.train.jsonl").read_text().splitlines())
    first = call("sft", *SFT, *SHORT, "--world", world, "--out", tmp_path / "my-sft")
    held = -(-questions // 10)
    assert f"popqa has no dev questions: {held} of {questions} are held out" in first.out
    assert f"popqa.train, {questions - held:,} questions" in first.out
    second = pasted(first.out, *PPO, "--iterations", 1, "--value-warmup", 0)
    assert f"popqa has no dev questions: {held} of {questions} are held out" in second
    assert "set popqa, split test, " in pasted(second)


def test_a_quota_travels_from_the_warm_up_to_the_evaluation(tmp_path):
    assert call("sft", *SFT, *SHORT, "--quota", 2, "--out", tmp_path / "sft").code == 0
    short = [*PPO, "--iterations", 1, "--value-warmup", 0, "--k", 1]
    result = call("ppo", "--init", tmp_path / "sft", *short, "--out", tmp_path / "ppo")
    assert "k = 1, quota 2; " in result.out
    result = call("evaluate", "--checkpoint", tmp_path / "ppo", "--rows", 4)
    assert "k = 1, quota 2; " in result.out


def test_other_arguments_are_an_error_that_shows_the_difference(trained):
    before = content(trained)
    tail = "; choose another --out, or --fresh to start over"
    assert message("sft", *SFT, "--seed", 5, "--mix-steps", 9, "--out", trained / "sft") == (
        f"{trained}/sft holds a run with other arguments (seed 0 -> 5; mix_steps 4 -> 9){tail}"
    )
    argv = ["--init", trained / "sft", *PPO, "--clip", ".3", "--no-both"]
    changed = "clip 0.2 -> 0.3; both True -> False"
    assert message("ppo", *argv, "--out", trained / "ppo") == (
        f"{trained}/ppo holds a run with other arguments ({changed}){tail}"
    )
    assert "script 'train_sft' -> 'train_ppo'" in message(
        "ppo", "--init", trained / "ppo", *PPO, "--out", trained / "sft"
    )
    assert content(trained) == before


def test_a_run_from_before_a_flag_existed_did_what_the_flag_does_by_default(trained, tmp_path):
    shutil.copytree(trained / "sft", tmp_path / "sft")
    record = json.loads((tmp_path / "sft/run.json").read_text())
    del record["arguments"]["shuffle"]
    (tmp_path / "sft/run.json").write_text(json.dumps(record))
    assert call("sft", *SFT, "--out", tmp_path / "sft").out.startswith("finished: ")
    assert "(shuffle 0.5 -> 0.25)" in message(
        "sft", *SFT, "--shuffle", 0.25, "--out", tmp_path / "sft"
    )


def test_other_warm_up_weights_are_another_run(trained, checkpoint, tmp_path):
    assert (
        call("ppo", "--init", checkpoint, *PPO, "--iterations", 1, "--out", tmp_path / "ppo").code
        == 0
    )
    shutil.copy(trained / "ppo/model.safetensors", checkpoint / "model.safetensors")
    assert "init_sha256" in message(
        "ppo", "--init", checkpoint, *PPO, "--iterations", 1, "--out", tmp_path / "ppo"
    )


@pytest.mark.parametrize("fresh", [(), ("--fresh",)])
def test_out_that_holds_somebody_elses_checkpoint(checkpoint, fresh):
    (checkpoint / "run.json").unlink()
    before = content(checkpoint)
    assert message("sft", *SFT, *fresh, "--out", checkpoint) == (
        f"{checkpoint} is not empty, and no run made it; choose another --out"
    )
    assert content(checkpoint) == before


def test_fresh_starts_over(checkpoint):
    (checkpoint / "eval").mkdir(exist_ok=True)
    (checkpoint / "eval/old.json").write_text("{}")
    (checkpoint / "notes.txt").write_text("mine")
    assert call("sft", *SFT, *SHORT, "--fresh", "--seed", 3, "--out", checkpoint).code == 0
    assert [(x["phase"], x["step"]) for x in logged(checkpoint) if "loss" in x] == [
        ("read", i) for i in range(4)
    ] + [("mix", i) for i in range(2)]
    assert json.loads((checkpoint / "run.json").read_text())["arguments"]["seed"] == 3
    assert not (checkpoint / "eval/old.json").exists(), "a result of the old weights"
    assert (checkpoint / "notes.txt").read_text() == "mine"


def test_an_interrupt_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_sft.WarmUp, "step", interrupted)
    result = call("sft", *SFT, "--out", tmp_path / "out")
    assert result.code == 130 and result.err.splitlines()[-1].endswith(
        "stopped; the same command goes on from the last save"
    )


def test_from_a_shell(tmp_path):
    """One line on stderr and exit code 2, from any directory."""
    result = subprocess.run(
        [sys.executable, ROOT / "evaluate.py", "--checkpoint", "none"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (
        2,
        "",
        "error: none: no such checkpoint directory\n",
    )


# ------------------------------------------------------------------------------------- evaluation


def read_results(checkpoint: Path, suffix: str = "") -> tuple[dict, list[dict]]:
    stem = checkpoint / f"eval/tiny.popqa.test{suffix}"
    return json.loads(Path(f"{stem}.json").read_text()), [
        json.loads(line) for line in Path(f"{stem}.jsonl").read_text().splitlines()
    ]


def normal(text: str) -> list[str]:
    """SQuAD's normalisation, written again and differently: the words that count."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return [w for w in kept.split() if w not in ("a", "an", "the")]


def overlap(a: list[str], b: list[str]) -> float:
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else 0.0


def recompute(records: list[dict], gold: dict[str, tuple], given: int = 0) -> dict[str, float]:
    """Every metric from the episodes as they were written, without the project's own code; given:
    queries of an episode that the policy did not write."""
    totals, hits = Counter(), []
    for r in records:
        em = f1 = 0.0
        if not r["malformed"]:
            em = float(any(normal(r["answer"]) == normal(a) for a in r["answers"]))
            f1 = max(overlap(normal(r["answer"]), normal(a)) for a in r["answers"])
        reward = -0.2 * len(r["turns"]) + (-1.0 if r["malformed"] else em + f1)
        found = any(p["id"] in gold[r["id"]] for turn in r["turns"] for p in turn["passages"])
        assert (
            (r["em"], r["hit"]) == (em, found)
            and r["f1"] == pytest.approx(f1, abs=1e-5)
            and r["reward"] == pytest.approx(reward, abs=1e-5)
        )
        totals.update(
            em=em,
            f1=f1,
            retrieval=float(bool(r["turns"])),
            queries=len(r["turns"]),
            calls=sum(token in ("[RETRIEVE]", "[ANSWER]") for token, _ in r["tokens"]) - given,
            reward=reward,
            malformed=float(r["malformed"]),
            p_retrieve=r["p_retrieve"],
        )
        hits += [found] if r["turns"] else []
    return {k: v / len(records) for k, v in totals.items()} | {
        "hit": sum(hits) / len(hits) if hits else None
    }


@pytest.fixture(scope="module")
def evaluated(trained) -> Path:
    result = call("evaluate", "--checkpoint", trained / "ppo")
    assert result.code == 0, result.err
    return trained / "ppo"


@pytest.mark.parametrize("suffix", ["", ".force-answer", ".force-question", ".force-retrieve"])
def test_the_result_has_the_documented_keys_and_follows_from_the_episodes(evaluated, suffix):
    world = World.open("tiny")
    questions = world.questions("popqa", "test")
    result, records = read_results(evaluated, suffix)
    assert result.keys() >= {
        "world",
        "set",
        "split",
        "rows",
        "checkpoint",
        "decoding",
        "metrics",
        "slices",
        "corpus_sha256",
        "seconds",
    }
    assert (
        result["world"],
        result["set"],
        result["split"],
        result["rows"],
        result["checkpoint"],
    ) == ("tiny", "popqa", "test", 150, str(evaluated))
    assert (result["corpus_sha256"], result["k"], result["quota"]) == (
        world.corpus_sha256,
        2,
        1,
    ) and result["seconds"] > 0
    assert [r["id"] for r in records] == [q.id for q in questions]
    assert all(
        (r["question"], r["answers"], r["slice"], r["relation"])
        == (q.question, list(q.answers), q.slice, q.relation)
        for r, q in zip(records, questions, strict=True)
    )
    gold = {q.id: q.gold_passages for q in questions}
    given = int(suffix == ".force-question")
    assert result["metrics"] == pytest.approx(recompute(records, gold, given), abs=1e-5)
    assert set(result["slices"]) == {"popular", "tail", "absent"}
    for name, figures in result["slices"].items():
        rows = [r for r in records if r["slice"] == name]
        expected = recompute(rows, gold, given) | {"rows": len(rows)}
        assert figures == pytest.approx(expected, abs=1e-5)


def test_the_fixture_is_worth_testing_on(evaluated):
    """Right and wrong answers, hits and misses: otherwise the test above compares zeros."""
    direct, asked = (
        read_results(evaluated, ".force-answer")[0]["metrics"],
        read_results(evaluated, ".force-question")[0]["metrics"],
    )
    assert 0 < direct["em"] < 1 and 0 < asked["hit"] < 1 and direct["malformed"] < 0.5


def test_forced_decodings(evaluated):
    forced = {
        kind: read_results(evaluated, f".force-{kind}")
        for kind in ("answer", "retrieve", "question")
    }
    assert all(result["decoding"]["force"] == kind for kind, (result, _) in forced.items())
    assert all(r["turns"] == [] for r in forced["answer"][1])
    assert all(r["malformed"] or len(r["turns"]) == 1 for r in forced["retrieve"][1])
    assert all(
        r["turns"][0]["query"] == r["question"] and len(r["turns"]) == 1
        for r in forced["question"][1]
    )
    result = call("evaluate", "--checkpoint", evaluated, "--force", "answer")
    assert result.code == 0 and "force answer" in result.out
    assert read_results(evaluated, ".force-answer")[1] == forced["answer"][1], (
        "a row of the table and --force are the same thing"
    )


def test_thresholds(evaluated):
    """P([RETRIEVE]) > 0 always and > 1 never: the ends of --threshold are the forced decodings,
    between them lies a count."""
    p = sorted(r["p_retrieve"] for r in read_results(evaluated)[1])
    i = max(
        range(50, 100), key=lambda i: p[i] - p[i - 1]
    )  # the widest gap: the records are rounded
    middle = (p[i] + p[i - 1]) / 2
    played = {}
    for threshold in (0, middle, 1):
        assert call("evaluate", "--checkpoint", evaluated, "--threshold", repr(threshold)).code == 0
        played[threshold] = read_results(evaluated, f".threshold-{threshold:g}")[1]

    def play(records: list[dict]) -> list[tuple]:
        return [(r["id"], r["turns"], r["answer"], r["reward"], r["malformed"]) for r in records]

    assert play(played[0]) == play(read_results(evaluated, ".force-retrieve")[1])
    assert play(played[1]) == play(read_results(evaluated, ".force-answer")[1])
    # Decisions only: in bf16 a greedy tie of this barely trained policy may fall otherwise in a
    # batch of other rows.
    sound = [r for r in played[middle] if not r["malformed"]]
    assert len(sound) > 75 and all(bool(r["turns"]) == (r["p_retrieve"] > middle) for r in sound)


def test_sampling_depends_on_its_seed_alone(evaluated):
    runs = []
    for seed in (1, 1, 2):
        assert (
            call(
                "evaluate", "--checkpoint", evaluated, "--sample", "--rows", 40, "--seed", seed
            ).code
            == 0
        )
        result, records = read_results(evaluated, ".sample")
        assert result["rows"] == len(records) == 40 and result["decoding"]["temperature"] == 1.0
        runs.append(records)
    assert runs[0] == runs[1] != runs[2]


def test_the_table_names_world_set_split_and_rows(evaluated):
    out = call("evaluate", "--checkpoint", evaluated, "--show", 3).out
    assert out.startswith(
        "evaluate: world tiny, set popqa, split test, 150 questions, bm25, k = 2, quota 1; greedy"
    )
    for row in (
        "direct only",
        "always retrieve, raw question",
        "always retrieve, own query",
        "own decision",
    ):
        assert row in out
    assert out.count("P([RETRIEVE]) = ") == 3 and f"{evaluated}/eval/tiny.popqa.test.json" in out


def test_a_result_is_never_half_written(evaluated, monkeypatch):
    before = read_results(evaluated)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        text = message("evaluate", "--checkpoint", evaluated)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "could not be written" in text and read_results(evaluated) == before
    assert not list((evaluated / "eval").glob("*.partial"))


# ------------------------------------------------------------------------------- sweep and report


def test_rewards_token_by_token_add_up(evaluated):
    for suffix in ("", ".force-answer", ".force-question", ".force-retrieve"):
        for r in read_results(evaluated, suffix)[1]:
            assert sum(reward for _, reward in r["tokens"]) == pytest.approx(r["reward"], abs=1e-5)
            said = "".join(token for token, _ in r["tokens"])
            assert (
                said.startswith("[RETRIEVE]" if r["turns"] else ("[RETRIEVE]", "[ANSWER]"))
                and "<obs>" not in said
            )
            assert r["malformed"] or (
                said.count("[RETRIEVE]") == len(r["turns"])
                and said.partition("[ANSWER]")[2].strip() == f"{r['answer']}<eos>"
            )


def cells(out: str, label: str) -> list[str]:
    """The figures of a row of the first table that has it."""
    rows = [line.split(" |") for line in out.splitlines() if line.startswith(f"| {label} ")]
    return [cell.strip() for cell in rows[0][1:]]


def test_the_sweep_is_what_each_threshold_plays(evaluated, tmp_path):
    """fp32: in bf16 a greedy tie may fall otherwise in a batch of other rows."""
    copy = Path(shutil.copytree(evaluated, tmp_path / "copy"))
    result = call("evaluate", "--checkpoint", copy, "--dtype", "fp32", "--sweep")
    assert result.code == 0, result.err
    swept = cells(result.out, "P([RETRIEVE]) > 0.5")
    assert swept == cells(result.out, f"{copy}: own decision")
    for threshold in (0, 0.3, 0.6):
        argv = ("--checkpoint", copy, "--dtype", "fp32", "--threshold", threshold)
        played = cells(call("evaluate", *argv).out, f"{copy}: own decision")
        assert cells(result.out, f"P([RETRIEVE]) > {threshold:g}") == played


def test_the_report_plays_what_is_missing_alone(evaluated, tmp_path):
    copy = Path(
        shutil.copytree(
            evaluated, tmp_path / "copy", ignore=shutil.ignore_patterns("*.threshold*", "*.sample*")
        )
    )
    assert call("evaluate", "--checkpoint", copy).code == 0  # results newer than the copied weights
    before = content(copy / "eval")
    old = (copy / "eval/tiny.popqa.test.json").stat().st_mtime_ns
    (copy / "eval/tiny.popqa.test.force-question.json").unlink()
    result = call("evaluate", "--checkpoint", copy, "--report", tmp_path / "new/report.html")
    assert result.code == 0 and f"report: {tmp_path}/new/report.html" in result.out, result.err
    assert (
        content(copy / "eval").keys() == before.keys()
        and (copy / "eval/tiny.popqa.test.json").stat().st_mtime_ns == old
    )
    assert message(
        "evaluate", "--checkpoint", copy, "--report", tmp_path / "x.html", "--force", "answer"
    ).startswith("--sweep and --report are about all decodings")
    (copy / "metrics.jsonl").write_text("{}\n[1]\n")
    assert (
        message("evaluate", "--checkpoint", copy, "--report", tmp_path / "x.html")
        == f"{copy}/metrics.jsonl:2: not a JSON object"
    )
    assert not (tmp_path / "x.html").exists()


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of each script."""

    def __init__(self):
        super().__init__()
        self.tags, self.scripts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.scripts += [""] if tag == "script" else []

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.scripts:
            self.scripts[-1] += data


def test_no_string_of_a_world_becomes_markup(checkpoint, world, tmp_path):
    breaker = """</script><script>alert(1)</script><!--<img src=x onerror="alert(1)">"""
    breaker += """'"&amp;{{data}}\u2028</title>"""
    file = world / "questions/popqa.test.jsonl"
    rows = [
        json.loads(line)
        | {"question": breaker, "answers": [breaker], "slice": breaker, "relation": breaker}
        for line in file.read_text().splitlines()[:8]
    ]
    file = file.rename(file.with_name("<img src=x>\"'&.test.jsonl"))
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    passages = [
        json.loads(line) | {"title": breaker, "text": breaker}
        for line in (world / "corpus.jsonl").read_text().splitlines()
    ]
    (world / "corpus.jsonl").write_text("".join(json.dumps(p) + "\n" for p in passages))
    (world / "world.json").write_text(json.dumps({"name": """<script>alert(2)<"'&>""", "k": 2}))
    hostile = checkpoint.rename(tmp_path / """<img src=x onerror="alert(3)">'&""")
    result = call(
        "evaluate",
        "--checkpoint",
        hostile,
        "--world",
        world,
        "--dataset",
        "<img src=x>\"'&",
        "--sweep",
        "--report",
        tmp_path / "report.html",
    )
    assert result.code == 0, result.err
    page = Elements()
    page.feed((tmp_path / "report.html").read_text())
    assert (
        "img" not in {tag for tag, _ in page.tags}
        and [tag for tag, _ in page.tags].count("script") == 2
    )
    assert not [
        a
        for _, attributes in page.tags
        for a in attributes
        if a.startswith("on") or a in ("src", "href")
    ]
    data, script = json.loads(page.scripts[0]), page.scripts[1]
    [shown] = data["questions"][0]
    assert {name: shown[name] for name in ("question", "answers", "slice", "relation")} == {
        "question": breaker,
        "answers": [breaker],
        "slice": breaker,
        "relation": breaker,
    }
    passages = [p for [r] in data["questions"] for turn in r["turns"] for p in turn["passages"]]
    assert {(p["title"], p["text"]) for p in passages} <= {(breaker, breaker)}
    assert (
        "innerHTML" not in script
        and "insertAdjacentHTML" not in script
        and "document.write" not in script
    )
