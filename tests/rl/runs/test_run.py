"""A run on disk: new, resumed, finished, refused; its log and its loop; who writes."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model import CheckpointError
from rl import ranks
from rl.runs.flags import UsageError
from rl.runs.run import Run, differences, lock, plain, settle_dtype
from rl.runs.training import RunArgs
from tests.shared import ROOT


@dataclass
class Args(RunArgs):
    out: str = "out"
    lr: float = 0.1
    dtype: str = "fp32"
    save_seconds: float = 1e9


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rl.runs.run.describe", lambda *_: None)


def trainer(module: torch.nn.Module | None = None) -> SimpleNamespace:
    """What is saved: a module, a counter, a buffer."""
    kept = {"optimizers": {}, "counters": {"seen": []}, "buffers": {"sums": []}}
    return SimpleNamespace(
        policy=module or torch.nn.Linear(1, 1, bias=False), tokenizer=None, **kept
    )


def begun(args: Args, info=None) -> Run:
    run = Run("test", args, info or {})
    run.begin(trainer(), "")
    return run


def policy_files(monkeypatch):
    """export without a policy: the files that make a folder a checkpoint."""

    def save(directory, policy, tokenizer, record, base=None):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "run.json").write_text(json.dumps(record))
        (directory / "config.json").write_text("{}")

    monkeypatch.setattr("rl.runs.run.save_policy", save)


def lines(out: str = "out") -> list[dict]:
    return [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]


def train(args: Args, steps: int, save_at=(), stop_at=None, info=None) -> Run:
    """A run whose weight is the sum of its steps. It saves after the steps of `save_at`."""
    run = Run("test", args, {"world": "w"} if info is None else info)
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    kept = trainer(module)
    run.begin(kept, "")

    def step(i: int) -> dict:
        if i == stop_at:
            raise KeyboardInterrupt
        with torch.no_grad():
            module.weight += i
        if i + 1 in save_at:
            run._last_save = float("-inf")
        kept.counters["seen"].append(i)
        kept.buffers["sums"].append(module.weight.detach().clone())
        return {"sum": module.weight.item()}

    with contextlib.suppress(KeyboardInterrupt):
        run.loop("train", "step", steps, step)
    if stop_at is None and run.phase in ("", "train"):
        assert kept.counters["seen"] == list(range(steps))
        assert [x.item() for x in kept.buffers["sums"]] == [i * (i + 1) / 2 for i in range(steps)]
    return run


# ------------------------------------------------------------------------------------ going on


def test_a_resumed_run_writes_what_an_uninterrupted_one_writes():
    train(Args(out="whole"), 6)
    train(Args(), 6, save_at={2, 3}, stop_at=5)
    assert [line["step"] for line in lines()] == [0, 1, 2, 3, 4]
    assert train(Args(), 6).status == "resume"
    here, whole = lines(), lines("whole")
    for line in here + whole:
        assert line.pop("seconds") >= 0
    assert here == whole and here[-1] == {"phase": "train", "step": 5, "sum": 15.0}


def test_saves_are_due_by_the_clock(monkeypatch):
    saved = []
    monkeypatch.setattr(Run, "save", lambda self, *at: saved.append(at))
    begun(Args(save_seconds=0.0)).loop("train", "step", 3, lambda i: {})
    assert saved == [("train", 1), ("train", 2), ("train", 3)]
    begun(Args(out="other")).loop("train", "step", 3, lambda i: {})
    assert len(saved) == 3 and [line["step"] for line in lines("other")] == [0, 1, 2]


def test_a_loop_goes_on_where_it_was_and_the_next_one_begins_at_its_first_step():
    begun(Args(), {"world": "w"}).save("second", 2)
    run = begun(Args(), {"world": "w"})
    assert (run.status, run.phase, run.first) == ("resume", "second", 2)
    played = []
    for name in ("second", "third"):
        run.loop(name, "step", 4, lambda i: played.append(i) or {})
    assert played == [2, 3, 0, 1, 2, 3]


def test_nothing_is_written_before_the_first_step():
    Run("test", Args(), {})
    assert list(Path().iterdir()) == []


def test_a_finished_run_is_recognised_and_its_state_goes(monkeypatch):
    policy_files(monkeypatch)
    run = train(Args(), 2, save_at={1})
    assert Path("out/training.safetensors").exists()
    run.finish()
    for _ in range(2):
        assert {p.name for p in Path("out").iterdir()} == {
            "config.json",
            "metrics.jsonl",
            "run.json",
        }
        assert Run("test", Args(), {"world": "w"}).status == "finished"


@pytest.mark.parametrize(
    "args, info, changed",
    [
        (Args(seed=1), {"world": "w"}, "seed 0 -> 1"),
        (Args(seed=1, lr=0.2), {"world": "v"}, "seed 0 -> 1; lr 0.1 -> 0.2; world 'w' -> 'v'"),
        (Args(), {"world": "w", "init_sha256": "x"}, "init_sha256 None -> 'x'"),
    ],
)
def test_other_arguments_are_an_error_that_shows_them(args, info, changed):
    train(Args(), 3, save_at={1}, stop_at=2)
    with pytest.raises(UsageError) as error:
        Run("test", args, info)
    assert str(error.value) == (
        f"out holds a run with other arguments ({changed}); "
        "choose another --out, or --fresh to start over"
    )


def test_an_argument_newer_than_the_run_counts_with_its_default():
    train(Args(), 3, save_at={1}, stop_at=2)

    @dataclass
    class Newer(Args):
        more: int = 5

    assert Run("test", Newer(), {"world": "w"}).status == "resume"
    with pytest.raises(UsageError, match=r"more 5 -> 6"):
        Run("test", Newer(more=6), {"world": "w"})


def test_another_address_of_the_same_passages_resumes():
    train(Args(milvus_uri="http://a"), 3, save_at={1}, stop_at=2)
    assert Run("test", Args(milvus_uri="http://b"), {"world": "w"}).status == "resume"


def test_fresh_starts_over_and_leaves_what_a_run_does_not_write():
    train(Args(), 3, save_at={1}, stop_at=2)
    Path("out/notes.txt").write_text("mine")
    run = Run("test", Args(seed=1, fresh=True), {})
    assert run.status == "new" and Path("out/training.safetensors").exists(), "not before it begins"
    run.begin(trainer(), "")
    run.loop("train", "step", 1, lambda i: {})
    assert not Path("out/training.safetensors").exists() and len(lines()) == 1
    assert Path("out/notes.txt").read_text() == "mine"


def test_fresh_starts_over_where_the_state_is_damaged():
    train(Args(), 3, save_at={1}, stop_at=2)
    os.truncate("out/training.safetensors", 50)
    with pytest.raises(CheckpointError, match="not a readable state of this run"):
        begun(Args())
    assert Run("test", Args(fresh=True), {}).status == "new"


# ------------------------------------------------------------------------------------ whose folder


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    "name, text",
    [
        ("thesis.txt", "mine"),
        ("tokenizer.json", "{}"),
        ("metrics.jsonl", "{}"),
        ("run.json", '{"a": 1}'),
        ("lock", "somebody's"),
        ("eval/results.json", "{}"),
    ],
)
def test_somebody_elses_folder_is_refused(name, text, fresh):
    path = Path("out", name)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(
        UsageError, match=r"^out is not empty, and no run made it; choose another --out$"
    ):
        Run("test", Args(fresh=fresh), {})
    assert path.read_text() == text
    assert [p for p in Path("out").rglob("*") if p.is_file()] == [path]


def test_a_checkpoint_without_a_record_is_somebody_elses(monkeypatch):
    policy_files(monkeypatch)
    train(Args(), 1).finish()
    Path("out/run.json").unlink()
    with pytest.raises(UsageError, match=r"no run made it"):
        Run("test", Args(fresh=True), {})


def test_an_empty_folder_and_one_of_a_run_that_saved_nothing_are_taken():
    Path("out").mkdir()
    train(Args(), 3, stop_at=2)
    assert sorted(p.name for p in Path("out").iterdir()) == ["lock", "metrics.jsonl"]
    assert train(Args(seed=1), 1).status == "new" and len(lines()) == 1


@pytest.mark.parametrize("out", ["", "  "])
def test_out_must_be_named(out):
    with pytest.raises(UsageError, match=r"^--out is empty; name a folder$"):
        Run("test", Args(out=out), {})


def test_out_that_is_a_file():
    Path("out").write_text("x")
    with pytest.raises(UsageError, match=r"^--out out is not a folder$"):
        Run("test", Args(), {})


# ------------------------------------------------------------------------------------ one process

HOLD = """
import sys
import rl.runs.run
from tests.rl.runs.test_run import Args, begun
rl.runs.run.describe = lambda *_: None
run = begun(Args(out=sys.argv[1]), {"world": "w"})
run.log({"step": 0})
print("ready", flush=True)
sys.stdin.read()
"""


def test_two_processes_with_one_out_are_refused():
    out = str(Path("out").resolve())
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, out], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"ready\n"
        for fresh in (False, True):
            with pytest.raises(UsageError) as error:
                begun(Args(fresh=fresh), {"world": "w"})
            assert str(error.value) == (
                f"out is in use by process {other.pid}; wait for it, or end it"
            )
        assert lines() == [{"step": 0}]
    finally:
        other.kill()
        other.communicate()
    assert train(Args(), 2).status == "new", "the lock ended with its process"


def test_a_lock_that_went_while_it_was_taken_is_taken_again(monkeypatch):
    """The holder finishes between another's open and flock: a dead file must not be held."""
    folder, flock = Path("out"), fcntl.flock
    held = [lock(folder, {"script": "test"})]

    def late(file, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        (folder / "lock").unlink()
        held.pop().close()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    mine = lock(folder, {"script": "test"})
    with pytest.raises(UsageError, match=rf"in use by process {os.getpid()};"):
        lock(folder, {"script": "test"})
    mine.close()


def test_two_runs_that_begin_together():
    """Both found no folder; who is not the first to begin is refused."""
    first, second = (Run("test", Args(), {}) for _ in range(2))
    first.begin(trainer(), "")
    first.log({"step": 0})
    with pytest.raises(UsageError, match=rf"^out is in use by process {os.getpid()}; "):
        second.begin(trainer(), "")
    assert lines() == [{"step": 0}]


def test_only_rank_0_locks_and_writes(monkeypatch):
    policy_files(monkeypatch)
    train(Args(), 3, save_at={1}, stop_at=2)
    holder = begun(Args(), {"world": "w"})
    before = {p: p.read_bytes() for p in Path("out").iterdir()}
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    run = train(Args(), 3)
    assert run.status == holder.status == "resume"
    run.save("train", 3)
    run.finish()
    run.export(Path("out/best"))
    assert {p: p.read_bytes() for p in Path("out").iterdir()} == before


def test_rank_0_decides_for_all_when_to_save(monkeypatch):
    run = Run("test", Args(save_seconds=0.0), {})
    assert run.due()
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    assert not run.due(), "its own clock does not count"
    monkeypatch.setattr(ranks, "reduce", lambda tensors: [t.fill_(1) for t in tensors])
    assert run.due()


# ------------------------------------------------------------------------------------ the log


def test_every_line_is_json():
    run = begun(Args())
    run.log({"hit": float("nan"), "deep": {"x": [1, float("inf"), 0.12345678]}, "text": "é"})
    line = Path("out/metrics.jsonl").read_text()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == {"hit": None, "deep": {"x": [1, None, 0.123457]}, "text": "é"}
    assert plain((1, None, True)) == [1, None, True]


def test_the_log_is_utf_8_whatever_the_locale():
    code = """if True:
        from tests.rl.runs.test_run import Args, Run
        Run("test", Args(), {}).log({"episode": "caf\\u00e9"})"""
    ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=os.environ | ascii, check=True)
    assert lines() == [{"episode": "caf\u00e9"}]


