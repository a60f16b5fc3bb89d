"""PopQA (Mallen et al., ACL 2023, arXiv 2212.10511) as a *closed world*: official questions, generated passages.

Every PopQA question is one of 16 templates filled with a subject, so a question and its first answer give back the
fact (subject, relation, object) that they were made from. Each fact becomes one short passage. The passages are
generated from the answers: a figure measured here says how well a policy reads and retrieves, not what it would do
over Wikipedia.

    read -> invert templates -> merge duplicates -> take the test questions out of train -> carve dev -> write passages

Left out on purpose: Wikipedia text; aliases in passages (the reader copies the first answer); the popularity of
objects.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from data.files import identifier, table
from data.prepare import formats
from data.world import Passage, Question, World, WorldError, _read_questions, normalise, tidy

DEV_ROWS = 500  # carved from train; a tenth of train where that is less
POPULAR = (
    10_000  # slice "popular": subjects with at least this many Wikipedia page views a month (s_pop)
)


class Relation(NamedTuple):
    """question: the PopQA template; passages: its wordings, {s} the subject and {o} the object."""

    question: str
    passages: tuple[str, ...]


# Subjects are of any kind (a "genre" belongs to a film, a band or a book), so no wording says what the subject is.
# Each relation has wordings with the key word of its question and without. Some hold "who" or "what", as prose does:
# else the question word is a rare word, and titles such as "So What" win (hit@4 of the raw question: .90, not .94).
# None ends in a name, which may itself end in "." or "?"; none begins with an object that is a common noun.
RELATIONS = {
    "occupation": Relation(
        "What is {s}'s occupation?",
        (
            "The occupation of {s} is {o}, biographies say.",
            "{s} became known for work as {o} over the years.",
            "What {s} did for a living was {o}, most sources agree.",
            "Biographies of {s} give {o} as the line of work.",
            "By trade {s} was {o}, most sources agree.",
        ),
    ),
    "place of birth": Relation(
        "In what city was {s} born?",
        (
            "{s} was born in {o} and counts among its natives.",
            "The birthplace of {s} is {o}, most sources agree.",
            "For {s}, a native of {o}, life began in that city.",
            "The life of {s} began in {o}, records show.",
            "{o} is the city where {s} was born, records show.",
        ),
    ),
    "genre": Relation(
        "What genre is {s}?",
        (
            "The genre of {s} is {o}, most catalogues agree.",
            "{s} is filed under {o} in most catalogues.",
            "What {s} offers is {o}, most critics agree.",
            "Those who look for {o} will find {s} on the list.",
            "In genre and style {s} is {o}, most critics agree.",
        ),
    ),
    "father": Relation(
        "Who is the father of {s}?",
        (
            "The father of {s} was {o}, family records show.",
            "It was {o} who fathered {s}, the family tree says.",
            "On the paternal side {s} descends directly from {o} alone.",
            "{o} was the father of {s}, most sources agree.",
            "Genealogists name {o} as the male parent of {s} in tables.",
        ),
    ),
    "country": Relation(
        "In what country is {s}?",
        (
            "The country of {s} is {o}, reference works say.",
            "{s} belongs to {o}, where reference works list it.",
            "{o} is the country that {s} belongs to by law.",
            "If asked what country {s} is in, say {o} at once.",
            "Reference works place {s} within the nation of {o} today.",
        ),
    ),
    "producer": Relation(
        "Who was the producer of {s}?",
        (
            "The producer of {s} was {o}, its credits say.",
            "{s} was produced by {o}, as its credits show.",
            "{s} was made with {o}, who acted as its producer.",
            "It was {o} who oversaw the making of {s} until its release.",
            "Production of {s} was in the hands of {o} throughout.",
        ),
    ),
    "director": Relation(
        "Who was the director of {s}?",
        (
            "The director of {s} was {o}, its credits say.",
            "{s} was directed by {o}, as its credits show.",
            "It was {o} who sat in the director's chair for {s} throughout.",
            "Direction of {s} was in the hands of {o} throughout.",
            "Every scene of {s} was staged by {o} for the camera.",
        ),
    ),
    "capital of": Relation(
        "What is {s} the capital of?",
        (
            "{s} is the capital of {o} and houses its government.",
            "What {s} governs is {o}, which has its seat of power there.",
            "Maps mark {s} as the seat of power in {o} today.",
            "{o} has {s} for its capital, as maps show.",
            "Officials of {o} meet in {s}, its capital, to govern.",
        ),
    ),
    "screenwriter": Relation(
        "Who was the screenwriter for {s}?",
        (
            "The screenwriter for {s} was {o}, its credits say.",
            "The screenplay of {s} was written by {o}, credits show.",
            "It was {o} who wrote the script for {s}, credits show.",
            "Credits for the script of {s} name {o} as screenwriter.",
            "{s} was shot from a screenplay that {o} had finished.",
        ),
    ),
    "composer": Relation(
        "Who was the composer of {s}?",
        (
            "The composer of {s} was {o}, its score says.",
            "The music of {s} was composed by {o}, credits show.",
            "It was {o} who wrote the music for {s}, its score says.",
            "The score of {s} bears the name of {o} as composer.",
            "Every melody of {s} was set down by {o} on paper.",
        ),
    ),
    "color": Relation(
        "What color is {s}?",
        (
            "The color of {s} is {o}, as anyone can see.",
            "Pictures show {s} in {o}, a color that suits it well.",
            "Ask about the color of {s} and {o} is the reply.",
            "Painters who draw {s} reach for a pot of {o} first.",
            "What people see in {s} is {o} before all else.",
        ),
    ),
    "religion": Relation(
        "What is the religion of {s}?",
        (
            "The religion of {s} is {o}, most sources agree.",
            "What {s} believes in is {o}, most sources agree.",
            "Sources give {o} as the faith of {s} in most cases.",
            "{s} is counted among the followers of {o} by most.",
            "As its religion {s} has {o}, reference works say.",
        ),
    ),
    "sport": Relation(
        "What sport does {s} play?",
        (
            "The sport of {s} is {o}, the record books say.",
            "Record books of {o} hold the name of {s} in tables.",
            "What {s} stands for in sport is {o} and nothing else.",
            "Followers of {o} know the name of {s} well.",
            "When people watch {s} play, they watch {o} being played.",
        ),
    ),
    "author": Relation(
        "Who is the author of {s}?",
        (
            "The author of {s} is {o}, the title page says.",
            "It was {o} who wrote {s}, as its cover shows.",
            "{o} is named as the author of {s} in most catalogues.",
            "Readers know {s} as a work from the pen of {o} alone.",
            "Libraries shelve {s} with the other writings of {o} together.",
        ),
    ),
    "mother": Relation(
        "Who is the mother of {s}?",
        (
            "The mother of {s} was {o}, family records show.",
            "It was {o} who gave birth to {s}, the family tree says.",
            "On the maternal side {s} descends directly from {o} alone.",
            "{o} was the mother of {s}, most sources agree.",
            "Genealogists name {o} as the female parent of {s} in tables.",
        ),
    ),
    "capital": Relation(
        "What is the capital of {s}?",
        (
            "The capital of {s} is {o}, where its government sits.",
            "{s} is governed from {o}, its capital, as maps show.",
            "What governs {s} is {o}, where power has its seat.",
            "{o} is the capital of {s} and houses its offices.",
            "Maps of {s} mark {o} as the seat of power today.",
        ),
    ),
}


class Fact(NamedTuple):
    subject: str
    relation: str
    object: str


# ------------------------------------------------------------------------------------------------- reading


def read(file: Path) -> list[Question]:
    """Questions of the authors' TSV (*.tsv[.gz]) or of JSON lines. Raises WorldError."""
    questions = list(_read_tsv(file)) if ".tsv" in file.suffixes else _read_questions(file, set())
    if not questions:
        raise WorldError(f"{file}: holds no questions")
    return questions


