"""Whole checkpoints: a policy with its tokenizer, as everyone else can open it too.

    config.json  model.safetensors  tokenizer.json  tokenizer_config.json    what `transformers` opens
    value_head.safetensors                                                   ours, beside it
    run.json                                          how it came about: script, arguments, world

Everything that replaces a file is durable: written beside it, flushed to the disk, then renamed, so that
neither a kill nor a power cut leaves half a file, and nothing old goes before the new is safe.
Left out on purpose: other people's checkpoints, shards and adapters (model/pretrained), the state of an
unfinished run (model/state.py). No pickle anywhere.
"""

import hashlib
import json
import os
from collections.abc import Callable, Container, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.config import CheckpointError, Config, read_json
from model.policy import Policy, ValueHead
from model.tokenizer import Tokenizer
from model.transformer import Rope

POLICY_FILES = (
    "model.safetensors",
    "adapter_model.safetensors",
    "value_head.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "run.json",
    "adapter_config.json",
    "config.json",
)  # the last two make a directory a checkpoint: each holds exactly one of them
UMASK = os.umask(0o077)
os.umask(UMASK)


def is_checkpoint(directory: str | Path) -> bool:
    """Whether a directory holds a whole policy, or adapters over one."""
    return any((Path(directory) / name).is_file() for name in POLICY_FILES[-2:])


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let write(temporary path) make a file and put it in the place of `path`. Raises OSError."""
    temporary = path.with_name(path.name + ".partial")
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:  # the second: that library's "disk full"
        kept = "what was there before is kept"
        raise OSError(f"{path}: could not be written ({error}); {kept}") from None
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file (then with the permissions that the user's umask gives) or a directory to the disk."""
    if path.is_file():
        os.chmod(path, 0o666 & ~UMASK)  # safetensors' files are for their owner alone
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value) -> None:
    atomic_write(path, lambda temporary: temporary.write_text(json.dumps(value, indent=1) + "\n"))


def check_finite(module: nn.Module, directory: Path) -> None:
    """Raises FloatingPointError: broken weights never replace good ones."""
    for name, tensor in module.state_dict().items():
        if not torch.isfinite(tensor).all():
            broken = f"{name} holds NaN or infinite weights"
            raise FloatingPointError(f"{broken}; {directory} is not written")


