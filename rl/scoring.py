"""One forward pass scores whole episodes: log-probabilities, entropies and value features.

Logits at t - 1 score token t. Text is scored by the softmax over the vocabulary at a temperature,
a decision by the softmax over the two action tokens alone, exactly as they were sampled.

Shapes: B episodes, T tokens, A learnt tokens of a row at most, N of all rows, D width, V
vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model import Policy, Tokenizer
from rl.episode import Batch


class Scores(NamedTuple):
    log_probs: Tensor  # float32 [N], of the tokens taken
    entropy: Tensor  # float32 [N]
    features: Tensor  # float32 [N, 3 D], detached: what the value head reads


def score(policy: Policy, batch: Batch, tokenizer: Tokenizer, temperature: float = 1.0) -> Scores:
    """Scores of the learnt tokens of a batch, differentiable in the policy."""
    logits, features = learnt_logits(policy, batch, tokenizer.pad)
    taken, is_decision = batch.learnt(batch.tokens), batch.decision
    text = (logits / temperature).log_softmax(-1)
    decision = logits[:, [tokenizer.retrieve, tokenizer.answer]].log_softmax(-1)
    choice = (taken == tokenizer.answer).long()
    log_probs = torch.where(is_decision, pick(decision, choice), pick(text, taken))
    entropies = torch.where(is_decision, entropy(decision), entropy(text))
    return Scores(log_probs, entropies, features)


def pick(log_probs: Tensor, index: Tensor) -> Tensor:
    """log_probs [N, V] at index [N] -> [N]."""
    return log_probs.gather(-1, index[:, None]).squeeze(-1)


def entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs).sum(-1)


def learnt_logits(policy: Policy, batch: Batch, pad: int) -> tuple[Tensor, Tensor]:
    """Logits float32 [N, V] that score the learnt tokens, and value features [N, 3 D] of their
    states.

    Sizes are rounded up, because oneDNN compiles a matmul for every shape that it has not met of
    late, a fifth of an update on a CPU; the last layer is computed at the columns that are needed.
    """
    length = batch.tokens.shape[1]
    width = max(length, min(round_up(length, 8), policy.config.max_position_embeddings))
    tokens = F.pad(batch.tokens, (0, width - length), value=pad)
    states_at = (batch.rows, batch.columns - 1)
    counts = torch.bincount(batch.rows, minlength=len(batch.tokens))[:, None]  # [B, 1]
    slots = torch.arange(round_up(int(counts.max()), 4), device=counts.device)
    wanted = slots < counts  # bool [B, A]
    columns = torch.zeros_like(wanted, dtype=torch.long).masked_scatter(wanted, states_at[1])
    if policy.config.num_hidden_layers == 1:  # its only layer is also the value features' first
        states = policy.model(tokens)
        hidden = states[-1][states_at]
    else:
        states = policy.model(tokens, columns=columns)  # [B, T, D] each, the last one [B, A, D]
        hidden = states[-1][wanted]  # [N, D]
    padded = F.pad(hidden, (0, 0, 0, round_up(len(hidden), 32) - len(hidden)))
    logits = policy.logits(padded)[: len(hidden)]
    return logits, policy.value_features(states, states_at, hidden)


def round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def by_length(sequences: Sequence[Sequence], size: int) -> list[list[int]]:
    """Indices in groups of at most `size`, similar lengths together, the longest first."""
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    return [order[i : i + size] for i in range(0, len(order), size)]