def _read_tsv(file: Path) -> Iterator[Question]:
    seen = {}
    for where, row in table(file, ("id", "question", "possible_answers")):
        identifier(row, where, seen)
        for asked in formats.popqa(row, where):
            yield asked.question


# ------------------------------------------------------------------------------------------------- questions


def invert(question: str) -> tuple[str, str] | None:
    """(subject, relation) of a templated question; None if no template fits or the subject is empty.

    Where two templates fit ("What is the capital of X's occupation?"), the one with more fixed text is meant.
    """
    best = None
    for relation, (template, _) in RELATIONS.items():
        prefix, suffix = template.split("{s}")
        subject = question[len(prefix) : -len(suffix)]
        if (
            question == prefix + subject + suffix
            and subject.strip()
            and (best is None or len(subject) < len(best[0]))
        ):
            best = subject, relation
    return best and (tidy(best[0]), best[1])


def merge(questions: Iterable[Question]) -> dict[str, Question]:
    """Normalised string -> question: the first such row, with the answers of all and the highest popularity."""
    merged = {}
    for question in questions:
        first = merged.setdefault(normalise(question.question), question)
        if first is not question:
            known = [p for p in (first.popularity, question.popularity) if p is not None]
            merged[normalise(question.question)] = replace(
                first,
                popularity=max(known, default=None),
                answers=tuple(dict.fromkeys(first.answers + question.answers)),
            )
    return merged


