"""The shape of the policy: the fields of a Hugging Face `config.json` that this decoder computes.

The names are the field's own, so that `transformers` reads the file that we write (docs/algorithm.md).
Left out on purpose: other people's files, with their families' defaults (model/pretrained/families.py).
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
FIXED = {"hidden_act": "silu", "sliding_window": None, "use_sliding_window": False}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one line that names the file."""


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretch of the slow rotations (arXiv 2407.21783): rope_type "llama3"."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self):
        check_numbers(self, "rope_scaling: ")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("rope_scaling: high_freq_factor must exceed low_freq_factor")


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
    rope_scaling: RopeScaling | None = None
    model_type: str = "llama"

    def __post_init__(self):
        check_numbers(self)
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if not self.head_dim:
            if self.hidden_size % heads:
                raise ValueError(
                    f"hidden_size {self.hidden_size} is not a multiple of "
                    f"num_attention_heads {heads}"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // heads)
        if heads % kv_heads:
            raise ValueError(
                f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"the head dimension {self.head_dim} must be even: RoPE rotates pairs")

    @property
    def qkv_bias(self) -> bool:
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def qk_norm(self) -> bool:
        """RMSNorm of every query and key head before its rotation."""
        return self.model_type == "qwen3"

    def save(self, path: Path, pad: int, bos: int, eos: int, dtype: str = "float32") -> None:
        """Write `config.json`; the token ids are for `transformers.generate` alone."""
        values = asdict(self) | FIXED
        values |= {"architectures": [ARCHITECTURES[self.model_type]], "dtype": dtype}
        values |= {"pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos}
        if self.rope_scaling:
            values["rope_scaling"]["rope_type"] = "llama3"
        path.write_text(json.dumps(values | {"initializer_range": 0.02}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Read what `save` wrote. Raises CheckpointError, naming the file, for any other."""
        given = read_json(path)
        try:
            for name, ours in FIXED.items():
                if given.get(name, ours) != ours:
                    raise ValueError(f"{name} = {given[name]!r} is not supported (only {ours!r})")
            if given.get("model_type") not in ARCHITECTURES:
                raise ValueError(f"model_type is {given.get('model_type')!r}")
            values = {field.name: given[field.name] for field in fields(cls)}
            if scaling := values["rope_scaling"]:
                names = [field.name for field in fields(RopeScaling)]
                values["rope_scaling"] = RopeScaling(**{name: scaling[name] for name in names})
            return cls(**values)
        except KeyError as error:
            raise CheckpointError(f"{path}: missing field {error}") from None
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: {error}") from None


def check_numbers(values, prefix: str = "") -> None:
    """Every int and float of a dataclass is positive and finite, every bool a bool. ValueError."""
    for field in fields(values):
        name, value = prefix + field.name, getattr(values, field.name)
        if field.type is bool and not isinstance(value, bool):
            raise ValueError(f"{name} = {value!r:.40} is neither true nor false")
        if field.type not in (int, float) or (value == 0 and name == "head_dim"):
            continue
        kinds = (int,) if field.type is int else (int, float)
        if type(value) not in kinds or not 0 < value < 2**31:
            whole = "whole " if field.type is int else ""
            raise ValueError(f"{name} = {value!r:.40} is not a positive {whole}number")


def read_json(path: Path, kind: type = dict):
    """The value of a JSON file from outside: a `kind`, of bounded size and depth, or CheckpointError."""
    try:
        if path.stat().st_size > 2**26:
            raise ValueError("larger than 64 MB")
        value = json.loads(path.read_text(encoding="utf-8"))
        level = [value]
        for _ in range(32):
            items = [
                x.values() if isinstance(x, dict) else x for x in level if type(x) in (dict, list)
            ]
            level = [x for inner in items for x in inner]
        if level:
            raise ValueError("nested deeper than 32 levels")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable JSON ({error})") from None
    if not isinstance(value, kind):
        raise CheckpointError(f"{path}: not a JSON {'object' if kind is dict else kind.__name__}")
    return value
