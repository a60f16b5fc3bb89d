"""The decoder in other people's directories: whole or in shards, with what some writers repeat.

Left out on purpose: pickled weights, quantised weights (but for GGUF files: gguf.py).
"""

from collections.abc import Set
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import empty_policy, names_in, read_tensors
from model.files import CheckpointError, read_json
from model.policy import Policy
from model.pretrained.families import read_config

INDEX = "model.safetensors.index.json"
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


def read_decoder(directory: Path, dtype: torch.dtype | None) -> Policy:
    """The policy of a directory, its value head still missing. Raises CheckpointError.

    dtype: of the decoder's weights; None keeps bf16 and turns all else into float32.
    """
    config, files = read_config(directory / "config.json"), weight_files(directory)
    found = set().union(*files.values())
    ignored = {name for name in found if name.endswith("rotary_emb.inv_freq")}
    tied = config.tie_word_embeddings
    if tied and HEAD in found:  # some writers repeat the embedding here, some keep another head
        config = replace(config, tie_word_embeddings=False)
    path = directory / (INDEX if len(files) > 1 else "model.safetensors")
    explain_names(path, found)
    policy, tensors = empty_policy(config, found, path), {}
    own = policy.trunk_state()
    for name in sorted(own.keys() ^ (found - ignored)):
        kind = "missing" if name in own else "unknown"
        raise CheckpointError(f"{path}: {kind} tensor {name!r:.200}")
    for path, names in files.items():
        wanted = {name: x for name, x in own.items() if name in names}
        tensors |= read_tensors(path, wanted, dtype, ignored)
    return filled(policy, tensors, tied)


def filled(policy: Policy, tensors: dict[str, Tensor], tied: bool) -> Policy:
    """The policy with these weights, of one type; `tied`: a head that equals the table is none."""
    if tied and HEAD in tensors and torch.equal(tensors[HEAD], tensors[TABLE]):
        tensors.pop(HEAD)
        policy.lm_head = None
        policy.config = policy.model.config = replace(policy.config, tie_word_embeddings=True)
    dtype = tensors[TABLE].dtype  # a file of several types: that of the embedding
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    policy.load_state_dict(tensors, strict=False, assign=True)
    return policy


def weight_files(directory: Path) -> dict[Path, set[str]]:
    """The weight files of a directory with the names of their tensors. Raises CheckpointError."""
    path, index = directory / "model.safetensors", directory / INDEX
    if path.exists() or not index.exists():
        if not path.exists() and (pickled := sorted(directory.glob("*.bin"))):
            raise CheckpointError(
                f"{pickled[0]}: pickled weights are not opened; have transformers save them as "
                "safetensors: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
            )
        return {path: names_in(path)}
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(x, str) for x in shards.values()):
        raise CheckpointError(f"{index}: not a readable index of shards (no weight_map)")
    for shard in set(shards.values()):
        if Path(shard).name != shard or Path(shard).suffix != ".safetensors":
            raise CheckpointError(f"{index}: the shard {shard!r:.80} is no file of this directory")
    names = sorted(shards)
    return {directory / f: {n for n in names if shards[n] == f} for f in sorted(shards.values())}


def explain_names(path: Path, found: Set[str]) -> None:
    """Raises CheckpointError where all tensors of a file have other names than they should."""
    if any(name.startswith("_orig_mod.") for name in found):
        problem = "saved from a compiled module; save module._orig_mod instead"
        raise CheckpointError(f"{path}: tensors named '_orig_mod. ...': {problem}")
    if "embed_tokens.weight" in found:
        problem = "saved from a model without its head; save the AutoModelForCausalLM instead"
        raise CheckpointError(f"{path}: tensors without the prefix 'model.': {problem}")
