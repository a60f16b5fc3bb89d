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
from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields

import torch
from tqdm import tqdm

from data.world import WorldError
from model import CheckpointError
from rl import ranks
from rl.environment import ContextError, RetrieverError
from rl.runs.launch import PEER_LOST, leave, lost_peer

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
LARGEST = 2**31 - 1  # whole number, and
LONGEST = 4096  # characters of a text, unless `most` says otherwise


class UsageError(ValueError):
    """Arguments that do not fit together or do not fit what is on disk."""


OURS = (WorldError, CheckpointError, UsageError, ContextError, RetrieverError)


def arg(
    default,
    help: str,
    group: str = "",
    least: float | None = None,
    most: float | None = None,
    choices: tuple | None = None,
    kind: type | None = None,
):
    """A dataclass field that is a flag. group: its heading in --help, "" that of the field before
    it. Numbers with a default of at least 0 have `least` 0 unless it is given; of a text, `most`
    is the number of its characters. kind: where the default is None."""
    if least is None and type(default) in (int, float) and default >= 0:
        least = 0
    limits = {"least": least, "most": most, "choices": choices, "type": kind}
    return field(default=default, metadata={"help": help, "group": group, **limits})


def share(default: float, help: str, group: str = ""):
    """A share or probability: a number from 0 to 1."""
    return arg(default, help, group, least=0, most=1)


def problem(f: Field, value) -> str:
    """Why this is no value of the field, with the limits that `arg` gave it; "" where it is."""
    kind, least, most = value_type(f), f.metadata.get("least"), f.metadata.get("most")
    choices = f.metadata.get("choices")
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else math.inf
    if type(value) is type(f.default) and value == f.default:
        return ""
    if type(value) is not kind:
        return f"must be of type {kind.__name__}, not {type(value).__name__}"
    if choices and value not in choices:
        return f"invalid choice: {value!r} (choose from {', '.join(map(repr, choices))})"
    if kind is str:
        return text_problem(value, LONGEST if most is None else most)
    if kind is float and not math.isfinite(value):
        return f"{value} is not a number to compute with"
    if kind is int and most is None:
        most = LARGEST
    if least is not None and value < least:
        return f"must be at least {least}, not {value}"
    if most is not None and value > most:
        return f"must be at most {most}, not {value}"
    return ""


def text_problem(value: str, longest: int) -> str:
    if len(value) > longest:
        return f"{len(value)} characters, at most {longest} are taken"
    if "\0" in value or value.encode("utf-8", "ignore").decode() != value:
        return "is not UTF-8 text"
    return ""


def value_type(f: Field) -> type:
    return f.metadata.get("type") or type(f.default)


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One line, without the usage of forty flags."""
        self.exit(2, f"error: {shortened(message)} (--help lists what there is)\n")


def parse(cls: type, description: str, argv: list[str] | None = None):
    """Parse the command line into the dataclass `cls`; an unknown flag or an impossible value is
    an error (exit code 2)."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=description, formatter_class=layout, allow_abbrev=False)
    headings, heading = {"": parser}, ""
    for f in fields(cls):
        heading = f.metadata.get("group") or heading
        if heading not in headings:
            headings[heading] = parser.add_argument_group(heading)
        add_flag(headings[heading], f)
    args = cls(**vars(parser.parse_args(argv)))
    for f in fields(cls):
        if reason := problem(f, getattr(args, f.name)):
            parser.error(f"argument {flag(f.name)}: {reason}")
    return args


def add_flag(parser, f: Field) -> None:
    default, kind, help = f.default, value_type(f), f.metadata["help"].replace("%", "%%")
    if default is MISSING:
        raise TypeError(f"{f.name} has no default")
    if kind is bool:
        switch = argparse.BooleanOptionalAction
        parser.add_argument(flag(f.name), action=switch, default=default, help=help)
        return
    shown = f"{help} (default: {default})" if default not in (None, "") else help
    parser.add_argument(
        flag(f.name),
        type=kind,
        default=default,
        help=shown,
        metavar=kind.__name__.upper(),
        choices=f.metadata.get("choices"),
    )


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def main(script: Callable[[], None]) -> None:
    """Run a script; what the user can mend is one line on stderr and exit code 2, without a
    traceback."""
    if callable(signal.getsignal(signal.SIGINT)):  # not where it is ignored: a job in background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = exit_code(script)
    except KeyboardInterrupt:  # also while another error was being told
        code = one_line("stopped; the same command goes on from the last save", 130)
    except Exception:
        if ranks.size() == 1:
            raise
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)
    if code:
        sys.exit(code)


def exit_code(script: Callable[[], None]) -> int:
    try:
        script()
    except (*OURS, FloatingPointError) as error:
        return one_line(f"error: {error}", 2)
    except MemoryError as error:
        return one_line(f"error: out of memory {error}", 2)
    except OSError as error:  # disk full, no permission, ...
        told = error.filename and error.strerror
        text = f"{error.filename}: {error.strerror}" if told else error
        return one_line(f"error: {text}", 2)
    except RuntimeError as error:
        if lost_peer(error):
            return PEER_LOST
        if not isinstance(error, torch.OutOfMemoryError) and "CPUAllocator" not in str(error):
            raise
        return one_line(f"error: out of memory: {error}", 2)
    return 0


def shortened(text: str, most: int = 500) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]} ..."


def one_line(text: str, code: int) -> int:
    """Say it on a line of its own, also beside a progress bar."""
    tqdm.write(shortened(text), file=sys.stderr)
    return code
