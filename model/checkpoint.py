"""Checkpoints: a policy with its tokenizer in a directory, as everyone else can open it too.

    config.json  model.safetensors  tokenizer.json  tokenizer_config.json   what transformers opens
    value_head.safetensors  run.json                  ours: the value head, and how it came about

A save is durable (files.py) and never leaves a mixture of two. No pickle. Left out on purpose:
other people's checkpoints, shards, adapters (pretrained/), unfinished runs (rl/runs).
"""

import json
import os
import shutil
from collections.abc import Container, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.config import Config
from model.files import CheckpointError, not_written, read_json, sync, unreadable
from model.policy import Policy, ValueHead
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


def load_policy(directory: str | Path, device: str = "cpu") -> tuple[Policy, Tokenizer, dict]:
    """Open what `save_policy` wrote: policy, tokenizer, run.json ({} where absent).

    Raises CheckpointError that names what is missing, unknown or misshapen.
    """
    directory = existing(directory)
    path = directory / "model.safetensors"
    policy = empty_policy(Config.load(directory / "config.json"), names_in(path), path)
    tensors = read_tensors(path, policy.trunk_state())
    policy.load_state_dict(tensors, strict=False, assign=True)
    return complete(policy, directory, device), *read_companions(directory, policy)


def existing(directory: str | Path) -> Path:
    """The directory as a Path; CheckpointError where it holds no checkpoint."""
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory")
    if not is_checkpoint(directory):
        raise CheckpointError(f"{directory}: no checkpoint here (config.json not found)")
    return directory


def empty_policy(config: Config, names: Iterable[str], path: Path) -> Policy:
    """A policy of shapes alone, to be compared with a file's tensors before anything is built."""
    layers = {name.split(".")[2] for name in names if name.startswith("model.layers.")}
    if len(layers) < config.num_hidden_layers:
        many = config.num_hidden_layers
        raise CheckpointError(f"{path}: {len(layers)} layers, where config.json says {many}")
    with torch.device("meta"):
        return Policy(config)


def complete(policy: Policy, directory: Path, device: str | torch.device) -> Policy:
    """Add to a decoder the value head of its directory, or one that starts at 0."""
    policy.model.frequency = policy.config.rope_frequency()
    policy.value_head = head = ValueHead(policy.config.hidden_size)
    path = directory / "value_head.safetensors"
    if path.exists():
        head.load_state_dict(read_tensors(path, head.state_dict(), torch.float32))
    return policy.to(device).eval()


def read_companions(directory: Path, policy: Policy) -> tuple[Tokenizer, dict]:
    """The tokenizer and the run.json that lie beside a policy. Raises CheckpointError."""
    tokenizer, rows = Tokenizer.load(directory), policy.config.vocab_size
    if len(tokenizer) > rows:
        problem = f"{len(tokenizer)} tokens do not fit the {rows} rows of the embedding"
        raise CheckpointError(f"{directory}/tokenizer.json: {problem}")
    run = directory / "run.json"
    return tokenizer, read_json(run) if run.exists() else {}


def read_tensors(
    path: Path, own: Mapping[str, Tensor], dtype=None, ignored: Container[str] = ()
) -> dict[str, Tensor]:
    """The tensors of a safetensors file; names and shapes must be those of `own`, values finite.

    All names and shapes are compared before any tensor is read. dtype None keeps bf16 and turns all
    else into float32. Raises CheckpointError.
    """
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys()) - set(ignored)
            for name in sorted(own.keys() ^ names):
                kind = "missing" if name in own else "unknown"
                raise CheckpointError(f"{path}: {kind} tensor {name!r}")
            for name in own:
                found, shape = file.get_slice(name).get_shape(), list(own[name].shape)
                if found != shape:
                    raise CheckpointError(f"{path}: {name!r} has shape {found}, expected {shape}")
            return {name: _read(path, name, file, dtype) for name in own}
    except CheckpointError:
        raise
    except Exception as error:  # safetensors raises its own class for torn and foreign files
        raise unreadable(path, "a readable safetensors file", error) from None


def _read(path: Path, name: str, file, dtype: torch.dtype | None) -> Tensor:
    tensor = file.get_tensor(name)
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise CheckpointError(f"{path}: {name!r} has the unsupported type {tensor.dtype}")
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{path}: {name!r} holds NaN or infinite weights")
    kept = torch.bfloat16 if tensor.dtype == torch.bfloat16 else torch.float32
    return tensor.to(dtype or kept, copy=True)  # a copy: the file itself may be mapped into memory


def names_in(path: Path) -> set[str]:
    """The names of a file's tensors. Raises CheckpointError."""
    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except Exception as error:
        raise unreadable(path, "a readable safetensors file", error) from None
