"""Training runs that need each other's checkpoints, as subprocesses: as many at once as there are cores.

    run_jobs(jobs, cores)      starts every job whose needs are done, shows one bar, returns when all are done

The scripts are resumable, so this is, too: a finished job is not started again, an unfinished one goes on where it was. Each
job writes OUT.log; a line "$ command" opens each start. The log is locked while its job runs, so that no two studies
train into one folder, nor one study beside a child that outlived its killed parent.
Left out: priorities (jobs start in the order given), several machines.
"""

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from model import is_checkpoint
from model.checkpoint import STATE_FILE
from rl.runs.flags import UsageError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    out: Path  # the checkpoint directory that it makes
    command: tuple[
        str, ...
    ]  # for Python: script or module with its flags, without --out and --threads
    needs: tuple[Path, ...] = ()  # checkpoints of other jobs
    lines: int = 1  # lines with "tokens" that its metrics.jsonl will have, about
    episodes: int = 1  # per line, for the progress bar

    @property
    def log(self) -> Path:
        return self.out.with_name(self.out.name + ".log")

    def is_finished(self) -> bool:
        """Whether this very command has made `out` from checkpoints that have not changed since. In doubt, the script knows:
        started again, it finds the run finished or says what differs."""
        weights = self.out / "model.safetensors"
        if (
            not (is_checkpoint(self.out) and weights.exists() and self.log.exists())
            or (self.out / STATE_FILE).exists()
        ):
            return False
        started = [
            line
            for line in self.log.read_text(errors="replace").splitlines()
            if line.startswith("$ ")
        ]
        older = all(
            (need / "model.safetensors").stat().st_mtime <= weights.stat().st_mtime
            for need in self.needs
        )
        return older and started[-1:] == [f"$ {shlex.join(self.command)}"]

    def trained(self) -> int:
        """Episodes so far, from the lines of the run's log."""
        log = self.out / "metrics.jsonl"
        lines = log.read_bytes().count(b'"tokens":') if log.exists() else 0
        return min(lines, self.lines) * self.episodes

    def start(self, threads: int) -> subprocess.Popen:
        """Raises UsageError when another process is at it."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a") as log:
            try:
                fcntl.flock(
                    log, fcntl.LOCK_EX | fcntl.LOCK_NB
                )  # belongs to the open file, which the child inherits
            except BlockingIOError:
                raise UsageError(
                    f"{self.out} is being trained by another process; wait for it, or end it"
                ) from None
            print(f"$ {shlex.join(self.command)}", file=log, flush=True)
            paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
            return subprocess.Popen(
                [sys.executable, *self.command, "--out", str(self.out), "--threads", str(threads)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": paths, "TQDM_DISABLE": "1"},
            )

    def last_words(self) -> str:
        return next(
            (
                line
                for line in reversed(self.log.read_text(errors="replace").splitlines())
                if line.strip()
            ),
            "",
        )


class Running(NamedTuple):
    process: subprocess.Popen
    threads: int


def run_jobs(jobs: Sequence[Job], cores: int, poll: float = 0.5) -> None:
    """Raises UsageError when a job fails; whatever ends this call early, every child is stopped first."""
    done = {job.out for job in jobs if job.is_finished()}
    running: dict[Job, Running] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tqdm(
            total=sum(job.lines * job.episodes for job in jobs),
            desc="training",
            unit="episode",
            dynamic_ncols=True,
        ) as bar:
            while len(done) < len(jobs):
                for job, threads in startable(jobs, done, running, cores):
                    running[job] = Running(job.start(threads), threads)
                time.sleep(poll)
                for job, (process, _) in list(running.items()):
                    if process.poll() is not None:
                        del running[job]
                        if process.returncode:
                            raise UsageError(
                                f"{job.out.name} failed (exit code {process.returncode}); {job.log}: {job.last_words()}"
                            )
                        done.add(job.out)
                bar.set_postfix_str(", ".join(job.out.name for job in running), refresh=False)
                bar.update(
                    sum(
                        job.lines * job.episodes if job.out in done else job.trained()
                        for job in jobs
                    )
                    - bar.n
                )
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)


def startable(
    jobs: Sequence[Job], done: set[Path], running: dict[Job, Running], cores: int
) -> Iterator[tuple[Job, int]]:
    """Jobs whose needs are done, with a thread each; cores that no other job can use go to them as well."""
    ready = [
        job
        for job in jobs
        if job.out not in done and job not in running and done.issuperset(job.needs)
    ]
    free = cores - sum(threads for _, threads in running.values())
    for left, job in zip(range(len(ready), 0, -1), ready):
        if free < 1:
            return
        threads = max(1, free // left)
        free -= threads
        yield job, threads
