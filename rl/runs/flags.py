"""The command line of the scripts: dataclass fields as flags, and errors in one line."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import MISSING, field, fields

import torch
from tqdm import tqdm

from data.world import WorldError
from model import CheckpointError
from rl.environment import ContextError, RetrieverError

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def arg(
    default,
    help: str,
    least: float | None = None,
    choices: tuple | None = None,
    most: float | None = None,
):
    """A dataclass field with its help text. Numbers with a default of at least 0 have `least` 0 unless it is given."""
    if least is None and type(default) in (int, float) and default >= 0:
        least = 0
    return field(
        default=default, metadata={"help": help, "least": least, "most": most, "choices": choices}
    )


def share(default: float, help: str):
    """A share or probability: a number from 0 to 1."""
    return arg(default, help, least=0, most=1)


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One line, without the usage of forty flags."""
        self.exit(2, f"error: {message} (--help lists what there is)\n")


def parse(cls: type, description: str, argv: list[str] | None = None):
    """Parse the command line into the dataclass `cls`; an unknown flag or an impossible value is an error (exit code 2)."""
    parser = Parser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for f in fields(cls):
        flag, help = "--" + f.name.replace("_", "-"), f.metadata["help"]
        default = f.default if f.default is not MISSING else None
        if isinstance(default, bool):
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=default, help=help
            )
        else:
            kind = f.metadata.get("type") or type(default)
            shown = f"{help} (default: {default})" if default not in (None, "") else help
            parser.add_argument(
                flag,
                type=kind,
                default=default,
                help=shown.replace("%", "%%"),
                metavar=kind.__name__.upper(),
                choices=f.metadata.get("choices"),
            )
    args = cls(**vars(parser.parse_args(argv)))
    for f in fields(cls):
        flag, value, least, most = (
            "--" + f.name.replace("_", "-"),
            getattr(args, f.name),
            f.metadata.get("least"),
            f.metadata.get("most"),
        )
        if isinstance(value, float) and not math.isfinite(value):
            parser.error(f"argument {flag}: {value} is not a number to compute with")
        if least is not None and value < least:
            parser.error(f"argument {flag}: must be at least {least}, not {value}")
        if most is not None and value > most:
            parser.error(f"argument {flag}: must be at most {most}, not {value}")
    return args


def main(script: Callable[[], None]) -> None:
    """Run a script; what the user can mend is one line on stderr and exit code 2, without a traceback."""
    try:
        script()
    except (
        WorldError,
        CheckpointError,
        UsageError,
        ContextError,
        RetrieverError,
        FloatingPointError,
    ) as error:
        sys.exit(_one_line(error, 2))
    except OSError as error:  # disk full, no permission, ...
        sys.exit(
            _one_line(
                f"{error.filename}: {error.strerror}"
                if error.filename and error.strerror
                else error,
                2,
            )
        )
    except KeyboardInterrupt:
        sys.exit(_one_line("stopped; the same command goes on from the last save", 130))


def _one_line(error, code: int) -> int:
    text = " ".join(str(error).split())
    tqdm.write(
        f"error: {text}" if code != 130 else text, file=sys.stderr
    )  # on a line of its own, also beside a progress bar
    return code


class UsageError(ValueError):
    """Arguments that do not fit together or do not fit what is on disk."""
