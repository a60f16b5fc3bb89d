"""python -m data.prepare: what is written, what is printed, and that bad input leaves nothing
behind.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data import World
from data.prepare import __main__ as prepare
from tests.shared import ROOT, shared_path

TRAIN = [
    ("t0", "Who was the director of Pilot?", ["Ann Ash"]),
    ("t1", "What is the capital of Nan?", ["Nan"]),
    ("t2", "Who is the author of Glas?", ["Dee Dale"]),
    ("t3", "Who is the mother of ?", ["Eve"]),
    ("t4", "In what country is Cave?", ["Italy"]),
]
TEST = [("s0", "What is the capital of Nan?", ["Nan"]), ("s1", "What color is ruby?", ["red"])]


def write_jsonl(path, rows):
    lines = [
        json.dumps({"id": id, "question": question, "answers": answers})
        for id, question, answers in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def arguments(tmp_path):
    """Two good files and an output directory in an otherwise empty place."""
    train, test = (
        write_jsonl(tmp_path / "train.jsonl", TRAIN),
        write_jsonl(tmp_path / "test.jsonl", TEST),
    )
    return ["popqa", "--from", f"train={train}", f"test={test}", "--out", str(tmp_path / "out")]


def tree(directory):
    """Everything below `directory`: relative name -> bytes (None for a directory)."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in Path(directory).rglob("*")
    }


def fails(capsys, arguments, message):
    """Runs; asserts exit code 2, one line on stderr, nothing on stdout."""
    try:
        code = prepare.main(arguments)
    except SystemExit as stop:  # argparse
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out, err) == (2, "", f"error: {message}\n")


def test_writes_a_world(arguments, tmp_path):
    assert prepare.main(arguments) == 0
    assert sorted(tree(tmp_path / "out")) == [
        "corpus.jsonl",
        "questions",
        "questions/popqa.dev.jsonl",
        "questions/popqa.test.jsonl",
        "questions/popqa.train.jsonl",
        "report.json",
        "world.json",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "test.jsonl", "train.jsonl"]
    world = World.open(tmp_path / "out")
    assert [q.answers for q in world.questions("popqa", "test")] == [("Nan",), ("red",)]
    assert len(world.corpus) == 5  # Nan's fact is in both files


def test_report_is_printed_and_written(arguments, tmp_path, capsys):
    prepare.main(arguments)
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["overlap_dropped"] == {"train in test": 1}
    assert report["splits"] == {"train": 2, "dev": 1, "test": 2}
    for line in (
        'read: {"train": 5, "test": 2}',
        'overlap_dropped: {"train in test": 1}',
        'splits: {"train": 2, "dev": 1, "test": 2}',
        "passages: 5",
        "facts: 5",
        """fit_no_template: ["train t3 'Who is the mother of ?'"]""",
    ):
        assert f"{line}\n" in printed
    assert printed.endswith(
        f"next: python train_sft.py --world {tmp_path / 'out'} --dataset popqa --out runs/out-sft\n"
    )


@pytest.mark.parametrize(
    "bad, message",
    [
        ('{"id": "a", "question": "What genre is A?", "answers": ["x"]}\n{', ":2: not JSON"),
        ('{"id": "a", "question": "What genre is A?"}', ":1: lacks the field 'answer'"),
        ("", ": holds no questions"),
    ],
)
def test_bad_file_leaves_nothing(arguments, tmp_path, capsys, bad, message):
    (tmp_path / "test.jsonl").write_text(bad)
    before = tree(tmp_path)
    fails(capsys, arguments, f"{tmp_path / 'test.jsonl'}{message}")
    assert tree(tmp_path) == before


def test_missing_file(arguments, tmp_path, capsys):
    (tmp_path / "train.jsonl").unlink()
    fails(capsys, arguments, f"{tmp_path / 'train.jsonl'}: no such file or folder")
    assert sorted(tree(tmp_path)) == ["test.jsonl"]


def test_out_that_is_not_empty(arguments, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    fails(capsys, arguments, f"{out}: exists and is not an empty folder")
    assert tree(tmp_path) == before


def test_out_that_is_a_file(arguments, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    fails(capsys, arguments, f"{tmp_path / 'out'}: exists and is not an empty folder")
    assert (tmp_path / "out").read_text() == "mine"


def test_out_that_is_empty_or_below_nothing(arguments, tmp_path):
    (tmp_path / "out").mkdir()
    assert prepare.main(arguments) == 0
    assert prepare.main([*arguments[:-1], str(tmp_path / "new/worlds/out")]) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "new/worlds/out")


@pytest.mark.parametrize("step", ["save", "rename"])
def test_disk_full_leaves_nothing(arguments, tmp_path, capsys, monkeypatch, step):
    before = tree(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        *((prepare, "write_json") if step == "save" else (prepare.os, "rename")), full
    )
    problem = "cannot be written: No space left on device"
    fails(capsys, arguments, f"{tmp_path / 'out'}: {problem}")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "extra, message",
    [
        (
            ["--sed", "1"],
            "unrecognized arguments: --sed 1 (see python -m data.prepare --help)",
        ),  # no abbreviations either
        (["--word", "1"], "unrecognized arguments: --word 1 (see python -m data.prepare --help)"),
        (
            ["--words", "x"],
            "argument --words: invalid int value: 'x' (see python -m data.prepare --help)",
        ),
    ],
)
def test_unknown_flags(arguments, tmp_path, capsys, extra, message):
    fails(capsys, arguments + extra, message)
    assert not (tmp_path / "out").exists()


def test_no_set_and_unknown_set(capsys):
    fails(
        capsys,
        [],
        "the following arguments are required: SET, --out (see python -m data.prepare --help)",
    )
    with pytest.raises(SystemExit) as stop:
        prepare.main(["squad"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: argument SET: invalid choice: 'squad'")


def test_official_files_from_the_command_line(tmp_path):
    files = [str(shared_path(f"datasets/popqa.{split}.jsonl.gz")) for split in ("train", "test")]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "data.prepare",
            "popqa",
            "--from",
            f"train={files[0]}",
            f"test={files[1]}",
            "--out",
            "world",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert 'overlap_dropped: {"train in test": 111}\n' in run.stdout
    assert (
        '\nfit_no_template: ["train popqa_train:' in run.stdout
        and """, "test popqa_test:699 'What is the capital of ?'"]\n""" in run.stdout
    )
    assert World.open(tmp_path / "world").questions("popqa", "test")[0].id == "popqa_test:0"
