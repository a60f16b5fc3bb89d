"""New names for training questions: what a policy remembers about a subject is then of no use, and
nothing about it can be learnt by heart.

Question and passages are renamed before the policy reads them, its queries and answers are renamed
back. Words are exchanged in pairs, so that a namesake stays a namesake and renaming twice changes
nothing. Popular questions keep their names, for they are to be remembered. Left out: new facts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from numpy.random import Generator

from data.world import Passage, Question
from rl.environment import RagEnv
from rl.warmup.teacher import STOP_WORDS, subject_of

Names = dict[str, str]  # word -> the word that takes its place


def rename(text: str, names: Names) -> str:
    """Replace whole words: {"Silas": "Una"} makes "Una Mercer" of "Silas Mercer"."""
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), text) if names else text


@dataclass
class RenamingEnv(RagEnv):
    """The environment of questions under new names."""

    names: dict[Question, Names] = field(default_factory=dict)

    def translate(self, question: Question, text: str) -> str:
        return rename(text, self.names.get(question, {}))


class Renamer:
    def __init__(self, questions: Sequence[Question], corpus: Sequence[Passage]):
        """Names are put together from those that training `questions` are about."""
        titles = {passage.id: passage.title for passage in corpus}
        self.subjects: dict[Question, list[str]] = {}
        for question in questions:
            if question.slice != "popular":
                gold = [titles[i] for i in question.gold_passages or () if i in titles]
                named = list(dict.fromkeys(gold)) or [subject_of(question.question)]
                self.subjects[question] = named
        # (number of words, position, word) -> names with that word there
        self.alike: dict[tuple[int, int, str], list[list[str]]] = {}
        for name in sorted({name for names in self.subjects.values() for name in names}):
            words = name.split()
            for position, word in enumerate(words):
                self.alike.setdefault((len(words), position, word), []).append(words)

    def draw(
        self, questions: list[Question], share: float, rng: Generator
    ) -> dict[Question, Names]:
        """New names for a `share` of the questions, {} for the others and for popular ones."""
        return {q: self.names_of(q, rng) if rng.random() < share else {} for q in questions}

    def names_of(self, question: Question, rng: Generator) -> Names:
        """Which words of this question's world change places; {} for a popular question."""
        names: Names = {}
        for subject in self.subjects.get(question, ()):
            self.exchange(subject, names, rng)
        return names

    def exchange(self, name: str, names: Names, rng: Generator) -> None:
        """Let the words of a name change places with those of another; function words never do."""
        for word, other in zip(name.split(), self.other(name.split(), rng), strict=True):
            taken = {word, other} & names.keys()
            if word != other and not taken and not {word.lower(), other.lower()} & STOP_WORDS:
                names |= {word: other, other: word}

    def other(self, words: list[str], rng: Generator) -> list[str]:
        """A name of the same kind: each word from a name that shares another word with this one, so
        that a person gets a first name for a first name and a book a noun for a noun."""
        if len(words) < 2:
            return words
        found = []
        for i, word in enumerate(words):
            shared = int(rng.integers(len(words) - 1))
            shared += shared >= i
            alike = self.alike.get((len(words), shared, words[shared]))
            found.append(alike[int(rng.integers(len(alike)))][i] if alike else word)
        return found
