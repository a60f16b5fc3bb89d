"""A question set in its authors' layout, and a corpus, as a world: splits, what occurs in two of them, passages.

    read -> drop from train and dev what the test set asks -> split where there are no splits, carve dev where there is none

The corpus is streamed: twenty million passages pass through one at a time, and only their ids are remembered.
Left out on purpose: gold passages by matching answers. Where none are published they are unknown, and data/metrics.py then
takes any passage that holds an answer for a hit, which is all that such labels could say.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from data.files import WorldError
from data.prepare.formats import read_corpus, read_questions
from data.world import Passage, Question, normalise

SPLITS = ("train", "dev", "test")
DEV_ROWS = 500  # carved from an official training set that has no dev set; a tenth of it where that is less


def read_splits(
    set_name: str, files: Iterable[tuple[str, Path]]
) -> tuple[dict[str, list[Question]], bool]:
    """Split -> questions of its files ("" for files that are still to be split), and whether passages are published with
    them. Raises WorldError."""
    splits: dict[str, list[Question]] = {}
    seen: dict[tuple[str, str], str] = {}
    passages = False
    for split, file in files:
        questions = splits.setdefault(split, [])
        for where, asked in read_questions(set_name, file):
            question = asked.question
            if not question.id:
                question = replace(
                    question, id=f"{set_name}{split and '_'}{split}:{len(questions)}"
                )
            first = seen.setdefault((split, question.id), where)
            if first is not where:
                raise WorldError(f"{where}: duplicate id {question.id!r}, first at {first}")
            questions.append(question)
            passages |= bool(asked.passages)
        if not questions:
            raise WorldError(f"{file}: holds no questions")
    return splits, passages


def arrange(
    splits: dict[str, list[Question]], dev_share: float, test_share: float
) -> tuple[dict[str, list[Question]], dict[str, int]]:
    """Train, dev and test, as far as there are questions for them, and how many were dropped: "train in test": 3."""
    if "" in splits:
        whole = splits[""]
        order = _by_hash(whole)
        test, dev = (
            max(1, round(share * len(order))) if share and len(order) > 2 else 0
            for share in (test_share, dev_share)
        )
        keys = {"train": order[test + dev :], "dev": order[test : test + dev], "test": order[:test]}
        return {split: _among(whole, keys[split]) for split in SPLITS if keys[split]}, {}
    splits = dict(splits)
    dropped = {}
    for less, more in (("train", "test"), ("dev", "test"), ("train", "dev")):
        if less in splits and more in splits:
            asked = {normalise(question.question) for question in splits[more]}
            kept = [
                question for question in splits[less] if normalise(question.question) not in asked
            ]
            dropped[f"{less} in {more}"] = len(splits[less]) - len(kept)
            splits[less] = kept
    if "train" in splits and "dev" not in splits and dev_share:
        order = _by_hash(splits["train"])
        count = min(DEV_ROWS, max(1, len(order) // 10))
        if len(order) > count:
            train = splits["train"]
            splits |= {"train": _among(train, order[count:]), "dev": _among(train, order[:count])}
    return {split: splits[split] for split in SPLITS if splits.get(split)}, dropped


def _by_hash(questions: Iterable[Question]) -> list[str]:
    """The normalised questions in an order that depends on nothing but their own words."""
    return sorted(
        {normalise(question.question) for question in questions},
        key=lambda key: hashlib.sha256(key.encode()).digest(),
    )


def _among(questions: Iterable[Question], keys: Iterable[str]) -> list[Question]:
    keys = set(keys)
    return [question for question in questions if normalise(question.question) in keys]


# ------------------------------------------------------------------------------------------------- passages


class Ids:
    """Ids seen so far. A run of whole numbers, as Wikipedia corpora have them, costs two numbers, not two gigabytes."""

    def __init__(self):
        self.others: set[str] = set()
        self.first = self.next = None

    def __contains__(self, id: str) -> bool:
        return id in self.others or (
            self.first is not None and _whole(id) and self.first <= int(id) < self.next
        )

    def add(self, id: str) -> None:
        if self.first is None and not self.others and _whole(id):
            self.first = self.next = int(id)
        if self.first is not None and id == str(self.next):
            self.next += 1
        else:
            self.others.add(id)


def _whole(id: str) -> bool:
    return id.isascii() and id.isdecimal() and (id == "0" or id[0] != "0")


class Corpus:
    """The passages of a world in the making; iterating reads them, checks ids and gold passages, and counts."""

    def __init__(
        self,
        set_name: str,
        files: Iterable[tuple[str, Path]],
        sources: Iterable[Path],
        questions: Iterable[Question],
        words: int,
    ):
        """sources: files and folders; without any, the passages that are published with the questions in `files`."""
        self.set_name, self.files, self.sources, self.words = (
            set_name,
            list(files),
            list(sources),
            words,
        )
        self.gold = {
            id: question.id for question in questions for id in question.gold_passages or ()
        }
        self.passages = self.total_words = self.longest = 0

    def __iter__(self) -> Iterator[Passage]:
        ids, missing = Ids(), dict(self.gold)
        for where, passage in self._read():
            if passage.id in ids:
                if not self.sources:
                    continue  # the same paragraph, published with another question
                raise WorldError(f"{where}: duplicate id {passage.id!r}")
            ids.add(passage.id)
            missing.pop(passage.id, None)
            words = len(passage.title.split()) + len(passage.text.split())
            self.passages, self.total_words, self.longest = (
                self.passages + 1,
                self.total_words + words,
                max(self.longest, words),
            )
            yield passage
        if not self.passages:
            raise WorldError(f"{', '.join(map(str, self.sources))}: the corpus is empty")
        for id, question in missing.items():
            raise WorldError(f"question {question!r}: its gold passage {id!r} is not in the corpus")

    def _read(self) -> Iterator[tuple[str, Passage]]:
        for source in self.sources:
            yield from read_corpus(source, self.words)
        if not self.sources:
            for _, file in self.files:
                for where, asked in read_questions(self.set_name, file):
                    yield from ((where, passage) for passage in asked.passages)
