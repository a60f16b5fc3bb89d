"""The shape of the policy: the fields of a Hugging Face `config.json` that this decoder computes.

The names are the field's own, so that `transformers` reads the file that we write. Left out on
purpose: reading such files, and the stretch of rotations (pretrained/families.py).
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Config:
    """Raises ValueError for sizes that no decoder can have."""

    vocab_size: int = 2048
    hidden_size: int = 128
    intermediate_size: int = 384  # SwiGLU: three matrices of hidden_size x intermediate_size
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2  # grouped-query attention: each serves two query heads
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    head_dim: int = 0  # 0: hidden_size / num_attention_heads
    tie_word_embeddings: bool = True  # else `lm_head` is a matrix of its own
    attention_bias: bool = False
    mlp_bias: bool = False
    model_type: str = "llama"
    rope_scaling: Any = None  # a RopeScaling of pretrained/families.py

    def __post_init__(self):
        check_numbers(self)
        multiples = [("num_attention_heads", "num_key_value_heads")]
        multiples += [] if self.head_dim else [("hidden_size", "num_attention_heads")]
        for whole, part in multiples:
            a, b = getattr(self, whole), getattr(self, part)
            if a % b:
                raise ValueError(f"{whole} {a} is not a multiple of {part} {b}")
        heads = self.num_attention_heads
        object.__setattr__(self, "head_dim", self.head_dim or self.hidden_size // heads)
        if self.head_dim % 2:
            raise ValueError(f"the head dimension {self.head_dim} must be even: RoPE rotates pairs")

    def rope_frequency(self) -> torch.Tensor:
        """Radians per position of each rotated pair, float32 [E/2]."""
        frequency = self.rope_theta ** (-torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        return self.rope_scaling.stretched(frequency) if self.rope_scaling else frequency

    def save(self, path: Path, pad: int, bos: int, eos: int, dtype: str = "float32") -> None:
        """Write `config.json`; the token ids are for `transformers.generate` alone."""
        fixed = {"hidden_act": "silu", "sliding_window": None, "use_sliding_window": False}
        values = asdict(self) | fixed | {"dtype": dtype, "initializer_range": 0.02}
        values |= {"architectures": [f"{self.model_type.capitalize()}ForCausalLM"]}
        values |= {"pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos}
        path.write_text(json.dumps(values, indent=1) + "\n")


def check_numbers(values, prefix: str = "") -> None:
    """Every number of a dataclass is positive and not absurd, every bool a bool. ValueError."""
    for field in fields(values):
        name, value = prefix + field.name, getattr(values, field.name)
        if field.type is bool and not isinstance(value, bool):
            raise ValueError(f"{name} = {value!r:.40} is neither true nor false")
        if field.type not in (int, float) or (value == 0 and name == "head_dim"):
            continue
        kinds = (int,) if field.type is int else (int, float)
        limit = 2**9 if name == "num_hidden_layers" else 2**30
        if type(value) not in kinds or not 0 < value < limit:
            kind = "whole number" if field.type is int else "number"
            raise ValueError(f"{name} = {value!r:.40} is not a positive {kind} below {limit}")