@pytest.mark.parametrize(
    "spoil", [Path.unlink, lambda p: p.write_text(""), lambda p: p.write_text("x" * 9999)]
)
def test_a_log_that_changes_under_a_run_stops_it(spoil):
    log = Path("out/metrics.jsonl")

    def step(i: int) -> dict:
        if i == 2:
            spoil(log)
        return {}

    run = begun(Args())
    with pytest.raises(UsageError, match=r"^out/metrics.jsonl was changed or deleted: "):
        run.loop("train", "step", 5, step)
    with pytest.raises(UsageError, match=r"^out/metrics.jsonl was changed or deleted: "):
        run.save("train", 2)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda p: os.truncate(p, 20)])
def test_a_log_that_is_gone_is_not_another_rerun(spoil):
    train(Args(), 5, save_at={3}, stop_at=4)
    spoil(Path("out/metrics.jsonl"))
    with pytest.raises(
        UsageError, match=r"had been written; put it back, or --fresh to start over"
    ):
        train(Args(), 5)


def test_a_number_that_is_none_names_the_step_and_what_is_kept(monkeypatch):
    policy_files(monkeypatch)

    def step(i: int) -> dict:
        if i == 2:
            raise FloatingPointError("the loss is NaN")
        return {}

    run = begun(Args())
    with pytest.raises(
        FloatingPointError, match=r"^read step 2: the loss is NaN; nothing had been saved yet$"
    ):
        run.loop("read", "step", 5, step)
    run.save("read", 2)
    with pytest.raises(FloatingPointError) as error:
        run.loop("read", "step", 5, step)
    assert str(error.value) == (
        "read step 2: the loss is NaN; the last good state is kept in out; "
        "if the same command stops here again, it is ruined already: "
        "start over (--fresh) with a lower learning rate"
    )
    run.export(Path("out/best"))
    assert "already: go on from out/best, the best on dev, or start over (--fresh)" in run.kept


