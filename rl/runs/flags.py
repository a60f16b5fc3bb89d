"""The command line of the scripts: dataclass fields as flags under headings, and errors in one
line.

    @dataclass
    class Args:
        out: str = arg("runs/sft", "where the checkpoint goes", group="run")
        seed: int = arg(0, "seed of everything")        under the heading of the field before it
    main(train)      where train() calls parse(Args, __doc__)

Left out: configuration files, abbreviations, lists.
"""

import argparse
import math
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import Field, field, fields

import torch
from tqdm import tqdm

from data.world import WorldError, printable
from model import CheckpointError
from rl import ranks
from rl.environment import ContextError, RetrieverError
from rl.runs.launch import PEER_LOST, leave, lost_peer

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
LARGEST = 2**31 - 1  # whole number, and
LONGEST = 4096  # characters of a text


class UsageError(ValueError):
    """Arguments that do not fit together or do not fit what is on disk."""


OURS = (WorldError, CheckpointError, UsageError, ContextError, RetrieverError, FloatingPointError)


def arg(default, help: str, group: str = "", least=None, most=None, choices: tuple = (), **other):
    """A dataclass field that is a flag. group: its heading in --help, "" that of the field before
    it. Numbers with a default of at least 0 have `least` 0 unless it is given; None is a text.
    pretrained: its default for a policy that began with somebody else's weights."""
    if least is None and type(default) in (int, float) and default >= 0:
        least = 0
    limits = {"least": least, "most": most, "choices": choices}
    return field(default=default, metadata={"help": help, "group": group, **limits, **other})


def share(default: float, help: str, group: str = "", **other):
    """A share or probability: a number from 0 to 1."""
    return arg(default, help, group, most=1, **other)


def value_type(f: Field) -> type:
    return str if f.default is None else type(f.default)


def problem(f: Field, value) -> str:
    """Why this is no value of the field, with the limits that `arg` gave it; "" where it is."""
    kind, choices = value_type(f), f.metadata.get("choices")
    least, most = f.metadata.get("least"), f.metadata.get("most")
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else math.inf
    if type(value) is type(f.default) and value == f.default:
        return ""
    if type(value) is not kind:
        return f"must be of type {kind.__name__}, not {type(value).__name__}"
    if choices and value not in choices:
        return f"invalid choice: {value!r} (choose from {', '.join(map(repr, choices))})"
    if kind is str and len(value) > LONGEST:
        return f"{len(value)} characters, at most {LONGEST} are taken"
    if kind is str and ("\0" in value or value.encode("utf-8", "ignore").decode() != value):
        return "is not UTF-8 text"
    if kind is float and not abs(value) < 1e30:
        return f"{value} is not a number to compute with"
    if kind is int and most is None:
        most = LARGEST
    if least is not None and value < least:
        return f"must be at least {least}, not {value}"
    if most is not None and value > most:
        return f"must be at most {most}, not {value}"
    return ""


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One line, without the usage of forty flags."""
        self.exit(2, f"error: {shortened(message)} (--help lists what there is)\n")


def parse(
    cls: type, description: str, argv: list[str] | None = None, pretrained: Callable | None = None
):
    """Parse the command line into the dataclass `cls`; an unknown flag or an impossible value is
    an error (exit code 2). pretrained(args): whether the defaults of that name hold."""
    layout = {"usage": "%(prog)s [flags]", "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = Parser(description=description, allow_abbrev=False, **layout)
    flags = [f for f in fields(cls) if "help" in f.metadata]
    flags.sort(key=lambda f: f.name not in cls.__annotations__)  # those of its bases come last
    headings, heading = {"": parser}, ""
    for f in flags:
        heading = f.metadata["group"] or heading
        if heading not in headings:
            headings[heading] = parser.add_argument_group(heading)
        shown = f.metadata["help"].replace("%", "%%")
        options = {"type": value_type(f), "choices": f.metadata.get("choices") or None}
        if value_type(f) is bool:
            options = {"action": argparse.BooleanOptionalAction}
        elif f.default not in (None, ""):
            also = f"; pretrained: {f.metadata['pretrained']}" if "pretrained" in f.metadata else ""
            shown += f" (default: {f.default}{also})"
        headings[heading].add_argument(flag(f.name), default=f.default, help=shown, **options)
    args = cls(**vars(parser.parse_args(argv)))
    if pretrained and pretrained(args):
        other = {f.name: f.metadata.get("pretrained", f.default) for f in flags}
        parser.set_defaults(**other)
        args = cls(**vars(parser.parse_args(argv)), pretrained=True)
    for f in flags:
        if reason := problem(f, getattr(args, f.name)):
            parser.error(f"argument {flag(f.name)}: {reason}")
    return args


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def main(script: Callable[[], None]) -> None:
    """Run a script; what the user can mend is one line on stderr and exit code 2, without a
    traceback."""
    if callable(signal.getsignal(signal.SIGINT)):  # not where it is ignored: a job in background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code, said = 0, ""
    try:
        script()
    except KeyboardInterrupt:
        code, said = 130, "stopped; the same command goes on from the last save"
    except Exception as error:
        code, said = verdict(error)
    if said:  # on a line of its own, also beside a progress bar
        tqdm.write(said, file=sys.stderr)
    leave(code)
    if code:
        sys.exit(code)


def verdict(error: Exception) -> tuple[int, str]:
    """The exit code, and what to say. Raises the error where it is a fault of ours."""
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if memory or "CPUAllocator" in str(error):
        return 2, shortened(f"error: out of memory {error}")
    if isinstance(error, OSError) and error.filename and error.strerror:  # disk full, ...
        return 2, shortened(f"error: {error.filename}: {error.strerror}")
    if isinstance(error, (*OURS, OSError)):
        return 2, shortened(f"error: {error}")
    if lost_peer(error):
        return PEER_LOST, ""
    if ranks.size() == 1:
        raise error
    return 1, traceback.format_exc()


def shortened(text: str) -> str:
    return printable(textwrap.shorten(text, 500, placeholder=" ..."))
