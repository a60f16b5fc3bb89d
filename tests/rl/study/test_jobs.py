"""The scheduler, with jobs that only sleep and copy a checkpoint."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from model import save_policy
from rl.runs.flags import UsageError
from rl.study.jobs import Job, Running, run_jobs, startable
from tests.model.tiny import tiny_policy
from tests.rl.tiny import TOKENIZER

FAKE = """
import pathlib, shutil, sys, time
checkpoint, journal, work, fail = sys.argv[1:5]
out, ranks = (sys.argv[sys.argv.index(flag) + 1] for flag in ("--out", "--ranks"))
out = pathlib.Path(out)

def note(what):
    with open(journal, "a") as file:
        file.write(f"{what} {out.name} {ranks}\\n")

note("start")
time.sleep(float(work))
if fail == "yes":
    sys.exit("error: out of luck")
shutil.copytree(checkpoint, out, dirs_exist_ok=True, copy_function=shutil.copyfile)
note("end")
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """What finished runs leave: the fake jobs copy one of two."""
    directory = tmp_path_factory.mktemp("checkpoints")
    for seed in (0, 1):
        save_policy(directory / str(seed), tiny_policy(seed=seed), TOKENIZER, {})
    return directory


@pytest.fixture
def fake(tmp_path, checkpoints):
    (tmp_path / "fake.py").write_text(FAKE)

    def make(name: str, *needs: str, seconds=0.2, fail=False, weights=0) -> Job:
        files = (tmp_path / "fake.py", checkpoints / str(weights), tmp_path / "journal")
        command = (*map(str, files), str(seconds), "yes" if fail else "no")
        runs = tmp_path / "runs"
        return Job(runs / name, command, tuple(runs / need for need in needs))

    def journal() -> list[tuple[str, ...]]:
        lines = (tmp_path / "journal").read_text().splitlines()
        return [tuple(line.split()) for line in lines]

    make.journal = journal
    return make


def test_needs_first_and_as_many_at_once_as_there_are_cores(fake):
    jobs = [
        fake("a"),
        fake("b", "a", seconds=0.6),
        fake("c", "a", seconds=0.6),
        fake("d", "a"),
        fake("e", "b", "d"),
    ]
    run_jobs(jobs, 2, poll=0.02)
    journal = fake.journal()
    order = [(what, name) for what, name, _ in journal]
    assert journal[0] == ("start", "a", "2"), "nothing else could use the second core"
    running, most = set(), 0
    for what, name in order:
        (running.add if what == "start" else running.remove)(name)
        most = max(most, len(running))
    assert most == 2 and len(order) == 10
    for job in jobs:
        for need in job.needs:
            assert order.index(("end", need.name)) < order.index(("start", job.out.name))


def test_cores_are_dealt_out():
    jobs = [Job(Path(name), ("x",)) for name in "abc"] + [Job(Path("d"), ("x",), (Path("a"),))]

    def deal(done: str, running: dict, cores: int) -> list[tuple[str, int]]:
        started = startable(jobs, set(map(Path, done)), running, cores)
        return [(job.out.name, ranks) for job, ranks in started]

    seven = {jobs[0]: Running(None, 7)}
    assert deal("", {}, 2) == [("a", 1), ("b", 1)]
    assert deal("", {}, 8) == [("a", 2), ("b", 3), ("c", 3)]
    assert deal("abc", {}, 8) == [("d", 8)]
    assert deal("bc", seven, 8) == []
    assert deal("c", seven, 8) == [("b", 1)]


def test_finished_jobs_are_not_run_again_changed_ones_are(fake):
    jobs = [fake("a"), fake("b", "a")]
    run_jobs(jobs, 2, poll=0.02)
    run_jobs(jobs, 2, poll=0.02)
    assert len(fake.journal()) == 4
    os.utime(jobs[0].out / "model.safetensors")  # the same weights, another time
    run_jobs(jobs, 2, poll=0.02)
    assert len(fake.journal()) == 4
    changed = [fake("a", weights=1), jobs[1]]  # another command, that makes other weights
    run_jobs(changed, 2, poll=0.02)
    assert [name for _, name, _ in fake.journal()[4:]] == ["a", "a", "b", "b"]
    (jobs[1].out / "config.json").unlink()  # no checkpoint any more
    assert not jobs[1].is_finished() and changed[0].is_finished()


def test_a_job_that_fails_ends_the_study_and_the_others(fake, tmp_path):
    jobs = [fake("slow", seconds=60), fake("bad", seconds=0.1, fail=True), fake("after", "bad")]
    start = time.monotonic()
    with pytest.raises(UsageError) as error:
        run_jobs(jobs, 2, poll=0.02)
    log = f"{tmp_path}/runs/bad.log"
    assert str(error.value) == f"bad failed (exit code 1); {log}: error: out of luck"
    assert time.monotonic() - start < 30
    assert {name for what, name, _ in fake.journal() if what == "start"} <= {"slow", "bad"}
    run_jobs([fake("bad"), fake("after", "bad")], 2, poll=0.02)  # mended, it goes on
    assert jobs[2].is_finished()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_stops_the_children(fake, number, monkeypatch):
    job, started = fake("a", seconds=60), []
    start = Job.start
    monkeypatch.setattr(Job, "start", lambda *a: started.append(start(*a)) or started[-1])
    # SIGINT is ignored where a shell has started the tests in the background
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_jobs([job], 1, poll=0.02)
    finally:
        signal.signal(signal.SIGINT, before)
    assert started[0].returncode is not None, "the child is gone"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
