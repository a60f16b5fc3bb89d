"""LoRA (Hu et al., 2021, arXiv 2106.09685): y = W x + (alpha / r) B A x, W frozen; `peft`'s files.

Every attention and MLP projection gets an adapter. New tokens need rows of their own: those rows of
the embedding (and of an untied head) are trained as well, and nothing else of the two; peft calls
them trainable_token_indices. Adapters are float32 whatever the weights are. Left out on purpose:
dropout, adapters that are switched or stacked; a saved adapter is added to its base when it is
opened, so that a policy that plays is always a plain one.
"""

import json
import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import files
from model.files import CheckpointError, save_tensors
from model.policy import Policy
from model.pretrained.families import read_decoder, read_tensors, stored_in
from model.pretrained.reading import read_json, reading
from model.tokenizer import Tokenizer

TARGETS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ALPHA = 2  # alpha / r: the correction's scale


class LoRALinear(nn.Module):
    """A frozen nn.Linear and its correction; B starts at 0: no change before the first step."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        new = {"bias": False, "device": base.weight.device, "dtype": torch.float32}
        self.lora_A = nn.Linear(base.in_features, rank, **new)
        self.lora_B = nn.Linear(rank, base.out_features, **new)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        correction = self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)))
        return y + ALPHA * correction.to(y.dtype)

    def merged(self) -> Tensor:
        correction = ALPHA * self.lora_B.weight @ self.lora_A.weight
        return (self.weight.float() + correction).to(self.weight.dtype)


class TrainedRows(nn.Module):
    """A frozen TokenTable [V, D] of which the rows `ids` are trained."""

    def __init__(self, weight: nn.Parameter, ids: list[int]):
        super().__init__()
        self.weight = weight
        self.register_buffer("ids", torch.tensor(ids, device=weight.device), persistent=False)
        self.rows = nn.Parameter(weight.detach()[ids].float())

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings of int64 [B, T]."""
        x = F.embedding(tokens, self.weight)
        own = tokens.unsqueeze(-1) == self.ids  # [B, T, len(ids)]
        rows = F.embedding(own.int().argmax(-1), self.rows).to(x.dtype)
        return torch.where(own.any(-1, keepdim=True), rows, x)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> float32 [..., V], the columns of `ids` computed from the trained rows."""
        logits = F.linear(hidden.to(self.weight.dtype), self.weight).float()
        return logits.index_copy(-1, self.ids, F.linear(hidden.float(), self.rows))

    def merged(self) -> Tensor:
        return self.weight.index_copy(0, self.ids, self.rows.to(self.weight.dtype))


def adapted(policy: nn.Module) -> dict[str, nn.Module]:
    """The adapted modules of a policy by their plain names; empty for a plain policy."""
    kinds = LoRALinear, TrainedRows
    return {name: x for name, x in policy.named_modules() if isinstance(x, kinds)}


def add_adapters(policy: nn.Module, rank: int, new: list[int]) -> None:
    """Freeze the decoder; adapt its projections, and the rows of the tokens `new`, in place."""
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name.startswith("value_head."))
    for name, module in list(policy.model.layers.named_modules()):
        parent, _, last = name.rpartition(".")
        if last in TARGETS:
            setattr(policy.model.layers.get_submodule(parent), last, LoRALinear(module, rank))
    if new:
        policy.model.embed_tokens = TrainedRows(policy.model.embed_tokens.weight, new)
        policy.lm_head = TrainedRows(policy.lm_head.weight, new) if policy.lm_head else None


def without_adapters(policy: Policy, weights: dict[str, Tensor] | None = None) -> Policy:
    """The policy as it was before its adapters, the KL reference, or with `weights` instead of
    those that it had. It shares all others."""
    with torch.device("meta"):
        plain = Policy(policy.config)
    plain.model.frequency = policy.model.frequency
    state = policy.state_dict() | (weights or {})
    plain.load_state_dict({name: state[name] for name in plain.state_dict()}, assign=True)
    return plain.eval().requires_grad_(False)


@torch.no_grad()
def merged(policy: Policy) -> Policy:
    """The plain policy that computes the same."""
    weights = {f"{name}.weight": module.merged() for name, module in adapted(policy).items()}
    return without_adapters(policy, weights) if weights else policy


def trained_modules(policy: nn.Module) -> dict[str, nn.Module]:
    """What the state of an unfinished run has to hold: not the frozen weights."""
    if not adapted(policy):
        return {"policy": policy}
    adapters = nn.ParameterList(policy.trunk_parameters())
    return {"adapters": adapters, "value_head": policy.value_head}


def peft_tensors(policy: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters of the decoder under the names that peft gives them."""
    rows = ".token_adapter.trainable_tokens_delta"
    return {
        f"base_model.model.{name.replace('.rows', rows)}": parameter
        for name, parameter in policy.named_parameters()
        if ".lora_" in name or name.endswith(".rows")
    }


