"""The state of an unfinished training run: weights, optimizers, buffers and counters.

A single safetensors file, replaced atomically: at no moment does a kill leave halves of two states
behind. No pickle. Left out on purpose: what the state means (its owner knows).
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model import CheckpointError, atomic_write
from model.checkpoint import check_finite

STATE_FILE = "training.safetensors"


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
    about = {"facts": json.dumps(facts)}
    atomic_write(directory / STATE_FILE, lambda path: save_file(flat, path, about))


def load_state(
    directory: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> tuple[dict[str, Tensor], dict]:
    """Undo save_state: fills modules and optimizers in place, returns (tensors, facts).

    Raises CheckpointError for a file that is none, or another model's.
    """
    path, tensors = directory / STATE_FILE, {}
    facts, flat = _read(path, with_tensors=True)
    states = {name: {} for name in optimizers}
    weights = {name: {} for name in modules}
    try:
        for name, tensor in flat.items():
            kind, owner, *rest = name.split("/", 3)
            if kind == "tensor":
                tensors[name.removeprefix("tensor/")] = tensor
            elif kind == "module":
                weights[owner][rest[0]] = tensor
            else:
                states[owner].setdefault(int(rest[0]), {})[rest[1]] = tensor
    except (KeyError, ValueError, IndexError):
        raise CheckpointError(f"{path}: not a readable training state ({name!r})") from None
    for name, module in modules.items():
        fits = {key: x.shape for key, x in weights[name].items()}
        if fits != {key: x.shape for key, x in module.state_dict().items()}:
            raise CheckpointError(f"{path}: its weights are not those of this {name}")
        module.load_state_dict(weights[name])
    for name, optimizer in optimizers.items():
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states[name], "param_groups": groups})
    return tensors, facts


def peek_facts(directory: Path) -> dict | None:
    """The `facts` of an unfinished run in this directory, or None. Raises CheckpointError."""
    path = Path(directory) / STATE_FILE
    return _read(path, with_tensors=False)[0] if path.exists() else None


def _read(path: Path, with_tensors: bool) -> tuple[dict, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            names = file.keys() if with_tensors else ()
            return facts, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable training state ({error})") from None
