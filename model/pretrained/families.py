"""Decoders on disk, ours and other people's: the Llama, Mistral, Qwen2 and Qwen3 families and their
defaults, weights whole or in shards.

What a file claims is compared with what it holds before anything is built. A sliding window is not
computed: the context ends where the window does, up to there both agree. Left out on purpose:
other architectures, partial rotations, other rope scalings, pickled weights, and quantised ones,
but for GGUF files (gguf.py).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from model.config import FAMILIES, Config, check_numbers
from model.files import CheckpointError
from model.policy import Policy
from model.pretrained.reading import read_json, reading

INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"
ONLY = {"hidden_act": "silu", "partial_rotary_factor": 1.0, "quantization_config": None}
DEFAULTS = {"tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretch of the slow rotations (arXiv 2407.21783)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int
    rope_type: str

    def __post_init__(self):
        check_numbers(self, "rope_scaling: ")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("rope_scaling: high_freq_factor must exceed low_freq_factor")

    def stretched(self, frequency: Tensor) -> Tensor:
        """Rotations slower than the original context are divided by `factor`, fast ones kept."""
        low, high = self.low_freq_factor, self.high_freq_factor
        turns = frequency * self.original_max_position_embeddings / (2 * math.pi)
        keep = ((turns - low) / (high - low)).clamp(0, 1)  # between the two: interpolated
        return frequency * (keep + (1 - keep) / self.factor)


def read_config(path: Path) -> Config:
    """Config of a `config.json`, ours or theirs. CheckpointError for what is not computed."""
    given = read_json(path)
    with reading(path):
        return translate(given)


def translate(given: dict) -> Config:
    """Raises KeyError, ValueError, TypeError."""
    family = given.get("model_type")
    if str(family) not in FAMILIES:
        raise ValueError(f"model_type is {family!r:.40}, expected one of {', '.join(FAMILIES)}")
    # transformers 5 keeps rope_theta in here as well.
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    scaling = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else None
    if scaling not in ("default", "llama3"):
        raise ValueError(f"rope_scaling = {rope!r:.80} is not supported (only llama3's)")
    stated = {name: value for name, value in (given | rope).items() if value is not None}
    for name, ours in ONLY.items():
        if stated.get(name, ours) != ours:
            raise ValueError(f"{name} = {stated[name]!r:.40} is not supported (only {ours!r})")
    values = DEFAULTS | {"rope_theta": 10000.0, "head_dim": 128 if family == "qwen3" else 0}
    values |= {"num_key_value_heads": stated.get("num_attention_heads"), **stated}
    # Mistral has a window unless its file says null, the others where they say so.
    windowed = family == "mistral" or stated.get("use_sliding_window")
    if windowed and (window := given.get("sliding_window", 4096)) is not None:
        values["max_position_embeddings"] = min(values["max_position_embeddings"], window)
    values |= {"rope_type": scaling, "rope_scaling": None}
    if scaling == "llama3":
        stretch = {field.name: values[field.name] for field in fields(RopeScaling)}
        values["rope_scaling"] = RopeScaling(**stretch)
    return Config(**{field.name: values[field.name] for field in fields(Config)})


class Stored(NamedTuple):
    """A tensor of a file that has not been read."""

    shape: list[int]
    read: Callable[[], Tensor]


def stored_in(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file by their names. Raises CheckpointError."""
    with reading(path):
        file = safe_open(path, "pt")
        shapes = {name: file.get_slice(name).get_shape() for name in set(file.keys())}
        return {name: Stored(x, partial(file.get_tensor, name)) for name, x in shapes.items()}


def read_tensors(
    path: Path, stored: Mapping[str, Stored], own: Mapping[str, Tensor], dtype=None
) -> dict[str, Tensor]:
    """The tensors of `path`; names and shapes must be those of `own`, values finite.

    All names and shapes are compared before any tensor is read. dtype None: bf16 where the first of
    `own` is (the embedding), else float32. Raises CheckpointError.
    """
    tensors = {}
    with reading(path):
        for name in sorted(own.keys() ^ stored.keys()):
            raise ValueError(f"{'missing' if name in own else 'unknown'} tensor {name!r:.200}")
        for name, tensor in own.items():
            found, shape = stored[name].shape, list(tensor.shape)
            if found != shape:
                raise ValueError(f"{name!r} has shape {found}, expected {shape}")
        for name in own:
            tensor = stored[name].read()
            if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
                raise ValueError(f"{name!r} has the unsupported type {tensor.dtype}")
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name!r} holds NaN or infinite weights")
            if dtype is None:
                dtype = torch.bfloat16 if tensor.dtype == torch.bfloat16 else torch.float32
            tensors[name] = tensor.to(dtype, copy=True)  # the file itself may be mapped
    return tensors


def read_decoder(directory: Path, dtype: torch.dtype | None) -> Policy:
    """The policy of a directory, its value head still missing. Raises CheckpointError."""
    config, files = read_config(directory / "config.json"), weight_files(directory)
    path = files[0] if len(files) == 1 else directory / INDEX
    found = [item for file in files for item in stored_in(file).items()]
    stored = {name: x for name, x in found if not name.endswith("rotary_emb.inv_freq")}
    others = [name for name in sorted(stored) if name.endswith("embed_tokens.weight")]
    if others and TABLE not in stored:
        how = "saved without its head, or from inside a wrapper (torch.compile, DDP, peft)"
        problem = f"{others[0]!r:.200} for {TABLE!r}: {how}; save the AutoModelForCausalLM itself"
        raise CheckpointError(f"{path}: {problem}")
    return build(path, config, stored, dtype)


def weight_files(directory: Path) -> list[Path]:
    """The weight files of a directory. Raises CheckpointError."""
    path, index = directory / "model.safetensors", directory / INDEX
    if path.exists() or not index.exists():
        pickled = [file for file in sorted(directory.iterdir()) if file.suffix in PICKLED]
        if pickled and not path.exists():
            raise CheckpointError(
                f"{pickled[0]}: pickled weights are not opened; have transformers save them as "
                "safetensors: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
            )
        return [path]
    content = read_json(index)
    with reading(index):
        names = sorted({str(shard) for shard in content["weight_map"].values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ValueError(f"the shard {name!r:.80} is no file of this directory")
    return [directory / name for name in names]


def build(path: Path, config: Config, stored: dict[str, Stored], dtype) -> Policy:
    """The policy of a config and the tensors of `path`. Raises CheckpointError."""
    if config.tie_word_embeddings and {HEAD, TABLE} <= stored.keys():
        # Some writers repeat the embedding as the head, some keep another head.
        tied = torch.equal(*(stored[name].read().float() for name in (HEAD, TABLE)))
        config = replace(config, tie_word_embeddings=tied)
        stored = {name: x for name, x in stored.items() if not (tied and name == HEAD)}
    with reading(path), torch.device("meta"):  # shapes alone
        policy = Policy(config)
    tensors = read_tensors(path, stored, policy.trunk_state(), dtype)
    policy.load_state_dict(tensors, strict=False, assign=True)
    return policy
