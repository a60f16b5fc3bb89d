"""The last exercise of docs/exercises.md: plants one of four faults in rl/, and does not say which.

    python -m tests.planted_bugs 1          1, 2, ...: which one; without a number a random one
    git diff rl                             the answer
    git checkout rl                         and back

Each fault trains, crashes nowhere, and costs reward. Its test fails (tests/test_docs.py).
"""

import random
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Bug(NamedTuple):
    file: str
    right: str  # occurs once in the file
    wrong: str
    test: str  # fails with it


BUGS = (
    Bug(
        "rl/scoring.py",
        "(taken == tokenizer.answer)",
        "(taken == tokenizer.retrieve)",
        "tests/rl/test_ppo.py::test_scores_are_those_of_single_tokens",
    ),
    Bug(
        "rl/ppo.py",
        "- beta * experience.k1",
        "+ beta * experience.k1",
        "tests/rl/test_ppo.py::test_the_penalty_moves_the_returns_by_beta_times_k1",
    ),
    Bug(
        "rl/ppo.py",
        "torch.maximum(surrogate, clipped_surrogate)",
        "torch.minimum(surrogate, clipped_surrogate)",
        "tests/rl/test_ppo.py::test_ppo_loss_of_three_tokens_by_hand",
    ),
    Bug(
        "rl/ppo.py",
        "(branch_returns * probabilities)",
        "(branch_returns * probabilities.flip(-1))",
        "tests/rl/test_ppo.py::test_paired_experience",
    ),
)


def plant(bug: Bug, root: Path = ROOT) -> None:
    file = root / bug.file
    source = file.read_text()
    if source.count(bug.right) != 1:
        sys.exit(f"error: {bug.file} is not as it was; git checkout rl")
    file.write_text(source.replace(bug.right, bug.wrong))


if __name__ == "__main__":
    choice = int(sys.argv[1]) if sys.argv[1:] else random.randint(1, len(BUGS))
    plant(BUGS[(choice - 1) % len(BUGS)])
    print("planted; what does metrics.jsonl show?")
