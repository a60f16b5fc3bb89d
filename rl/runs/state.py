"""The state of an unfinished training run: weights, optimizers, buffers and counters in a single
safetensors file, replaced atomically; and the mean of its last policies. No pickle.

Left out: what the state means (its owner knows); exponential averages.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model import CheckpointError
from model.files import atomic_write, check_finite
from rl.runs.shard import on_first_rank, sliced_like

STATE_FILE = "training.safetensors"
Buffers = dict[str, list[Tensor]]


def save_state(directory: Path, modules: dict, optimizers: dict, buffers: Buffers, facts: dict):
    """One atomic file with everything that training needs to go on; `facts` is any JSON value. Rank
    0 writes; where tensors are sliced all ranks call this together."""
    flat = {f"buffer/{name}/{i}": x for name, kept in buffers.items() for i, x in enumerate(kept)}
    for name, module in modules.items():
        flat |= {f"module/{name}/{key}": tensor for key, tensor in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            state = {key: torch.as_tensor(x) for key, x in state.items() if x is not None}
            flat |= {f"optimizer/{name}/{index}/{key}": tensor for key, tensor in state.items()}
    flat = on_first_rank(flat)
    if not flat:
        return
    check_finite(flat, directory)
    about = {"facts": json.dumps(facts)}
    atomic_write(directory / STATE_FILE, lambda path: save_file(flat, path, about))


def load_state(directory: Path, modules: dict, optimizers: dict, buffers: Buffers) -> dict:
    """Undo save_state: fills modules, optimizers and buffers (on the CPU) in place, returns the
    facts. Raises CheckpointError for a file that is none, or another model's."""
    path, name = directory / STATE_FILE, "run"
    try:
        with safe_open(path, "pt") as file:
            facts = dict(json.loads(file.metadata()["facts"]))
            names = file.keys()
            flat = {key: file.get_tensor(key) for key in names}

        def under(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: x for name, x in flat.items() if name.startswith(prefix)}

        for name, module in modules.items():
            own, found = module.state_dict(), under(f"module/{name}/")
            module.load_state_dict({key: sliced_like(x, own.get(key)) for key, x in found.items()})
        for name, optimizer in optimizers.items():
            states: dict[int, dict[str, Tensor]] = {}
            own = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
            for key, tensor in under(f"optimizer/{name}/").items():
                index, _, entry = key.partition("/")
                tensor = sliced_like(tensor, own[int(index)])
                states.setdefault(int(index), {})[entry] = tensor
            optimizer.load_state_dict(optimizer.state_dict() | {"state": states})
        for name, kept in buffers.items():
            found = under(f"buffer/{name}/")
            kept[:] = [found[str(i)] for i in range(len(found))]
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a readable state of this {name} ({error})") from None
    return facts


class Replay:
    """What the value head learns from: features bf16 [M, 3 D] and returns [M] of the tokens of the
    last `most` iterations."""

    def __init__(self, most: int):
        self.most = most
        self.buffers: Buffers = {"features": [], "returns": []}  # of the run

    def add(self, features: Tensor, returns: Tensor) -> list[Tensor]:
        """Those of another iteration; (features, returns) of all."""
        for kept, new in zip(self.buffers.values(), (features.bfloat16(), returns), strict=True):
            kept[:] = [*kept, new][-self.most :]
        return [torch.cat(kept) for kept in self.buffers.values()]


class PolyakMean:
    """The running mean of `parameters` over the last `share` of the iterations. Greedy decisions,
    and answers known by heart, differ more from one iteration to the next than rewards do."""

    def __init__(self, parameters: Sequence[Tensor], iterations: int, share: float):
        self.parameters, self.last = parameters, iterations - 1
        self.first = iterations - round(share * iterations)
        self.mean: list[Tensor] = []  # [] before `first`; a buffer of the run

    @torch.no_grad()
    def count(self, iteration: int) -> None:
        """Count the parameters after an iteration in; in the end the mean takes their place."""
        if iteration < self.first:
            return
        mean = self.mean or [torch.zeros_like(p) for p in self.parameters]
        self.mean[:] = map(sliced_like, mean, self.parameters)  # a file has whole ones
        for mean, parameter in zip(self.mean, self.parameters, strict=True):
            mean.lerp_(parameter, 1 / (iteration - self.first + 1))
            if iteration == self.last:
                parameter.copy_(mean)
