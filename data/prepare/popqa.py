"""PopQA (Mallen et al., ACL 2023, arXiv 2212.10511) as a *closed world*: generated passages.

Every PopQA question is one of 16 templates filled with a subject, so a question and its first
answer give back the fact (subject, relation, object) that they were made from. Each fact becomes
one short passage. The passages are generated from the answers: a figure measured here says how well
a policy reads and retrieves, not what it would do over Wikipedia.

read -> invert templates -> merge duplicates -> take test from train -> carve dev -> passages

Left out on purpose: Wikipedia text; aliases in passages (the reader copies the first answer); the
popularity of objects.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sized
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from data.files import normalise, tidy
from data.prepare.build import DEV_ROWS, Splits, contradictions, read_splits, word_counts
from data.world import Passage, Question, World, WorldError

POPULAR = 10_000  # monthly page views of the subject (s_pop) from which on it is "popular"
ABOUT = """official questions; passages generated from their answers, not Wikipedia. \
Figures on it do not compare with figures over Wikipedia."""


class Relation(NamedTuple):
    """question: the PopQA template; passages: its wordings, {s} the subject and {o} the object."""

    question: str
    passages: tuple[str, ...]


# Subjects are of any kind (a "genre" belongs to a film, a band or a book), so no wording says what
# the subject is. Each relation has wordings with the key word of its question and without. Some
# hold "who" or "what", as prose does: else the question word is a rare word, and titles such as "So
# What" win (hit@4 of the raw question: .90, not .94). None ends in a name, which may itself end in
# "." or "?"; none begins with an object that is a common noun.
_FILE = json.loads(Path(__file__).with_name("popqa.json").read_text(encoding="utf-8"))
RELATIONS = {name: Relation(row["question"], tuple(row["passages"])) for name, row in _FILE.items()}


class Fact(NamedTuple):
    subject: str
    relation: str
    object: str


def read(file: Path) -> list[Question]:
    """Questions of the authors' TSV (*.tsv[.gz]) or of JSON lines. Raises WorldError."""
    splits, _ = read_splits("popqa", [("", file)])
    return splits[""]


def invert(question: str) -> tuple[str, str] | None:
    """(subject, relation) of a templated question; None if none fits or the subject is empty.

    Where two fit ("What is the capital of X's occupation?"), the one with more fixed text is meant.
    """
    fitting = []
    for relation, (template, _) in RELATIONS.items():
        prefix, suffix = template.split("{s}")
        subject = question[len(prefix) : -len(suffix)]
        if question == prefix + subject + suffix and subject.strip():
            fitting.append((subject, relation))
    if not fitting:
        return None
    subject, relation = min(fitting, key=lambda found: len(found[0]))
    return tidy(subject), relation


def merge(questions: Iterable[Question]) -> dict[str, Question]:
    """Normalised question -> its first row, with the answers of all and the highest popularity."""
    merged = {}
    for question in questions:
        key = normalise(question.question)
        first = merged.setdefault(key, question)
        if first is not question:
            known = [p for p in (first.popularity, question.popularity) if p is not None]
            answers = tuple(dict.fromkeys(first.answers + question.answers))
            merged[key] = replace(first, popularity=max(known, default=None), answers=answers)
    return merged


