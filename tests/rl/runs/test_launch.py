"""Ranks from outside: how a run of several processes ends, what is said about it, and who is
left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.shared import ROOT

HEAD = """
import os, pathlib, sys, time
sys.path.insert(0, {root!r})
import torch
from rl import ranks
from rl.runs.flags import UsageError, main
from rl.runs.launch import launch

def reduce_for_ever():
    while True:
        ranks.reduce([torch.ones(3)])

def train():
    launch({count}, "cpu")
    pathlib.Path(f"pid{{ranks.rank()}}").write_text(str(os.getpid()))
    total = torch.ones(1)
    ranks.reduce([total])
    if ranks.rank() == 0:
        print("sum", int(total), flush=True)
"""
TAIL = """
main(train)
"""


@pytest.fixture
def start(tmp_path):
    """start(body, count) -> the launcher of `count` ranks, each at the body of its script."""
    launchers = []

    def begin(body: str, count: int = 2) -> subprocess.Popen:
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        script = tmp_path / "script.py"
        script.write_text(HEAD.format(root=str(ROOT), count=count) + lines + TAIL)
        launcher = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        launchers.append(launcher)
        return launcher

    yield begin
    for launcher in launchers:
        launcher.kill()
    for file in tmp_path.glob("pid*"):
        if alive(int(file.read_text())):
            os.kill(int(file.read_text()), signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def pids(directory: Path, count: int = 2, launcher: subprocess.Popen | None = None) -> list[int]:
    """The processes of the ranks, once all work together."""
    files = [directory / f"pid{rank}" for rank in range(count)]

    def there() -> bool:
        if launcher and launcher.poll() is not None:
            pytest.fail(f"the launcher has ended: {launcher.communicate()}")
        return all(f.exists() and f.read_text() for f in files)

    assert wait_for(there, 120)
    time.sleep(0.5)
    return [int(file.read_text()) for file in files]


def ended(launcher: subprocess.Popen, seconds: float = 10) -> tuple[int, list[str]]:
    """(exit code, lines on stderr) of a launcher that must end in time."""
    _, errors = launcher.communicate(timeout=seconds)
    return launcher.returncode, errors.splitlines()


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_work_together_and_only_the_first_speaks(start, tmp_path, count):
    launcher = start('print("done", ranks.rank() == 0)', count)
    out, errors = launcher.communicate(timeout=120)
    assert (launcher.returncode, errors) == (0, "")
    assert out == f"sum {count}\ndone True\n"
    assert not any(alive(pid) for pid in pids(tmp_path, count))


@pytest.mark.parametrize("rank, busy", [(1, "reduce_for_ever()"), (0, "time.sleep(600)")])
def test_a_killed_rank_ends_all(start, tmp_path, rank, busy):
    launcher = start(busy)
    processes = pids(tmp_path, 2, launcher)
    os.kill(processes[rank], signal.SIGKILL)
    assert ended(launcher) == (137, [f"error: rank {rank} of 2 was ended by SIGKILL"])
    assert not any(alive(pid) for pid in processes)


def test_a_rank_that_ignores_its_end_is_killed(start, tmp_path):
    body = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)"
    launcher = start(body)
    processes = pids(tmp_path, 2, launcher)
    os.kill(processes[1], signal.SIGKILL)
    assert ended(launcher, 20)[0] == 137
    assert not any(alive(pid) for pid in processes)


@pytest.mark.parametrize("busy", ["reduce_for_ever()", "time.sleep(600)"])
def test_an_interrupt_ends_all_with_one_line(start, tmp_path, busy):
    launcher = start(busy)
    processes = pids(tmp_path, 2, launcher)
    launcher.send_signal(signal.SIGINT)
    line = "stopped; the same command goes on from the last save"
    assert ended(launcher) == (130, [line])
    assert not any(alive(pid) for pid in processes)


def test_a_terminated_launcher_terminates_its_ranks(start, tmp_path):
    launcher = start("reduce_for_ever()")
    processes = pids(tmp_path, 2, launcher)
    launcher.send_signal(signal.SIGTERM)
    assert ended(launcher) == (143, ["error: rank 0 of 2 was ended by SIGTERM"])
    assert not any(alive(pid) for pid in processes)


@pytest.mark.parametrize("busy", ["reduce_for_ever()", "time.sleep(600)"])
def test_a_killed_launcher_takes_its_ranks_along(start, tmp_path, busy):
    launcher = start(busy)
    processes = pids(tmp_path, 2, launcher)
    launcher.send_signal(signal.SIGKILL)
    assert wait_for(lambda: not any(alive(pid) for pid in processes), 10)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_error_of_one_rank_is_shown(start, tmp_path, rank):
    launcher = start(
        f'if ranks.rank() == {rank}: raise UsageError("no such thing")\nreduce_for_ever()'
    )
    processes = pids(tmp_path, 2, launcher)
    assert ended(launcher) == (2, ["error: no such thing"])
    assert not any(alive(pid) for pid in processes)


def test_an_unexpected_error_of_one_rank_is_shown_whole(start):
    launcher = start('if ranks.rank() == 1: raise KeyError("what")\nreduce_for_ever()')
    code, lines = ended(launcher, 120)
    assert code == 1 and lines[-1].endswith("KeyError: 'what'")
    assert sum("Traceback" in line for line in lines) == 1
    assert not any("gloo" in line for line in lines)


def test_an_error_of_all_ranks_is_said_once(start):
    launcher = start('raise UsageError("no such thing")', 3)
    assert ended(launcher, 120) == (2, ["error: no such thing"])


def test_an_exit_code_without_a_word_is_told(start):
    launcher = start("if ranks.rank() == 1: os._exit(7)\nreduce_for_ever()")
    assert ended(launcher, 120) == (7, ["error: rank 1 of 2 ended with exit code 7"])


def test_one_rank_is_this_process(start, tmp_path):
    launcher = start("", 1)
    assert launcher.communicate(timeout=120) == ("sum 1\n", "")
    assert pids(tmp_path, 1) == [launcher.pid]


def test_ranks_give_large_tensors_back(start):
    """What the C library is told about memory, unless the user says something else."""
    body = "if ranks.rank() == 0: print(os.environ['GLIBC_TUNABLES'])"
    out, _ = start(body).communicate(timeout=120)
    assert "glibc.malloc.mmap_threshold=16777216" in out
