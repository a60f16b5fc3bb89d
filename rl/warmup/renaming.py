"""New names for training questions: what the warm-up remembers about a subject cannot be used, and nothing about it can be learnt by heart.

An episode under other names is played in a renamed copy of the world: question and passages are renamed before the policy
reads them, its queries and its answer are renamed back. Words are exchanged in pairs, so that a namesake stays a namesake
and renaming twice changes nothing. Popular questions keep their names, for they are to be remembered.
Left out: new facts. Who reads a renamed passage still has to copy the answer that it states.
"""

import re
from collections.abc import Sequence

import numpy as np

from data.world import Passage, Question
from rl.warmup.teacher import STOP_WORDS, subject_of


class Renamer:
    def __init__(self, questions: Sequence[Question], corpus: Sequence[Passage]):
        """Names are put together from those that training `questions` are about."""
        titles = {passage.id: passage.title for passage in corpus}
        self.about = {
            q: list(dict.fromkeys(titles[i] for i in q.gold_passages or () if i in titles))
            or [subject_of(q.question)]
            for q in questions
            if q.slice != "popular"
        }
        self.alike: dict[
            tuple[int, int, str], list[list[str]]
        ] = {}  # (number of words, position, word) -> names with that word there
        for name in sorted({name for names in self.about.values() for name in names}):
            words = name.split()
            for position, word in enumerate(words):
                self.alike.setdefault((len(words), position, word), []).append(words)

    def draw(self, question: Question, rng: np.random.Generator) -> dict[str, str]:
        """Which words of this question's world change places, function words never; {} for a popular question."""
        exchanged: dict[str, str] = {}
        for name in self.about.get(question, ()):
            for word, other in zip(name.split(), self.other(name.split(), rng)):
                if (
                    word != other
                    and not {word, other} & exchanged.keys()
                    and not {word.lower(), other.lower()} & STOP_WORDS
                ):
                    exchanged |= {word: other, other: word}
        return exchanged

    def names(
        self, questions: Sequence[Question], share: float, seed: Sequence[int]
    ) -> list[dict[str, str]]:
        """For each question of a step, or {} for those that keep theirs: all but a `share`. A pure function of its arguments."""
        rng = np.random.default_rng(seed)
        return [self.draw(question, rng) if rng.random() < share else {} for question in questions]

    def other(self, words: list[str], rng: np.random.Generator) -> list[str]:
        """A name of the same kind: each word from one that shares another word with this name, so that a person gets a
        first name for a first name and a book a noun for a noun. A name of one word stays as it is."""
        if len(words) < 2:
            return words
        found = []
        for i in range(len(words)):
            shared = int(rng.integers(len(words) - 1))
            shared += shared >= i
            alike = self.alike[len(words), shared, words[shared]]
            found.append(alike[int(rng.integers(len(alike)))][i])
        return found


def rename(text: str, names: dict[str, str]) -> str:
    """Replace whole words: {"Silas": "Una"} makes "Una Mercer" of "Silas Mercer"."""
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), text) if names else text