def _hash(*parts: str | int) -> int:
    """The same 64-bit number on every machine and in every Python."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class Draft(NamedTuple):
    kind: str
    title: str
    text: str
    fact: Fact | None = None


def write_passages(
    facts: Iterable[Fact], seed: int
) -> tuple[list[Passage], dict[Fact, str], dict[str, int]]:
    """The corpus, the passage id of each fact, and the number of passages of each kind:

    fact       title = subject, text = one fact in one of its relation's wordings
    name page  a name with facts in three relations or more, with several meanings; no object
    index      three subjects of one relation; no object

    The last two are distractors. Facts about other things of the same name are natural ones.
    """
    drafts = []
    relations_of, subjects_of = defaultdict(dict), defaultdict(dict)  # dicts as ordered sets
    for fact in dict.fromkeys(facts):
        wordings = RELATIONS[fact.relation].passages
        wording = wordings[_hash(seed, "wording", *fact) % len(wordings)]
        text = wording.format(s=fact.subject, o=fact.object)
        drafts.append(Draft("fact", fact.subject, text, fact))
        relations_of[fact.subject][fact.relation] = None
        subjects_of[fact.relation][fact.subject] = None
    for name, relations in relations_of.items():
        if len(relations) >= 3:
            text = "{} is a name of several entries: see under {}, {} and {}."
            drafts.append(Draft("name page", name, text.format(name, *relations)))
    for relation, subjects in subjects_of.items():
        listed = iter([name for name in subjects if _hash(seed, "index", relation, name) % 8 == 0])
        for part, names in enumerate(zip(listed, listed, listed, strict=False), start=1):
            text = "Listed here under {} are {}, {} and {}.".format(relation, *names)
            drafts.append(Draft("index", f"Index of {relation}, part {part}", text))
    # In random order: an id tells nothing about kind, relation or split.
    drafts.sort(key=lambda draft: _hash(seed, "order", draft.title, draft.text))
    corpus = [Passage(str(i), draft.title, draft.text) for i, draft in enumerate(drafts)]
    passage_of = {draft.fact: str(i) for i, draft in enumerate(drafts) if draft.fact}
    return corpus, passage_of, dict(Counter(draft.kind for draft in drafts))


def build(train: list[Question], test: list[Question], seed: int = 0) -> tuple[World, dict]:
    """The world and the report from the rows of the official train and test files.

    A row that does not invert states no fact. In train it is left out; in test it is kept, with no
    gold passage, so that the test set stays the official one. Raises WorldError.
    """
    rows = {"train": train, "test": test}
    inverted = {split: [row for row in rows[split] if invert(row.question)] for split in rows}
    for split in rows:
        if not inverted[split]:
            problem = f"none of the {len(rows[split])} {split} questions"
            raise WorldError(f"{problem} fits one of PopQA's 16 templates")
    facts_of = defaultdict(list)  # normalised question -> its facts in both files
    for row in inverted["train"] + inverted["test"]:
        facts_of[normalise(row.question)].append(Fact(*invert(row.question), tidy(row.answers[0])))
    all_facts = (fact for facts in facts_of.values() for fact in facts)
    corpus, passage_of, kinds = write_passages(all_facts, seed)
    merged = {"train": merge(inverted["train"]), "test": merge(test)}
    splits = _split(merged["train"], merged["test"], seed)
    for questions in splits.values():
        questions[:] = [_finish(question, facts_of, passage_of) for question in questions]
    world = World(
        name="popqa-closed",
        license="MIT",
        source="PopQA, github.com/AlexTMallen/adaptive-retrieval (arXiv 2212.10511)",
        description=f"PopQA as a closed world (seed {seed}): {ABOUT}",
        corpus=corpus,
        questions={f"popqa.{split}": questions for split, questions in splits.items()},
    )
    overlap = len(merged["train"].keys() & merged["test"].keys())
    report = {
        "world": world.description,
        "read": _lengths(rows),
        "inverted": _lengths(inverted),
        "not_inverted": _not_inverted(rows),
        "unique": _lengths(merged),
        "contradicting_duplicates": contradictions(rows),
        "overlap": {"unique_test_questions": len(merged["test"]), "also_in_train": overlap},
        "splits": _lengths(splits),
        "relations": _counts(splits, "relation"),
        "slices": _counts(splits, "slice"),
        "passages": len(corpus),
        "words_per_passage": word_counts(corpus),
        "passage_kinds": kinds,
    }
    return world, report


def _not_inverted(rows: Splits) -> list[str]:
    pairs = ((split, row) for split in rows for row in rows[split] if not invert(row.question))
    return [f"{split} {row.id} {row.question!r}" for split, row in pairs]


def _split(train: dict[str, Question], test: dict[str, Question], seed: int) -> Splits:
    """Train without the questions of test, dev carved from it, test."""
    kept = sorted(train.keys() - test.keys(), key=lambda key: _hash(seed, "dev", key))
    if len(kept) < 2:
        problem = "training questions are left without those of the test set; 2 are needed"
        raise WorldError(f"{len(kept)} {problem}")
    dev_rows = min(DEV_ROWS, max(1, len(kept) // 10))
    dev = set(kept[:dev_rows])
    splits = {"train": [], "dev": [], "test": list(test.values())}
    for key in (key for key in train if key not in test):
        splits["dev" if key in dev else "train"].append(train[key])
    return splits


def _finish(
    question: Question, facts_of: dict[str, list[Fact]], passage_of: dict[Fact, str]
) -> Question:
    """The question with its relation, slice and gold passages."""
    _, relation = invert(question.question) or (None, None)
    answers = {tidy(answer) for answer in question.answers}
    facts = facts_of[normalise(question.question)]
    gold = dict.fromkeys(passage_of[fact] for fact in facts if fact.object in answers)
    slice_name = None
    if question.popularity is not None:
        slice_name = "popular" if question.popularity >= POPULAR else "tail"
    return replace(question, gold_passages=tuple(gold), relation=relation, slice=slice_name)


def _lengths(splits: dict[str, Sized]) -> dict[str, int]:
    return {split: len(questions) for split, questions in splits.items()}


def _counts(splits: Splits, name: str) -> dict[str, dict[str, int]]:
    return {
        split: dict(Counter(getattr(question, name) or "unknown" for question in questions))
        for split, questions in splits.items()
    }
