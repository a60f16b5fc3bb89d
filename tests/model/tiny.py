"""Tiny policies and tokenizers for the tests: small enough to be exact about, random enough to
notice a wrong sign."""

import torch

from model import Config, Policy, Tokenizer

TEXTS = [
    "Velmor is the capital of Norland.",
    "Who wrote The Salt Road?",
    "Ada Quill wrote The Salt Road in 1907.",
    "Norland lies in the north, and Caldis in the south.",
    "In which city was Ada Quill born?",
    "Caldis",
]


def tiny_config(vocab_size: int = 320, **fields) -> Config:
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    return Config(vocab_size=vocab_size, **(shape | fields))


def tiny_policy(config: Config | None = None, seed: int = 0, scale: float = 0.2) -> Policy:
    """A policy far from its initialisation: peaked attention, norms that are not 1, a value head
    that is not 0."""
    policy = Policy(config or tiny_config())
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        centre = 1.0 if parameter.ndim == 1 else 0.0
        parameter.data = centre + scale * torch.randn(parameter.shape, generator=generator)
    return policy.eval()


def tiny_tokenizer(vocab_size: int = 320) -> Tokenizer:
    return Tokenizer.train(TEXTS, vocab_size)
