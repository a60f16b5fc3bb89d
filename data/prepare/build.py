"""A question set and a corpus as a world: splits, what occurs in two of them, passages.

    read -> drop from train and dev what test asks -> split what has no splits, carve dev from train

Questions and passages are held in memory, as a World holds them. Left out on purpose: gold passages
by matching answers. Where none are published they are unknown, and data/metrics.py then takes any
passage that holds an answer for a hit, which is all that such labels could say.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from data.files import tidy
from data.load import check_gold
from data.metrics import normalize_answer
from data.prepare.formats import read_corpus, read_questions
from data.prepare.sets import NO_PASSAGES, SPLITS
from data.records import collect
from data.world import Passage, Question, WorldError

DEV_ROWS = 500  # carved from a training set that has no dev set; a tenth of it where that is less
Splits = dict[str, list[Question]]


def normalise(question: str) -> str:
    """Two questions are the same when this is: capitals and spaces do not count."""
    return tidy(question).casefold()


def read_splits(set_name: str, files: dict[str, list[Path]]) -> tuple[Splits, list[Passage]]:
    """Split ("": still to be split) -> questions, and the passages published with them. Raises
    WorldError."""
    splits, passages = {}, {}  # passages by id: the same paragraph comes with several questions
    for split, of_split in files.items():
        prefix, asked = f"{set_name}_{split}" if split else set_name, []
        rows = (row for file in of_split for row in read_questions(file))
        for number, (where, (question, with_it)) in enumerate(rows):
            passages.update({passage.id: passage for passage in with_it})
            asked.append((where, replace(question, id=question.id or f"{prefix}:{number}")))
        splits[split] = collect(asked, f"{', '.join(map(str, of_split))}: holds no questions")
    return splits, list(passages.values())


def arrange(
    splits: Splits, dev_share: float, test_share: float, rank: Callable[[str], object] | None = None
) -> tuple[Splits, dict]:
    """Train, dev, test, as far as there are questions, and for the report what was dropped. rank:
    of a normalised question; the lowest go into test and dev. Default: a hash."""
    splits, dropped = dict(splits), {}
    for less, more in (("train", "test"), ("dev", "test"), ("train", "dev")):
        if less in splits and more in splits:
            others = {normalise(question.question) for question in splits[more]}
            kept = [q for q in splits[less] if normalise(q.question) not in others]
            dropped[f"{less} in {more}"] = len(splits[less]) - len(kept)
            splits[less] = kept
    whole = "" if "" in splits else "train"
    questions = splits.pop(whole, [])
    order = sorted({normalise(question.question) for question in questions}, key=rank or _sha256)
    parts = []
    if whole == "" and len(order) > 2:
        for part, share in (("test", test_share), ("dev", dev_share)):
            parts += [part] * (max(1, round(share * len(order))) if share else 0)
    elif whole == "train" and "dev" not in splits and dev_share and len(order) > 1:
        parts = ["dev"] * min(DEV_ROWS, max(1, len(order) // 10))
    part_of = dict(zip(order, parts, strict=False))
    for question in questions:
        part = part_of.get(normalise(question.question), "train")
        splits.setdefault(part, []).append(question)
    splits = {split: splits[split] for split in SPLITS if splits.get(split)}
    return splits, {"overlap_dropped": dropped}


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def choose_corpus(
    splits: Splits, published: list[Passage], sources: list[Path], words: int, report: dict
) -> list[Passage]:
    """The passages of these files and folders, or else the published ones. In another corpus the
    gold passages are not known. What was left out or cut is reported. Raises WorldError, also where
    a gold passage is in no corpus."""
    if not (sources or published):
        raise WorldError(NO_PASSAGES)
    corpus, remarks = published, Counter()
    if sources:
        rows = (row for source in sources for row in read_corpus(source, words, remarks))
        bar = tqdm(rows, "passages", unit="", unit_scale=True, disable=None)
        corpus = collect(bar, f"{', '.join(map(str, sources))}: the corpus is empty")
    report["remarks"] = dict(sorted(remarks.items()))
    ids = {passage.id for passage in corpus}
    for split, questions in splits.items():
        if sources and published:
            questions[:] = [replace(question, gold_passages=None) for question in questions]
        check_gold(split, questions, ids)
    return corpus


def counts(read: Splits, splits: Splits, corpus: list[Passage]) -> dict:
    """For the report; contradicting duplicates: questions that come several times with no answer
    that is right each time."""
    common: dict[str, set[str]] = {}
    for question in itertools.chain(*read.values()):
        answers = set(map(normalize_answer, question.answers))
        common.setdefault(normalise(question.question), answers).intersection_update(answers)
    words = [len(passage.full_text.split()) for passage in corpus]
    gold = {split: sum(bool(q.gold_passages) for q in splits[split]) for split in splits}
    return {
        "read": {split or "all": len(questions) for split, questions in read.items()},
        "contradicting_duplicates": sum(not answers for answers in common.values()),
        "splits": {split: len(questions) for split, questions in splits.items()},
        "with_gold_passages": gold,
        "passages": len(corpus),
        "words_per_passage": {"mean": round(sum(words) / len(words), 1), "max": max(words)},
    }
