"""The policy: one decoder that decides, writes queries and answers, with a value head beside it.

The value head reads the trunk but never trains it: its inputs are detached. Sharing gradients would let value
errors of a 1M-parameter trunk disturb what it remembers; reading three depths gives the head the plan of the last
layers and the words of the question (the causal mean of the first layer) at once.

Shapes: B batch, T tokens, V vocabulary, D width, N selected positions.
"""

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import CheckpointError, Config
from model.pretrained.lora import (
    CONFIG,
    TrainedRows,
    merge_saved,
    merged_state,
    read_adapter_config,
    save_adapters,
)
from model.pretrained.weights import read_tensors, shards
from model.transformer import Cache, Rope, Transformer


def is_checkpoint(directory: str | Path) -> bool:
    """Whether a directory holds a whole policy, or adapters over one."""
    return any((Path(directory) / name).is_file() for name in ("config.json", CONFIG))


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
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.value_head = ValueHead(config.hidden_size)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B, T] -> logits float32 [B, T, V], values float32 [B, T].

        logits[:, t] score token t + 1 and values[:, t] is V of the state before token t + 1.
        """
        states = self.model(tokens)
        return self.logits(states[-1]), self.value_head(self.value_features(states))

    def logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states [..., D] -> float32 [..., V], multiplied in the dtype of the weights whatever the autocast."""
        head = self.lm_head or self.model.embed_tokens
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(hidden.to(head.weight.dtype), head.weight).float()
            return head.correct(logits, hidden) if isinstance(head, TrainedRows) else logits

    def value_features(
        self, states: list[Tensor], at: tuple = (), last: Tensor | None = None
    ) -> Tensor:
        """Layer states [B, T, D] -> detached float32 [B, T, 3 D]: last, one before, causal mean of the first.

        `at`, an index (rows [N], columns [N]), computes them there alone: [N, 3 D]; `last` [N, D] is the last state there,
        for a pass that has no other columns of it.
        """
        last = states[-1][at] if last is None else last
        before, first = states[-2 if len(states) > 1 else -1][at], states[0].detach()
        count = torch.arange(1, first.shape[1] + 1, device=first.device)[:, None]
        parts = (last, before, (first.float().cumsum(1) / count)[at])
        return torch.cat(
            [F.layer_norm(part.detach().float(), part.shape[-1:]) for part in parts], -1
        )

    def continue_from(
        self,
        tokens: Tensor,
        start: Tensor,
        cache: Cache,
        rows: Tensor | None = None,
        last: Tensor | None = None,
    ) -> Tensor:
        """Write int64 [B, T] at positions start [B] into rows [B] of the cache (None: all); logits float32 [B, V] after
        column last [B] (None: there is one column)."""
        return self.logits(
            self.model(tokens, start, cache, rows, None if last is None else last[:, None])[-1][
                :, 0
            ]
        )

    def for_inference(self) -> "Policy":
        """A frozen copy whose layers hold their weights in the dtype of the autocast around this call, to be run without it
        (a tenth more episodes per second). Embedding and logits stay float32. The policy itself where nothing would change."""
        dtype = self.model.dtype
        if all(
            p.dtype == dtype
            for module in (self.model.layers, self.model.norm)
            for p in module.parameters()
        ):
            return self
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        twin.model.layers.to(dtype)
        twin.model.norm.to(dtype)
        return twin

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the decoder's weights; the value head is float32 always."""
        return self.model.embed_tokens.weight.dtype

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def trunk_state(self) -> dict[str, Tensor]:
        """The decoder under the names of Hugging Face's Llama, adapters merged."""
        return {
            name: tensor
            for name, tensor in merged_state(self).items()
            if not name.startswith("value_head.")
        }

    def trunk_parameters(self) -> list[nn.Parameter]:
        """What a policy loss trains: all of the decoder that is not frozen, nothing of the value head."""
        return [
            p
            for name, p in self.named_parameters()
            if p.requires_grad and not name.startswith("value_head.")
        ]

    def save(self, directory: Path, base: Path | None = None) -> None:
        """model.safetensors (opens in transformers), or with a `base` the adapters alone (open in peft), and
        value_head.safetensors; see checkpoint.py for whole checkpoints."""
        cpu = lambda state: {name: tensor.contiguous().cpu() for name, tensor in state.items()}
        if base:
            save_adapters(self, directory, base)
        else:
            save_file(cpu(self.trunk_state()), directory / "model.safetensors", {"format": "pt"})
        save_file(cpu(self.value_head.state_dict()), directory / "value_head.safetensors")

    @classmethod
    def load(
        cls,
        directory: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> "Policy":
        """Open a checkpoint directory, ours or a Hugging Face one of the families of config.py, sharded or not.

        dtype: of the decoder's weights; None keeps bf16 and turns all else into float32. Raises CheckpointError that
        names what is missing, unknown or misshapen.
        """
        directory = Path(directory)
        if not is_checkpoint(directory):
            raise CheckpointError(f"{directory}: no checkpoint here (config.json not found)")
        if (directory / CONFIG).exists():
            base, rank, ids = read_adapter_config(directory)
            policy = cls.load(base, "cpu", dtype)
            merge_saved(policy, directory, rank, ids)
        else:
            policy = cls._load_trunk(directory, dtype)
        head = directory / "value_head.safetensors"
        if head.exists():  # absent in foreign checkpoints: the head then starts at 0
            policy.value_head.load_state_dict(
                read_tensors(head, policy.value_head.state_dict(), torch.float32)
            )
        return policy.to(device).eval()

    @classmethod
    def _load_trunk(cls, directory: Path, dtype: torch.dtype | None) -> "Policy":
        config = Config.load(directory / "config.json")
        with torch.device(
            "meta"
        ):  # neither time nor memory for weights that are about to be replaced
            policy = cls(config)
        policy.model.rope, policy.value_head = Rope(config), ValueHead(config.hidden_size)
        for file, names in shards(
            directory, policy.trunk_state(), config.tie_word_embeddings
        ).items():
            own = {name: policy.get_parameter(name) for name in names}
            policy.load_state_dict(
                read_tensors(file, own, dtype, config.tie_word_embeddings),
                strict=False,
                assign=True,
            )
        for (
            parameter
        ) in policy.trunk_parameters():  # a file of several types: that of the embedding
            parameter.data = parameter.data.to(policy.dtype)
        return policy
