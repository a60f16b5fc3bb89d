"""A training run on disk: its arguments, its log, and how it goes on after a kill.

A step is a pure function of (arguments, state, step number), so a run that was killed and started
again gives the bits of an uninterrupted one: steps after the last save are played again and their
log lines rewritten. One process at a time works in a folder, and only in a new one, an empty one
or one of a run. Every rank makes a Run and calls the same methods; rank 0 writes. Left out: several
runs in one folder, logs to a server, locks over several machines.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import IO

import torch

from model.files import POLICY_FILES, CheckpointError
from model.pretrained.lora import save_policy, trained_modules, without_adapters
from model.pretrained.reading import is_checkpoint, read_json, weights_sha256
from rl import ranks
from rl.runs.flags import UsageError, parse
from rl.runs.launch import DTYPES, choose_dtype, launch, spare_memory
from rl.runs.progress import progress, say
from rl.runs.retrievers import ADDRESSES
from rl.runs.setting import describe
from rl.runs.shard import on_first_rank
from rl.runs.state import STATE_FILE, load_state, save_state

LOCK = "lock"  # of an unfinished run: who works in the folder, and its record
# What does not change what is learnt; --init is compared by content.
STATELESS = ("out", "ranks", "save_seconds", "fresh", "device", "init", *ADDRESSES)
STATELESS += ("checkpointing", "shard")
FILES = ("init", "query", "reader", "reward")  # arguments that name one (FILE.py:function)


def start(cls: type, description: str, check: Callable, words: list[str] | None = None):
    """The checked arguments of a training script, in every rank. Raises UsageError."""
    args = parse(cls, description, words, is_pretrained)
    check(args)
    launch(args.ranks, args.device)
    if args.shard and ranks.size() == 1:
        raise UsageError("--shard needs several ranks, one per device: --ranks, or torchrun")
    if args.checkpointing:
        spare_memory()
    settle_dtype(args)
    return args


class Run:
    """status: "new", "resume" or "finished". phase, first: of a run that goes on, the name of its
    loop, and the first step of it that is still to do."""

    def __init__(self, script: str, args, info: dict):
        """args: RunArgs; info goes into run.json, too: what a checkpoint is opened with
        (rl/runs/setting.py). Raises UsageError, also where --out holds another run, or what no run
        made; CheckpointError."""
        if not args.out.strip():
            raise UsageError("--out is empty; name a folder")
        self.args, self.out = args, Path(args.out)
        self.log_path, self.base = self.out / "metrics.jsonl", self.out / "base"
        self.adapters_only = bool(args.lora_rank) and not args.merge  # over `base`, as it began
        kept = {f.name: f.default for f in fields(args) if f.name not in STATELESS}
        arguments = {name: getattr(args, name) for name in kept}
        files = {name: getattr(args, name, "") for name in FILES}
        files["reward"] = files["reward"].rpartition(":")[0]
        hashes = {f"{name}_sha256": weights_sha256(file) for name, file in files.items() if file}
        self.record = {"script": script, "arguments": arguments, **info, **hashes}
        self.status, self.phase, self.first = "new", "", 0
        self._log_bytes, self._last_save = 0, time.monotonic()
        if self.out.exists():
            self.status = self._find(kept)

    def _find(self, defaults: dict) -> str:
        """The status that a folder gives a run; defaults: of the arguments."""
        if not self.out.is_dir():
            raise UsageError(f"--out {self.out} is not a folder")
        recorded, saved = recorded_in(self.out), (self.out / STATE_FILE).exists()
        if recorded is None and any(self.out.iterdir()):
            raise UsageError(f"{self.out} is not empty, and no run made it; choose another --out")
        if recorded is None or self.args.fresh or not (saved or is_checkpoint(self.out)):
            return "new"
        # Made before a flag existed: what it does by default.
        recorded["arguments"] = defaults | recorded["arguments"]
        if changed := differences(recorded, self.record):
            holds = f"{self.out} holds a run with other arguments ({'; '.join(changed)})"
            raise UsageError(f"{holds}; choose another --out, or --fresh to start over")
        return "resume" if saved else "finished"

    @property
    def kept(self) -> str:
        """What a run that stops on an error leaves behind, for its message."""
        if not (self.out / STATE_FILE).exists():
            return "nothing had been saved yet"
        best = self.out / "best"
        other = f"go on from {best}, the best on dev, or " if is_checkpoint(best) else ""
        again = "if the same command stops here again, it is ruined already"
        advice = f"{other}start over (--fresh) with a lower learning rate"
        return f"the last good state is kept in {self.out}; {again}: {advice}"

    def begin(self, trainer, plan: str) -> None:
        """Say what is about to happen, and take the folder: what is in it goes, or is gone on with.
        trainer: what is saved from here on; has args, setting, policy, tokenizer, optimizers,
        counters (JSON values by name) and buffers (lists of tensors by name)."""
        self.trainer = trainer
        describe(self.record["script"], trainer, plan)
        ranks.reduce([torch.zeros(1)])  # every rank has seen the folder as it was
        if ranks.rank() == 0:
            self._lock = lock(self.out, self.record)
            if self.status == "new":
                discard(self.out)
                self.log_path.write_text("")
        if self.status == "resume":
            modules = trained_modules(trainer.policy)
            facts = load_state(self.out, modules, trainer.optimizers, trainer.buffers)
            for kept in trainer.buffers.values():
                kept[:] = [tensor.to(self.args.device) for tensor in kept]
            trainer.counters |= {name: facts[name] for name in trainer.counters}
            self.phase, self.first = facts["phase"], facts["step"]
            self._log_bytes = facts["log_bytes"]
            if ranks.rank() == 0:
                self._check_log(more=True)
                os.truncate(self.log_path, self._log_bytes)
            say(f"resuming {self.out} at {self.phase} {self.first}")
        elif self.adapters_only:
            self.export(self.base)

    def loop(self, name: str, unit: str, total: int, step: Callable, shown: tuple = ()) -> None:
        """The training loop: step(i) for every i below `total` that is still to do. Each gives
        figures, a line of metrics.jsonl with the seconds it took; those named in `shown` stand
        beside the bar. Raises FloatingPointError that names the step and what is kept."""
        first = self.first if self.phase == name else 0
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
                    self.save(name, i + 1)

    def log(self, line: dict) -> None:
        """Append a line to metrics.jsonl. Raises UsageError where that is not as it was left."""
        if ranks.rank():
            return
        self._check_log()
        with open(self.log_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(plain(line), ensure_ascii=False) + "\n")
        self._log_bytes = self.log_path.stat().st_size

    def _check_log(self, more: bool = False) -> None:
        """The log has the bytes that were written; `more`, too, after a kill."""
        there = self.log_path.stat().st_size if self.log_path.exists() else 0
        if there < self._log_bytes or (there > self._log_bytes and not more):
            sizes = f"{there} bytes, {self._log_bytes} had been written"
            advice = "put it back, or --fresh to start over"
            raise UsageError(f"{self.log_path} was changed or deleted: {sizes}; {advice}")

    def due(self) -> bool:
        """Whether it is time to save; the same on all ranks, which have to ask together."""
        late = torch.tensor(float(time.monotonic() - self._last_save > self.args.save_seconds))
        late *= ranks.rank() == 0
        ranks.reduce([late])
        return bool(late)

    def save(self, phase: str, step: int) -> None:
        """Replace the state file: `step` is the next one of this loop. The log goes to disk first,
        as the state says how long it is."""
        if ranks.rank() == 0:
            self._check_log()
            with open(self.log_path, "rb+") as file:
                os.fsync(file.fileno())
        trainer, modules = self.trainer, trained_modules(self.trainer.policy)
        facts = {"phase": phase, "step": step, "log_bytes": self._log_bytes, **trainer.counters}
        save_state(self.out, modules, trainer.optimizers, trainer.buffers, facts)
        self._last_save = time.monotonic()

    def export(self, directory: Path, **info) -> None:
        """Write an inference checkpoint, with the run's record and `info` in its run.json."""
        policy, tokenizer = self.trainer.policy, self.trainer.tokenizer
        if self.args.shard:
            policy = without_adapters(policy, on_first_rank(policy.state_dict()))
        if ranks.rank() == 0:
            base = self.base if self.adapters_only and directory != self.base else None
            save_policy(directory, policy, tokenizer, self.record | info, base)

    def finish(self) -> None:
        self.export(self.out)
        if ranks.rank() == 0:
            # Also what a kill while saving left; the lock goes while it is held.
            for path in (*self.out.glob(f"{STATE_FILE}*"), self.out / LOCK):
                path.unlink(missing_ok=True)
            self._lock.close()


