"""A policy that starts from somebody else's checkpoint: its tokenizer learns our tokens, its embedding gets their rows.

A new row is the mean of the old ones (Hewitt, 2021, "Initializing new word embeddings for pretrained language models"):
no new token then outweighs the old ones in the softmax before it has been trained.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from model.policy import Policy
from model.tokenizer import Tokenizer
from model.transformer import Rope


def open_pretrained(
    directory: str | Path, dtype: torch.dtype, context: int
) -> tuple[Policy, Tokenizer, list[int]]:
    """Policy on the CPU, tokenizer, ids of the new tokens. The context is at most `context` positions: tables and
    rollouts are no longer than they need to be. Raises CheckpointError."""
    policy = Policy.load(directory, dtype=dtype)
    tokenizer, new = Tokenizer.adapt(directory)
    if new:
        resize(policy, max(len(tokenizer), policy.config.vocab_size), new)
    config = replace(
        policy.config,
        vocab_size=policy.model.embed_tokens.num_embeddings,
        max_position_embeddings=min(context, policy.config.max_position_embeddings),
    )
    policy.config = policy.model.config = config
    policy.model.rope = Rope(config)
    return policy, tokenizer, new


def resize(policy: Policy, rows: int, new: list[int]) -> None:
    """Give the embedding (and the untied head) `rows` rows; those of `new` and all beyond the old ones become the mean.

    Families keep unused rows behind their vocabulary: a new token may fall on one of them, and they are no part of the mean.
    """
    for module in filter(None, (policy.model.embed_tokens, policy.lm_head)):
        old = module.weight.data
        mean = old[: min(new)].float().mean(0).to(old.dtype)
        weight = torch.cat([old, mean.repeat(rows - len(old), 1)])
        weight[new] = mean
        module.weight = nn.Parameter(weight)
    policy.model.embed_tokens.num_embeddings = rows
    if policy.lm_head:
        policy.lm_head.out_features = rows
