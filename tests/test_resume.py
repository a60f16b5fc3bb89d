"""kill -9 at any moment, start again, and the result is the uninterrupted run's, bit for bit (CPU).

Every victim is a process of its own. Most kill themselves at an exact moment, so that the moments that matter are hit
every time: inside the probe, at the phase boundary, half-way through writing a file. Two are killed from outside.
"""

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch._dynamo  # what the first optimizer of a process imports: a second, here paid once for all victims

from tests.shared import ROOT
from tests.test_scripts import call

SIZES = [
    "--hidden-size",
    "32",
    "--layers",
    "2",
    "--heads",
    "2",
    "--vocab-size",
    "320",
    "--context",
    "512",
]
SFT = [
    "--world",
    "tiny",
    *SIZES,
    "--read-steps",
    "5",
    "--mix-steps",
    "3",
    "--episodes",
    "6",
    "--probe",
    "30",
    "--micro-batch",
    "2",
    "--threads",
    "1",
]
PPO = [
    "--iterations",
    "5",
    "--value-warmup",
    "1",
    "--episodes",
    "8",
    "--minibatch",
    "4",
    "--eval-every",
    "2",
    "--eval-rows",
    "8",
    "--replay",
    "3",
    "--kl-target",
    "0.1",
    "--threads",
    "1",
]

# Victims are forked from a server that has imported everything once: a tenth of the cost of a new interpreter.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.test_resume"])


def run_until(moment: str, script: str, argv: list[str]) -> None:
    """In the victim: run a script in which the n-th call of MODULE NAME is the last thing that happens: SIGKILL before
    it, after it, or (for functions that write a file) after half of the file."""
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
    return files | {
        "metrics.jsonl": [
            json.dumps({k: v for k, v in line.items() if not k.startswith("seconds")})
            for line in lines
        ]
    }


