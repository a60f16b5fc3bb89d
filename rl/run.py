"""A training run on disk: its arguments, its log, and how it goes on after a kill.

    run = Run(out, "train_sft", args)       "new", "resume" or "finished"; other arguments in `out` are an error
    run.log({...})                          one JSON line in metrics.jsonl
    run.save(modules, optimizers, ...)      one atomic state file (model/checkpoint.py), with the length of the log
    run.finish(...)                         the inference checkpoint; the state file goes

A step is a pure function of (arguments, state, step number), so a run that was killed and started again gives the
bits of an uninterrupted one: steps after the last save are simply played again and their log lines rewritten.
"""
import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import MISSING, asdict, field, fields
from pathlib import Path

import torch

from data.world import WorldError
from model import CheckpointError, Policy, Tokenizer, load_state, peek_facts, save_policy, save_state

STATELESS = ("out", "threads", "save_seconds", "fresh", "device")  # arguments that do not change what is learnt


def arg(default, help: str):
    """A dataclass field with its help text."""
    return field(default=default, metadata={"help": help})


def parse(cls: type, description: str, argv: list[str] | None = None):
    """Parse the command line into the dataclass `cls`; an unknown flag is an error (exit code 2)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(cls):
        flag, help = "--" + f.name.replace("_", "-"), f.metadata["help"]
        default = f.default if f.default is not MISSING else None
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=help)
        else:
            kind = f.metadata.get("type") or type(default)
            shown = f"{help} (default: {default})" if default not in (None, "") else help
            parser.add_argument(flag, type=kind, default=default, help=shown.replace("%", "%%"), metavar=kind.__name__.upper(), choices=f.metadata.get("choices"))
    return cls(**vars(parser.parse_args(argv)))


def main(script: Callable[[], None]) -> None:
    """Run a script; what the user can mend is one line on stderr and exit code 2, without a traceback."""
    try:
        script()
    except (WorldError, CheckpointError, UsageError) as error:
        sys.exit(_one_line(error, 2))
    except FloatingPointError as error:
        sys.exit(_one_line(error, 3))
    except OSError as error:
        sys.exit(_one_line(error, 2))
    except KeyboardInterrupt:
        sys.exit(_one_line("stopped; the same command goes on from the last save", 130))


def _one_line(error, code: int) -> int:
    print(f"error: {error}" if code != 130 else str(error), file=sys.stderr)
    return code


class UsageError(ValueError):
    """Arguments that do not fit together or do not fit what is on disk."""


class Run:
    def __init__(self, script: str, args, facts: dict):
        """`args` is the script's dataclass with at least out, fresh, save_seconds; `facts` go into run.json too."""
        self.out, self.script = Path(args.out), script
        self.record = {"script": script, "arguments": {k: v for k, v in asdict(args).items() if k not in STATELESS}, **facts}
        self.save_seconds, self.last_save = args.save_seconds, time.monotonic()
        self.log_path = self.out / "metrics.jsonl"
        if args.fresh:
            self._clear()
        unfinished = peek_facts(self.out)
        finished = self.out / "run.json"
        if unfinished is not None:
            self._compare(unfinished["record"])
            self.status = "resume"
        elif finished.exists():
            self._compare(json.loads(finished.read_text()))
            self.status = "finished"
        else:
            self.status = "new"
        self.out.mkdir(parents=True, exist_ok=True)
        if self.status == "new":
            self.log_path.write_text("")

    def _clear(self) -> None:
        for name in ("training.safetensors", "run.json", "config.json", "model.safetensors", "value_head.safetensors", "metrics.jsonl"):
            (self.out / name).unlink(missing_ok=True)

    def _compare(self, old: dict) -> None:
        ours, theirs = ({"script": r.get("script"), **r.get("arguments", {})} for r in (self.record, old))
        changed = [f"{k} {theirs.get(k)!r} -> {ours.get(k)!r}" for k in {**theirs, **ours} if theirs.get(k) != ours.get(k)]
        if changed:
            raise UsageError(f"{self.out} holds a run with other arguments ({'; '.join(changed)}); choose another --out, or --fresh to start over")

    def log(self, line: dict) -> None:
        with open(self.log_path, "a") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}) + "\n")

    def due(self) -> bool:
        return time.monotonic() - self.last_save > self.save_seconds

    def save(self, modules: dict, optimizers: dict, tensors: dict, facts: dict) -> None:
        size = self.log_path.stat().st_size
        save_state(self.out, modules, optimizers, tensors, {"record": self.record, "log_bytes": size, **facts})
        self.last_save = time.monotonic()

    def load(self, modules: dict, optimizers: dict) -> tuple[dict, dict]:
        """(tensors, facts) of the last save; modules and optimizers are filled, the log is cut back to that moment."""
        tensors, facts = load_state(self.out, modules, optimizers)
        self.log_path.touch()
        with open(self.log_path, "r+") as file:
            file.truncate(facts["log_bytes"])
        return tensors, facts

    def export(self, directory: Path, policy: Policy, tokenizer: Tokenizer, **facts) -> None:
        save_policy(directory, policy, tokenizer, {**self.record, **facts})

    def finish(self, policy: Policy, tokenizer: Tokenizer, **facts) -> None:
        self.export(self.out, policy, tokenizer, **facts)
        (self.out / "training.safetensors").unlink(missing_ok=True)


def precision(device: str, dtype: str) -> torch.autocast:
    """The autocast of one forward pass: bf16 multiplications, fp32 master weights and losses."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bf16")
