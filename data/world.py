"""A world: everything that is asked (question sets) and everything that is known (a corpus of passages).

    world.json                                {"name", "description", "license", "source", "k", "quota"}; optional
    corpus.jsonl[.gz]                         {"id", "title", "text"}
    questions/<set>.<split>.jsonl[.gz]        {"id", "question", "answers": [...]}
                                              optional: "slice", "relation", "popularity", "gold_passages", "type"

Accepted as well: BEIR's "_id" and its corpora without titles, FlashRAG's "golden_answers". Unknown fields are
ignored. A directory of these files is somebody's own world; "mini" and "tiny" are generated (data/mini.py).

Left out on purpose: relevance judgements, passages split on the fly, corpora larger than memory.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from data.files import WorldError, identifier, json_lines, string, strings

K, QUOTA = 4, 1  # the paper's passages per retrieval and retrievals per question
MULTI_HOP = (
    "bridge",
    "comparison",
    "bridge_comparison",
    "compositional",
    "inference",
)  # types of HotpotQA and 2WikiMultihopQA


class Passage(NamedTuple):
    id: str
    title: str
    text: str

    @property
    def full_text(self) -> str:
        """What is indexed, encoded and shown to the policy."""
        return f"{self.title} {self.text}"


@dataclass(frozen=True)
class Question:
    id: str
    question: str
    answers: tuple[str, ...]  # aliases, any of which is right
    slice: str | None = None  # "popular", "tail" or "absent" in the generated worlds
    relation: str | None = None
    popularity: float | None = None
    gold_passages: tuple[str, ...] | None = (
        None  # passage ids; None: unknown; (): known to be absent from the corpus
    )
    type: str | None = (
        None  # one of MULTI_HOP: all gold passages are needed, in their order; else any of them will do
    )


class World:
    """A corpus and its question sets, in memory (`World(...)`) or from a directory (`World.open`).

    k: passages per retrieval, quota: retrievals per question; what this world is meant to be run with.
    """

    def __init__(
        self,
        *,
        name: str,
        corpus: Iterable[Passage],
        questions: Mapping[str, list[Question] | Path],
        description: str = "",
        license: str = "",
        source: str = "",
        k: int = K,
        quota: int = QUOTA,
    ):
        """questions: "<set>.<split>" -> the questions, or the file that is read when they are first asked for."""
        self.name, self.description, self.license, self.source = name, description, license, source
        self.k, self.quota = k, quota
        self.corpus = list(corpus)
        self._questions = dict(questions)

    @staticmethod
    def open(name_or_dir: str | os.PathLike) -> "World":
        """Generate "mini[:SEED]" or "tiny[:SEED]", or read a directory. Raises WorldError.

        The corpus is read and checked here, a question file when it is first asked for.
        """
        name, _, seed = str(name_or_dir).partition(":")
        if name in ("mini", "tiny"):
            from data.mini.generate import generate  # here, because data.mini builds Worlds

            if ":" in str(name_or_dir) and not re.fullmatch("[0-9]{1,18}", seed):
                raise WorldError(
                    f"world {str(name_or_dir)!r}: the seed must be a whole number, as in '{name}:1'"
                )
            return generate(name, int(seed or 0))
        return _read_directory(Path(name_or_dir))

    @property
    def splits(self) -> list[str]:
        """Names "<set>.<split>" of the question lists, sorted."""
        return sorted(self._questions)

    def union(self, set_names: str, split: str) -> list[list[Question]]:
        """One split of each of several sets, "popqa,hotpotqa". Raises WorldError, also where a name comes twice."""
        names = [name.strip() for name in set_names.split(",")]
        if len(set(names)) < len(names):
            raise WorldError(f"question sets {set_names!r}: one of them comes twice")
        return [self.questions(name, split) for name in names]

    def questions(self, set_name: str, split: str) -> list[Question]:
        """All questions of one split, in file order. Raises WorldError."""
        key = f"{set_name}.{split}"
        if key not in self._questions:
            there_are = ", ".join(self.splits) or "none"
            raise WorldError(f"world {self.name!r} has no questions {key!r}; it has: {there_are}")
        if isinstance(self._questions[key], Path):
            self._questions[key] = _read_questions(
                self._questions[key], {passage.id for passage in self.corpus}
            )
        return self._questions[key]

    @cached_property
    def corpus_sha256(self) -> str:
        """Hash of the ids, titles and texts in order: two results are comparable when it is equal."""
        digest = hashlib.sha256()
        for passage in self.corpus:
            digest.update(_json(passage).encode() + b"\n")
        return digest.hexdigest()

    def save(self, directory: str | os.PathLike) -> None:
        """Write the directory format; each file appears whole or not at all, the corpus last.

        Raises WorldError; before anything is written when the directory holds files that would mix with this world's.
        """
        directory = Path(directory)
        files = {
            directory / f"questions/{key}.jsonl": self.questions(*key.rsplit(".", 1))
            for key in self.splits
        }
        for other in [*directory.glob("corpus.jsonl.gz"), *directory.glob("questions/*.jsonl*")]:
            if other not in files:
                raise WorldError(f"{other}: belongs to another world; save this one elsewhere")
        metadata = {
            name: getattr(self, name)
            for name in ("name", "description", "license", "source", "k", "quota")
        }
        try:
            (directory / "questions").mkdir(parents=True, exist_ok=True)
            for file, questions in files.items():
                rows = (
                    {field: value for field, value in asdict(question).items() if value is not None}
                    for question in questions
                )
                _write_lines(file, map(_json, rows))
            _write_lines(
                directory / "world.json", [json.dumps(metadata, indent=1, ensure_ascii=False)]
            )
            write_corpus(directory, self.corpus)
        except OSError as error:
            raise WorldError(
                f"{error.filename or directory}: cannot be written: {error.strerror}"
            ) from None


# ---------------------------------------------------------------------------------------------- reading a directory


def _read_directory(directory: Path) -> World:
    if not directory.is_dir():
        raise WorldError(
            f"{directory}: no such directory, and not a generated world (mini, mini:SEED, tiny, tiny:SEED)"
        )
    corpus_file = _plain_or_gz(directory / "corpus.jsonl")
    if corpus_file is None:
        raise WorldError(f"{directory}: not a world: it has no corpus.jsonl or corpus.jsonl.gz")
    questions = {}
    for file in sorted(directory.glob("questions/*.jsonl*")):
        set_name, _, split = file.name.removesuffix(".gz").removesuffix(".jsonl").rpartition(".")
        if not (set_name and split and file.name.endswith((".jsonl", ".jsonl.gz"))):
            raise WorldError(
                f"{file}: the name must be <set>.<split>.jsonl or <set>.<split>.jsonl.gz"
            )
        questions[f"{set_name}.{split}"] = _plain_or_gz(file.with_name(f"{set_name}.{split}.jsonl"))
    return World(corpus=_read_corpus(corpus_file), questions=questions, **_read_metadata(directory))


def _plain_or_gz(file: Path) -> Path | None:
    """`file`, or `file`.gz, whichever exists; both would leave open which one counts."""
    found = [
        candidate for candidate in (file, file.with_name(file.name + ".gz")) if candidate.is_file()
    ]
    if len(found) == 2:
        raise WorldError(f"{file}: both this file and {file.name}.gz exist; keep one")
    return found[0] if found else None


def _read_metadata(directory: Path) -> dict:
    """The fields of world.json, every one of which has a default, as has the file: the directory's own name."""
    file = directory / "world.json"
    metadata = {"name": directory.resolve().name or "world"}
    if not file.exists():
        return metadata
    try:
        row = json.loads(file.read_bytes())
    except OSError as error:
        raise WorldError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise WorldError(f"{file}:{getattr(error, 'lineno', 1)}: not JSON") from None
    if not isinstance(row, dict):
        raise WorldError(f"{file}:1: not a JSON object")
    for field in ("name", "description", "license", "source"):
        if field in row:
            metadata[field] = string(row, field, f"{file}:1", blank=field != "name")
    if {"/", "\\"} & set(metadata["name"]):
        raise WorldError(f"{file}:1: 'name' must hold no slash: results are files of this name")
    for field, least in (("k", 1), ("quota", 0)):
        if field in row:
            if type(row[field]) is not int or row[field] < least:
                raise WorldError(f"{file}:1: {field!r} must be a whole number of at least {least}")
            metadata[field] = row[field]
    return metadata


