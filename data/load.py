"""Opening and saving worlds: generated ones by name, others as directories (docs/own-data.md).

Left out on purpose: locks (two writers of one directory), partial reading of a corpus.
"""

import os
import re
import sys
from dataclasses import asdict
from pathlib import Path

from data import files
from data.mini.generate import SCALES, generate
from data.records import Record, collect, json_lines, parse_json, passage_of, question_of
from data.world import Passage, Question, World, WorldError, printable

FEW = 2000  # training questions, below which a new policy learns them by heart and nothing else
TEXT_FIELDS = ("name", "description", "license", "source")
RANGES = {"k": (1, 1000), "quota": (0, 1000)}


def open_world(name_or_dir: str | os.PathLike) -> World:
    """Generate "mini[:SEED]" or "tiny[:SEED]", or read a directory. Raises WorldError."""
    name, colon, seed = str(name_or_dir).partition(":")
    if name not in SCALES:
        return _read_directory(Path(name_or_dir))
    if colon and not re.fullmatch("[0-9]{1,18}", seed):
        wanted = f"the seed must be a whole number, as in '{name}:1'"
        raise WorldError(f"world {str(name_or_dir)!r}: {wanted}")
    return generate(name, int(seed or 0))


def _read_directory(directory: Path) -> World:
    if not directory.is_dir():
        generated = ", ".join(f"{name}, {name}:SEED" for name in SCALES)
        raise WorldError(f"{directory}: no such directory, and not a generated world ({generated})")
    found = {}  # "corpus" or "<set>.<split>" -> its file
    corpora = [directory / "corpus.jsonl", directory / "corpus.jsonl.gz"]
    for file in [*filter(Path.is_file, corpora), *sorted(directory.glob("questions/*.jsonl*"))]:
        name = re.fullmatch(r"(corpus|.+\.[^.]+)\.jsonl(\.gz)?", file.name)
        if not name:
            wanted = "<set>.<split>.jsonl or <set>.<split>.jsonl.gz"
            raise WorldError(f"{file}: the name must be {wanted}")
        if name[1] in found:
            raise WorldError(f"{found[name[1]]}: both this file and {file.name} exist; keep one")
        found[name[1]] = file
    if "corpus" not in found:
        raise WorldError(f"{directory}: not a world: it has no corpus.jsonl or corpus.jsonl.gz")
    corpus = _read_corpus(found.pop("corpus"))
    ids = {passage.id for passage in corpus}
    questions = {name: _read_questions(file, ids) for name, file in found.items()}
    return World(corpus=corpus, questions=questions, **_read_metadata(directory))


def _read_metadata(directory: Path) -> dict:
    """The fields of world.json, all of which have defaults, as has the file."""
    file = directory / "world.json"
    metadata = {"name": directory.resolve().name or "world"}
    content = parse_json(files.read_text(file), file) if file.exists() else {}
    row = Record(content, f"{file}:1")
    metadata |= {name: row.text(name, name != "name") for name in TEXT_FIELDS if name in row}
    name = row.get("name", "w")
    if not name.isprintable() or len(name) > 100 or name in (".", "..") or {"/", "\\"} & set(name):
        raise row.error("'name' must be a file's name of at most 100 characters")
    for name, (least, most) in RANGES.items():
        if name in row:
            if type(row[name]) is not int or not least <= row[name] <= most:
                wanted = f"a whole number of at least {least} and at most {most}"
                raise row.error(f"{name!r} must be {wanted}")
            metadata[name] = row[name]
    return metadata


def _read_corpus(file: Path) -> list[Passage]:
    rows = ((row.where, passage_of(row)) for row in json_lines(file))
    read = collect(rows, f"{file}: the corpus is empty")
    corpus = [Passage(p.id, *map(files.cut_words, p[1:])) for p in read]
    if long := [p.id for p, cut in zip(read, corpus, strict=True) if p != cut]:
        about = f"a word of more than {files.LONGEST_WORD:,} characters is cut"
        problem = f"{file}: passage {long[0]!r}: {about}; so in {len(long)} passages"
        print(printable(problem), file=sys.stderr)
    return corpus


def _read_questions(file: Path, ids: set[str]) -> list[Question]:
    rows = ((row.where, question_of(row)) for row in json_lines(file))
    questions = collect(rows, f"{file}: holds no questions")
    check_gold(str(file), questions, ids)
    return questions


def check_gold(where: str, questions: list[Question], ids: set[str]) -> None:
    """Raises WorldError where a gold passage is none of the corpus's."""
    for question in questions:
        if lost := [id for id in question.gold_passages or () if id not in ids]:
            problem = f"the gold passage {lost[0]!r} is not in the corpus"
            raise WorldError(f"{where}: question {question.id!r}: {problem}")


def save_world(world: World, directory: str | os.PathLike) -> None:
    """Write the directory format; each file appears whole or not at all, the corpus last. Raises
    WorldError; before anything is written where files would mix with another world's."""
    directory = Path(directory)
    folder = directory / "questions"
    questions_of = {
        folder / f"{name}.jsonl": world.questions(*name.rsplit(".", 1)) for name in world.splits
    }
    for other in [*directory.glob("corpus.jsonl.gz"), *directory.glob("questions/*.jsonl*")]:
        if other not in questions_of:
            raise WorldError(f"{other}: belongs to another world; save this one elsewhere")
    metadata = {name: getattr(world, name) for name in (*TEXT_FIELDS, *RANGES)}
    try:
        files.make_directory(folder)
        for file, questions in questions_of.items():
            given = ({k: v for k, v in asdict(q).items() if v is not None} for q in questions)
            files.write_json(file, given)
        files.write_json(directory / "world.json", [metadata], indent=1)
        passages = (passage._asdict() for passage in world.corpus)
        files.write_json(directory / "corpus.jsonl", passages)
    except OSError as error:
        place = error.filename or directory
        raise WorldError(f"{place}: cannot be written: {error.strerror}") from None
