"""An episode is one token sequence (docs/algorithm.md, section 1; Algorithm 1 of the paper).

    <bos> question [RETRIEVE] query <eos> <obs> title text <sep> ... </obs> [ANSWER] answer <eos>
    state          decision   query       state                            decision answer

Every token knows its part. Tokens and parts are born together and travel together; what a loss
looks at is derived from the parts alone, never from a pad id, a count of tokens or the order of
turns. Left out: what an action leads to (rl/environment.py).

Shapes: B episodes, T tokens of the longest, N learnt tokens of all of them in row-major order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.world import Question


class Part(IntEnum):
    STATE = 0  # not learnt: question, observations, forced decisions, given texts
    DECISION = 1  # [RETRIEVE] or [ANSWER], where both were open
    QUERY = 2  # the text after [RETRIEVE], its <eos> included
    ANSWER = 3  # the text after [ANSWER], its <eos> included


ACTIONS = (Part.DECISION, Part.QUERY, Part.ANSWER)


@dataclass
class Turn:
    """One retrieval as a person reads it."""

    query: str
    passages: list[int]  # rows of the corpus, best first
    scores: list[float]


@dataclass
class Episode:
    """One question with everything that was done about it. `tokens`, `parts` and `rewards` are
    parallel lists; rewards are the environment's, without the KL penalty."""

    question: Question
    tokens: list[int] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    behaviour: list[float] = field(default_factory=list)  # probability of each free decision taken
    turns: list[Turn] = field(default_factory=list)
    p_retrieve: float = float("nan")  # the policy's P([RETRIEVE]) at the first decision
    answer: str = ""
    exact_match: float = 0.0
    f1: float = 0.0
    hit: bool = False  # the passages found so far hold what the question needs
    malformed: bool = False  # an action without text, or without <eos> within its budget
    truncated: bool = False  # the question was cut to fit the context

    def append(self, tokens: Sequence[int], part: Part) -> None:
        self.tokens += tokens
        self.parts += [part] * len(tokens)
        self.rewards += [0.0] * len(tokens)

    def mask(self) -> list[bool]:
        """Which tokens are learnt."""
        return [part != Part.STATE for part in self.parts]

    @property
    def found(self) -> list[int]:
        """Rows of all passages, of all turns."""
        return [row for turn in self.turns for row in turn.passages]

    @property
    def retrievals(self) -> int:
        return len(self.turns)

    @property
    def reward(self) -> float:
        return sum(self.rewards)


class Batch(NamedTuple):
    """Episodes padded on the right, and where their learnt tokens stand."""

    tokens: Tensor  # int64 [B, T]
    parts: Tensor  # int64 [B, T], STATE in the padding
    rows: Tensor  # int64 [N]
    columns: Tensor  # int64 [N], >= 1: a token is scored by the state one column before it

    def learnt(self, grid: Tensor) -> Tensor:
        """The entries of a grid [B, T] at the learnt tokens, [N]."""
        return grid[self.rows, self.columns]

    @property
    def decision(self) -> Tensor:
        """Which of the learnt tokens are decisions, bool [N]."""
        return self.learnt(self.parts) == Part.DECISION


def collate(episodes: Sequence[Episode], pad: int, device="cpu") -> Batch:
    """Pad episodes to their longest. No episodes are one token of padding, and nothing to learn."""
    episodes = episodes or [Episode(None, [pad], [Part.STATE])]
    tokens = [torch.tensor(e.tokens) for e in episodes]
    tokens = pad_sequence(tokens, batch_first=True, padding_value=pad).to(device)
    parts = [torch.tensor(e.parts) for e in episodes]
    parts = pad_sequence(parts, batch_first=True, padding_value=Part.STATE).to(device)
    return Batch(tokens, parts, *(parts != Part.STATE).nonzero(as_tuple=True))