def _read_corpus(file: Path) -> list[Passage]:
    corpus, seen = [], {}
    for where, row in json_lines(file):
        id = identifier(row, where, seen)
        title = string(row, "title", where, blank=True, default="")
        corpus.append(Passage(id, title, string(row, "text", where, blank=True)))
    if not corpus:
        raise WorldError(f"{file}: the corpus is empty")
    return corpus


def _read_questions(file: Path, passage_ids: set[str]) -> list[Question]:
    questions, seen = [], {}
    for where, row in json_lines(file):
        question = question_of(row, where, identifier(row, where, seen))
        for passage_id in question.gold_passages or ():
            if passage_id not in passage_ids:
                raise WorldError(
                    f"{where}: 'gold_passages' names {passage_id!r}, which is not in the corpus"
                )
        questions.append(question)
    return questions


def question_of(row: dict, where: str, id: str) -> Question:
    """The question in a row of the world format; unknown fields are ignored."""
    question = string(row, "question", where)
    answers = strings(
        row, "answers" if "answers" in row else "golden_answers", where, name="answers"
    )
    if not answers:
        raise WorldError(f"{where}: 'answers' is empty")
    popularity = row.get("popularity")
    if popularity is not None:
        if (
            type(popularity) not in (int, float) or not 0 <= popularity < 1e300
        ):  # neither nan nor infinite
            raise WorldError(f"{where}: 'popularity' must be a number of at least 0")
        popularity = float(popularity)
    gold = None if row.get("gold_passages") is None else strings(row, "gold_passages", where)
    labels = {
        field: None if row.get(field) is None else string(row, field, where)
        for field in ("slice", "relation", "type")
    }
    return Question(id, question, answers, popularity=popularity, gold_passages=gold, **labels)


# ---------------------------------------------------------------------------------------------- writing


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def write_corpus(directory: Path, passages: Iterable[Passage]) -> None:
    """Write corpus.jsonl, one passage at a time. Raises OSError."""
    _write_lines(directory / "corpus.jsonl", (_json(passage._asdict()) for passage in passages))


def _write_lines(file: Path, lines: Iterable[str]) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as out:
            out.writelines(line + "\n" for line in lines)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def choice(id: str, stem: str, options: dict[str, str], key: str, where: str) -> Question:
    """A multiple-choice question; the options are lettered in their order."""
    letters = dict(zip(options, "ABCDEFGHIJ"))
    if key not in letters:
        raise WorldError(
            f"{where}: the answer key {key!r} is none of the options {', '.join(options)}"
        )
    shown = " ".join(
        f"({letter}) {string(options, label, where).strip()}" for label, letter in letters.items()
    )
    return Question(id, f"{stem.strip()} {shown}", (options[key].strip(), letters[key]))


def normalise(question: str) -> str:
    """Two questions are the same when this is: capitals and spaces do not count, everything else does."""
    return tidy(question).casefold()


def tidy(text: str) -> str:
    return " ".join(text.split())
