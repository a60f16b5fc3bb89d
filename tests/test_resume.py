"""kill -9 at any moment, start again, and the result is the uninterrupted run's, bit for bit (CPU).

Every victim is a process of its own. Most kill themselves at an exact moment, so that the moments
that matter are hit every time: inside the probe, at the phase boundary, half-way through writing a
file. The others are killed from outside, alone and as one of two ranks.
"""

import importlib
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch._dynamo  # what the first optimizer of a process imports: a second, here paid once

import rl.runs.setting
from rl.runs.state import PolyakMean
from tests.shared import ROOT
from tests.test_scripts import call

SIZES = shlex.split("--hidden-size 32 --layers 2 --heads 2 --vocab-size 320 --context 512")
SFT = [
    *("--world", "tiny", *SIZES),
    *shlex.split("--read-steps 5 --mix-steps 3 --episodes 6 --probe 30 --micro-tokens 100"),
    *("--dtype", "fp32"),
]
PPO = shlex.split(
    "--iterations 5 --value-warmup 1 --episodes 8 --minibatch 4 --eval-every 2 --eval-rows 8"
    " --replay 3 --kl-target 0.1 --dtype fp32"
)
ONE = ("--ranks", "1")

# Victims are forked from a server that has imported everything once: a tenth of the cost of a new
# interpreter.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.test_resume"])


