"""Which training questions a step sees."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data.world import Question
from rl.runs.streams import Stream


class QuestionSampler:
    """Training questions of step t, a pure function of (seed, stream, t): a resumed run sees what
    an uninterrupted one saw.

    A share of each draw is popular questions, asked in proportion to their popularity; the others
    are uniform, an equal part from each question set. Where a world has no slices there are only
    others.
    """

    def __init__(self, sets: Sequence[Sequence[Question]], popular_share: float, seed: int):
        """sets: the questions of each question set."""
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
