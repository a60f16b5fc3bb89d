"""A world: all that is asked (question sets) and all that is known (a corpus of passages).

Left out on purpose: relevance judgements, corpora larger than memory, and files (data/load.py).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

# Types of HotpotQA's and 2WikiMultihopQA's questions: each needs all its gold passages.
MULTI_HOP = ("bridge", "comparison", "bridge_comparison", "compositional", "inference")


def printable(text: str) -> str:
    """The text with control characters, line ends included, as escapes: fit for a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class WorldError(ValueError):
    """What is wrong with a world, or with a file for one: "FILE:LINE: problem". Always one line."""

    def __str__(self) -> str:
        return printable(super().__str__())  # files and servers have a say in the text


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
    gold_passages: tuple[str, ...] | None = None  # ids; None: unknown; (): there is none
    type: str | None = None  # of MULTI_HOP: all gold passages are needed; else any of them will do


class World:
    """A corpus and its question sets, in memory. data/__init__.py attaches
    World.open("mini" | "mini:SEED" | "tiny" | "tiny:SEED" | DIR) and world.save(DIR)."""

    def __init__(
        self,
        *,
        name: str,
        corpus: Iterable[Passage],
        questions: Mapping[str, list[Question]],
        description: str = "",
        license: str = "",
        source: str = "",
        k: int = 4,
        quota: int = 1,
    ):
        """questions: "<set>.<split>" -> its questions. k: passages per retrieval, quota: retrievals
        per question (defaults: the paper's)."""
        self.name, self.description, self.license, self.source = name, description, license, source
        self.k, self.quota = k, quota
        self.corpus = list(corpus)
        self._questions = dict(questions)

    @property
    def splits(self) -> list[str]:
        """Names "<set>.<split>" of the question lists, sorted."""
        return sorted(self._questions)

    def questions(self, set_name: str, split: str) -> list[Question]:
        """All questions of one split, in file order. Raises WorldError."""
        key = f"{set_name}.{split}"
        if key not in self._questions:
            there_are = ", ".join(self.splits) or "none"
            raise WorldError(f"world {self.name!r} has no questions {key!r}; it has: {there_are}")
        return self._questions[key]

    def union(self, set_names: str, split: str) -> list[list[Question]]:
        """One split of each of several sets, "popqa,hotpotqa". Raises WorldError."""
        names = [name.strip() for name in set_names.split(",")]
        if len(set(names)) < len(names):
            raise WorldError(f"question sets {set_names!r}: one of them comes twice")
        return [self.questions(name, split) for name in names]

    @cached_property
    def corpus_sha256(self) -> str:
        """Hash of ids, titles and texts in order: two results are comparable when it is equal."""
        digest = hashlib.sha256()
        for passage in self.corpus:
            digest.update(json.dumps(passage, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()
