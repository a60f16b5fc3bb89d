"""Progress without a terminal: few lines, each with its end; and silence on other ranks."""

import io
import sys

import pytest

from rl import ranks
from rl.runs import progress as module
from rl.runs.progress import progress, say


class Output(io.StringIO):
    terminal = False

    def isatty(self) -> bool:
        return self.terminal


def said(monkeypatch, seconds: float, steps: int, **options) -> str:
    err = Output()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(module, "SECONDS", seconds)
    with progress(steps, "read", "step", **options) as bar:
        for _ in range(steps):
            bar.set_postfix(loss="1.5", refresh=False)
            bar.update()
    return err.getvalue()


def test_a_log_gets_lines_and_not_many(monkeypatch):
    assert said(monkeypatch, 30.0, 5000) == "", "5,000 quick steps end before half a minute is over"
    lines = said(monkeypatch, 1e-9, 50).split("\n")
    assert lines[-1] == "" and all(line.startswith("read: ") for line in lines[:-1])
    assert lines[-2].startswith("read: 50 of 50 steps [") and "loss=1.5" in lines[-2]
    assert "\r" not in "".join(lines)


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(Output, "terminal", True)
    assert "\rread: 100%|" in said(monkeypatch, 30.0, 3)


def test_what_is_said_cannot_control_a_terminal(capsys):
    """Episodes and slices of data are said while PPO trains."""
    say("iteration 1\n  \x1b]0;own\x07 caf\u00e9")
    assert capsys.readouterr().out == "iteration 1\n  \\x1b]0;own\\x07 caf\u00e9\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_ranks_above_0_say_nothing(monkeypatch, terminal):
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    monkeypatch.setattr(Output, "terminal", terminal)
    assert said(monkeypatch, 1e-9, 50) == ""