def adapter_config(rank: int) -> dict:
    """What peft's adapter_config.json says of every adapter that is computed here."""
    plain = {"peft_type": "LORA", "bias": "none", "use_dora": False, "use_rslora": False}
    return plain | {"r": rank, "lora_alpha": ALPHA * rank, "target_modules": TARGETS}


def save_policy(
    directory: Path, policy: Policy, tokenizer: Tokenizer, run: dict, base: Path | None = None
) -> None:
    """As model.save_policy, adapters merged; with a `base`, adapters alone over that checkpoint."""
    save = partial(save_adapters, base) if base else files.save_decoder
    files.save_policy(directory, policy if base else merged(policy), tokenizer, run, save)


def save_adapters(base: Path, policy: nn.Module, tokenizer: Tokenizer, folder: Path) -> None:
    """adapter_model.safetensors and adapter_config.json over the checkpoint directory `base`."""
    tables = {"embed_tokens": policy.model.embed_tokens, "lm_head": policy.lm_head}
    rows = {k: x.ids.tolist() for k, x in tables.items() if isinstance(x, TrainedRows)}
    rank = policy.model.layers[0].self_attn.q_proj.lora_A.out_features
    fields = adapter_config(rank) | {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.resolve()),
        "trainable_token_indices": rows or None,
    }
    save_tensors(peft_tensors(policy), folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(fields, indent=1) + "\n")


def read_adapter_config(directory: Path) -> tuple[Path, int, list[int]]:
    """(base directory, rank, ids of the trained rows). CheckpointError for what is not ours."""
    path = directory / CONFIG
    fields = read_json(path)
    with reading(path):
        rank, rows = fields["r"], fields.get("trainable_token_indices") or {}
        ids = list(rows.get("embed_tokens", []))
        if type(rank) is not int or not 0 < rank < 2**16:
            raise ValueError(f"r = {rank!r:.40} is not a rank")
        fields["target_modules"] = sorted(fields["target_modules"])  # in any order
        for name, value in adapter_config(rank).items():
            if fields.get(name, value) != value:
                problem = f"{name} = {fields[name]!r:.80} is not supported"
                raise ValueError(f"{problem}; merge the adapter with peft first")
        base = Path(fields["base_model_name_or_path"])
        for folder in (directory / base.name, directory.resolve().parent / base.name):
            if (folder / "config.json").is_file():
                return folder, rank, ids
        problem = f"base_model_name_or_path = {str(base)!r:.200} holds no checkpoint of that name"
        raise ValueError(f"{problem}, neither inside this directory nor beside it")


@torch.no_grad()
def read_adapted(directory: Path, dtype: torch.dtype | None) -> Policy:
    """The base of a directory with its adapters added, as families.read_decoder."""
    base, rank, ids = read_adapter_config(directory)
    policy, path = read_decoder(base, dtype), directory / WEIGHTS
    if not all(type(i) is int and 0 <= i < policy.config.vocab_size for i in ids):
        raise CheckpointError(f"{directory / CONFIG}: trainable_token_indices are no token ids")
    add_adapters(policy, rank, ids)
    own = peft_tensors(policy)
    for name, tensor in read_tensors(path, stored_in(path), own, torch.float32).items():
        own[name].copy_(tensor)
    return merged(policy).requires_grad_(True)