def lock(folder: Path, record: dict) -> IO[str]:
    """Make the folder where there is none, and hold it until the returned file is closed, at the
    latest by the end of the process. Raises UsageError where another one holds it, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")  # noqa: SIM115  stays open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = file.read(100).partition(": ")[2].partition(",")[0]
        file.close()
        used = f"{folder} is in use by process {holder}"
        raise UsageError(f"{used}; wait for it, or end it") from None
    held = path.exists() and os.path.samefile(file.fileno(), path)
    if not held:  # its last holder finished just now
        file.close()
        return lock(folder, record)
    file.write(json.dumps({"process": os.getpid(), **record}))
    file.truncate()  # after the write: a kill in between leaves no empty file
    os.fsync(file.fileno())
    return file


def recorded_in(out: Path) -> dict | None:
    """The record of the run in a folder, unfinished or finished; None where no run made it."""
    finished = is_checkpoint(out) and not (out / STATE_FILE).exists()
    try:
        record = read_json(out / ("run.json" if finished else LOCK))
    except CheckpointError:
        return None
    return record if "script" in record and isinstance(record.get("arguments"), dict) else None


def is_pretrained(args) -> bool:
    """Whether --init holds somebody else's weights, or what grew out of them."""
    made = recorded_in(Path(args.init)) or {"arguments": {"pretrained": True}}
    return bool(args.init) and bool(made["arguments"].get("pretrained"))