def _hash(*parts: str | int) -> int:
    """The same 64-bit number on every machine and in every Python, which `hash` and `random` do not promise."""
    return int.from_bytes(
        hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest(), "big"
    )


# ------------------------------------------------------------------------------------------------- passages


def write_passages(
    facts: Iterable[Fact], seed: int
) -> tuple[list[Passage], dict[Fact, str], dict[str, int]]:
    """The corpus, the passage id of each fact, and the number of passages of each kind:

    fact       title = subject, text = one fact in one of its relation's wordings
    name page  a name with facts in three relations or more, said to have several meanings; no object is given
    index      three subjects of one relation; no object is given

    The last two are distractors. Facts about other things of the same name, or of similar names, are natural ones.
    """
    drafts = []  # (kind, fact or None, title, text)
    relations_of, subjects_of = defaultdict(dict), defaultdict(dict)  # dicts as ordered sets
    for fact in dict.fromkeys(facts):
        wordings = RELATIONS[fact.relation].passages
        text = wordings[_hash(seed, "wording", *fact) % len(wordings)].format(
            s=fact.subject, o=fact.object
        )
        drafts.append(("fact", fact, fact.subject, text))
        relations_of[fact.subject][fact.relation] = None
        subjects_of[fact.relation][fact.subject] = None
    for name, relations in relations_of.items():
        if len(relations) >= 3:
            text = "{} is a name of several entries: see under {}, {} and {}.".format(
                name, *relations
            )
            drafts.append(("name page", None, name, text))
    for relation, subjects in subjects_of.items():
        listed = [
            subject for subject in subjects if _hash(seed, "index", relation, subject) % 8 == 0
        ]
        for part, names in enumerate(zip(*[iter(listed)] * 3), start=1):
            text = "Listed here under {} are {}, {} and {}.".format(relation, *names)
            drafts.append(("index", None, f"Index of {relation}, part {part}", text))
    kinds = dict(Counter(kind for kind, *_ in drafts))
    drafts.sort(
        key=lambda draft: _hash(seed, "order", *draft[2:])
    )  # an id tells nothing about kind, relation or split
    corpus = [Passage(str(i), title, text) for i, (_, _, title, text) in enumerate(drafts)]
    passage_of = {fact: str(i) for i, (_, fact, _, _) in enumerate(drafts) if fact}
    return corpus, passage_of, kinds


# ------------------------------------------------------------------------------------------------- the world


