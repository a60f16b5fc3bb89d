"""How the mini world puts things into words: parts of names, values, wordings of every relation.

Names are short parts combined freely (first x last, adjective x noun), so that a byte-level BPE of
2,048 entries holds every part as one token and an answer is one to three tokens long. All names are
fictional. Left out on purpose: other languages, irregular grammar.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple


class Wording(NamedTuple):
    """How a relation is put. {s}: subject, {v}: value, {a}: value with its article.

    The last three are for sets that are only tested: forms that no training question has, in words
    that they have. There {n} is the subject's name alone and {k} its kind.
    """

    relation: str
    kinds: str  # of subject, separated by blanks
    keywords: Sequence[str]  # each clause holds one or more: subject + keywords is the best query
    clauses: Sequence[str]  # what passages state
    questions: Sequence[str]  # popqa's; about half of them use a word of the passages
    phrases: Sequence[str]  # noun phrases, which FORMS["carriers"] turn into questions
    triviaqa: Sequence[str] = ()  # 2wikimultihopqa's, too: {s} is then "the producer of ..."
    nq: Sequence[str] = ()
    openbookqa: Sequence[str] = ()  # before the options


_FILE = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
# Parts of names, and values by relation, the likeliest first.
WORDS = {name: " ".join(lines).split() for name, lines in _FILE["words"].items()}
WORDS["year"] = [str(year) for year in range(1841, 1901)]
FORMS: dict[str, list[str]] = _FILE["forms"]  # of sentences: {c} a clause, {p} a phrase
COMPARISONS: dict[str, list[str]] = _FILE["comparisons"]  # questions about two people, {x} and {y}
WORDINGS = {  # (kind of subject, relation) -> its wording
    (kind, fields["relation"]): Wording(**fields)
    for fields in _FILE["wordings"]
    for kind in fields["kinds"].split()
}


def capitalized(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def questions_about(subject: str, wording: Wording) -> list[str]:
    """All wordings of popqa's question for this relation of this subject."""
    phrased = [form.format(p=phrase) for phrase in wording.phrases for form in FORMS["carriers"]]
    return [capitalized(form.format(s=subject)) for form in [*wording.questions, *phrased]]


def clause(subject: str, wording: Wording, value: str, rng: Random) -> str:
    """One of the relation's clauses, without a capital or a full stop."""
    article = "an" if value[0] in "aeiou" else "a"
    return rng.choice(wording.clauses).format(s=subject, v=value, a=f"{article} {value}")