def discard(out: Path) -> None:
    """Remove a run's files and no others, first what makes a folder a checkpoint."""
    for directory in (out, out / "read", out / "best", out / "base"):
        for name in (STATE_FILE, *reversed(POLICY_FILES)):
            (directory / name).unlink(missing_ok=True)
        for result in [*directory.glob("eval/*.json"), *directory.glob("eval/*.jsonl")]:
            result.unlink()


def settle_dtype(args) -> None:
    """Replace args.dtype "auto": by what the run in --out began with, else by this machine's."""
    recorded = None if args.fresh or not args.out else recorded_in(Path(args.out))
    began = recorded and recorded["arguments"].get("dtype")
    if args.dtype == "auto" and began in DTYPES:
        args.dtype = began
    args.dtype = choose_dtype(args.dtype, args.device)


def differences(recorded: dict, wanted: dict) -> list[str]:
    """Every entry of `wanted` that `recorded` has otherwise or not at all, as "name old -> new"; []
    means current. What `recorded` has beside them (figures, seconds) does not count, but inside an
    entry (arguments, a retriever's settings) everything does."""
    wanted = json.loads(json.dumps(wanted))  # as a file gives it back: tuples are lists
    found = []
    for name, new in wanted.items():
        old = recorded.get(name)
        pairs = {name: (old, new)}
        if isinstance(old, dict) and isinstance(new, dict):
            pairs = {key: (old.get(key), new.get(key)) for key in {**new, **old}}
        found += [f"{key} {a!r} -> {b!r}" for key, (a, b) in pairs.items() if a != b]
    return found


def plain(value):
    """The value as JSON can say it: None for NaN (hit@k without any retrieval) and infinities,
    floats with six decimals."""
    how = {"parse_float": lambda text: round(float(text), 6), "parse_constant": lambda _: None}
    return json.loads(json.dumps(value), **how)
