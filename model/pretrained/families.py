"""Other people's `config.json`: the Llama, Mistral, Qwen2 and Qwen3 families and their defaults.

A sliding window is not computed: the context ends where the window does, up to there both agree.
Left out on purpose: other architectures, quantised weights, partial rotations, other rope scalings.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from model.config import ARCHITECTURES, Config, check_numbers
from model.files import CheckpointError, read_json

BIASES = {"llama": ("attention_bias", "mlp_bias"), "qwen3": ("attention_bias",)}  # Qwen2: always
ONLY = {"hidden_act": "silu", "partial_rotary_factor": 1.0, "quantization_config": None}


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretch of the slow rotations (arXiv 2407.21783)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int
    rope_type: str = "llama3"

    def __post_init__(self):
        check_numbers(self, "rope_scaling: ")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("rope_scaling: high_freq_factor must exceed low_freq_factor")


@dataclass(frozen=True)
class ScaledConfig(Config):
    rope_scaling: RopeScaling | None = None

    def rope_frequency(self) -> torch.Tensor:
        """Rotations slower than the original context are divided by `factor`, fast ones kept."""
        frequency, scaling = super().rope_frequency(), self.rope_scaling
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        turns = frequency * scaling.original_max_position_embeddings / (2 * math.pi)
        keep = ((turns - low) / (high - low)).clamp(0, 1)  # between the two: interpolated
        return frequency * (keep + (1 - keep) / scaling.factor)


def read_config(path: Path) -> Config:
    """Config of a `config.json`, ours or theirs. CheckpointError for what is not computed."""
    given = read_json(path)
    family = given.get("model_type")
    if str(family) not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"{path}: model_type is {family!r:.40}, expected one of {known}")
    try:
        return _translate({k: v for k, v in given.items() if v is not None}, family, given)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _translate(given: dict, family: str, raw: dict) -> Config:
    only = ONLY | dict.fromkeys({"attention_bias", "mlp_bias"} - set(BIASES.get(family, ())), False)
    for name, ours in only.items():
        if given.get(name, ours) != ours:
            raise ValueError(
                f"{name} = {given[name]!r:.40} is not supported for model_type {family!r} "
                f"(only {ours!r})"
            )
    values = {"tie_word_embeddings": False, "rope_theta": 10000.0, "head_dim": 0}
    values |= {"attention_bias": False, "mlp_bias": False}
    if family == "qwen3":
        values["head_dim"] = 128
    if family == "llama":
        values["num_key_value_heads"] = given.get("num_attention_heads")
    scaling = given.get("rope_scaling")
    if isinstance(given.get("rope_parameters"), dict):  # transformers 5: theta and scaling in one
        scaling = given["rope_parameters"]
        values["rope_theta"] = scaling.get("rope_theta", 10000.0)
    values |= given | {"rope_scaling": _read_scaling(scaling)}
    kind = ScaledConfig if values["rope_scaling"] else Config
    names = [field.name for field in fields(kind)]
    if missing := [name for name in names if name not in values]:
        raise ValueError(f"missing field {missing[0]!r}")
    # Mistral has a window unless its file says null, the others where they say so.
    window = raw.get("sliding_window", 4096) if family == "mistral" else None
    if raw.get("use_sliding_window"):
        window = raw.get("sliding_window", 4096)
    if window is not None:
        if type(window) is not int or window < 1:
            raise ValueError(f"sliding_window = {window!r:.40} is not a positive whole number")
        values["max_position_embeddings"] = min(values["max_position_embeddings"], window)
    return kind(**{name: values[name] for name in names})


def _read_scaling(rope) -> RopeScaling | None:
    if not isinstance(rope, dict):
        rope = {} if rope is None else {"rope_type": rope}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default" and rope.get("partial_rotary_factor") in (None, 1.0):
        return None
    if kind != "llama3":
        raise ValueError(
            f"rope_scaling = {rope!r:.80} is not supported (only rope_type 'llama3' or none)"
        )
    names = [field.name for field in fields(RopeScaling)][:-1]
    if missing := [name for name in names if name not in rope]:
        raise ValueError(f"rope_scaling lacks {missing[0]!r}")
    return RopeScaling(**{name: rope[name] for name in names})
