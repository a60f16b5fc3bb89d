"""Weights from safetensors files, whole or sharded: `load_file` plus checks. Every name and shape must agree."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.config import CheckpointError

INDEX = "model.safetensors.index.json"


def shards(directory: Path, names: Iterable[str], tied: bool) -> dict[Path, set[str]]:
    """The weight files of a checkpoint directory, each with the tensors that it must hold. Raises CheckpointError."""
    path, names = directory / INDEX, set(names)
    if (directory / "model.safetensors").exists() or not path.exists():
        return {directory / "model.safetensors": names}
    try:
        files = {
            name: directory / file
            for name, file in json.loads(path.read_text())["weight_map"].items()
            if not _superfluous(name, tied)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a readable index of shards ({error})") from None
    _same_names(path, names, files)
    return {
        file: {name for name in files if files[name] == file}
        for file in dict.fromkeys(files.values())
    }


def read_tensors(
    path: Path, own: Mapping[str, Tensor], dtype: torch.dtype | None, tied: bool = True
) -> dict[str, Tensor]:
    """The tensors of one file, copied, with the names and shapes of `own`. dtype None keeps bf16 and turns all else into float32."""
    try:
        tensors = {
            name: tensor for name, tensor in load_file(path).items() if not _superfluous(name, tied)
        }
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found") from None
    except Exception as error:  # safetensors raises its own class for torn and foreign files
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None
    _same_names(path, own, tensors)
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{path}: {name!r} has shape {list(tensor.shape)}, expected {list(own[name].shape)}"
            )
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise CheckpointError(f"{path}: {name!r} has the unsupported type {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name!r} holds NaN or infinite weights")
        kept = torch.bfloat16 if tensor.dtype == torch.bfloat16 else torch.float32
        tensors[name] = tensor.to(
            dtype or kept, copy=True
        )  # a copy: load_file may map the file itself into memory
    return tensors


def _superfluous(name: str, tied: bool) -> bool:
    """What some writers repeat: the tied embedding, and a table that follows from the config."""
    return tied and name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq")


def _same_names(path: Path, own: Iterable[str], found: Iterable[str]) -> None:
    own, found = set(own), set(found)
    for name in sorted(own ^ found):
        raise CheckpointError(f"{path}: {'missing' if name in own else 'unknown'} tensor {name!r}")
