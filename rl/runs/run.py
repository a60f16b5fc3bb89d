"""A training run on disk: its arguments, its log, and how it goes on after a kill.

    run = Run(out, "train_sft", args)       "new", "resume" or "finished"; other arguments in `out` are an error
    run.log({...})                          one JSON line in metrics.jsonl
    run.save(modules, optimizers, ...)      one atomic state file (model/checkpoint.py), with the length of the log
    run.finish(...)                         the inference checkpoint; the state file goes

A step is a pure function of (arguments, state, step number), so a run that was killed and started again gives the
bits of an uninterrupted one: steps after the last save are simply played again and their log lines rewritten.
"""

import json
import time
from dataclasses import asdict, fields
from pathlib import Path

import torch

from model import (
    CheckpointError,
    Policy,
    Tokenizer,
    is_checkpoint,
    load_state,
    peek_facts,
    save_state,
)
from model.checkpoint import POLICY_FILES
from model.pretrained import save_policy
from rl.runs.flags import UsageError

STATELESS = (
    "out",
    "threads",
    "save_seconds",
    "fresh",
    "device",
    "init",
    "checkpointing",
)  # what does not change what is learnt; --init is compared by content


class Run:
    def __init__(self, script: str, args, facts: dict):
        """`args` is the script's dataclass with at least out, fresh, save_seconds; `facts` go into run.json too."""
        self.out, self.script = Path(args.out), script
        self.record = {
            "script": script,
            "arguments": {k: v for k, v in asdict(args).items() if k not in STATELESS},
            **facts,
        }
        self.defaults = {f.name: f.default for f in fields(args) if f.name not in STATELESS}
        self.save_seconds, self.last_save = args.save_seconds, time.monotonic()
        self.log_path = self.out / "metrics.jsonl"
        unfinished = None if args.fresh else peek_facts(self.out)
        finished = self.out / "run.json"
        if args.fresh:
            self.status = "new"
        elif unfinished is not None:
            self._compare(unfinished["record"])
            self.status = "resume"
        elif finished.exists() and is_checkpoint(self.out):
            self._compare(read_json(finished))
            self.status = "finished"
        elif is_checkpoint(self.out):
            raise UsageError(
                f"{self.out} holds a checkpoint that no run of ours made; choose another --out, or --fresh to replace it"
            )
        else:
            self.status = "new"
        self._begun = self.status != "new"
        self.base: Path | None = None

    def _begin(self) -> None:
        """Before the first write of a new run, and not earlier, what `out` holds is discarded."""
        if self._begun:
            return
        self._begun = True
        self.out.mkdir(parents=True, exist_ok=True)
        for directory in (
            self.out,
            self.out / "read",
            self.out / "best",
            self.out / "base",
        ):  # first what makes it a checkpoint
            for name in ("training.safetensors", *reversed(POLICY_FILES)):
                (directory / name).unlink(missing_ok=True)
            for result in [*directory.glob("eval/*.json"), *directory.glob("eval/*.jsonl")]:
                result.unlink()
        self.log_path.write_text("")

    def _compare(self, old: dict) -> None:
        """Raises UsageError that shows every difference in arguments, world or initial weights."""
        old = {
            **old,
            "arguments": {**self.defaults, **old.get("arguments", {})},
        }  # made before a flag existed: what it does by default
        ours, theirs = ({**r, **r.get("arguments", {})} for r in (self.record, old))
        names = dict.fromkeys(
            [
                "script",
                *old.get("arguments", {}),
                *self.record["arguments"],
                *(self.record.keys() & old.keys()),
            ]
        )
        changed = [
            f"{k} {theirs.get(k)!r} -> {ours.get(k)!r}"
            for k in names
            if k != "arguments" and theirs.get(k) != ours.get(k)
        ]
        if changed:
            raise UsageError(
                f"{self.out} holds a run with other arguments ({'; '.join(changed)}); choose another --out, or --fresh to start over"
            )

    @property
    def kept(self) -> str:
        """What a run that stops on an error leaves behind, for its message."""
        return (
            f"the last good state is kept in {self.out}"
            if (self.out / "training.safetensors").exists()
            else "nothing had been saved yet"
        )

    def log(self, line: dict) -> None:
        self._begin()
        with open(self.log_path, "a") as file:
            file.write(
                json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()})
                + "\n"
            )

    def due(self) -> bool:
        return time.monotonic() - self.last_save > self.save_seconds

    def save(self, modules: dict, optimizers: dict, tensors: dict, facts: dict) -> None:
        self._begin()
        size = self.log_path.stat().st_size
        save_state(
            self.out,
            modules,
            optimizers,
            tensors,
            {"record": self.record, "log_bytes": size, **facts},
        )
        self.last_save = time.monotonic()

    def load(self, modules: dict, optimizers: dict) -> tuple[dict, dict]:
        """(tensors, facts) of the last save; modules and optimizers are filled, the log is cut back to that moment."""
        tensors, facts = load_state(self.out, modules, optimizers)
        self.log_path.touch()
        with open(self.log_path, "r+") as file:
            file.truncate(facts["log_bytes"])
        return tensors, facts

    def export(self, directory: Path, policy: Policy, tokenizer: Tokenizer, **facts) -> None:
        self._begin()
        save_policy(directory, policy, tokenizer, {**self.record, **facts}, self.base)

    def save_adapters_only(self, policy: Policy, tokenizer: Tokenizer) -> None:
        """From here on checkpoints hold adapters over OUT/base: the policy as it was when the run was new."""
        if self.status == "new":
            self.export(self.out / "base", policy, tokenizer)
        self.base = self.out / "base"

    def finish(self, policy: Policy, tokenizer: Tokenizer, **facts) -> None:
        self.export(self.out, policy, tokenizer, **facts)
        for name in (
            "training.safetensors",
            "training.safetensors.partial",
        ):  # the second: left by a kill while saving
            (self.out / name).unlink(missing_ok=True)


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises CheckpointError."""
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value


def precision(device: str, dtype: str) -> torch.autocast:
    """The autocast of one forward pass: bf16 multiplications, fp32 master weights and losses."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bf16")
