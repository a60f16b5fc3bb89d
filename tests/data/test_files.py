"""Files: what unpacks without end, what is no text, and what a power cut leaves."""

import gzip
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from data import Passage, Question, World, WorldError, files
from data.files import cut_words, read_text, text_lines
from data.prepare.__main__ import write_world
from data.prepare.formats import read_corpus, read_questions
from data.records import json_lines, records


def error(action) -> str:
    with pytest.raises(WorldError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------ limits


@pytest.fixture
def small(monkeypatch):
    """A limit of 1 MB in place of 64."""
    monkeypatch.setattr(files, "LIMIT", 1)


def packed(path: Path, content: bytes) -> Path:
    """The content as *.gz, or as the member m.jsonl of an archive."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("top/m.jsonl", content)
        return path / "m.jsonl"
    if path.suffix == ".tgz":
        with tarfile.open(path, "w:gz") as archive:
            info = tarfile.TarInfo("top/m.jsonl")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        return path / "m.jsonl"
    path.write_bytes(gzip.compress(content))
    return path


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz", "x.csv.gz", "x.zip", "x.tgz"])
@pytest.mark.parametrize("content", [b" ", b"\n", b'{"id": "a", "text": "x"}\n', b"[[],"])
def test_what_unpacks_without_end(tmp_path, small, name, content):
    """5 MB in a few kilobytes, as one line and as many; a file of text unpacks to less."""
    file = packed(tmp_path / name, content * (5_000_000 // len(content)))
    assert (tmp_path / name).stat().st_size < 40_000
    said = error(lambda: list(records(file)))
    owner = tmp_path / name if said.startswith(f"{tmp_path / name}:") else file
    rest = said.removeprefix(f"{owner}:")
    assert rest in (
        " unpacks to more than 1 MB and 30 times its size",
        "1: a line of more than 1 MB",
        "1: not JSON",
        "1: lacks the field 'question'",
    )
    assert rest != "1: not JSON" or content == b"[[],"


def test_a_line_has_a_limit_a_file_has_none(tmp_path, small):
    file = tmp_path / "x.jsonl"
    file.write_text('{"a": "' + "é" * 999_000 + '"}\n' * 1)
    assert len(next(json_lines(file))["a"]) == 999_000
    file.write_text("\n" * 1_500_000 + '{"a": 1}\n')
    assert [(row.where, row) for row in json_lines(file)] == [(f"{file}:1500001", {"a": 1})]
    file.write_text('{}\n{"a": "' + "x" * 1_000_000 + '"}\n')
    assert error(lambda: list(json_lines(file))) == f"{file}:2: a line of more than 1 MB"


def test_real_text_unpacks(tmp_path, small):
    """2 MB that pack to a tenth."""
    rows = [json.dumps({"id": str(i), "text": f"{i * 7919:x} of {i:b}"}) for i in range(40_000)]
    file = packed(tmp_path / "x.jsonl.gz", "\n".join(rows).encode())
    assert sum(1 for _ in read_corpus(file)) == 40_000


@pytest.mark.parametrize(
    "local, central",
    [
        ({6: 1}, {8: 1}),  # encrypted
        ({8: 99}, {10: 99}),  # packed in an unknown way
        ({7: 8, 30: 0xFF}, {}),  # a name in UTF-8 that is none
    ],
)
def test_damaged_zip_headers(tmp_path, local, central):
    """Python raises RuntimeError, NotImplementedError, UnicodeDecodeError: one line each."""
    file = packed(tmp_path / "x.zip", b"{}\n" * 50)
    content = bytearray((tmp_path / "x.zip").read_bytes())
    directory = content.index(b"PK\1\2")
    for place, byte in local.items():
        content[place] = byte
    for place, byte in central.items():
        content[directory + place] = byte
    (tmp_path / "x.zip").write_bytes(content)
    said = error(lambda: list(json_lines(file)))
    assert said.startswith(f"{file}:1: cannot be read: ")


# -------------------------------------------------------------------------- what is no text


def test_a_git_lfs_pointer_is_named(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    said = ": a Git LFS pointer, not the file itself: run git lfs pull"
    for name in ("x.jsonl", "x.jsonl.gz", "x.json", "x.csv", "x.md", "x.zip/m.jsonl"):
        file = tmp_path / name
        on_disk = tmp_path / name.split("/")[0]
        on_disk.write_bytes(pointer)
        read = read_corpus if name == "x.md" else read_questions
        assert error(lambda read=read, file=file: list(read(file))) == f"{on_disk}{said}"


def test_latin_1_is_named_with_the_byte_and_its_place(tmp_path):
    text = "question,answer\nWo ist Köln?,am Rhein\n"
    for name in ("x.csv", "x.jsonl", "x.json", "x.md", "x.csv.gz"):
        content = text.replace(",", ";").encode("latin-1")
        file = tmp_path / name
        file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        read = read_corpus if name == "x.md" else lambda file: read_questions(file)
        said = error(lambda read=read, file=file: list(read(file)))
        number = 1 if name == "x.jsonl" else 2
        if name != "x.jsonl":  # whose first line is no JSON
            assert said == f"{file}:{number}: not UTF-8 text: byte 0xf6 at character 9"
    file = tmp_path / "y.jsonl"
    file.write_bytes('{"id": "a"}\n{"é": "Köln"}'.encode("latin-1"))
    assert error(lambda: list(json_lines(file))) == (
        f"{file}:2: not UTF-8 text: byte 0xe9 at character 3"
    )


def test_line_ends_of_any_system_and_a_byte_order_mark(tmp_path):
    file = tmp_path / "x.txt"
    file.write_bytes(b"\xef\xbb\xbfa\rb\r\nc\n\nd")
    assert list(text_lines(file)) == [(1, "a\n"), (2, "b\n"), (3, "c\n"), (4, "\n"), (5, "d")]
    assert read_text(file) == "a\nb\nc\n\nd"


def test_words_that_are_pictures(tmp_path, capsys):
    """Cut into pieces, nothing lost, and the file is named; a question is refused."""
    picture = "QUJD" * 1000
    assert cut_words(f"a {picture} b {'x' * 1000} c") == (
        f"a {picture[:1000]} {picture[:1000]} {picture[:1000]} {picture[:1000]} b {'x' * 1000} c"
    )
    row = {"id": "p", "title": picture[:1001], "text": f"see {picture}."}
    (tmp_path / "corpus.jsonl").write_text(json.dumps(row) + "\n")
    [passage] = World.open(tmp_path).corpus
    assert max(map(len, passage.full_text.split())) == 1000
    assert passage.full_text.replace(" ", "") == f"{row['title']}see{row['text'][4:]}"
    said = "a word of more than 1,000 characters is cut; so in 1 passages"
    assert capsys.readouterr().err == f"{tmp_path}/corpus.jsonl: passage 'p': {said}\n"
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps({"question": picture, "answer": "x"}) + "\n")
    said = error(lambda: list(read_questions(file)))
    assert said == f"{file}:1: a word of more than 1,000 characters"


# ------------------------------------------------------------------------------- durability


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """The order of what is synced, renamed and removed below tmp_path: (what, path[, target])."""
    log = []

    def where(path):
        return os.path.relpath(path, tmp_path)

    def record(name, describe):
        real = getattr(os, name)

        def call(*args, **kwargs):
            what = describe(*args)
            real(*args, **kwargs)
            log.append((name, *what))  # what fails is not done

        monkeypatch.setattr(os, name, call)

    record("fsync", lambda handle: [where(os.readlink(f"/proc/self/fd/{handle}"))])
    for name in ("replace", "rename"):
        record(name, lambda source, target: [where(source), where(target)])
    for name in ("unlink", "rmdir", "mkdir"):
        record(name, lambda path, *_: [where(path) if os.path.isabs(path) else path])
    return log


def check_files(log, folder: str, names: list[str]) -> None:
    """Each file: written under another name, synced, renamed, its folder synced."""
    for name in names:
        renamed = next(
            i for i, c in enumerate(log) if c[0] == "replace" and c[2] == f"{folder}/{name}"
        )
        assert log[renamed - 1] == ("fsync", log[renamed][1])
        parent = os.path.dirname(f"{folder}/{name}")
        assert ("fsync", parent) in log[renamed:]


def a_world() -> World:
    asked = [Question("q", "Who?", ("Ann",))]
    return World(name="w", corpus=[Passage("p", "T", "x")], questions={"s.test": asked})


NAMES = ["corpus.jsonl", "world.json", "questions/s.test.jsonl"]


def test_a_saved_world_survives_a_power_cut(tmp_path, calls):
    a_world().save(tmp_path / "new/w")
    check_files(calls, "new/w", NAMES)
    for made in ("new", "new/w", "new/w/questions"):  # each folder's own entry, too
        assert ("fsync", os.path.dirname(made) or ".") in calls[calls.index(("mkdir", made)) :]
    assert [c[2] for c in calls if c[0] == "replace"][-1] == "new/w/corpus.jsonl"


def test_a_prepared_world_appears_when_it_is_durable(tmp_path, calls):
    write_world(a_world(), tmp_path / "w", {})
    [(place, new)] = [(i, c) for i, c in enumerate(calls) if c[0] == "rename"]
    assert new[2] == "w"
    check_files(calls[:place], new[1], [*NAMES, "report.json"])
    assert ("fsync", ".") in calls[place:]
