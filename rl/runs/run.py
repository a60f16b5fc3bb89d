"""A training run on disk: its arguments, its log, and how it goes on after a kill.

    run = Run("train_sft", args, info)  "new", "resume", "finished"; others: an error
    run.loop("read", "step", first, total, step, save)   step(i) -> figures, a line of metrics.jsonl
    run.save(modules, optimizers, ...)  one atomic state file, with the length of the log
    run.finish(policy, tokenizer)       the inference checkpoint; the state file goes

A step is a pure function of (arguments, state, step number), so a run that was killed and started
again gives the bits of an uninterrupted one: steps after the last save are played again and their
log lines rewritten. One process at a time works in a folder, and only in a new one, an empty one
or one of a run. Every rank makes a Run and calls the same methods; rank 0 writes. Left out:
several runs in one folder, logs to a server.
"""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch

from model import CheckpointError, Policy, Tokenizer, is_checkpoint
from model.checkpoint import POLICY_FILES
from model.pretrained import save_policy
from rl import ranks
from rl.runs.flags import UsageError
from rl.runs.lock import is_ours, lock, unlock
from rl.runs.precision import DTYPES, choose_dtype, precision  # noqa: F401  for old importers
from rl.runs.progress import progress
from rl.runs.state import STATE_FILE, load_state, peek_facts, save_state

# What does not change what is learnt; --init is compared by content.
STATELESS = (
    "out",
    "ranks",
    "save_seconds",
    "fresh",
    "device",
    "init",
    "checkpointing",
    "milvus_uri",
    "retriever_url",
)


class Run:
    def __init__(self, script: str, args, info: dict):
        """args: the script's dataclass with at least out, fresh, save_seconds; info goes into
        run.json too: whatever else the run's bits depend on, and what its checkpoint is opened
        with (rl/runs/info.py). Raises UsageError, CheckpointError."""
        if not args.out.strip():
            raise UsageError("--out is empty; name a folder")
        kept = [f for f in fields(args) if f.name not in STATELESS]
        self.out, self.log_path = Path(args.out), Path(args.out) / "metrics.jsonl"
        arguments = {f.name: getattr(args, f.name) for f in kept}
        self.record = {"script": script, "arguments": arguments, **info}
        self._defaults = {f.name: f.default for f in kept}
        self._save_seconds, self._last_save = args.save_seconds, time.monotonic()
        self._lock = self._log_bytes = None
        self.base: Path | None = None
        if self.out.exists():
            self._take()
        self.status = "finished"
        try:
            self.status = "new" if args.fresh else self._find()
        finally:  # finished, or the folder of another run: it stays as it was
            if self.status == "finished" and self._lock:
                unlock(self.out, self._lock)

    def _take(self) -> None:
        """Refuse a folder of somebody else, and lock it: rank 0 for its group."""
        if not self.out.is_dir():
            raise UsageError(f"--out {self.out} is not a folder")
        ours = (is_ours(self.out) and not is_checkpoint(self.out)) or recorded_in(self.out)
        if not ours and any(self.out.iterdir()):
            raise UsageError(f"{self.out} is not empty, and no run made it; choose another --out")
        if ranks.rank() == 0:
            self._lock = lock(self.out)

    def _find(self) -> str:
        """ "new", "resume" or "finished". Raises UsageError where --out holds another run."""
        recorded = recorded_in(self.out)
        if recorded is None:
            return "new"
        # Made before a flag existed: what it does by default.
        arguments = self._defaults | recorded["arguments"]
        if changed := differences({**recorded, "arguments": arguments}, self.record):
            raise UsageError(
                f"{self.out} holds a run with other arguments ({'; '.join(changed)}); "
                "choose another --out, or --fresh to start over"
            )
        return "resume" if (self.out / STATE_FILE).exists() else "finished"

    def _begin(self) -> bool:
        """Whether this rank writes. A new run discards what --out holds here, not earlier."""
        if ranks.rank():
            return False
        if self._log_bytes is not None:
            return True
        if self.status != "new":
            raise RuntimeError("load() comes before the first write")
        if self._lock is None:
            self._lock = lock(self.out)
            if len(list(self.out.iterdir())) > 1:
                raise UsageError(f"{self.out}: another process began a run there; start again")
        discard(self.out)
        self.log_path.write_text("")
        self._log_bytes = 0
        return True

    @property
    def kept(self) -> str:
        """What a run that stops on an error leaves behind, for its message."""
        if not (self.out / STATE_FILE).exists():
            return "nothing had been saved yet"
        best = self.out / "best"
        other = f"go on from {best}, the best on dev, or " if is_checkpoint(best) else ""
        return (
            f"the last good state is kept in {self.out}; if the same command stops here again, it "
            f"is ruined already: {other}start over (--fresh) with a lower learning rate"
        )

    def loop(
        self,
        name: str,
        unit: str,
        first: int,
        total: int,
        step: Callable[[int], dict],
        save: Callable[[int], None],
        shown: tuple[str, ...] = (),
    ) -> None:
        """The training loop: step(i) for i from `first` to `total` - 1. Each gives figures, a line
        of metrics.jsonl with the seconds it took; those named in `shown` stand beside the bar.
        save(i + 1) when a save is due: its argument is the next step. Raises FloatingPointError
        that names the step and what is kept."""
        with progress(total, name, unit, initial=first) as bar:
            for i in range(first, total):
                start = time.perf_counter()
                try:
                    figures = step(i)
                except FloatingPointError as error:
                    raise FloatingPointError(f"{name} {unit} {i}: {error}; {self.kept}") from None
                seconds = time.perf_counter() - start
                self.log({"phase": name, unit: i, **figures, "seconds": seconds})
                bar.set_postfix({key: f"{figures[key]:.3g}" for key in shown}, refresh=False)
                bar.update()
                if self.due():
                    save(i + 1)

    def log(self, line: dict) -> None:
        """Append a line to metrics.jsonl. Raises UsageError where that is not as it was left."""
        if not self._begin():
            return
        self._check_log()
        with open(self.log_path, "a") as file:
            file.write(as_json(line) + "\n")
        self._log_bytes = self.log_path.stat().st_size

    def _check_log(self, more: bool = False) -> None:
        """The log has the bytes that were written; `more`, too, after a kill."""
        there = self.log_path.stat().st_size if self.log_path.exists() else 0
        if there < self._log_bytes or (there > self._log_bytes and not more):
            raise UsageError(
                f"{self.log_path} was changed or deleted: {there} bytes, {self._log_bytes} had "
                "been written; put it back, or --fresh to start over"
            )

    def due(self) -> bool:
        """Whether it is time to save; the same on all ranks, which have to ask together."""
        late = torch.tensor(float(time.monotonic() - self._last_save > self._save_seconds))
        late *= ranks.rank() == 0
        ranks.reduce([late])
        return bool(late)

    def save(self, modules: dict, optimizers: dict, tensors: dict, info: dict) -> None:
        """Replace the state file. The log goes to disk first, as the state says how long it is."""
        if not self._begin():
            return
        self._check_log()
        with open(self.log_path, "rb+") as file:
            os.fsync(file.fileno())
        state = {"record": self.record, "log_bytes": self._log_bytes, **info}
        save_state(self.out, modules, optimizers, tensors, state)
        self._last_save = time.monotonic()

    def load(self, modules: dict, optimizers: dict) -> tuple[dict, dict]:
        """(tensors, info) of the last save; modules and optimizers are filled, the log is cut."""
        tensors, info = load_state(self.out, modules, optimizers)
        if ranks.rank() == 0:
            self._log_bytes = info["log_bytes"]
            self._check_log(more=True)
            os.truncate(self.log_path, self._log_bytes)
        return tensors, info

    def export(self, directory: Path, policy: Policy, tokenizer: Tokenizer, **info) -> None:
        """Write an inference checkpoint, with the run's record and `info` in its run.json."""
        if self._begin():
            save_policy(directory, policy, tokenizer, {**self.record, **info}, self.base)

    def save_adapters_only(self, policy: Policy, tokenizer: Tokenizer) -> None:
        """From here on checkpoints hold adapters over OUT/base: the policy of a new run."""
        if self.status == "new":
            self.export(self.out / "base", policy, tokenizer)
        self.base = self.out / "base"

    def finish(self, policy: Policy, tokenizer: Tokenizer, **info) -> None:
        self.export(self.out, policy, tokenizer, **info)
        if ranks.rank() == 0:
            for name in (STATE_FILE, f"{STATE_FILE}.partial"):  # the second: of a kill while saving
                (self.out / name).unlink(missing_ok=True)
            unlock(self.out, self._lock)


