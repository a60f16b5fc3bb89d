"""Opening and saving worlds: generated ones by name, others as directories (the format:
data.world.World).

Left out on purpose: locks (two writers of one directory), partial reading of a corpus.
"""

import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from data.files import (
    LONGEST_WORD,
    cut_words,
    json_lines,
    json_object,
    make_directory,
    optional,
    parse_json,
    read_text,
    string,
    strings,
    write_lines,
)
from data.mini.generate import generate
from data.world import Passage, Question, World, WorldError, printable

GENERATED = ("mini", "tiny")
TEXT_FIELDS = ("name", "description", "license", "source")
RANGES = {"k": (1, 1000), "quota": (0, 1000)}


def open_world(name_or_dir: str | os.PathLike) -> World:
    """Generate "mini[:SEED]" or "tiny[:SEED]", or read a directory. Raises WorldError.

    The corpus is read and checked here, a question file when it is first asked for.
    """
    name, colon, seed = str(name_or_dir).partition(":")
    if name not in GENERATED:
        return _read_directory(Path(name_or_dir))
    if colon and not re.fullmatch("[0-9]{1,18}", seed):
        wanted = f"the seed must be a whole number, as in '{name}:1'"
        raise WorldError(f"world {str(name_or_dir)!r}: {wanted}")
    return generate(name, int(seed or 0))


def _read_directory(directory: Path) -> World:
    if not directory.is_dir():
        generated = ", ".join(f"{name}, {name}:SEED" for name in GENERATED)
        raise WorldError(f"{directory}: no such directory, and not a generated world ({generated})")
    corpus_file = _plain_or_gz(directory / "corpus.jsonl")
    if corpus_file is None:
        raise WorldError(f"{directory}: not a world: it has no corpus.jsonl or corpus.jsonl.gz")
    corpus = _read_corpus(corpus_file)
    ids = {passage.id for passage in corpus}
    questions = {}
    for file in sorted(directory.glob("questions/*.jsonl*")):
        set_name, _, split = file.name.removesuffix(".gz").removesuffix(".jsonl").rpartition(".")
        if not (set_name and split and file.name.endswith((".jsonl", ".jsonl.gz"))):
            wanted = "<set>.<split>.jsonl or <set>.<split>.jsonl.gz"
            raise WorldError(f"{file}: the name must be {wanted}")
        file = _plain_or_gz(file.with_name(f"{set_name}.{split}.jsonl")) or file
        questions[f"{set_name}.{split}"] = partial(_read_questions, file, ids)
    return World(corpus=corpus, questions=questions, **_read_metadata(directory))


def _plain_or_gz(file: Path) -> Path | None:
    """`file`, or `file`.gz, whichever exists; both would leave open which one counts."""
    packed = file.with_name(file.name + ".gz")
    if file.is_file() and packed.is_file():
        raise WorldError(f"{file}: both this file and {packed.name} exist; keep one")
    return next((candidate for candidate in (file, packed) if candidate.is_file()), None)


def _read_metadata(directory: Path) -> dict:
    """The fields of world.json, all of which have defaults, as has the file."""
    file = directory / "world.json"
    metadata = {"name": directory.resolve().name or "world"}
    if not file.exists():
        return metadata
    where = f"{file}:1"
    row = json_object(parse_json(read_text(file), file), where)
    for name in TEXT_FIELDS:
        if name in row:
            metadata[name] = string(row, name, where, blank=name != "name")
    if {"/", "\\"} & set(metadata["name"]):
        raise WorldError(f"{where}: 'name' must hold no slash: results are files of this name")
    if "name" in row and not _is_file_name(metadata["name"]):
        raise WorldError(f"{where}: 'name' must be a file's name of at most 100 characters")
    for name, (least, most) in RANGES.items():
        if name in row:
            if type(row[name]) is not int or not least <= row[name] <= most:
                wanted = f"a whole number of at least {least} and at most {most}"
                raise WorldError(f"{where}: {name!r} must be {wanted}")
            metadata[name] = row[name]
    return metadata


def _is_file_name(name: str) -> bool:
    return name.isprintable() and len(name) <= 100 and name not in (".", "..")


