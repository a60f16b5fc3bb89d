"""python -m data.prepare SET and mine: from published files and own documents to worlds, and what
bad input leaves behind.
"""

import gzip
import json
import shlex
import zipfile
from pathlib import Path

import pytest

from data import Question, World
from data.metrics import contains_answer
from data.prepare import __main__ as prepare
from data.prepare.build import arrange
from data.prepare.sets import CORPORA, FILES, SETS
from tests.data.prepare.test_formats import HOTPOT, OPENBOOK
from tests.data.prepare.test_main import fails, tree

OPENBOOK_ZIP = "OpenBookQA-V1-Sep2018.zip"


def rows(file, *records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def ask(id, question, **fields):
    return {"id": id, "question": question, "answers": ["x"], **fields}


def ids(world, name):
    return {
        split: [q.id for q in world.questions(name, split)]
        for split in ("train", "dev", "test")
        if f"{name}.{split}" in world.splits
    }


@pytest.fixture
def corpus(tmp_path):
    return rows(
        tmp_path / "corpus.jsonl",
        {"_id": "p1", "title": "T", "text": "one two"},
        {"_id": "p2", "title": "", "text": "three"},
    )


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(*argv) -> int:
    return prepare.main([str(arg) for arg in argv])


# ----------------------------------------------------------------------------- own documents


@pytest.fixture
def own(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/velmor.md").write_text(
        "# Velmor\nVelmor lies in Norland. " + "It rains there. " * 60
    )
    (tmp_path / "faq.csv").write_text(
        "question,answer\n" + "".join(f"Question {i}?,answer {i}|alias {i}\n" for i in range(20))
    )
    return [
        "mine",
        "--documents",
        tmp_path / "docs",
        "--questions",
        tmp_path / "faq.csv",
        "--out",
        tmp_path / "out",
    ]


def test_own_documents_become_a_world(own, out, capsys):
    assert run(*own) == 0
    world = World.open(out)
    assert (world.name, world.k, world.quota) == ("out", 4, 1)
    assert [(p.id, p.title) for p in world.corpus] == [
        ("velmor.md#1", "Velmor"),
        ("velmor.md#2", "Velmor"),
    ]
    assert {split: len(names) for split, names in ids(world, "mine").items()} == {
        "train": 16,
        "dev": 2,
        "test": 2,
    }
    asked = [q for split in ("train", "dev", "test") for q in world.questions("mine", split)]
    assert {q.id for q in asked} == {f"mine:{i}" for i in range(20)} and all(
        q.gold_passages is None for q in asked
    )
    assert next(q for q in asked if q.id == "mine:3").answers == ("answer 3", "alias 3")
    assert json.loads((out / "report.json").read_text())["splits"] == {
        "train": 16,
        "dev": 2,
        "test": 2,
    }
    printed = capsys.readouterr().out
    assert 'passages: 2\nwords_per_passage: {"mean": 93.0, "max": 101}\n' in printed
    assert printed.endswith(
        "\nwarning: 16 training questions; too few for a new policy, use --init\n"
        f"wrote {out}; next: python train_sft.py --world {out} --dataset mine"
        " --passage-tokens 160 --out runs/out-sft\n"
    )


def test_the_split_depends_on_the_questions_alone(own, out, tmp_path):
    """Not on the order of the rows, nor on the run; shares are flags; a question that comes twice
    is in one split.
    """
    lines = (tmp_path / "faq.csv").read_text().splitlines()
    splits = []
    for name, body in (("a", lines[1:]), ("b", [*lines[:0:-1], "QUESTION  3?,answer 3"])):
        (tmp_path / "faq.csv").write_text("\n".join([lines[0], *body]) + "\n")
        run(*own[:-1], tmp_path / name)
        world = World.open(tmp_path / name)
        splits.append(
            {
                split: {
                    q.question.lower().replace("  ", " ") for q in world.questions("mine", split)
                }
                for split in ids(world, "mine")
            }
        )
    assert splits[0] == splits[1]
    run(*own[:-1], tmp_path / "c", "--dev-share", "0", "--test-share", ".4")
    assert {
        split: len(names) for split, names in ids(World.open(tmp_path / "c"), "mine").items()
    } == {"train": 13, "test": 8}


# ---------------------------------------------------------------------------- published sets


def test_a_set_with_its_own_passages(tmp_path, out, capsys, monkeypatch):
    """An archive as published: its splits are known, equal paragraphs are one passage, dev is
    carved from train.
    """
    facts = ["the sun warms", "rain falls", "the sun warms"]
    monkeypatch.delitem(FILES[OPENBOOK_ZIP], "sha256")
    with zipfile.ZipFile(tmp_path / OPENBOOK_ZIP, "w") as archive:
        for split in ("train", "dev", "test"):
            text = "".join(
                json.dumps(
                    {
                        **OPENBOOK,
                        "id": f"{split}{i}",
                        "fact1": fact,
                        "question": {**OPENBOOK["question"], "stem": f"{split} {i}"},
                    }
                )
                + "\n"
                for i, fact in enumerate(facts)
            )
            archive.writestr(f"OpenBookQA-V1-Sep2018/Data/Additional/{split}_complete.jsonl", text)
    assert run("openbookqa", "--downloads", tmp_path, "--out", out) == 0
    world = World.open(out)
    assert [p.text for p in world.corpus] == ["the sun warms", "rain falls"]
    assert ids(world, "openbookqa") == {
        split: [f"{split}{i}" for i in range(3)] for split in ("train", "dev", "test")
    }
    assert world.questions("openbookqa", "test")[2].gold_passages == (world.corpus[0].id,)
    assert "Mihaylov" in world.source and world.license == "not stated by the authors"
    assert (
        'splits: {"train": 3, "dev": 3, "test": 3}\nwith_gold_passages: {"train": 3, '
        in capsys.readouterr().out
    )


def test_another_corpus_makes_gold_passages_unknown(tmp_path, out, corpus):
    (tmp_path / "hotpot_dev_distractor_v1.json").write_text(json.dumps([HOTPOT]))
    assert (
        run(
            "hotpotqa",
            "--from",
            f"test={tmp_path / 'hotpot_dev_distractor_v1.json'}",
            "--corpus",
            corpus,
            "--out",
            out,
        )
        == 0
    )
    world = World.open(out)
    assert world.splits == ["hotpotqa.test"]
    assert world.questions("hotpotqa", "test")[0].gold_passages is None and len(world.corpus) == 2


def test_overlap_is_removed_and_said(tmp_path, out, corpus, capsys):
    train = rows(
        tmp_path / "train.jsonl",
        ask("a", "Who?"),
        ask("b", "Where?"),
        ask("c", "When?", gold_passages=["p2"]),
    )
    dev, test = (
        rows(tmp_path / "dev.jsonl", ask("d", " where? "), ask("e", "Why?")),
        rows(tmp_path / "test.jsonl", ask("f", "WHO?"), ask("g", "Why?")),
    )
    assert (
        run(
            "nq",
            "--from",
            f"train={train}",
            f"dev={dev}",
            f"test={test}",
            "--corpus",
            corpus,
            "--out",
            out,
        )
        == 0
    )
    assert ids(World.open(out), "nq") == {"train": ["c"], "dev": ["d"], "test": ["f", "g"]}
    printed = capsys.readouterr().out
    for line in (
        'overlap_dropped: {"train in test": 1, "dev in test": 1, "train in dev": 1}',
        'read: {"train": 3, "dev": 2, "test": 2}',
    ):
        assert f"{line}\n" in printed


def test_duplicates_that_contradict_each_other_are_counted(tmp_path, out, corpus, capsys):
    def answered(id, question, *answers):
        return {"id": id, "question": question, "answers": answers}

    train = rows(
        tmp_path / "train.jsonl",
        answered("a", "Who?", "Ann", "A."),
        answered("b", " who?", "the ann"),
        answered("c", "Where?", "here"),
        answered("d", "Where?", "there"),
        answered("e", "Where?", "here"),
        answered("f", "When?", "now"),
    )
    test = rows(tmp_path / "test.jsonl", answered("g", "When?", "then"), answered("h", "?", "x"))
    files = [f"train={train}", f"test={test}"]
    assert run("nq", "--from", *files, "--corpus", corpus, "--out", out) == 0
    assert "\ncontradicting_duplicates: 2\n" in capsys.readouterr().out


def test_the_next_command_can_be_pasted(own, tmp_path, capsys):
    out = tmp_path / "my world; $(x)"
    assert run(*own[:-1], out) == 0
    typed = capsys.readouterr().out.rpartition("next: ")[2]
    assert shlex.split(typed)[2:] == [
        *("--world", str(out), "--dataset", "mine", "--passage-tokens", "160"),
        *("--out", "runs/my world; $(x)-sft"),
    ]


def test_remarks_on_documents_are_printed(own, out, tmp_path, capsys):
    (tmp_path / "docs/scan.pdf").touch()
    (tmp_path / "docs/\x1b.txt").write_text("x" * 1001)
    assert run(*own) == 0
    printed, progress = capsys.readouterr()
    assert (
        'remarks: {"left out: .pdf": 1, "words of more than 1,000 characters cut in '
        '\\u001b.txt": 1}\n'
    ) in printed
    assert "\x1b.txt" not in printed + progress


def test_a_path_that_no_disk_takes(own, tmp_path, capsys):
    own[2] = tmp_path / ("x" * 300)
    assert run(*own) == 2
    assert capsys.readouterr().err == f"error: [Errno 36] File name too long: '{own[2]}'\n"


def test_dev_is_carved_from_train_without_its_test_questions():
    questions = [Question(str(i), f"q{i}", ("a",)) for i in range(40)]
    splits, dropped = arrange({"train": questions, "test": questions[:10]}, 0.1, 0.1)
    assert {split: len(of) for split, of in splits.items()} == {
        "train": 27,
        "dev": 3,
        "test": 10,
    } and dropped == {"overlap_dropped": {"train in test": 10}}
    assert not {q.id for q in splits["train"]} & {q.id for q in splits["dev"]}
    assert arrange({"test": questions}, 0.1, 0.1)[0] == {"test": questions}
    assert arrange({"": questions[:2]}, 0.1, 0.1)[0] == {"train": questions[:2]}  # too few


def test_a_set_from_its_address(tmp_path, out, corpus, capsys, monkeypatch):
    """Downloaded into --downloads, once; the checksum of what has none published is printed."""
    fetched = []

    def download(url, target, sha256=None, megabytes=None):
        fetched.append(url)
        target.parent.mkdir(exist_ok=True)
        rows(target, {"question": "who", "answer": ["A"]})
        return "00ff"

    monkeypatch.setattr("data.prepare.sets.download", download)
    assert run("nq", "--corpus", corpus, "--downloads", tmp_path / "down", "--out", out) == 0
    assert fetched == [FILES[path]["url"] for path in SETS["nq"]["splits"].values()]
    assert (
        '\nsha256: {"NQ-open.train.jsonl": "00ff", "NQ-open.dev.jsonl": "00ff"}\n'
    ) in capsys.readouterr().out
    assert (
        run(
            "nq",
            "--from",
            "test=http://example.org/a/my.jsonl?x=1",
            "--corpus",
            corpus,
            "--downloads",
            tmp_path / "down",
            "--out",
            tmp_path / "two",
        )
        == 0
    )
    assert (
        fetched[-1] == "http://example.org/a/my.jsonl?x=1" and (tmp_path / "down/my.jsonl").exists()
    )


def test_a_known_corpus(tmp_path, out, monkeypatch):
    """DPR's Wikipedia by its name: licence and citation of both halves are in the world."""
    (tmp_path / "psgs_w100.tsv.gz").write_bytes(gzip.compress(b"id\ttext\ttitle\n1\tone\tT\n"))
    monkeypatch.setattr("data.prepare.sets.download", lambda url, target, sha256, megabytes: sha256)
    assert (
        run(
            "nq",
            "--from",
            rows(tmp_path / "q.jsonl", ask("a", "q")),
            "--corpus",
            "psgs_w100",
            "--downloads",
            tmp_path,
            "--out",
            out,
        )
        == 0
    )
    world = World.open(out)
    assert (
        world.license == "CC BY-SA 3.0; CC BY-SA 3.0 (Wikipedia)"
        and "Karpukhin" in world.source
        and len(world.corpus) == 1
    )


def test_published_addresses():
    """Every set says where it is; a checksum is 64 hex digits or absent."""
    for name, known in SETS.items():
        if name != "mine":
            assert known["license"] and known["citation"]
            assert set(known["splits"]) == {""} or {"train", "test"} <= set(known["splits"])
        assert all(path.partition("/")[0] in FILES for path in known["splits"].values())
    assert all(corpus["license"] and corpus["file"] in FILES for corpus in CORPORA.values())
    for file in FILES.values():
        assert file["url"].startswith(("http://", "https://"))
        assert 1 <= file["megabytes"] <= 5000
        assert "sha256" not in file or (len(file["sha256"]) == 64 and int(file["sha256"], 16))


# --------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "argv, problem",
    [
        (
            ["medqa", "--corpus", "{corpus}"],
            "data_clean.zip cannot be downloaded without a browser: fetch"
            " https://drive.google.com/file/d/"
            "1ImYUSLk9JbgHXOemfvyiDiirluZHPeQw/view by hand and put it at {down}/data_clean.zip",
        ),
        (
            ["nq"],
            "no passages come with these questions: name a corpus with --corpus (psgs_w100,"
            " a file or a folder)",
        ),
        (
            ["hotpotqa", "--from", "{good}"],
            "no passages come with these questions: name a corpus with --corpus (psgs_w100,"
            " a file or a folder)",
        ),
        (["nq", "--corpus", "{dir}/none"], "{dir}/none: no such file or folder"),
        (
            ["nq", "--corpus", "{corpus}", "--from", "test={dir}/none"],
            "{dir}/none: no such file or folder",
        ),
        (
            ["nq", "--corpus", "{corpus}", "--from", "{dir}"],
            "{dir}: its name must end in .jsonl, .json, .tsv, .csv, or in that and .gz",
        ),
        (
            ["nq", "--corpus", "{corpus}", "--from", "test={good}", "{good}"],
            "--from: name the split of every file or of none, as in train=FILE test=FILE",
        ),
        (
            ["nq", "--corpus", "{corpus}", "--from", "{bad}"],
            "{bad}:2: duplicate id 'a', first at {bad}:1",
        ),
        (["nq", "--corpus", "{corpus}", "--from", "{empty}"], "{empty}: holds no questions"),
        (["nq", "--corpus", "{empty}", "--from", "{good}"], "{empty}: the corpus is empty"),
        (
            ["nq", "--corpus", "{corpus}", "{corpus}", "--from", "{good}"],
            "{corpus}:1: duplicate id 'p1'",
        ),
        (
            ["nq", "--corpus", "{corpus}", "--from", "{gold}"],
            "train: question 'a': the gold passage 'p9' is not in the corpus",
        ),
        (
            ["mine", "--documents", "{dir}/none", "--questions", "{good}"],
            "{dir}/none: no such file or folder",
        ),
    ],
)
def test_bad_input_leaves_nothing(argv, problem, tmp_path, corpus, out, capsys):
    places = {
        "dir": tmp_path,
        "corpus": corpus,
        "down": tmp_path / "down",
        "empty": rows(tmp_path / "empty.jsonl"),
        "good": rows(tmp_path / "good.jsonl", ask("a", "q")),
        "bad": rows(tmp_path / "bad.jsonl", ask("a", "q"), ask("a", "r")),
        "gold": rows(tmp_path / "gold.jsonl", ask("a", "q", gold_passages=["p9"])),
    }
    before = tree(tmp_path)
    code = prepare.main(
        [arg.format(**places) for arg in argv]
        + ["--out", str(out), "--downloads", str(tmp_path / "down")]
    )
    printed, err = capsys.readouterr()
    said = [
        line.rpartition("\r")[2] for line in err.splitlines() if "error" in line
    ]  # beside the progress bar of the corpus
    assert (code, printed, len(said)) == (2, "", 1) and said[0].startswith(
        f"error: {problem.format(**places)}"
    )
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "argv, problem",
    [
        (["mine", "--out", "x"], "mine needs --questions (see python -m data.prepare --help)"),
        (
            ["nq", "--out", "x", "--dev-share", ".9"],
            "--words must be at least 1, shares at least 0 and less than 0.5 (see python"
            " -m data.prepare --help)",
        ),
        (
            ["nq", "--out", "x", "--words", "0"],
            "--words must be at least 1, shares at least 0 and less than 0.5 (see python"
            " -m data.prepare --help)",
        ),
    ],
)
def test_bad_flags(argv, problem, capsys):
    fails(capsys, argv, problem)


def test_out_exists(own, out, capsys):
    out.mkdir()
    (out / "notes.txt").touch()
    fails(capsys, [str(arg) for arg in own], f"{out}: exists and is not an empty folder")


def test_the_handbook_makes_a_world_whose_answers_its_passages_state(out):
    """The documents and questions that docs/own-data.md was tried with."""
    folder = Path(__file__).parents[1]
    command = ["mine", "--documents", folder / "handbook.jsonl"]
    command += ["--questions", folder / "handbook.tsv", "--out", out]
    assert prepare.main(list(map(str, command))) == 0
    world = World.open(out)
    asked = [q for split in ("train", "dev", "test") for q in world.questions("mine", split)]
    assert len(world.corpus) == 60 and len(asked) == 95
    for question in asked:
        assert any(contains_answer(p.full_text, question.answers) for p in world.corpus), question
