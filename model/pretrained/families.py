"""Other people's `config.json`: the Llama, Mistral, Qwen2 and Qwen3 families, with their own defaults.

A sliding window is not computed: the context ends where the window does, and up to there the two agree.
Left out on purpose: every other architecture, quantised weights, partial rotations, other rope scalings.
"""

from dataclasses import fields
from pathlib import Path

from model.config import ARCHITECTURES, CheckpointError, Config, RopeScaling, read_json

BIASES = {"llama": ("attention_bias", "mlp_bias"), "qwen3": ("attention_bias",)}  # Qwen2: always
ONLY = {"hidden_act": "silu", "partial_rotary_factor": 1.0, "quantization_config": None}


def read_config(path: Path) -> Config:
    """Config of a `config.json`, ours or theirs. Raises CheckpointError for what is not computed here."""
    given = read_json(path)
    family = given.get("model_type")
    if family not in ARCHITECTURES:
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
    values |= given | {"rope_scaling": _read_scaling(scaling), "model_type": family}
    names = [field.name for field in fields(Config)]
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
    return Config(**{name: values[name] for name in names})


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
    names = [field.name for field in fields(RopeScaling)]
    if missing := [name for name in names if name not in rope]:
        raise ValueError(f"rope_scaling lacks {missing[0]!r}")
    return RopeScaling(**{name: rope[name] for name in names})
