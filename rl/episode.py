"""An episode is one token sequence (DESIGN, section 3; Algorithm 1 of the paper).

    <bos> question [RETRIEVE] query <eos> <obs> title text <sep> title text ... </obs> [ANSWER] answer <eos>
      state       |- action -------------|  |- observation (not ours) -------------| |- action -----------|

`tokens` and `action_mask` are born together here, for demonstrations and rollouts alike, and travel together:
nothing ever infers a mask from a pad id. `action_mask` marks what the policy chose; `decision_mask`, a part of it,
marks the first token of an action where both [RETRIEVE] and [ANSWER] were open. A decision that the quota or the
caller forced is in neither: it has no gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from data.world import Question
from model import Tokenizer


@dataclass
class Turn:
    """One retrieval as a person reads it."""

    query: str
    passages: list[int]  # rows of the corpus, best first
    scores: list[float]


@dataclass
class Episode:
    question: Question
    tokens: list[int] = field(
        default_factory=list
    )  # under other names where there are `names`; turns and answer are in the world's own words
    action_mask: list[bool] = field(default_factory=list)
    decision_mask: list[bool] = field(default_factory=list)
    rewards: list[float] = field(
        default_factory=list
    )  # the environment's, token by token; without the KL penalty
    behaviour: list[float] = field(
        default_factory=list
    )  # probability with which each free decision was sampled, in order
    turns: list[Turn] = field(default_factory=list)
    p_retrieve: float = float("nan")  # the policy's P([RETRIEVE]) at the first decision
    answer: str = ""
    exact_match: float = 0.0
    f1: float = 0.0
    hit: bool = False
    malformed: bool = False
    truncated: bool = False  # the question was cut to fit the context
    names: dict[str, str] = field(
        default_factory=dict
    )  # words that change places between the world and what the policy reads

    def state(self, tokens: Sequence[int]) -> None:
        """Append tokens that the policy did not choose."""
        self._append(tokens, False, False)

    def action(
        self, tokens: Sequence[int], reward: float, decision: bool = True, text: bool = True
    ) -> None:
        """Append an action: its first token a free `decision` or a forced one, its text chosen by the policy or given."""
        self._append(tokens[:1], decision, decision)
        self._append(tokens[1:], text, False)
        self.rewards[-1] = reward

    def _append(self, tokens: Sequence[int], action: bool, decision: bool) -> None:
        self.tokens += tokens
        self.action_mask += [action] * len(tokens)
        self.decision_mask += [decision] * len(tokens)
        self.rewards += [0.0] * len(tokens)

    @property
    def retrievals(self) -> int:
        return len(self.turns)

    @property
    def reward(self) -> float:
        return sum(self.rewards)


def observation(passages: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[int]:
    """<obs> passage <sep> passage ... </obs>; each passage is the tokens of "title text"."""
    tokens = [tokenizer.obs]
    for i, passage in enumerate(passages):
        tokens += ([tokenizer.sep] if i else []) + list(passage)
    return tokens + [tokenizer.obs_end]


class Batch(NamedTuple):
    """Episodes padded on the right. Shapes: B episodes, T tokens, N action tokens of all of them in row-major order."""

    tokens: Tensor  # int64 [B, T]
    rows: Tensor  # int64 [N]
    columns: Tensor  # int64 [N], >= 1: a token is scored by the state one column before it
    decision: Tensor  # bool [N]


def collate(episodes: Sequence, pad: int, device="cpu") -> Batch:
    """Pad episodes (anything with tokens, action_mask, decision_mask) to their longest."""
    width = max(len(e.tokens) for e in episodes)
    tokens = torch.full((len(episodes), width), pad)
    action = torch.zeros(len(episodes), width, dtype=torch.bool)
    decision = torch.zeros_like(action)
    for row, e in enumerate(episodes):
        tokens[row, : len(e.tokens)] = torch.tensor(e.tokens)
        action[row, : len(e.tokens)] = torch.tensor(e.action_mask)
        decision[row, : len(e.tokens)] = torch.tensor(e.decision_mask)
    rows, columns = action.nonzero(as_tuple=True)
    return Batch(
        tokens.to(device), rows.to(device), columns.to(device), decision[rows, columns].to(device)
    )
