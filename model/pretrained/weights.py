"""The decoder in other people's directories: whole or in shards, with what some writers repeat.

Left out on purpose: pickled weights, quantised weights.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open

from model.checkpoint import empty_policy, read_tensors
from model.files import CheckpointError, read_json
from model.policy import Policy
from model.pretrained.families import read_config

INDEX = "model.safetensors.index.json"


def read_decoder(directory: Path, dtype: torch.dtype | None) -> Policy:
    """The policy of a directory, its value head still at 0. Raises CheckpointError.

    dtype: of the decoder's weights; None keeps bf16 and turns all else into float32.
    """
    config = read_config(directory / "config.json")
    policy = empty_policy(config)
    own = policy.trunk_state()
    for path, names in shards(directory, own, config.tie_word_embeddings).items():
        ignored = superfluous(names_in(path), config.tie_word_embeddings)
        wanted = {name: own[name] for name in names}
        tensors = read_tensors(path, wanted, dtype, ignored)
        policy.load_state_dict(tensors, strict=False, assign=True)
    for parameter in policy.trunk_parameters():  # a file of several types: that of the embedding
        parameter.data = parameter.data.to(policy.dtype)
    return policy


def shards(directory: Path, names: Iterable[str], tied: bool) -> dict[Path, set[str]]:
    """The weight files of a directory, each with the tensors it must hold. CheckpointError."""
    path, names = directory / INDEX, set(names)
    if (directory / "model.safetensors").exists() or not path.exists():
        return {directory / "model.safetensors": names}
    files = read_json(path).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise CheckpointError(f"{path}: not a readable index of shards (no weight_map)")
    for name in sorted(names ^ (files.keys() - superfluous(files, tied))):
        kind = "missing" if name in names else "unknown"
        raise CheckpointError(f"{path}: {kind} tensor {name!r}")
    return {
        directory / file: {name for name in names if files[name] == file}
        for file in dict.fromkeys(files[name] for name in sorted(names))
    }


def superfluous(names: Iterable[str], tied: bool) -> set[str]:
    """What some writers repeat: the tied embedding, and a table that follows from the config."""
    repeated = {"lm_head.weight"} if tied else set()
    return {name for name in names if name in repeated or name.endswith("rotary_emb.inv_freq")}


def names_in(path: Path) -> list[str]:
    """The tensors of a file; none where it cannot be read, which `read_tensors` says better."""
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except Exception:
        return []