def build(
    train: list[Question], test: list[Question], seed: int = 0
) -> tuple[World, list[dict], dict]:
    """(world, rows that do not invert, report) from the rows of the official train and test files.

    A row that does not invert states no fact. In train it is left out; in test it is kept, with no gold passage, so
    that the test set stays the official one. Raises WorldError when no template fits or nothing is left to train on.
    """
    rows = {"train": train, "test": test}
    inverted = {split: [row for row in rows[split] if invert(row.question)] for split in rows}
    not_inverted = [
        {"split": split, "id": row.id, "question": row.question, "answers": row.answers}
        for split in rows
        for row in rows[split]
        if not invert(row.question)
    ]
    for split in rows:
        if not inverted[split]:
            raise WorldError(
                f"none of the {len(rows[split])} {split} questions fits one of PopQA's 16 templates"
            )

    facts_of = defaultdict(list)  # normalised question -> its facts in both files
    for row in inverted["train"] + inverted["test"]:
        facts_of[normalise(row.question)].append(Fact(*invert(row.question), tidy(row.answers[0])))
    corpus, passage_of, kinds = write_passages(
        (fact for facts in facts_of.values() for fact in facts), seed
    )

    merged = {"train": merge(inverted["train"]), "test": merge(test)}
    kept = sorted(
        merged["train"].keys() - merged["test"].keys(), key=lambda key: _hash(seed, "dev", key)
    )
    if len(kept) < 2:
        raise WorldError(
            f"{len(kept)} training questions are left without those of the test set; 2 are needed"
        )
    dev_rows = min(DEV_ROWS, max(1, len(kept) // 10))
    members = {
        "train": set(kept[dev_rows:]),
        "dev": set(kept[:dev_rows]),
        "test": merged["test"].keys(),
    }

    def finish(key: str, question: Question) -> Question:
        answers = {tidy(answer) for answer in question.answers}
        gold = dict.fromkeys(passage_of[fact] for fact in facts_of[key] if fact.object in answers)
        popular = question.popularity is not None and question.popularity >= POPULAR
        return replace(
            question,
            gold_passages=tuple(gold),
            relation=(invert(question.question) or (None, None))[1],
            slice=None if question.popularity is None else "popular" if popular else "tail",
        )

    splits = {
        split: [
            finish(key, question)
            for key, question in merged["test" if split == "test" else "train"].items()
            if key in keys
        ]
        for split, keys in members.items()
    }
    world = World(
        name="popqa-closed",
        license="MIT",
        source="PopQA, github.com/AlexTMallen/adaptive-retrieval (arXiv 2212.10511)",
        description=f"PopQA as a closed world (seed {seed}): official questions; passages generated from their answers"
        ", not Wikipedia. Figures on it do not compare with figures over Wikipedia.",
        corpus=corpus,
        questions={f"popqa.{split}": questions for split, questions in splits.items()},
        k=4,
        quota=1,
    )
    report = {
        "seed": seed,
        "read": {split: len(rows[split]) for split in rows},
        "inverted": {split: len(inverted[split]) for split in rows},
        "not_inverted": {split: len(rows[split]) - len(inverted[split]) for split in rows},
        "duplicates_merged": {
            "train": len(inverted["train"]) - len(merged["train"]),
            "test": len(test) - len(merged["test"]),
        },
        "overlap": {
            "unique_test_questions": len(merged["test"]),
            "also_in_train": len(merged["train"]) - len(kept),
        },
        **_sizes(splits, corpus),
        "passage_kinds": kinds,
    }
    return world, not_inverted, report


def _sizes(splits: dict[str, list[Question]], corpus: list[Passage]) -> dict:
    words = [len(passage.full_text.split()) for passage in corpus]
    return {
        "splits": {split: len(questions) for split, questions in splits.items()},
        "relations": {
            relation: {
                split: sum(question.relation == relation for question in questions)
                for split, questions in splits.items()
            }
            for relation in RELATIONS
        },
        "slices": {
            split: dict(Counter(question.slice or "unknown" for question in questions))
            for split, questions in splits.items()
        },
        "passages": len(corpus),
        "words_per_passage": {"mean": round(sum(words) / len(words), 1), "max": max(words)},
    }
