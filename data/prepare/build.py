"""A question set and a corpus as a world: splits, what occurs in two of them, passages.

    read -> drop from train and dev what test asks -> split what has no splits, carve dev from train

Questions and passages are held in memory, as a World holds them. Left out on purpose: gold passages
by matching answers. Where none are published they are unknown, and data/metrics.py then takes any
passage that holds an answer for a hit, which is all that such labels could say.

PopQA (Mallen et al., ACL 2023, arXiv 2212.10511) can also be a *closed world*. Each question is one
of 16 templates filled with a subject, so a question and its first answer give back the fact
(subject, relation, object) that they were made from, and each fact becomes one short passage. The
passages are generated from the answers: a figure measured here says how well a policy reads and
retrieves, not what it would do over Wikipedia. Left out: aliases in passages.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

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
POPULAR = 10_000  # monthly page views of the subject (s_pop) from which on it is "popular"

# Relation -> {"question": the PopQA template, "passages": its wordings}; {s}: subject, {o}: object.
# Subjects are of any kind (a "genre" belongs to a film, a band or a book), so no wording says what
# the subject is. Each relation has wordings with the key word of its question and without. Some
# hold "who" or "what", as prose does: else the question word is a rare word, and titles such as "So
# What" win (hit@4 of the raw question: .90, not .94). None ends in a name, which may itself end in
# "." or "?"; none begins with an object that is a common noun.
RELATIONS = json.loads(Path(__file__).with_name("popqa.json").read_text(encoding="utf-8"))


def normalise(question: str) -> str:
    """Two questions are the same when this is: capitals and spaces do not count."""
    return tidy(question).casefold()


def read_splits(set_name: str, files: dict[str, list[Path]]) -> tuple[Splits, list[Passage]]:
    """Split ("": still to be split) -> questions, and the passages published with them."""
    splits, passages = {}, {}  # passages by id: the same paragraph comes with several questions
    for split, of_split in files.items():
        prefix = f"{set_name}_{split}" if split else set_name
        asked = []
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
    return {part: splits[part] for part in SPLITS if splits.get(part)}, {"overlap_dropped": dropped}


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def choose_corpus(
    splits: Splits, published: list[Passage], sources: list[Path], words: int, report: dict
) -> list[Passage]:
    """The passages of these files and folders, or else the published ones. In another corpus the
    gold passages are not known. What was left out or cut is reported. Raises WorldError."""
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
    """For the report; contradicting duplicates: questions without an answer that is right twice."""
    common: dict[str, set[str]] = {}
    for question in chain(*read.values()):
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


class Fact(NamedTuple):
    subject: str
    relation: str
    object: str


def invert(question: str) -> tuple[str, str] | None:
    """(subject, relation) of a templated question; None if none fits or the subject is empty. Where
    two fit ("What is the capital of X's occupation?"), the one with more fixed text is meant."""
    fitting = []
    for relation, known in RELATIONS.items():
        prefix, suffix = known["question"].split("{s}")
        subject = question[len(prefix) : -len(suffix)]
        if question == prefix + subject + suffix and subject.strip():
            fitting.append((tidy(subject), relation))
    return min(fitting, key=lambda found: len(found[0]), default=None)


def merge(questions: Iterable[Question]) -> list[Question]:
    """Each question once, in its first row, with the answers of all and the highest popularity."""
    merged = {}
    for question in questions:
        key = normalise(question.question)
        first = merged.setdefault(key, question)
        if first is not question:
            known = [p for p in (first.popularity, question.popularity) if p is not None]
            answers = tuple(dict.fromkeys(first.answers + question.answers))
            merged[key] = replace(first, popularity=max(known, default=None), answers=answers)
    return list(merged.values())


def _hash(*parts: str | int) -> int:
    """The same 64-bit number on every machine and in every Python."""
    digest = hashlib.blake2b(json.dumps((0, *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def write_passages(facts: Iterable[Fact]) -> tuple[list[Passage], dict[Fact, str]]:
    """The corpus, and the passage id of each fact. Passages are

    facts       title: the subject, text: one fact in one of its relation's wordings
    name pages  of names with facts in three relations or more, with several meanings; no object
    indexes     three subjects of one relation; no object

    The last two are distractors. Facts about other things of the same name are natural ones."""
    drafts = []  # title, text, fact
    relations_of, subjects_of = defaultdict(dict), defaultdict(dict)  # dicts as ordered sets
    for fact in dict.fromkeys(facts):
        wordings = RELATIONS[fact.relation]["passages"]
        wording = wordings[_hash("wording", *fact) % len(wordings)]
        drafts.append((fact.subject, wording.format(s=fact.subject, o=fact.object), fact))
        relations_of[fact.subject][fact.relation] = None
        subjects_of[fact.relation][fact.subject] = None
    for name, relations in relations_of.items():
        if len(relations) >= 3:
            text = "{} is a name of several entries: see under {}, {} and {}."
            drafts.append((name, text.format(name, *relations), None))
    for relation, subjects in subjects_of.items():
        listed = iter([name for name in subjects if _hash("index", relation, name) % 8 == 0])
        for part, names in enumerate(zip(listed, listed, listed, strict=False), start=1):
            text = "Listed here under {} are {}, {} and {}.".format(relation, *names)
            drafts.append((f"Index of {relation}, part {part}", text, None))
    # In random order: an id tells nothing about kind, relation or split.
    drafts.sort(key=lambda draft: _hash("order", *draft[:2]))
    corpus = [Passage(str(i), title, text) for i, (title, text, _) in enumerate(drafts)]
    return corpus, {fact: str(i) for i, (_, _, fact) in enumerate(drafts) if fact}


def closed_world(
    read: Splits, dev_share: float, test_share: float
) -> tuple[Splits, list[Passage], dict]:
    """Splits, corpus and report. A row that does not invert states no fact: it is left out; in test
    it is kept, with no gold passage, so that the test set stays the official one."""
    facts_of = defaultdict(list)  # normalised question -> its facts in all files
    kept, others = defaultdict(list), []
    for split, rows in read.items():
        for row in rows:
            found = invert(row.question)
            if found:
                facts_of[normalise(row.question)].append(Fact(*found, tidy(row.answers[0])))
            else:
                others.append(f"{split} {row.id} {row.question!r}")
            if found or split == "test":
                kept[split].append(row)
    if not facts_of:
        raise WorldError("none of the questions fits one of PopQA's 16 templates")
    corpus, passage_of = write_passages(fact for facts in facts_of.values() for fact in facts)
    merged = {split: merge(rows) for split, rows in kept.items()}
    splits, report = arrange(merged, dev_share, test_share, rank=lambda key: _hash("dev", key))
    for questions in splits.values():
        for i, question in enumerate(questions):
            facts = facts_of[normalise(question.question)]
            right = [fact for fact in facts if fact.object in map(tidy, question.answers)]
            slice_name = None
            if question.popularity is not None:
                slice_name = "popular" if question.popularity >= POPULAR else "tail"
            questions[i] = replace(
                question,
                gold_passages=tuple(passage_of[fact] for fact in dict.fromkeys(right)),
                relation=facts[0].relation if facts else None,
                slice=slice_name,
            )
    report |= {"fit_no_template": others, "facts": len(passage_of)}
    return splits, corpus, report
