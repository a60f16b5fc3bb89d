"""Other people's decoders: the Llama, Mistral, Qwen2 and Qwen3 families and their defaults, weights
whole or in shards.

A sliding window is not computed: the context ends where the window does, up to there both agree.
Left out on purpose: other architectures, partial rotations, other rope scalings, pickled weights,
and quantised ones, but for GGUF files (gguf.py).
"""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import empty_policy, names_in, read_tensors
from model.config import ARCHITECTURES, Config, check_numbers
from model.files import CheckpointError, read_json
from model.policy import Policy

INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"
ONLY = {"hidden_act": "silu", "partial_rotary_factor": 1.0, "quantization_config": None}
# What a family does not read: it has no such biases (Qwen2's own ones are always there).
NOT_READ = {"mistral": ("attention_bias", "mlp_bias"), "qwen3": ("mlp_bias",)}
NOT_READ["qwen2"] = NOT_READ["mistral"]


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
    try:
        return translate(given)
    except KeyError as error:
        raise CheckpointError(f"{path}: missing field {error}") from None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def translate(given: dict) -> Config:
    """Raises KeyError, ValueError, TypeError."""
    family = given.get("model_type")
    if str(family) not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"model_type is {family!r:.40}, expected one of {known}")
    stated = {name: value for name, value in given.items() if value is not None}
    for name, ours in (ONLY | dict.fromkeys(NOT_READ.get(family, ()), False)).items():
        if stated.get(name, ours) != ours:
            problem = f"is not supported for model_type {family!r} (only {ours!r})"
            raise ValueError(f"{name} = {stated[name]!r:.40} {problem}")
    values = {"tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}
    values |= {"rope_theta": 10000.0, "head_dim": 128 if family == "qwen3" else 0}
    if family == "llama":
        values["num_key_value_heads"] = stated.get("num_attention_heads")
    rope = given.get("rope_scaling")
    if isinstance(given.get("rope_parameters"), dict):  # transformers 5: theta and scaling in one
        rope = given["rope_parameters"]
        values["rope_theta"] = rope.get("rope_theta", 10000.0)
    values |= stated | {"rope_scaling": read_scaling(rope)}
    # Mistral has a window unless its file says null, the others where they say so.
    windowed = family == "mistral" or stated.get("use_sliding_window")
    if windowed and (window := given.get("sliding_window", 4096)) is not None:
        values["max_position_embeddings"] = min(values["max_position_embeddings"], window)
    kind = ScaledConfig if values["rope_scaling"] else Config
    return kind(**{field.name: values[field.name] for field in fields(kind)})


def read_scaling(rope) -> RopeScaling | None:
    stated = rope if isinstance(rope, dict) else {}
    kind = stated.get("rope_type", stated.get("type", "default"))
    whole = stated.get("partial_rotary_factor") in (None, 1.0)
    if rope is None or (stated is rope and kind == "default" and whole):
        return None
    if kind != "llama3":
        problem = "is not supported (only rope_type 'llama3' or none)"
        raise ValueError(f"rope_scaling = {rope!r:.80} {problem}")
    given = stated | {"rope_type": kind}
    return RopeScaling(**{field.name: given[field.name] for field in fields(RopeScaling)})


def read_decoder(directory: Path, dtype: torch.dtype | None) -> Policy:
    """The policy of a directory, its value head still missing. Raises CheckpointError.

    dtype: of the decoder's weights; None keeps bf16 and turns all else into float32.
    """
    config, files = read_config(directory / "config.json"), weight_files(directory)
    found = set().union(*files.values())
    ignored = {name for name in found if name.endswith("rotary_emb.inv_freq")}
    tied = config.tie_word_embeddings
    if tied and HEAD in found:  # some writers repeat the embedding here, some keep another head
        config = replace(config, tie_word_embeddings=False)
    path = directory / (INDEX if len(files) > 1 else "model.safetensors")
    others = [name for name in sorted(found) if name.endswith("embed_tokens.weight")]
    if others and TABLE not in found:
        how = "saved without its head, or from inside a wrapper (torch.compile, DDP, peft)"
        advice = "save the AutoModelForCausalLM itself"
        raise CheckpointError(f"{path}: {others[0]!r:.200} for {TABLE!r}: {how}; {advice}")
    policy, tensors = empty_policy(config, found, path), {}
    own = policy.trunk_state()
    for name in sorted(own.keys() ^ (found - ignored)):
        kind = "missing" if name in own else "unknown"
        raise CheckpointError(f"{path}: {kind} tensor {name!r:.200}")
    for path, names in files.items():
        wanted = {name: x for name, x in own.items() if name in names}
        tensors |= read_tensors(path, wanted, dtype, ignored)
    return filled(policy, tensors, tied)


def weight_files(directory: Path) -> dict[Path, set[str]]:
    """The weight files of a directory with the names of their tensors. Raises CheckpointError."""
    path, index = directory / "model.safetensors", directory / INDEX
    if path.exists() or not index.exists():
        pickled = [file for file in sorted(directory.iterdir()) if file.suffix in PICKLED]
        if pickled and not path.exists():
            raise CheckpointError(
                f"{pickled[0]}: pickled weights are not opened; have transformers save them as "
                "safetensors: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
            )
        return {path: names_in(path)}
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise CheckpointError(f"{index}: not a readable index of shards (no weight_map)")
    files: dict[Path, set[str]] = {}
    for name, shard in sorted(shards.items()):
        if Path(str(shard)).name != shard or Path(shard).suffix != ".safetensors":
            raise CheckpointError(f"{index}: the shard {shard!r:.80} is no file of this directory")
        files.setdefault(directory / shard, set()).add(name)
    return files


def filled(policy: Policy, tensors: dict[str, Tensor], tied: bool) -> Policy:
    """The policy with these weights, of one type; `tied`: a head that equals the table is none."""
    if tied and HEAD in tensors and torch.equal(tensors[HEAD], tensors[TABLE]):
        tensors.pop(HEAD)
        policy.lm_head = None
        policy.config = policy.model.config = replace(policy.config, tie_word_embeddings=True)
    dtype = tensors[TABLE].dtype  # a file of several types: that of the embedding
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    policy.load_state_dict(tensors, strict=False, assign=True)
    return policy