# ------------------------------------------------------------------------------------ current?


def test_a_resumed_run_keeps_its_dtype(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    args = Args(dtype="auto")
    settle_dtype(args)
    assert args.dtype == "bf16"
    train(args, 3, save_at={1}, stop_at=2)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for dtype, fresh, chosen in (
        ("auto", False, "bf16"),
        ("fp32", False, "fp32"),
        ("auto", True, "fp32"),
    ):
        again = Args(dtype=dtype, fresh=fresh)
        settle_dtype(again)
        assert again.dtype == chosen
    with pytest.raises(UsageError, match=r"dtype 'bf16' -> 'fp32'"):
        Run("test", replace(args, dtype="fp32"), {"world": "w"})


@pytest.mark.parametrize(
    "recorded, wanted, found",
    [
        ({}, {}, []),
        ({"a": 1, "seconds": 2.5}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a 1 -> 2"]),
        ({}, {"a": 2}, ["a None -> 2"]),
        ({"a": [1, 2]}, {"a": (1, 2)}, []),
        ({"a": {"x": 1}}, {"a": {"x": 1}}, []),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 3}}, ["x 1 -> 3", "y 2 -> None"]),
        ({"a": "text"}, {"a": {"x": 3}}, ["a 'text' -> {'x': 3}"]),
        ({"a": 1, "b": 2}, {"b": 3, "a": 4}, ["b 2 -> 3", "a 1 -> 4"]),
    ],
)
def test_differences(recorded, wanted, found):
    assert differences(recorded, wanted) == found
