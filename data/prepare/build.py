"""A question set and a corpus as a world: splits, what occurs in two of them, passages.

    read -> drop from train and dev what test asks -> split what has no splits, carve dev from train

Questions and passages are held in memory, as a World holds them. Left out on purpose: gold passages
by matching answers. Where none are published they are unknown, and data/metrics.py then takes any
passage that holds an answer for a hit, which is all that such labels could say.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from data.files import tidy
from data.metrics import normalize_answer
from data.prepare.formats import read_corpus, read_questions
from data.prepare.sets import SPLITS
from data.records import claim
from data.world import Passage, Question, WorldError, printable

DEV_ROWS = 500  # carved from a training set that has no dev set; a tenth of it where that is less
Splits = dict[str, list[Question]]
Rank = Callable[[str], object]  # of a normalised question: the lowest go into test and dev


def normalise(question: str) -> str:
    """Two questions are the same when this is: capitals and spaces do not count."""
    return tidy(question).casefold()


def read_splits(set_name: str, files: Iterable[tuple[str, Path]]) -> tuple[Splits, list[Passage]]:
    """Split ("": still to be split) -> questions, and the passages published with them.

    Raises WorldError.
    """
    splits: Splits = {}
    places: dict[str, dict[str, str]] = {}
    passages: dict[str, Passage] = {}  # by id: the same paragraph comes with several questions
    for split, file in files:
        questions = splits.setdefault(split, [])
        for where, (question, with_it) in read_questions(file):
            if not question.id:
                prefix = f"{set_name}_{split}" if split else set_name
                question = replace(question, id=f"{prefix}:{len(questions)}")
            claim(question.id, where, places.setdefault(split, {}))
            questions.append(question)
            passages |= {passage.id: passage for passage in with_it}
        if not questions:
            raise WorldError(f"{file}: holds no questions")
    return splits, list(passages.values())


def sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def arrange(
    splits: Splits, dev_share: float, test_share: float, rank: Rank = sha256
) -> tuple[Splits, dict[str, int]]:
    """Train, dev, test, as far as there are questions; how many were dropped: "train in test"."""
    splits, dropped = dict(splits), {}
    for less, more in (("train", "test"), ("dev", "test"), ("train", "dev")):
        if less in splits and more in splits:
            others = {normalise(question.question) for question in splits[more]}
            kept = [q for q in splits[less] if normalise(q.question) not in others]
            dropped[f"{less} in {more}"] = len(splits[less]) - len(kept)
            splits[less] = kept
    whole = "" if "" in splits else "train"
    questions = splits.pop(whole, [])
    order = sorted({normalise(question.question) for question in questions}, key=rank)
    shares = {"test": test_share, "dev": dev_share}
    if whole == "" and len(order) > 2:
        counts = {part: max(1, round(shares[part] * len(order))) for part in shares if shares[part]}
    elif whole == "train" and "dev" not in splits and dev_share and len(order) > 1:
        counts = {"dev": min(DEV_ROWS, max(1, len(order) // 10))}
    else:
        counts = {}
    parts = itertools.chain.from_iterable([part] * count for part, count in counts.items())
    part_of = dict(zip(order, parts, strict=False))
    for question in questions:
        part = part_of.get(normalise(question.question), "train")
        splits.setdefault(part, []).append(question)
    return {split: splits[split] for split in SPLITS if splits.get(split)}, dropped


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
    passages, places, remarks = [], {}, Counter()
    for source in sources:
        rows = read_corpus(source, words, remarks)
        for where, passage in tqdm(rows, printable(source.name), unit="passage", unit_scale=True):
            claim(passage.id, where, places)
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
