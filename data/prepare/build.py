"""A question set and a corpus as a world: splits, what occurs in two of them, passages.

    read -> drop from train and dev what test asks -> split what has no splits, carve dev from train

Questions and passages are held in memory, as a World holds them. Left out on purpose: gold passages
by matching answers. Where none are published they are unknown, and data/metrics.py then takes any
passage that holds an answer for a hit, which is all that such labels could say.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from data.files import normalise
from data.metrics import normalize_answer
from data.prepare.formats import read_corpus, read_questions
from data.world import Passage, Question, WorldError, printable

SPLITS = ("train", "dev", "test")
DEV_ROWS = 500  # carved from a training set that has no dev set; a tenth of it where that is less
Splits = dict[str, list[Question]]


def read_splits(set_name: str, files: Iterable[tuple[str, Path]]) -> tuple[Splits, list[Passage]]:
    """Split ("": still to be split) -> questions, and the passages published with them.

    Raises WorldError.
    """
    splits: Splits = {}
    places: dict[tuple[str, str], str] = {}
    passages: dict[str, Passage] = {}  # by id: the same paragraph comes with several questions
    for split, file in files:
        questions = splits.setdefault(split, [])
        for where, (question, with_it) in read_questions(set_name, file):
            if not question.id:
                prefix = f"{set_name}_{split}" if split else set_name
                question = replace(question, id=f"{prefix}:{len(questions)}")
            first = places.setdefault((split, question.id), where)
            if first is not where:
                raise WorldError(f"{where}: duplicate id {question.id!r}, first at {first}")
            questions.append(question)
            passages |= {passage.id: passage for passage in with_it}
        if not questions:
            raise WorldError(f"{file}: holds no questions")
    return splits, list(passages.values())


def arrange(splits: Splits, dev_share: float, test_share: float) -> tuple[Splits, dict[str, int]]:
    """Train, dev and test, as far as there are questions, and how many were dropped: "train in
    test".
    """
    if "" in splits:
        return _split(splits[""], dev_share, test_share), {}
    splits = dict(splits)
    dropped = {}
    for less, more in (("train", "test"), ("dev", "test"), ("train", "dev")):
        if less in splits and more in splits:
            others = {normalise(question.question) for question in splits[more]}
            kept = [q for q in splits[less] if normalise(q.question) not in others]
            dropped[f"{less} in {more}"] = len(splits[less]) - len(kept)
            splits[less] = kept
    if "train" in splits and "dev" not in splits and dev_share:
        train, order = splits["train"], by_hash(splits["train"])
        count = min(DEV_ROWS, max(1, len(order) // 10))
        if len(order) > count:
            splits["train"], splits["dev"] = (
                _among(train, order[count:]),
                _among(train, order[:count]),
            )
    return {split: splits[split] for split in SPLITS if splits.get(split)}, dropped


def _split(questions: list[Question], dev_share: float, test_share: float) -> Splits:
    order = by_hash(questions)

    def rows(share: float) -> int:
        return max(1, round(share * len(order))) if share and len(order) > 2 else 0

    test, dev = rows(test_share), rows(dev_share)
    keys = {"train": order[test + dev :], "dev": order[test : test + dev], "test": order[:test]}
    return {split: _among(questions, keys[split]) for split in SPLITS if keys[split]}


def by_hash(questions: Iterable[Question]) -> list[str]:
    """The normalised questions in an order that depends on nothing but their own words."""
    keys = {normalise(question.question) for question in questions}
    return sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())


def _among(questions: Iterable[Question], keys: Iterable[str]) -> list[Question]:
    keys = set(keys)
    return [question for question in questions if normalise(question.question) in keys]


def contradictions(splits: Splits) -> int:
    """How many questions come several times with no answer that is right each time."""
    common: dict[str, set[str]] = {}
    for question in itertools.chain(*splits.values()):
        answers = set(map(normalize_answer, question.answers))
        common.setdefault(normalise(question.question), answers).intersection_update(answers)
    return sum(not answers for answers in common.values())


def read_corpora(sources: Iterable[Path], words: int) -> tuple[list[Passage], dict[str, int]]:
    """The passages of all these files and folders; what was left out or cut, and how often.

    Raises WorldError.
    """
    passages, ids, remarks = [], set(), Counter()
    for source in sources:
        rows = read_corpus(source, words, remarks)
        for where, passage in tqdm(rows, printable(source.name), unit="passage", unit_scale=True):
            if passage.id in ids:
                raise WorldError(f"{where}: duplicate id {passage.id!r}")
            ids.add(passage.id)
            passages.append(passage)
    if not passages:
        raise WorldError(f"{', '.join(map(str, sources))}: the corpus is empty")
    return passages, dict(sorted(remarks.items()))


def check_gold(splits: Splits, corpus: Iterable[Passage]) -> None:
    """Raises WorldError where a gold passage is not in the corpus."""
    ids = {passage.id for passage in corpus}
    for questions in splits.values():
        for question in questions:
            for id in question.gold_passages or ():
                if id not in ids:
                    problem = f"its gold passage {id!r} is not in the corpus"
                    raise WorldError(f"question {question.id!r}: {problem}")


def word_counts(corpus: list[Passage]) -> dict[str, float]:
    """Words of a passage, title and text."""
    words = [len(passage.full_text.split()) for passage in corpus]
    return {"mean": round(sum(words) / len(words), 1), "max": max(words)}
