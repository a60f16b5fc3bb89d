"""Flags under headings; what is no value; and how a script ends."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from rl.runs.flags import UsageError, arg, main, parse, share
from tests.shared import ROOT


@dataclass
class Args:
    out: str = arg("runs", "where it goes", group="run")
    seed: int = arg(0, "seed of everything")
    size: int = arg(8, "width", group="policy", least=1, most=1000)
    rate: float = arg(0.1, "learning rate, 10 % of what it was")
    swap: float = share(0.5, "probability of a swap", group="data")
    kind: str = arg("", "what", choices=("a", "b"))
    fresh: bool = arg(False, "start over", group="run")


def test_flags_stand_under_their_headings_in_help(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Args, "A script.", ["--help"])
    text = capsys.readouterr().out
    order = ["A script.", "run:", "--out", "--seed", "--fresh", "policy:", "--size", "--rate"]
    order += ["10 % of what it was (default: 0.1)", "data:", "--swap", "--kind"]
    rest = text[text.index("A script.") :]
    assert stop.value.code == 0
    places = [rest.index(word) for word in order]
    assert places == sorted(places)


def test_values_arrive():
    args = parse(Args, "", ["--size", "9", "--rate", "1", "--kind", "b", "--fresh", "--out", "é"])
    assert args == Args(size=9, rate=1.0, kind="b", fresh=True, out="é")
    assert parse(Args, "", []) == Args() and parse(Args, "", ["--no-fresh"]) == Args()


@pytest.mark.parametrize(
    "argv, reason",
    [
        (["--sise", "3"], "unrecognized arguments: --sise 3"),
        (["--siz", "3"], "unrecognized arguments: --siz 3"),
        (["--size", "x"], "argument --size: invalid int value: 'x'"),
        (["--size", "0"], "argument --size: must be at least 1, not 0"),
        (["--size", "1000000"], "argument --size: must be at most 1000, not 1000000"),
        (["--seed", "-1"], "argument --seed: must be at least 0, not -1"),
        (["--seed", str(2**64)], f"argument --seed: must be at most 2147483647, not {2**64}"),
        (["--rate", "nan"], "argument --rate: nan is not a number to compute with"),
        (["--rate", "1e999"], "argument --rate: inf is not a number to compute with"),
        (["--rate", "1e308"], "argument --rate: 1e+308 is not a number to compute with"),
        (["--swap", "1.5"], "argument --swap: must be at most 1, not 1.5"),
        (["--out", "x" * 5000], "argument --out: 5000 characters, at most 4096 are taken"),
        (["--out", os.fsdecode(b"\xff")], "argument --out: is not UTF-8 text"),
    ],
)
def test_what_is_no_value_is_one_line(argv, reason, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Args, "", argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {reason} (--help lists what there is)\n"


def test_a_long_complaint_is_cut(capsys):
    with pytest.raises(SystemExit):
        parse(Args, "", ["--size", "9" * 100_000])
    assert len(capsys.readouterr().err) < 600


def ends(error: BaseException, capsys) -> tuple[int, str]:
    def script():
        raise error

    with pytest.raises(SystemExit) as stop:
        main(script)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "error, code, said",
    [
        (UsageError("two\nlines"), 2, "error: two lines\n"),
        (UsageError("\x1b[31mred\x9b"), 2, "error: \\x1b[31mred\\x9b\n"),
        (FileNotFoundError(2, "No such file", "x"), 2, "error: x: No such file\n"),
        (OSError("disk full"), 2, "error: disk full\n"),
        (MemoryError("for 3 GB"), 2, "error: out of memory for 3 GB\n"),
        (torch.OutOfMemoryError("CUDA"), 2, "error: out of memory CUDA\n"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from the last save\n"),
    ],
)
def test_what_the_user_can_mend_is_one_line(error, code, said, capsys):
    assert ends(error, capsys) == (code, said)


def test_memory_that_a_cpu_does_not_have(capsys):
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    code, said = ends(error.value, capsys)
    assert code == 2 and said.startswith("error: out of memory ") and said.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback():
    for fault in (RuntimeError("shapes"), KeyError("x")):
        with pytest.raises(type(fault)):
            main(lambda fault=fault: (_ for _ in ()).throw(fault))


def test_ctrl_c_is_one_line():
    code = "import time; from rl.runs.flags import main; main(lambda: (print(1), time.sleep(60)))"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err.decode().count("\n") == 1


@pytest.mark.parametrize("script", ["train_sft.py", "train_ppo.py", "evaluate.py"])
def test_ctrl_c_during_the_imports_leaves_no_traceback(script):
    process = subprocess.Popen(  # -v: Python tells every import
        [sys.executable, "-v", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for line in process.stderr:
        if line.startswith(b"import 'torch"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in err
