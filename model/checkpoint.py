"""Whole checkpoints: a policy with its tokenizer for everyone, and the state of an unfinished run for ourselves.

    config.json  model.safetensors  tokenizer.json  tokenizer_config.json    what `transformers` opens too
    adapter_config.json  adapter_model.safetensors    instead of model.safetensors where LoRA adapters were not merged: `peft`
    value_head.safetensors                            ours, beside it
    run.json                                          how it was made: script, arguments, world
    training.safetensors                              only while a run is unfinished: one file, replaced atomically

The state of a run (weights, optimizers, buffers, counters) is a single safetensors file, so that there is no
moment at which a kill leaves halves of two states behind. No pickle anywhere.
"""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.policy import CheckpointError, Policy
from model.tokenizer import Tokenizer

STATE_FILE = "training.safetensors"
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


def atomic_write(path: Path, write) -> None:
    """Call write(temporary path) and move the result into place; on any failure the old file stays as it was."""
    temporary = path.with_name(path.name + ".partial")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (
        OSError,
        SafetensorError,
    ) as error:  # the second: the library's own class for "disk full" and the like
        raise OSError(
            f"{path}: could not be written ({error}); what was there before is kept"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    atomic_write(path, lambda temporary: temporary.write_text(json.dumps(value, indent=1) + "\n"))


def check_finite(module: nn.Module, directory: Path) -> None:
    """Raises FloatingPointError: broken weights never replace good ones."""
    for name, tensor in module.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise FloatingPointError(
                f"{name} holds NaN or infinite weights; {directory} is not written"
            )


def save_policy(
    directory: Path, policy: Policy, tokenizer: Tokenizer, run: dict, base: Path | None = None
) -> None:
    """Write an inference checkpoint; with a `base`, one of adapters over that checkpoint. A failure leaves the old one as it
    was; a kill while its files are exchanged leaves a directory without `config.json` (or `adapter_config.json`), which is
    no checkpoint, never one of old and new files."""
    check_finite(policy, directory)
    directory.mkdir(parents=True, exist_ok=True)
    staging = directory / "staging.partial"
    staging.mkdir(exist_ok=True)
    try:
        policy.save(staging, base)
        tokenizer.save(staging)
        (staging / "run.json").write_text(json.dumps(run, indent=1) + "\n")
        if (
            not base
        ):  # transformers takes the config of the base where there is none beside the adapters
            policy.config.save(
                staging / "config.json",
                tokenizer.pad,
                tokenizer.bos,
                tokenizer.eos,
                str(policy.dtype).removeprefix("torch."),
            )
        _exchange(staging, directory)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{directory}: could not be written ({error}); what was there before is kept"
        ) from None
    finally:
        for file in staging.iterdir():
            file.unlink()
        staging.rmdir()


def _exchange(staging: Path, directory: Path) -> None:
    """Move the old files out, what makes it a checkpoint first, and the new ones in, that last; undone on any failure."""
    moves = [
        (directory / name, staging / f"old.{name}")
        for name in reversed(POLICY_FILES)
        if (directory / name).exists()
    ]
    moves += [
        (staging / name, directory / name) for name in POLICY_FILES if (staging / name).exists()
    ]
    done = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
    except BaseException:  # Ctrl-C as well
        for source, target in reversed(done):
            os.replace(target, source)
        raise


def load_policy(directory: str | Path, device: str = "cpu") -> tuple[Policy, Tokenizer, dict]:
    """Open a checkpoint directory: policy, tokenizer, run.json ({} where absent). Raises CheckpointError."""
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory")
    policy, tokenizer = Policy.load(directory, device), Tokenizer.load(directory)
    if len(tokenizer) > policy.config.vocab_size:
        raise CheckpointError(
            f"{directory}/tokenizer.json: {len(tokenizer)} tokens do not fit the {policy.config.vocab_size} rows of the embedding"
        )
    run = directory / "run.json"
    try:
        return policy, tokenizer, json.loads(run.read_text()) if run.exists() else {}
    except ValueError as error:
        raise CheckpointError(f"{run}: not readable JSON ({error})") from None


def weights_sha256(directory: str | Path) -> str:
    """Hash of the weight files of a checkpoint; "" where there are none."""
    digest = hashlib.sha256()
    files = sorted(Path(directory).glob("*model*.safetensors"))
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest() if files else ""


def save_state(
    directory: Path,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    tensors: dict[str, Tensor],
    facts: dict,
) -> None:
    """One atomic file with everything that training needs to go on; `facts` is any JSON value."""
    flat = {f"tensor/{name}": tensor for name, tensor in tensors.items()}
    for name, module in modules.items():
        check_finite(module, directory)
        flat |= {f"module/{name}/{key}": tensor for key, tensor in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            flat |= {
                f"optimizer/{name}/{index}/{key}": torch.as_tensor(value)
                for key, value in state.items()
                if value is not None
            }
    flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in flat.items()}
    atomic_write(
        directory / STATE_FILE, lambda path: save_file(flat, path, {"facts": json.dumps(facts)})
    )


def load_state(
    directory: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> tuple[dict[str, Tensor], dict]:
    """Undo save_state: fills modules and optimizers in place, returns (tensors, facts)."""
    path, tensors = directory / STATE_FILE, {}
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            flat = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable training state ({error})") from None
    states = {name: {} for name in optimizers}
    weights = {name: {} for name in modules}
    for name, tensor in flat.items():
        kind, owner, *rest = name.split("/", 3)
        if kind == "tensor":
            tensors[name.removeprefix("tensor/")] = tensor
        elif kind == "module":
            weights[owner][rest[0]] = tensor
        else:
            states[owner].setdefault(int(rest[0]), {})[rest[1]] = tensor
    for name, module in modules.items():
        try:
            module.load_state_dict(weights[name])
        except RuntimeError:
            raise CheckpointError(f"{path}: its weights are not those of this {name}") from None
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(
            {"state": states[name], "param_groups": optimizer.state_dict()["param_groups"]}
        )
    return tensors, facts


def peek_facts(directory: Path) -> dict | None:
    """The `facts` of an unfinished run in this directory, or None."""
    path = Path(directory) / STATE_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["facts"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable training state ({error})") from None
