"""The policy: one decoder that decides, writes queries and answers, with a value head beside it.

The value head reads the trunk but never trains it: its inputs are detached. Sharing gradients would let value
errors of a 1M-parameter trunk disturb what it remembers; reading three depths gives the head the plan of the last
layers and the words of the question (the causal mean of the first layer) at once.

Shapes: B batch, T tokens, V vocabulary, D width, N selected positions.
"""
import copy
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from .config import Config
from .transformer import Cache, Transformer


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one line that names the file."""


class ValueHead(nn.Module):
    """V(state) from value features [N, 3 D] -> [N]; starts at exactly 0 (last layer zero)."""

    def __init__(self, width: int, hidden: int = 96, dropout: float = 0.1):
        super().__init__()
        self.up = nn.Linear(3 * width, hidden)
        self.down = nn.Linear(hidden, 1)
        self.dropout = dropout
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            hidden = F.dropout(F.gelu(self.up(features)), self.dropout, self.training)
            return self.down(hidden).squeeze(-1)


class Policy(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = Transformer(config)
        self.value_head = ValueHead(config.hidden_size)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B, T] -> logits float32 [B, T, V], values float32 [B, T].

        logits[:, t] score token t + 1 and values[:, t] is V of the state before token t + 1.
        """
        states = self.model(tokens)
        return self.logits(states[-1]), self.value_head(self.value_features(states))

    def logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states [..., D] -> float32 [..., V] through the tied embedding, whatever the autocast."""
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), self.model.embed_tokens.weight.float())

    def value_features(self, states: list[Tensor], at: tuple = (), last: Tensor | None = None) -> Tensor:
        """Layer states [B, T, D] -> detached float32 [B, T, 3 D]: last, one before, causal mean of the first.

        `at`, an index (rows [N], columns [N]), computes them there alone: [N, 3 D]; `last` [N, D] is the last state there,
        for a pass that has no other columns of it.
        """
        last = states[-1][at] if last is None else last
        before, first = states[-2 if len(states) > 1 else -1][at], states[0].detach()
        count = torch.arange(1, first.shape[1] + 1, device=first.device)[:, None]
        parts = (last, before, (first.float().cumsum(1) / count)[at])
        return torch.cat([F.layer_norm(part.detach().float(), part.shape[-1:]) for part in parts], -1)

    def continue_from(self, tokens: Tensor, start: Tensor, cache: Cache, rows: Tensor | None = None, last: Tensor | None = None) -> Tensor:
        """Write int64 [B, T] at positions start [B] into rows [B] of the cache (None: all); logits float32 [B, V] after
        column last [B] (None: there is one column)."""
        return self.logits(self.model(tokens, start, cache, rows, None if last is None else last[:, None])[-1][:, 0])

    def for_inference(self) -> "Policy":
        """A frozen copy whose layers hold their weights in the dtype of the autocast around this call, to be run without it
        (a tenth more episodes per second). Embedding and logits stay float32."""
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        twin.model.layers.to(self.model.dtype)
        twin.model.norm.to(self.model.dtype)
        return twin

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def trunk_state(self) -> dict[str, Tensor]:
        """The decoder under the names of Hugging Face's Llama."""
        return {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}

    def save(self, directory: Path) -> None:
        """model.safetensors (opens in transformers) and value_head.safetensors; see checkpoint.py for whole checkpoints."""
        save_file({k: v.contiguous().cpu() for k, v in self.trunk_state().items()}, directory / "model.safetensors", {"format": "pt"})
        save_file({k: v.contiguous().cpu() for k, v in self.value_head.state_dict().items()}, directory / "value_head.safetensors")

    @classmethod
    def load(cls, directory: str | Path, device: str | torch.device = "cpu") -> "Policy":
        """Open a checkpoint directory. Raises CheckpointError that names what is missing, unknown or misshapen."""
        directory = Path(directory)
        if not (directory / "config.json").is_file():
            raise CheckpointError(f"{directory}: no checkpoint here (config.json not found)")
        try:
            policy = cls(Config.load(directory / "config.json"))
        except (TypeError, ValueError) as error:
            raise CheckpointError(str(error)) from None
        load_tensors(policy.model, directory / "model.safetensors", prefix="model.")
        if (directory / "value_head.safetensors").exists():  # absent in foreign checkpoints: the head then starts at 0
            load_tensors(policy.value_head, directory / "value_head.safetensors", prefix="")
        return policy.to(device).eval()


def load_tensors(module: nn.Module, path: Path, prefix: str) -> None:
    """Copy a safetensors file into a module; every name and shape must agree."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found") from None
    except Exception as error:  # safetensors raises its own class for torn and foreign files
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None
    tensors.pop("lm_head.weight", None)  # some writers repeat the tied embedding
    own = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    for name in own.keys() ^ tensors.keys():
        raise CheckpointError(f"{path}: {'missing' if name in own else 'unknown'} tensor {name!r}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(f"{path}: {name!r} has shape {list(tensor.shape)}, expected {list(own[name].shape)}")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name!r} holds NaN or infinite weights")
        own[name].copy_(tensor)
