"""Which training questions a step sees, a pure function of (seed, stream, step): drawn, under new
names, and as people type them. Left out: the other questions (rl/runs/setting.py), new facts.

Under new names, what a policy remembers about a subject is of no use, and nothing about it can be
learnt by heart. Question and passages are renamed before the policy reads them, its queries and
answers are renamed back. Words are exchanged in pairs, so that a namesake stays a namesake and
renaming twice changes nothing. Popular questions keep their names, for they are to be remembered.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from numpy.random import Generator

from data.world import Passage, Question
from rl.environment import RagEnv
from rl.runs.setting import Setting
from rl.warmup.teacher import STOP_WORDS, subject_of

Names = dict[str, str]  # word -> the word that takes its place


class Stream(IntEnum):
    """The random streams of a run, by name: numpy's default_rng([seed, Stream.X, ...]). The numbers
    are part of every run's bits: a new purpose gets a new number, and none is used again."""

    READ_QUESTIONS = 0  # train_sft: the questions of a read step
    READ = 1  # train_sft: which of them are answered directly, and their demonstrations
    MIX_QUESTIONS = 2  # train_sft: the questions of a mix step
    MIX = 3  # train_sft: branches and demonstrations of a mix step
    PROBE = 4  # train_sft: which questions are probed
    PPO_QUESTIONS = 5  # train_ppo: the questions of an iteration
    MODULES_QUESTIONS = 7  # rl/study/modules.py: the questions of a step
    RENAMING = 8  # train_ppo, rl/study/modules.py: new names
    TYPING = 9  # which questions are typed in lower case


class QuestionSampler:
    """Training questions of step t, a pure function of (seed, stream, t). A share of each draw is
    popular questions, asked in proportion to their popularity; the others, in a world without
    slices all, are uniform, an equal part from each question set."""

    def __init__(self, sets: Sequence[Sequence[Question]], popular_share: float, seed: int):
        self.questions = [q for questions in sets for q in questions]
        self.seed = seed
        popular = np.array([q.slice == "popular" for q in self.questions])
        self.popular = np.flatnonzero(popular)
        member = np.repeat(np.arange(len(sets)), [len(questions) for questions in sets])
        others = [np.flatnonzero(~popular & (member == i)) for i in range(len(sets))]
        self.others = [rows for rows in others if len(rows)]
        both = len(self.popular) and self.others
        self.share = popular_share if both else float(not self.others)
        weights = np.array([self.questions[i].popularity or 1.0 for i in self.popular])
        self.weights = weights / weights.sum() if len(weights) else weights

    def draw(self, count: int, step: int, stream: int) -> list[Question]:
        """`count` questions for one step, popular ones first. `stream` separates phases."""
        rng = np.random.default_rng([self.seed, stream, step])
        popular = round(count * self.share)
        rows = [*rng.choice(self.popular, popular, p=self.weights)] if popular else []
        left, sets = count - popular, len(self.others)
        for i, others in enumerate(self.others):
            rows += [*rng.choice(others, left * (i + 1) // sets - left * i // sets)]
        return [self.questions[i] for i in rows]


def typed(questions: Sequence[Question], share: float, seed: int, step: int) -> list[Question]:
    """A `share` of the questions as people type them into a search box, in lower case and without
    a question mark: a policy that has never seen such questions answers them at once."""
    rng = np.random.default_rng([seed, Stream.TYPING, step])
    lower = (rng.random(len(questions)) < share).tolist()
    pairs = zip(questions, lower, strict=True)
    return [replace(q, question=q.question.lower().rstrip("?")) if low else q for q, low in pairs]


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


class TrainingQuestions:
    """Draws of questions, and of names that they are played under."""

    def __init__(self, setting: Setting, popular_share: float, rename: float, args):
        """rename: share of the others that get new names. args: RunArgs."""
        self.env, self.rename, self.args = setting.env, rename, args
        self.sampler = QuestionSampler(setting.sets, popular_share, args.seed)
        self.renamer = Renamer(setting.questions, setting.env.corpus)

    def draw(self, count: int, step: int, stream: Stream) -> tuple[list[Question], RagEnv]:
        """`count` questions, and the environment in which they have new names."""
        seed, questions = self.args.seed, self.sampler.draw(count, step, stream)
        rng = np.random.default_rng([seed, Stream.RENAMING, step])
        names = self.renamer.draw(questions, self.rename, rng)
        env = RenamingEnv(**vars(self.env), names=names)
        return typed(questions, self.args.lower_case, seed, step), env