def recorded_in(out: Path) -> dict | None:
    """The record of the run in a folder, unfinished or finished; None where no run made it."""
    record = (peek_facts(out) or {}).get("record")
    if record is None and is_checkpoint(out) and (out / "run.json").exists():
        record = read_json(out / "run.json")
    known = isinstance(record, dict) and "script" in record
    return record if known and isinstance(record.get("arguments"), dict) else None


def discard(out: Path) -> None:
    """Remove a run's files and no others, first what makes a folder a checkpoint."""
    for directory in (out, out / "read", out / "best", out / "base"):
        for name in (STATE_FILE, *reversed(POLICY_FILES)):
            (directory / name).unlink(missing_ok=True)
        for result in [*directory.glob("eval/*.json"), *directory.glob("eval/*.jsonl")]:
            result.unlink()


def settle_dtype(args) -> None:
    """Replace args.dtype "auto": by what the run in --out began with, else by this machine's
    choice (rl/runs/precision.py)."""
    recorded = None if args.fresh or not args.out else recorded_in(Path(args.out))
    began = (recorded or {"arguments": {}})["arguments"].get("dtype")
    if args.dtype == "auto" and began in DTYPES:
        args.dtype = began
    args.dtype = choose_dtype(args.dtype, args.device)


def differences(recorded: dict, wanted: dict) -> list[str]:
    """Is what lies on disk what is wanted? Every entry of `wanted` that `recorded` has otherwise
    or not at all, as "name old -> new"; [] means current. What `recorded` has beside them
    (figures, seconds) does not count, but inside an entry (arguments, a retriever's settings)
    everything does."""
    wanted = json.loads(json.dumps(wanted))  # as a file gives it back: tuples are lists
    found = []
    for name, new in wanted.items():
        old = recorded.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            both = [*new, *(key for key in old if key not in new)]
            pairs = [(key, old.get(key), new.get(key)) for key in both]
        else:
            pairs = [(name, old, new)]
        found += [f"{key} {a!r} -> {b!r}" for key, a, b in pairs if a != b]
    return found


def as_json(value) -> str:
    """A line of JSON: NaN (hit without any retrieval) is null, floats have six decimals."""
    return json.dumps(plain(value), allow_nan=False, ensure_ascii=False)


def plain(value):
    """The value with lists for tuples and None for NaN and infinities."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises CheckpointError."""
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value
