"""Checkpoints: a policy with its tokenizer in a directory, as everyone else can open it too.

    config.json  model.safetensors  tokenizer.json  tokenizer_config.json   what transformers opens
    value_head.safetensors  run.json                  ours: the value head, and how it came about

A save is durable (files.py) and never leaves a mixture of two. No pickle. Left out on purpose:
reading, ours and other people's (pretrained/open.py), unfinished runs (rl/runs).
"""

import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from model.files import CheckpointError, not_written, sync
from model.policy import Policy
from model.tokenizer import Tokenizer

WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "value_head.safetensors")
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "run.json")
CONFIGS = ("adapter_config.json", "config.json")  # a checkpoint holds exactly one of them
POLICY_FILES = (*WEIGHTS, *COMPANIONS, *CONFIGS)


def is_checkpoint(directory: str | Path) -> bool:
    """Whether a directory holds a whole policy, or adapters over one."""
    return any((Path(directory) / name).is_file() for name in CONFIGS)


def check_finite(module: nn.Module, directory: Path) -> None:
    """Raises FloatingPointError: broken weights never replace good ones."""
    for name, tensor in module.state_dict().items():
        if not torch.isfinite(tensor).all():
            broken = f"{name} holds NaN or infinite weights"
            raise FloatingPointError(f"{broken}; {directory} is not written")


def save_policy(
    directory: Path, policy: Policy, tokenizer: Tokenizer, run: dict, write_decoder=None
) -> None:
    """Write a checkpoint; write_decoder(folder) puts the decoder into another form (adapters).

    A failure leaves the old one as it was; a kill while files are exchanged leaves a directory
    without `config.json`, which is no checkpoint, never one of old and new files. Raises OSError,
    and FloatingPointError for weights that are not finite.
    """
    check_finite(policy, directory)
    directory.mkdir(parents=True, exist_ok=True)
    staging = directory / "staging.partial"
    shutil.rmtree(staging, ignore_errors=True)  # what a kill left
    try:
        staging.mkdir()
        (write_decoder or partial(save_decoder, policy, tokenizer))(staging)
        save_tensors(policy.value_head.state_dict(), staging / "value_head.safetensors")
        tokenizer.save(staging)
        (staging / "run.json").write_text(json.dumps(run, indent=1) + "\n")
        for path in (*staging.iterdir(), staging, directory.parent):
            sync(path)
        _exchange(staging, directory)
    except (OSError, SafetensorError) as error:
        raise not_written(directory, error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def save_decoder(policy: Policy, tokenizer: Tokenizer, folder: Path) -> None:
    """model.safetensors and config.json, which `transformers` opens."""
    dtype = str(policy.dtype).removeprefix("torch.")
    special = (tokenizer.pad, tokenizer.bos, tokenizer.eos)
    save_tensors(policy.trunk_state(), folder / "model.safetensors")
    policy.config.save(folder / "config.json", *special, dtype)


def save_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in state.items()}
    save_file(state, path, {"format": "pt"})


def _exchange(staging: Path, directory: Path) -> None:
    """Old files out, what makes it a checkpoint first; new ones in, that last, or all undone."""
    old = [name for name in reversed(POLICY_FILES) if (directory / name).exists()]
    new = [name for name in POLICY_FILES if (staging / name).exists()]
    moves = [(directory / name, staging / f"old.{name}") for name in old]
    moves += [(staging / name, directory / name) for name in new]
    done = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
            sync(target.parent)
    except BaseException:  # Ctrl-C as well
        for source, target in reversed(done):
            os.replace(target, source)
        raise


def existing(directory: str | Path) -> Path:
    """The directory as a Path; CheckpointError where it holds no checkpoint."""
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory")
    if not is_checkpoint(directory):
        raise CheckpointError(f"{directory}: no checkpoint here (config.json not found)")
    return directory
