"""Which questions a run learns from, which it is checked on, and which of them a step sees.

Left out: test questions; a training script never reads them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum

import numpy as np

from data.world import Question, World
from rl.runs.flags import UsageError
from rl.runs.progress import say

HELD_OUT = 500  # questions at most


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


def train_and_dev(world: World, dataset: str) -> tuple[list[list[Question]], list[list[Question]]]:
    """The training and the dev questions of each set of "popqa,hotpotqa". Where a set has no dev
    questions, a tenth of the training ones takes their place and is not trained on: the same ones
    in every run. Raises WorldError, UsageError."""
    train, dev = [], []
    names = [name.strip() for name in dataset.split(",")]
    for name, questions in zip(names, world.union(dataset, "train"), strict=True):
        checked = world.questions(name, "dev") if f"{name}.dev" in world.splits else []
        if not questions:
            raise UsageError(f"world {world.name!r}: {name}.train has no questions")
        if not checked:
            ordered = sorted(questions, key=digest)
            checked = ordered[: min(HELD_OUT, -(-len(ordered) // 10))]
            kept = set(ordered[len(checked) :]) or set(ordered)  # a single one is learnt as well
            questions = [q for q in questions if q in kept]
            say(f"{name} has no dev questions: {len(checked)} of {len(ordered)} are held out")
        train.append(list(questions))
        dev.append(list(checked))
    return train, dev


def answer_budget(questions: Sequence[Question]) -> int:
    """Tokens for 99 of 100 training answers, a token per three bytes and <eos>; 16 to 64. Counted
    before there is a tokenizer; rl/runs/checks.py says how many do not fit in the end."""
    lengths = sorted(len(q.answers[0].encode()) for q in questions)
    return max(16, min(64, -(-lengths[99 * (len(lengths) - 1) // 100] // 3) + 1))


def digest(question: Question) -> bytes:
    return hashlib.sha256(f"{question.id}\n{question.question}".encode()).digest()


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