def run_until(moment: str, script: str, argv: list[str]) -> None:
    """In the victim: run a script in which the n-th call of MODULE NAME is the last thing that
    happens: SIGKILL before it, after it, or (for functions that write a file) after half of it."""
    module, name, number, when = moment.split()
    owner = importlib.import_module(module)
    *path, name = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(None)
        last = len(calls) == int(number)
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if last and when == "half":
            os.truncate(args[1], os.path.getsize(args[1]) // 2)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)
    torch.set_num_threads(1)
    sys.exit(call(script, *argv).code)


def kill_at(moment: str, script: str, argv: list) -> None:
    """Run `script` in a process of its own until `moment` ("module name number when") kills it."""
    victim = SERVER.Process(target=run_until, args=(moment, script, list(map(str, argv))))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL, f"{moment} never came"


def outcome(out: Path) -> dict[str, bytes | list[str]]:
    """Everything that a run leaves, less the times in its log."""
    files = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    lines = [json.loads(line) for line in files.pop("metrics.jsonl").decode().splitlines()]
    timeless = [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]
    return files | {"metrics.jsonl": [json.dumps(line) for line in timeless]}


def same(one: Path, other: Path) -> None:
    ours, theirs = outcome(one), outcome(other)
    assert list(ours) == list(theirs)
    assert not [name for name in ours if ours[name] != theirs[name]]


def complete(root: Path) -> None:
    """Both runs have left what they should."""
    sft, ppo = outcome(root / "sft").keys(), outcome(root / "ppo").keys()
    assert {"model.safetensors", "value_head.safetensors", "read/model.safetensors"} <= sft
    assert {"model.safetensors", "value_head.safetensors", "best/model.safetensors"} <= ppo


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Both runs, never interrupted, on one rank."""
    root = tmp_path_factory.mktemp("whole")
    for script, argv in (("sft", SFT), ("ppo", ["--init", root / "sft", *PPO])):
        assert call(script, *argv, *ONE, "--out", root / script).code == 0
    complete(root)
    return root


@pytest.mark.parametrize("script", ["sft", "ppo"])
def test_the_same_arguments_twice_are_the_same_bits(whole, tmp_path, script):
    argv = SFT if script == "sft" else ["--init", whole / "sft", *PPO]
    assert call(script, *argv, *ONE, "--out", tmp_path / script).code == 0
    same(tmp_path / script, whole / script)


def test_what_a_new_retriever_draws_does_not_matter(whole, tmp_path, monkeypatch):
    """A sentence encoder is trained once, by rank 0 alone; every other start finds it."""
    real = rl.runs.setting.open_world

    def drawing(*args):
        opened = real(*args)
        torch.rand(7)
        return opened

    monkeypatch.setattr(rl.runs.setting, "open_world", drawing)
    assert call("sft", *SFT, *ONE, "--out", tmp_path / "sft").code == 0
    same(tmp_path / "sft", whole / "sft")


# Saves after every step: 5 of read, 1 at the boundary, 3 of mix. The log: 5 steps, dev, probe,
# 3 steps, dev.
SFT_MOMENTS = {
    "before the first save": "rl.runs.run Run.save 1 before",
    "between a step's log line and its save": "rl.runs.run Run.log 3 after",
    "half-way through a save": "rl.runs.state save_file 3 half",
    "a save written but not yet in place": "model.files os.replace 3 before",
    "right after a save": "rl.runs.run Run.save 3 after",
    "after the last step of read": "rl.runs.run Run.save 5 after",
    "half-way through the checkpoint of read": "model.files save_file 1 half",
    "inside the probe": "rl.rollout play_batch 3 before",
    "at the phase boundary, probe logged, nothing saved": "rl.runs.run Run.save 6 before",
    "at the phase boundary, half-way through its save": "rl.runs.state save_file 6 half",
    "right after the boundary": "rl.runs.run Run.save 6 after",
    "in mix": "rl.runs.run Run.log 9 after",
    "half-way through the final checkpoint": "model.files save_file 3 half",
    "the final checkpoint in place, its state not yet removed": "rl.runs.run Run.export 2 after",
}


@pytest.mark.parametrize("moment", SFT_MOMENTS)
def test_warm_up(whole, tmp_path, moment):
    out = tmp_path / "sft"
    kill_at(SFT_MOMENTS[moment], "sft", [*SFT, *ONE, "--save-seconds", 0, "--out", out])
    assert call("sft", *SFT, *ONE, "--out", out).code == 0
    same(out, whole / "sft")


# Saves after each of the 5 iterations. The log: dev, 2 iterations, dev, 2, dev, 1, dev. Exports:
# best ones, then the last.
PPO_MOMENTS = {
    "inside the first dev evaluation": "rl.rollout play_batch 2 before",
    "between an iteration's log line and its save": "rl.runs.run Run.log 3 after",
    "half-way through a save": "rl.runs.state save_file 3 half",
    "right after a save": "rl.runs.run Run.save 3 after",
    "half-way through the best checkpoint": "model.files save_file 1 half",
    "after the last iteration": "rl.runs.run Run.save 5 after",
    "right after the last dev evaluation": "rl.runs.run Run.log 9 after",
}


@pytest.mark.parametrize("moment", PPO_MOMENTS)
def test_joint_ppo(whole, tmp_path, moment):
    out, argv = tmp_path / "ppo", ["--init", whole / "sft", *PPO, *ONE]
    kill_at(PPO_MOMENTS[moment], "ppo", [*argv, "--save-seconds", 0, "--out", out])
    assert call("ppo", *argv, "--out", out).code == 0
    same(out, whole / "ppo")


def test_killed_again_and_again(whole, tmp_path):
    """Three kills in one run: what a resumed run saves is as good as what the first one saved."""
    out = tmp_path / "sft"
    for moment in (
        "rl.runs.run Run.save 2 after",
        "rl.runs.state save_file 2 half",
        "rl.rollout play_batch 3 before",
    ):
        kill_at(moment, "sft", [*SFT, *ONE, "--save-seconds", 0, "--out", out])
    assert call("sft", *SFT, *ONE, "--out", out).code == 0
    same(out, whole / "sft")


def command(script: str, *argv) -> list[str]:
    return [sys.executable, str(ROOT / f"train_{script}.py"), *map(str, argv)]


def start_until(lines: int, script: str, argv: list, out: Path) -> subprocess.Popen:
    """A process that has logged so many lines, and goes on."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command(script, *argv, "--save-seconds", 0, "--out", out), **quiet)
    log = out / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= lines):
        time.sleep(0.001)
    return process