def save_policy(
    directory: Path,
    policy: Policy,
    tokenizer: Tokenizer,
    run: dict,
    write_decoder: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint; `write_decoder(folder)` writes the decoder in another form (LoRA's adapters).

    A failure leaves the old one as it was; a kill while its files are exchanged leaves a directory
    without `config.json`, which is no checkpoint, never one of old and new files. Raises OSError, and
    FloatingPointError for weights that are not finite.
    """
    check_finite(policy, directory)
    directory.mkdir(parents=True, exist_ok=True)
    staging = directory / "staging.partial"
    staging.mkdir(exist_ok=True)
    try:
        for left_by_a_kill in staging.iterdir():
            left_by_a_kill.unlink()
        (write_decoder or partial(save_decoder, policy, tokenizer))(staging)
        save_tensors(policy.value_head.state_dict(), staging / "value_head.safetensors")
        tokenizer.save(staging)
        (staging / "run.json").write_text(json.dumps(run, indent=1) + "\n")
        for path in (*staging.iterdir(), staging, directory.parent):
            sync(path)
        _exchange(staging, directory)
    except (OSError, SafetensorError) as error:
        kept = "what was there before is kept"
        raise OSError(f"{directory}: could not be written ({error}); {kept}") from None
    finally:
        for file in staging.iterdir():
            file.unlink()
        staging.rmdir()


def save_decoder(policy: Policy, tokenizer: Tokenizer, folder: Path) -> None:
    """model.safetensors and config.json, which `transformers` opens."""
    dtype = str(policy.dtype).removeprefix("torch.")
    save_tensors(policy.trunk_state(), folder / "model.safetensors")
    special = (tokenizer.pad, tokenizer.bos, tokenizer.eos)
    policy.config.save(folder / "config.json", *special, dtype)


def save_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in state.items()}
    save_file(state, path, {"format": "pt"})


def _exchange(staging: Path, directory: Path) -> None:
    """Move the old files out, what makes it a checkpoint first, and the new ones in, that last."""
    old = [name for name in reversed(POLICY_FILES) if (directory / name).exists()]
    moves = [(directory / name, staging / f"old.{name}") for name in old]
    new = [name for name in POLICY_FILES if (staging / name).exists()]
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
    """Open a checkpoint that `save_policy` wrote: policy, tokenizer, run.json ({} where absent).

    Raises CheckpointError that names what is missing, unknown or misshapen.
    """
    directory = existing(directory)
    policy = empty_policy(Config.load(directory / "config.json"))
    fill(policy, read_tensors(directory / "model.safetensors", policy.trunk_state()))
    return complete(policy, directory, device), *read_companions(directory, policy)


def existing(directory: str | Path) -> Path:
    """The directory as a Path; CheckpointError where it holds no checkpoint."""
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory")
    if not is_checkpoint(directory):
        raise CheckpointError(f"{directory}: no checkpoint here (config.json not found)")
    return directory


def empty_policy(config: Config) -> Policy:
    """A policy whose decoder has shapes only: no time, no memory for weights that `fill` brings."""
    with torch.device("meta"):
        policy = Policy(config)
    policy.model.rope, policy.value_head = Rope(config), ValueHead(config.hidden_size)
    return policy


def fill(policy: Policy, tensors: dict[str, Tensor]) -> None:
    policy.load_state_dict(tensors, strict=False, assign=True)


def complete(policy: Policy, directory: Path, device: str | torch.device) -> Policy:
    """The policy with the value head of a directory, or one that starts at 0 where it holds none."""
    path, head = directory / "value_head.safetensors", policy.value_head
    if path.exists():
        head.load_state_dict(read_tensors(path, head.state_dict(), torch.float32))
    return policy.to(device).eval()


def read_companions(directory: Path, policy: Policy) -> tuple[Tokenizer, dict]:
    """The tokenizer and the run.json that lie beside a policy. Raises CheckpointError."""
    tokenizer, rows = Tokenizer.load(directory), policy.config.vocab_size
    if len(tokenizer) > rows:
        raise CheckpointError(
            f"{directory}/tokenizer.json: {len(tokenizer)} tokens do not fit the {rows} rows of "
            "the embedding"
        )
    run = directory / "run.json"
    return tokenizer, read_json(run) if run.exists() else {}


def read_tensors(
    path: Path,
    own: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    ignored: Container[str] = (),
) -> dict[str, Tensor]:
    """The tensors of a safetensors file; names and shapes must be those of `own`, values finite.

    dtype None keeps bf16 and turns all else into float32. Raises CheckpointError.
    """
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name not in ignored]  # noqa: SIM118 no dict
            for name in sorted(own.keys() ^ set(names)):
                kind = "missing" if name in own else "unknown"
                raise CheckpointError(f"{path}: {kind} tensor {name!r}")
            return {name: _checked(path, name, file, own[name].shape, dtype) for name in names}
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found") from None
    except Exception as error:  # safetensors raises its own class for torn and foreign files
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None


def _checked(path: Path, name: str, file, shape: torch.Size, dtype: torch.dtype | None) -> Tensor:
    found = file.get_slice(name).get_shape()
    if found != list(shape):
        raise CheckpointError(f"{path}: {name!r} has shape {found}, expected {list(shape)}")
    tensor = file.get_tensor(name)
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise CheckpointError(f"{path}: {name!r} has the unsupported type {tensor.dtype}")
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{path}: {name!r} holds NaN or infinite weights")
    kept = torch.bfloat16 if tensor.dtype == torch.bfloat16 else torch.float32
    return tensor.to(dtype or kept, copy=True)  # a copy: the file itself may be mapped into memory


def weights_sha256(directory: str | Path) -> str:
    """Hash of the weight files of a checkpoint; "" where there are none."""
    digest = hashlib.sha256()
    files = sorted(Path(directory).glob("*model*.safetensors"))
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest() if files else ""
