"""Files: checkpoints, and what else is replaced durably.

    config.json  model.safetensors  tokenizer.json  tokenizer_config.json   what transformers opens
    value_head.safetensors  run.json                  ours: the value head, and how it came about

What replaces a file is written beside it, flushed to the disk, then renamed: neither a kill nor a
power cut leaves half a file or a mixture of two checkpoints, and nothing old goes before the new is
safe. No pickle. Left out on purpose: reading them (pretrained/open.py), unfinished runs.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from model.policy import Policy
from model.tokenizer import Tokenizer

WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "value_head.safetensors")
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "run.json")
CONFIGS = ("adapter_config.json", "config.json")  # a checkpoint holds exactly one of them
POLICY_FILES = (*WEIGHTS, *COMPANIONS, *CONFIGS)
UMASK = os.umask(0o077)
os.umask(UMASK)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one line that names the file."""


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let write(temporary path) make a file and put it in the place of `path`, or of what a link
    points to; never in that of a device or a folder. Raises OSError."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a regular file")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")  # another process's own
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:  # the second: that library's "disk full"
        raise not_written(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, now with the permissions of the user's umask, or a directory to the disk."""
    if path.is_file():
        os.chmod(path, 0o666 & ~UMASK)  # safetensors' files are for their owner alone
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def not_written(path: Path, error: Exception) -> OSError:
    return OSError(f"{path}: could not be written ({error}); what was there before is kept")


def write_json(path: Path, value) -> None:
    atomic_write(path, lambda temporary: temporary.write_text(json.dumps(value, indent=1) + "\n"))


def check_finite(state: Mapping[str, Tensor], directory: Path) -> None:
    """Raises FloatingPointError: broken weights never replace good ones."""
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise FloatingPointError(f"{name} holds NaN or inf; {directory} is not written")


def save_decoder(policy: Policy, tokenizer: Tokenizer, folder: Path) -> None:
    """model.safetensors and config.json, which `transformers` opens."""
    dtype = str(policy.dtype).removeprefix("torch.")
    special = (tokenizer.pad, tokenizer.bos, tokenizer.eos)
    save_tensors(policy.trunk_state(), folder / "model.safetensors")
    policy.config.save(folder / "config.json", *special, dtype)


def save_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in state.items()}
    save_file(state, path, {"format": "pt"})


def save_policy(
    directory: Path, policy: Policy, tokenizer: Tokenizer, run: dict, save_decoder=save_decoder
) -> None:
    """Write a checkpoint; another save_decoder gives the decoder another form (adapters).

    A failure leaves the old one as it was; a kill while files are exchanged leaves a directory
    without `config.json`, which is no checkpoint, never one of old and new files. Raises OSError,
    and FloatingPointError for weights that are not finite.
    """
    check_finite(policy.state_dict(), directory)
    directory.mkdir(parents=True, exist_ok=True)
    staging = directory / "staging.partial"
    shutil.rmtree(staging, ignore_errors=True)  # what a kill left
    try:
        staging.mkdir()
        save_decoder(policy, tokenizer, staging)
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


def _exchange(staging: Path, directory: Path) -> None:
    """Old files out, what makes it a checkpoint first; new ones in, that last, or all undone."""
    moves = [(directory / name, staging / f"old.{name}") for name in reversed(POLICY_FILES)]
    moves += [(staging / name, directory / name) for name in POLICY_FILES]
    done = []
    try:
        for source, target in filter(lambda move: move[0].exists(), moves):
            os.replace(source, target)
            done.append((source, target))
            sync(target.parent)
    except BaseException:  # Ctrl-C as well
        for source, target in reversed(done):
            os.replace(target, source)
        raise
