"""What is asked and what is known: worlds (corpus and questions), their builders, and answer metrics."""

from data.metrics import contains_answer, exact_match, f1_score, hit, normalize_answer
from data.world import Passage, Question, World, WorldError

__all__ = [
    "Passage",
    "Question",
    "World",
    "WorldError",
    "contains_answer",
    "exact_match",
    "f1_score",
    "hit",
    "normalize_answer",
]
