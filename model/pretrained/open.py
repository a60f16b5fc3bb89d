"""Any checkpoint becomes a policy: ours, adapters over a base, shards, a foreign one to start from.

A foreign tokenizer learns our tokens and the embedding gets their rows, each the mean of the old
ones (Hewitt, 2021, "Initializing new word embeddings for pretrained language models"): no new token
then outweighs the old ones in the softmax before it has been trained.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from model.checkpoint import complete, existing, read_companions
from model.files import CheckpointError
from model.policy import Policy
from model.pretrained import lora
from model.pretrained.families import read_decoder
from model.pretrained.gguf import open_gguf
from model.pretrained.tokens import adapt_tokenizer, add_tokens, check_tokenizer
from model.tokenizer import Tokenizer


def open_policy(
    directory: str | Path, device: str = "cpu", dtype: torch.dtype | None = None
) -> tuple[Policy, Tokenizer, dict]:
    """Open any checkpoint that holds a policy: plain, sharded, or adapters over a base.

    dtype: of the decoder's weights; None keeps bf16 and turns all else into float32.
    Policy (adapters merged), tokenizer, run.json ({} where absent). Raises CheckpointError.
    """
    policy = open_model(directory, device, dtype)
    check_tokenizer(Path(directory))
    return policy, *read_companions(Path(directory), policy)


def open_model(
    directory: str | Path, device: str = "cpu", dtype: torch.dtype | None = None
) -> Policy:
    """The policy of `open_policy` alone: foreign tokenizers lack our tokens."""
    directory = existing(directory)
    if (directory / lora.CONFIG).exists():
        base, rank, ids = lora.read_adapter_config(directory)
        policy = lora.merge_saved(read_decoder(base, dtype), directory, rank, ids)
    else:
        policy = read_decoder(directory, dtype)
    return complete(policy, directory, device)


def open_pretrained(
    directory: str | Path, dtype: torch.dtype, context: int
) -> tuple[Policy, Tokenizer, list[int]]:
    """Policy on the CPU with at most `context` positions, its tokenizer, ids of the new tokens.

    `directory`: a checkpoint of a family of families.py, or a GGUF file. Raises CheckpointError.
    """
    if Path(directory).is_file():
        policy, backend, declared = open_gguf(Path(directory), dtype)
        policy = complete(policy, Path(directory), "cpu")
        tokenizer, new = add_tokens(backend, declared)
    else:
        policy = open_model(directory, dtype=dtype)
        tokenizer, new = adapt_tokenizer(directory)
    if len(tokenizer) > policy.config.vocab_size + 2**10:
        problem = f"{len(tokenizer)} tokens do not fit the {policy.config.vocab_size} rows"
        raise CheckpointError(f"{directory}: {problem} of the embedding")
    if new:
        resize(policy, max(len(tokenizer), policy.config.vocab_size), new)
    rows = policy.model.embed_tokens.num_embeddings
    context = min(context, policy.config.max_position_embeddings)
    config = replace(policy.config, vocab_size=rows, max_position_embeddings=context)
    policy.config = policy.model.config = config
    return policy, tokenizer, new


def resize(policy: Policy, rows: int, new: list[int]) -> None:
    """Give the embedding (and the untied head) `rows` rows; the new ones are the mean.

    Families keep unused rows behind their vocabulary: a new token may fall on one of them, and they
    are no part of the mean.
    """
    for module in filter(None, (policy.model.embed_tokens, policy.lm_head)):
        old = module.weight.data
        mean = old[: min(new)].float().mean(0).to(old.dtype)
        weight = torch.cat([old, mean.repeat(rows - len(old), 1)])
        weight[new] = mean
        module.weight, module.num_embeddings = nn.Parameter(weight), rows
