"""Which questions a run learns from and which it is checked on.

Left out: test questions; a training script never reads them.
"""

import hashlib

from data.world import Question, World
from rl.runs.flags import UsageError
from rl.runs.progress import say

HELD_OUT = 500  # questions at most


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


def digest(question: Question) -> bytes:
    return hashlib.sha256(f"{question.id}\n{question.question}".encode()).digest()
