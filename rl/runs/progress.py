"""Progress: a bar on a terminal; in a log or a pipe one line every half minute; on rank 0 alone."""

import io
import sys
import time

from tqdm import tqdm

from data.world import printable
from rl import ranks

SECONDS = 30.0  # between two lines where there is no terminal
LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Lines(io.TextIOBase):
    """Standard error for tqdm: every update is a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr)


def progress(total: int, desc: str, unit: str, initial: int = 0, leave: bool = True) -> tqdm:
    """A tqdm (update, set_postfix, close, context manager) on standard error."""
    options = {"total": total, "initial": initial, "desc": desc, "unit": unit, "leave": leave}
    if ranks.rank():
        options["disable"] = True  # not given otherwise: the environment's TQDM_DISABLE counts then
    if not sys.stderr.isatty():
        options |= {"mininterval": SECONDS, "maxinterval": SECONDS, "delay": SECONDS, "miniters": 1}
        options |= {"file": Lines(), "bar_format": LINE}
    return tqdm(**options, dynamic_ncols=sys.stderr.isatty())


def say(text: str) -> None:
    """Print lines, beside a bar as well; they cannot control the terminal. On rank 0 alone."""
    if ranks.rank() == 0:
        tqdm.write("\n".join(map(printable, text.split("\n"))))
        sys.stdout.flush()


class Clock:
    """Seconds of the stages of an iteration: clock("rollout") ends a stage and begins the next."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[f"seconds_{stage}"] = now - self.last
        self.last = now
