"""What the environment pays (SmartRAG, section 3.2): answer quality minus the cost of retrieving.

A turn is paid at the last token of its action; everything else is 0. All weights are flags of train_ppo.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reward:
    exact_match: float = 1.0
    f1: float = 1.0
    retrieval: float = -0.2
    malformed: float = -1.0

    def answer(self, exact_match: float, f1: float) -> float:
        return self.exact_match * exact_match + self.f1 * f1