def same(one: Path, other: Path) -> None:
    ours, theirs = outcome(one), outcome(other)
    assert list(ours) == list(theirs)
    assert not [name for name in ours if ours[name] != theirs[name]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Both runs, never interrupted."""
    root = tmp_path_factory.mktemp("whole")
    for script, argv in (("sft", SFT), ("ppo", ["--init", root / "sft", *PPO])):
        assert call(script, *argv, "--out", root / script).code == 0
    assert {"model.safetensors", "value_head.safetensors", "read/model.safetensors"} <= outcome(
        root / "sft"
    ).keys()
    assert {"model.safetensors", "value_head.safetensors", "best/model.safetensors"} <= outcome(
        root / "ppo"
    ).keys()
    return root


@pytest.mark.parametrize("script", ["sft", "ppo"])
def test_number_of_threads(whole, tmp_path, script):
    """Two runs of the same arguments are the same to the bit, whatever number of threads shares the micro-batches."""
    argv = list(SFT) if script == "sft" else ["--init", whole / "sft", *PPO]
    argv[argv.index("--threads") + 1] = "3"
    assert call(script, *argv, "--out", tmp_path / script).code == 0
    same(tmp_path / script, whole / script)


# Saves after every step: 5 of read, 1 at the boundary, 3 of mix. The log: 5 steps, dev, probe, 3 steps, dev.
SFT_MOMENTS = {
    "before the first save": "rl.runs.run Run.save 1 before",
    "between a step's log line and its save": "rl.runs.run Run.log 3 after",
    "half-way through a save": "model.state save_file 3 half",
    "a save written but not yet in place": "model.checkpoint os.replace 3 before",
    "right after a save": "rl.runs.run Run.save 3 after",
    "after the last step of read": "rl.runs.run Run.save 5 after",
    "half-way through the checkpoint of read": "model.checkpoint save_file 1 half",
    "inside the probe": "rl.rollout _run 3 before",
    "at the phase boundary, probe logged, nothing saved": "rl.runs.run Run.save 6 before",
    "at the phase boundary, half-way through its save": "model.state save_file 6 half",
    "right after the boundary": "rl.runs.run Run.save 6 after",
    "in mix": "rl.runs.run Run.log 9 after",
    "half-way through the final checkpoint": "model.checkpoint save_file 3 half",
    "the final checkpoint in place, its state not yet removed": "rl.runs.run Run.export 2 after",
}


@pytest.mark.parametrize("moment", SFT_MOMENTS)
def test_warm_up(whole, tmp_path, moment):
    out = tmp_path / "sft"
    kill_at(SFT_MOMENTS[moment], "sft", [*SFT, "--save-seconds", 0, "--out", out])
    assert call("sft", *SFT, "--out", out).code == 0
    same(out, whole / "sft")


# Saves after each of the 5 iterations. The log: dev, 2 iterations, dev, 2, dev, 1, dev. Exports: best ones, then the last.
PPO_MOMENTS = {
    "inside the first dev evaluation": "rl.rollout _run 2 before",
    "between an iteration's log line and its save": "rl.runs.run Run.log 3 after",
    "half-way through a save": "model.state save_file 3 half",
    "right after a save": "rl.runs.run Run.save 3 after",
    "half-way through the best checkpoint": "model.checkpoint save_file 1 half",
    "after the last iteration": "rl.runs.run Run.save 5 after",
}


@pytest.mark.parametrize("moment", PPO_MOMENTS)
def test_joint_ppo(whole, tmp_path, moment):
    out, argv = tmp_path / "ppo", ["--init", whole / "sft", *PPO]
    kill_at(PPO_MOMENTS[moment], "ppo", [*argv, "--save-seconds", 0, "--out", out])
    assert call("ppo", *argv, "--out", out).code == 0
    same(out, whole / "ppo")


def test_killed_again_and_again(whole, tmp_path):
    """Three kills in one run: what a resumed run saves is as good as what the first one saved."""
    out = tmp_path / "sft"
    for moment in (
        "rl.runs.run Run.save 2 after",
        "model.state save_file 2 half",
        "rl.rollout _run 3 before",
    ):
        kill_at(moment, "sft", [*SFT, "--save-seconds", 0, "--out", out])
    assert call("sft", *SFT, "--out", out).code == 0
    same(out, whole / "sft")


@pytest.mark.parametrize("script", ["sft", "ppo"])
def test_killed_from_outside(whole, tmp_path, script):
    """No trick at all: the plain command, a SIGKILL when two lines have been logged, the plain command again."""
    out = tmp_path / script
    argv = SFT if script == "sft" else ["--init", whole / "sft", *PPO]
    command = list(
        map(
            str,
            [sys.executable, ROOT / f"train_{script}.py", *argv, "--save-seconds", 0, "--out", out],
        )
    )
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = out / "metrics.jsonl"
    while victim.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        time.sleep(0.001)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    same(out, whole / script)
    assert "resuming" in again.stdout or "iteration 0" in again.stdout


def test_the_last_policy_is_the_mean_over_the_last_iterations(tmp_path, monkeypatch):
    """Half of five iterations: the mean of the policies after the last two."""
    import train_ppo

    assert call("sft", *SFT, "--out", tmp_path / "sft").code == 0
    seen, average = [], train_ppo.Trainer.average

    def recorded(self):
        seen.append([p.detach().clone() for p in self.policy.trunk_parameters()])
        average(self)
        seen[-1:] = (
            [seen[-1]]
            if self.iteration < 4
            else [seen[-1], [p.detach().clone() for p in self.policy.trunk_parameters()]]
        )

    monkeypatch.setattr(train_ppo.Trainer, "average", recorded)
    assert (
        call(
            "ppo", "--init", tmp_path / "sft", *PPO, "--average", "0.4", "--out", tmp_path / "ppo"
        ).code
        == 0
    )
    *_, before, last, final = seen
    for a, b, mean in zip(before, last, final, strict=True):
        torch.testing.assert_close(mean, (a + b) / 2)
    assert any(not torch.equal(a, b) for a, b in zip(before, last))