def _read_corpus(file: Path) -> list[Passage]:
    corpus, first_line, long = [], {}, []
    for where, row in json_lines(file):
        id, title = identifier(row, where, first_line), optional(row, "title", where)
        (title, a), (text, b) = map(cut_words, (title, string(row, "text", where, blank=True)))
        corpus.append(Passage(id, title, text))
        long += [where] * bool(a + b)
    if not corpus:
        raise WorldError(f"{file}: the corpus is empty")
    if long:
        about = (
            f"a word of more than {LONGEST_WORD:,} characters is cut; so in {len(long)} passages"
        )
        print(printable(f"{long[0]}: {about}"), file=sys.stderr)
    return corpus


def _read_questions(file: Path, passage_ids: set[str]) -> list[Question]:
    questions, first_line = [], {}
    for where, row in json_lines(file):
        question = question_of(row, where, identifier(row, where, first_line))
        for id in question.gold_passages or ():
            if id not in passage_ids:
                raise WorldError(
                    f"{where}: 'gold_passages' names {id!r}, which is not in the corpus"
                )
        questions.append(question)
    if not questions:
        raise WorldError(f"{file}: holds no questions")
    return questions


def identifier(row: dict, where: str, first_line: dict[str, str]) -> str:
    """The field "id", or BEIR's "_id", which must be new: first_line maps the former ids to their
    places.
    """
    id = string({"id": row["_id"]} if "_id" in row and "id" not in row else row, "id", where)
    if id in first_line:
        former = first_line[id].rpartition(":")[2]
        raise WorldError(f"{where}: duplicate id {id!r}, first on line {former}")
    first_line[id] = where
    return id


def question_of(row: dict, where: str, id: str) -> Question:
    """The question in a row of the world format; unknown fields are ignored. Raises WorldError."""
    if "answers" not in row and "golden_answers" in row:
        row = {**row, "answers": row["golden_answers"]}
    question = string(row, "question", where)
    answers = strings(row, "answers", where)
    if not answers:
        raise WorldError(f"{where}: 'answers' is empty")
    if any(cut_words(text)[1] for text in (question, *answers)):
        raise WorldError(f"{where}: a word of more than {LONGEST_WORD:,} characters")
    popularity = row.get("popularity")
    if popularity is not None:
        if type(popularity) not in (int, float) or not 0 <= popularity < 1e300:  # nor nan
            raise WorldError(f"{where}: 'popularity' must be a number of at least 0")
        popularity = float(popularity)
    gold = None if row.get("gold_passages") is None else strings(row, "gold_passages", where)
    labels = {
        name: None if row.get(name) is None else string(row, name, where)
        for name in ("slice", "relation", "type")
    }
    return Question(id, question, answers, popularity=popularity, gold_passages=gold, **labels)


# ----------------------------------------------------------------------------------- writing


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def save_world(world: World, directory: str | os.PathLike) -> None:
    """Write the directory format; each file appears whole or not at all, the corpus last.

    Raises WorldError; before anything is written when the directory holds files that would mix with
    this world's.
    """
    directory = Path(directory)
    files = {
        directory / f"questions/{key}.jsonl": world.questions(*key.rsplit(".", 1))
        for key in world.splits
    }
    for other in [*directory.glob("corpus.jsonl.gz"), *directory.glob("questions/*.jsonl*")]:
        if other not in files:
            raise WorldError(f"{other}: belongs to another world; save this one elsewhere")
    metadata = {name: getattr(world, name) for name in (*TEXT_FIELDS, *RANGES)}
    try:
        make_directory(directory / "questions")
        for file, questions in files.items():
            write_lines(file, (_json(_given_fields(question)) for question in questions))
        write_lines(directory / "world.json", [json.dumps(metadata, indent=1, ensure_ascii=False)])
        write_corpus(directory, world.corpus)
    except OSError as error:
        place = error.filename or directory
        raise WorldError(f"{place}: cannot be written: {error.strerror}") from None


def _given_fields(question: Question) -> dict:
    return {name: value for name, value in asdict(question).items() if value is not None}


def write_corpus(directory: Path, passages: Iterable[Passage]) -> None:
    """Write corpus.jsonl, one passage at a time. Raises OSError."""
    write_lines(directory / "corpus.jsonl", (_json(passage._asdict()) for passage in passages))