def finish(script: str, argv: list, out: Path) -> str:
    """Standard output of the run to its end."""
    result = subprocess.run(
        command(script, *argv, "--out", out), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("script", ["sft", "ppo"])
def test_killed_from_outside(whole, tmp_path, script):
    """The plain command, a SIGKILL when three lines have been logged, the plain command again."""
    out = tmp_path / script
    argv = [*(SFT if script == "sft" else ["--init", whole / "sft", *PPO]), *ONE]
    victim = start_until(3, script, argv, out)  # of PPO: dev, and two iterations
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    assert "resuming" in finish(script, argv, out)
    same(out, whole / script)


# ------------------------------------------------------------------------------------- two ranks


@pytest.fixture(scope="module")
def whole_of_two(tmp_path_factory) -> Path:
    """Both runs, never interrupted, on two ranks."""
    root = tmp_path_factory.mktemp("two")
    for script, argv in (("sft", SFT), ("ppo", ["--init", root / "sft", *PPO])):
        finish(script, [*argv, "--ranks", 2], root / script)
    complete(root)
    return root


@pytest.mark.parametrize("script", ["sft", "ppo"])
def test_one_of_two_ranks_is_killed(whole_of_two, tmp_path, script):
    """Rank 0, whose process the lock names, gets a SIGKILL: the other one ends, and says why. Two
    ranks go on, to the bits of two ranks that were never interrupted."""
    out = tmp_path / script
    argv = SFT if script == "sft" else ["--init", whole_of_two / "sft", *PPO]
    launcher = start_until(3, script, [*argv, "--ranks", 2], out)
    os.kill(json.loads((out / "lock").read_text())["process"], signal.SIGKILL)
    said = launcher.communicate(timeout=60)[1]
    assert launcher.returncode == 128 + signal.SIGKILL
    assert said.splitlines()[-1] == "error: rank 0 of 2 was ended by SIGKILL"
    assert "resuming" in finish(script, [*argv, "--ranks", 2], out)
    same(out, whole_of_two / script)


def test_the_launcher_of_two_ranks_is_killed(whole_of_two, tmp_path):
    """Its ranks end by themselves, so that the folder is free for the same command."""
    out, argv = tmp_path / "sft", [*SFT, "--ranks", 2]
    launcher = start_until(3, "sft", argv, out)
    rank = json.loads((out / "lock").read_text())["process"]
    launcher.kill()
    launcher.wait()
    end = time.monotonic() + 30
    while Path(f"/proc/{rank}").exists():
        assert time.monotonic() < end, "a rank lives on without its launcher"
        time.sleep(0.01)
    finish("sft", argv, out)  # goes on, or finds that they had come to the end
    same(out, whole_of_two / "sft")


def test_the_same_arguments_twice_are_the_same_bits_on_two_ranks(whole_of_two, tmp_path):
    argv = ["--init", whole_of_two / "sft", *PPO, "--ranks", 2]
    finish("ppo", argv, tmp_path / "ppo")
    same(tmp_path / "ppo", whole_of_two / "ppo")


# ------------------------------------------------------------------------------ Polyak averaging


def test_the_last_policy_is_the_mean_over_the_last_iterations(whole, tmp_path, monkeypatch):
    """Two of five iterations (--average 0.4): the mean of the policies after the last two."""
    before, after, count = [], [], PolyakMean.count

    def recorded(self, iteration):
        before.append([p.detach().clone() for p in self.parameters])
        count(self, iteration)
        after.append([p.detach().clone() for p in self.parameters])

    monkeypatch.setattr(PolyakMean, "count", recorded)
    argv = ["--init", whole / "sft", *PPO, *ONE, "--average", "0.4"]
    assert call("ppo", *argv, "--out", tmp_path / "ppo").code == 0
    assert len(before) == 5
    for i, (left, right) in enumerate(zip(before, after, strict=True)):
        is_last = i == 4
        assert is_last != all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    for a, b, mean in zip(before[3], before[4], after[4], strict=True):
        torch.testing.assert_close(mean, (a + b) / 2)
    assert any(not torch.equal(a, b) for a, b in zip(before[3], before[4], strict=True))
