"""Runs that need each other's checkpoints, as subprocesses: as many at once as there are cores.

    run_jobs(jobs, cores)      starts every job whose needs are done, returns when all are done

The scripts are resumable, so this is, too: a finished job is not started again, an unfinished one
goes on where it was. Each job writes OUT.log, and OUT.job.json when it is done: its command and the
weights that it was made from. Two processes in one folder: the runs themselves refuse it.
Left out: priorities (jobs start in the order given), several machines.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from model import is_checkpoint, read_json, weights_sha256, write_json
from rl.runs.flags import UsageError
from rl.runs.progress import progress
from rl.runs.run import differences

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    out: Path  # the directory that it fills
    command: tuple[str, ...]  # for Python: script or module with its flags, but --out and --ranks
    needs: tuple[Path, ...] = ()  # checkpoints of other jobs

    @property
    def log(self) -> Path:
        return self.out.with_name(self.out.name + ".log")

    @property
    def done(self) -> Path:
        return self.out.with_name(self.out.name + ".job.json")

    def record(self) -> dict:
        """What its result depends on."""
        needs = {need.name: weights_sha256(need) for need in self.needs}
        return {"command": list(self.command), "needs": needs}

    def is_finished(self) -> bool:
        """Whether this very command has made a checkpoint from these weights. In doubt, the script
        knows: started again, it finds its run finished or says what differs."""
        if not (self.done.exists() and is_checkpoint(self.out)):
            return False
        return not differences(read_json(self.done), self.record())

    def start(self, ranks: int) -> subprocess.Popen:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        with open(self.log, "a") as log:
            return subprocess.Popen(
                [sys.executable, *self.command, "--out", str(self.out), "--ranks", str(ranks)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )

    def finish(self, code: int) -> None:
        """Raises UsageError, with the last line of its log, for a job that failed."""
        if code:
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line]
            failed = f"{self.out.name} failed (exit code {code})"
            raise UsageError(f"{failed}; {self.log}: {(lines or [''])[-1]}")
        write_json(self.done, self.record())


class Running(NamedTuple):
    process: subprocess.Popen
    ranks: int


def run_jobs(jobs: Sequence[Job], cores: int, poll: float = 0.5) -> None:
    """Raises UsageError when a job fails; whatever ends this call early, every child is stopped."""
    done: set[Path] = set()
    for job in jobs:  # one whose needs will be made anew is not finished
        if done.issuperset(job.needs) and job.is_finished():
            done.add(job.out)
    running: dict[Job, Running] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with progress(len(jobs), "study", "run", initial=len(done)) as bar:
            while len(done) < len(jobs):
                for job, ranks in startable(jobs, done, running, cores):
                    running[job] = Running(job.start(ranks), ranks)
                names = ", ".join(job.out.name for job in running)
                bar.set_postfix_str(names, refresh=False)
                time.sleep(poll)
                for job in [j for j, child in running.items() if child.process.poll() is not None]:
                    job.finish(running.pop(job).process.returncode)
                    done.add(job.out)
                    bar.update()
    finally:
        for child in running.values():
            child.process.terminate()
        for child in running.values():
            child.process.wait()
        signal.signal(signal.SIGTERM, before)


def startable(
    jobs: Sequence[Job], done: set[Path], running: dict[Job, Running], cores: int
) -> Iterator[tuple[Job, int]]:
    """Jobs whose needs are done, with a rank each; cores that no other job can use go to them."""
    ready = [
        job
        for job in jobs
        if job.out not in done and job not in running and done.issuperset(job.needs)
    ]
    free = cores - sum(child.ranks for child in running.values())
    for left, job in zip(range(len(ready), 0, -1), ready, strict=True):
        if free < 1:
            return
        ranks = max(1, free // left)
        free -= ranks
        yield job, ranks
