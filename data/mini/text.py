"""How the mini world puts things into words: parts of names, values, and wordings of every relation.

The words themselves lie in words.json beside this file. Names are short parts combined freely (first x last,
adjective x noun), so that a byte-level BPE of 2,048 entries holds every part as one token and an answer is one to
three tokens long. All names are fictional. Left out on purpose: other languages, irregular grammar.
"""

import json
from pathlib import Path
from random import Random
from typing import NamedTuple


class Wording(NamedTuple):
    """How passages and popqa put a relation. {s}: subject, {v}: value, {a}: value with its article."""

    relation: str
    kinds: tuple[str, ...]  # of subject
    keywords: tuple[str, ...]  # each clause holds one or more: subject + keywords is the best query
    clauses: tuple[str, ...]  # what passages state
    questions: tuple[str, ...]  # about half of them use a word of the passages
    phrases: tuple[str, ...]  # noun phrases, which FORMS["carriers"] turn into questions


class UnseenForms(NamedTuple):
    """Forms of the sets that are only tested, which no training question has, in words that they have.

    {s}: subject with its kind; {n}: its name; {k}: its kind.
    """

    relation: str
    kinds: tuple[str, ...]
    triviaqa: tuple[str, ...]  # also 2wikimultihopqa's bridges: {s} is then "the producer of ..."
    nq: tuple[str, ...]  # put into lower case
    openbookqa: tuple[str, ...]  # before the options


def _table(row_type: type, rows: list[dict]) -> dict:
    """(kind of subject, relation) -> its row."""
    table = {}
    for fields in rows:
        row = row_type(
            relation=fields.pop("relation"),
            kinds=tuple(fields.pop("kinds").split()),
            **{name: tuple(values) for name, values in fields.items()},
        )
        table |= {(kind, row.relation): row for kind in row.kinds}
    return table


_FILE = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
# Parts of names, and values by relation, the likeliest first.
WORDS: dict[str, list[str]] = {
    name: " ".join(rows).split() for name, rows in _FILE["words"].items()
}
WORDS["year"] = [str(year) for year in range(1841, 1901)]
FORMS: dict[str, list[str]] = _FILE["forms"]  # of sentences: {c} a clause, {p} a phrase
COMPARISONS: dict[str, list[str]] = _FILE["comparisons"]  # questions about two people, {x} and {y}
WORDINGS: dict[tuple[str, str], Wording] = _table(Wording, _FILE["wordings"])
UNSEEN_FORMS: dict[tuple[str, str], UnseenForms] = _table(UnseenForms, _FILE["unseen_forms"])


def capitalized(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def questions_about(subject: str, wording: Wording) -> list[str]:
    """All wordings of popqa's question for this relation of this subject."""
    phrased = [
        carrier.format(p=phrase) for phrase in wording.phrases for carrier in FORMS["carriers"]
    ]
    return [capitalized(form.format(s=subject)) for form in [*wording.questions, *phrased]]


def clause(subject: str, wording: Wording, value: str, rng: Random) -> str:
    """One of the relation's clauses, without a capital or a full stop."""
    article = "an" if value[0] in "aeiou" else "a"
    return rng.choice(wording.clauses).format(s=subject, v=value, a=f"{article} {value}")
