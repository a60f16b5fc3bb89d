"""One forward pass scores whole episodes: log-probabilities, entropies and value features.

Logits at t - 1 score token t. Text is scored by the softmax over the vocabulary at a temperature,
a decision by the softmax over the two action tokens alone, exactly as they were sampled.

Shapes: N learnt tokens of a batch, episode by episode, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from model import Policy, Tokenizer
from rl import ranks
from rl.episode import Batch, Episode


class Scores(NamedTuple):
    log_probs: Tensor  # float32 [N], of the tokens taken
    text: Tensor  # log-softmax over the vocabulary, float32 [N, V]
    decision: Tensor  # and over the two action tokens, float32 [N, 2]
    features: Callable[[], Tensor]  # float32 [N, 3 D], detached: what the value head reads


def score(policy: Policy, batch: Batch, tokenizer: Tokenizer, temperature: float = 1.0) -> Scores:
    """Scores of the learnt tokens of a batch, differentiable in the policy."""
    logits, features = policy.at(batch.tokens, batch.rows, batch.columns - 1)
    taken, is_decision = batch.learnt(batch.tokens), batch.decision
    text = (logits if temperature == 1 else logits / temperature).log_softmax(-1)
    decision = logits[:, [tokenizer.retrieve, tokenizer.answer]].log_softmax(-1)
    choice = (taken == tokenizer.answer).long()
    log_probs = torch.where(is_decision, pick(decision, choice), pick(text, taken))
    return Scores(log_probs, text, decision, features)


def pick(log_probs: Tensor, index: Tensor) -> Tensor:
    """log_probs [N, V] at index [N] -> [N]."""
    return log_probs.gather(-1, index[:, None]).squeeze(-1)


def entropy(log_probs: Tensor) -> Tensor:
    """Of distributions log_probs [N, V] -> [N]."""
    return -(log_probs.exp() * log_probs).sum(-1)


def by_length(
    episodes: Sequence[Episode], tokens: int, shared: Sequence[int] = ()
) -> list[list[int]]:
    """Indices of this rank's own episodes, or of its share of `shared`, in as few groups of equal
    size and similar length as have at most that many tokens, padding included, the longest first.

    Every rank has as many groups, as a sharded policy needs: the last may be empty. Equal sizes,
    because oneDNN compiles matmuls for every new shape: with others a warm-up takes half as long
    again."""
    order = sorted(shared or range(len(episodes)), key=lambda i: -len(episodes[i].tokens))
    order, groups = ranks.share(order) if shared else order, []
    for count in range(1, len(order) + 1):
        places = [len(order) * i // count for i in range(count + 1)]
        groups = [order[a:b] for a, b in pairwise(places)]
        if all(len(group) * len(episodes[group[0]].tokens) <= tokens for group in groups):
            break
    return groups + [[]] * (ranks.most(len(groups)) - len(groups))
