"""Mutated valid files: whatever a file holds, a reader gives valid questions and passages or one
line that says what is wrong.

SMARTRAG_FUZZ=10000 python -m pytest tests/data/test_fuzz.py -s    so many files a reader
"""

import gzip
import io
import json
import os
import random
import tarfile
import zipfile
from dataclasses import asdict

import pytest

from data.load import open_world, question_of
from data.prepare.formats import read_corpus, read_questions
from data.records import Record
from data.world import Question, WorldError
from tests.data.prepare.test_formats import AMBIGUOUS, HOTPOT, MEDQA, MUSIQUE, OPENBOOK, TRIVIA
from tests.data.prepare.test_layouts import (
    AMBIG_HF,
    ARC_HF,
    HOTPOT_HF,
    OPENBOOK_HF,
    POPQA_HF,
    TRIVIA_HF,
)

FILES = int(os.environ.get("SMARTRAG_FUZZ", 40))  # a reader
OURS = {"id": "a", "question": "Wo liegt Köln?", "answers": ["am Rhein", "A|B"], "popularity": 3}
ROWS = {
    "popqa": [POPQA_HF, {**POPQA_HF, "possible_answers": ["x"]}],
    "nq": [{"question": "who wrote it", "answer": ["Bo", "Bob"]}, OURS],
    "ambignq": [AMBIGUOUS, AMBIG_HF],
    "hotpotqa": [HOTPOT, HOTPOT_HF],
    "2wikimultihopqa": [HOTPOT_HF, {**HOTPOT, "evidences": []}],
    "musique": [MUSIQUE],
    "triviaqa": [TRIVIA, TRIVIA_HF],
    "openbookqa": [OPENBOOK, {**OPENBOOK_HF, "fact1": "the sun warms"}],
    "arc": [ARC_HF, OPENBOOK],
    "medqa": [MEDQA, {**OURS, "options": {"A": "x", "B": "y"}, "answer_key": "B"}],
    "mine": [{"question": "Who?", "answer": "Ann"}, {"id": 3, "question": "?", "answers": ["B"]}],
}
PASSAGES = [{"id": "p0", "title": None, "text": "Velmor"}, {"_id": 1, "contents": '"T"\ntext'}]
FAQ = 'id,Question,answers,relation\n1,"Who, then?","[""Ann""]",x\n\n2,Where?,a|b,\n,,,\n'
PAGE = "<title>A &amp; b</title><body><h1>Head<p>One <b>two</b><!-- c --><![CDATA[x]]><br/>three"
NOTES = "---\na: b\n---\n# Title *x*\n\n- a [link](http://x 'y')\n\n| a | b |\n|--|--|\n| 1 | 2 |\n"
ODD = (
    None,
    True,
    -1,
    10**400,
    1e300,
    float("nan"),
    "",
    " ",
    "\ud800",
    "a\0\x1b",
    [],
    {},
    [[]],
    [{}],
)
BYTES = (
    b"\0",
    b"\xff",
    b"\r",
    b"\n",
    b'"',
    b"[" * 5000,
    b"{",
    b"|",
    b";",
    b"\t",
    b"<![",
    b"\x1f\x8b",
)


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def zipped(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("top/x.jsonl", content)
    return packed.getvalue()


def tarred(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo("top/x.jsonl")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def odd_value(value, rng):
    """The same JSON with one value or key in it replaced, doubled or removed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        rest = {name: one for name, one in value.items() if name != key}
        kind = rng.random()
        if kind < 0.1:
            return rest
        if kind < 0.2:
            return {**rest, rng.choice(("answers", "choices", "Answer", "_id")): value[key]}
        return {**rest, key: odd_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        changed = rng.choice(([], [odd_value(value[place], rng)], [value[place]] * 2))
        return value[:place] + changed + value[place + 1 :]
    return rng.choice((*ODD, [value], {"title": value}, {"a": [value]}, str(value)))


def torn(content: bytes, rng) -> bytes:
    """The bytes with a slice removed, doubled, or replaced by something."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        start, end = sorted(rng.choices(range(len(content) + 1), k=2))
        if rng.random() < 0.7:
            end = min(end, start + rng.randrange(4))
        middle = rng.choice((b"", content[start:end] * 2, rng.choice(BYTES), rng.randbytes(2)))
        content = content[:start] + middle + content[end:]
    return content


def check(question: Question):
    """It is what the world format can hold: written and read again it is the same."""
    row = {name: value for name, value in asdict(question).items() if value is not None}
    assert question_of(Record(json.loads(json.dumps(row)), "")) == question


def ask(file):
    for _, (question, passages) in read_questions(file):
        check(question)
        for passage in passages:
            " ".join(passage).encode()


def corpus(file):
    for _, passage in read_corpus(file):
        " ".join(passage).encode()


def world(file):
    opened = open_world(file.parents[file.parent.name == "questions"])
    for split in opened.splits:
        for question in opened.questions(*split.rsplit(".", 1)):
            check(question)


ASKED = lines(ROWS["mine"])
READ = {  # name -> (file, content, what reads it)
    **{name: ("x.jsonl", rows, ask) for name, rows in ROWS.items()},
    **{f"{name} list": ("x.json", rows, ask) for name, rows in ROWS.items()},
    "faq.csv": ("x.csv", FAQ.encode(), ask),
    "faq.tsv": ("x.tsv", FAQ.replace(",", "\t").encode(), ask),
    "corpus": ("x.jsonl", PASSAGES, corpus),
    "corpus table": ("x.tsv", b'id\ttext\ttitle\n1\t"A ""b"" c"\tT\n2\tplain\t\n', corpus),
    "txt": ("x.txt", "Köln. Rhein.\r\n\r\nOne two.".encode(), corpus),
    "md": ("x.md", NOTES.encode(), corpus),
    "html": ("x.html", PAGE.encode(), corpus),
    "gz": ("x.jsonl.gz", gzip.compress(ASKED), ask),
    "zip": ("x.zip/x.jsonl", zipped(ASKED), ask),
    "tar": ("x.tgz/x.jsonl", tarred(ASKED), ask),
    "world.json": ("world.json", [{"name": "w", "description": "d", "k": 3, "quota": 1}], world),
    "world corpus": (
        "corpus.jsonl",
        [{"id": "p0", "title": "T", "text": "x"}, {"_id": "p1", "text": "y"}],
        world,
    ),
    "world questions": ("questions/s.test.jsonl", [{**OURS, "gold_passages": ["p0"]}], world),
}


@pytest.mark.parametrize("name", READ)
def test_mutated_files(name, tmp_path):
    place, content, read = READ[name]
    (tmp_path / "questions").mkdir()
    if read is world:
        (tmp_path / "corpus.jsonl").write_bytes(lines([{"id": "p0", "title": "T", "text": "x"}]))
    file, rng, refused = tmp_path / place, random.Random(name), 0
    on_disk = file.parent if file.parent.suffix in (".zip", ".tgz") else file
    for number in range(FILES + 1):
        rows = content
        if isinstance(rows, list):
            if number and rng.random() < 0.7:
                rows = odd_value(rows, rng)
            as_list = place.endswith(".json") and place != "world.json"
            rows = (
                json.dumps(rows).encode()
                if as_list
                else lines(rows if type(rows) is list else [rows])
            )
        if number and (rows is content or rng.random() < 0.4):
            rows = torn(rows, rng)
        on_disk.write_bytes(rows)
        try:
            read(file)
        except WorldError as error:
            assert number and "\n" not in str(error) and str(error).isprintable(), (error, rows)
            refused += 1
        except Exception:
            print(name, rows[:2000])
            raise
    print(f"{name}: {FILES} mutated files, {refused} refused")
    assert refused < FILES
