"""GGUF files of the Llama architecture, the format of llama.cpp: weights, vocabulary and merges.

The package `gguf` (extra [gguf]) reads and dequantises them. GGUF keeps the rows of query and key
projections in pairs (2 i, 2 i + 1), where Hugging Face's rotation pairs i with i + E/2. Left out on
purpose: other architectures, experts, biases, scaled rotations, SentencePiece, writing.
"""

from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from model.checkpoint import empty_policy
from model.config import Config
from model.files import CheckpointError
from model.policy import Policy
from model.pretrained.families import filled

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {"default": None, "gpt-2": None, "smollm": None, "llama-bpe": LLAMA3}  # None: GPT-2's
CONTROL, USER_DEFINED = 3, 4  # types of tokens


def open_gguf(path: Path, dtype: torch.dtype) -> tuple[Policy, Backend, dict[str, str]]:
    """The policy without a value head, its tokenizer, and what that calls pad, bos and eos.

    Raises CheckpointError for a file that is foreign, cut off, or of a kind left out here.
    """
    try:
        from gguf import GGUFReader
    except ImportError:
        need = "GGUF files need the package gguf: pip install gguf"
        raise CheckpointError(f"{path}: {need}") from None
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        stored = {tensor.name: tensor for tensor in reader.tensors}
        backend = read_vocabulary(fields)
        return read_policy(path, stored, fields, dtype), backend, read_special(fields)
    except CheckpointError:
        raise
    except Exception as error:  # of the package, at whatever makes it stumble in a foreign file
        problem = f"not a GGUF file that can be read here ({error!r:.200})"
        raise CheckpointError(f"{path}: {problem}") from None


def read_config(fields: dict, stored: dict) -> Config:
    """Raises ValueError and KeyError."""
    if (family := fields["general.architecture"]) != "llama":
        raise ValueError(f"architecture {family!r:.40}, supported is 'llama'")
    about = {k.removeprefix("llama."): v for k, v in fields.items() if k.startswith("llama.")}
    heads, width = about["attention.head_count"], about["embedding_length"]
    head_dim = about.get("attention.key_length", width // heads)
    scaled = about.get("rope.scaling.type", "none") != "none" or "rope_freqs.weight" in stored
    if scaled or about.get("rope.dimension_count", head_dim) != head_dim:
        raise ValueError("scaled or partial rotary positions")
    return Config(
        vocab_size=int(stored["token_embd.weight"].shape[-1]),
        hidden_size=width,
        intermediate_size=about["feed_forward_length"],
        num_hidden_layers=about["block_count"],
        num_attention_heads=heads,
        num_key_value_heads=about.get("attention.head_count_kv", heads),
        max_position_embeddings=about["context_length"],
        rms_norm_eps=about["attention.layer_norm_rms_epsilon"],
        rope_theta=about.get("rope.freq_base", 10000.0),
        head_dim=head_dim,
        tie_word_embeddings="output.weight" not in stored,
    )


def read_policy(path: Path, stored: dict, fields: dict, dtype: torch.dtype) -> Policy:
    """All names and shapes are compared before a tensor is dequantised."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = read_config(fields, stored)
    policy = empty_policy(config, [x.replace("blk.", "model.layers.") for x in stored], path)
    table, own = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers), {}
    for name, tensor in policy.trunk_state().items():
        own[table.get_name(name, (".weight", ".bias"))] = (name, list(tensor.shape))
    for name in sorted(own.keys() ^ stored.keys()):
        kind = "missing" if name in own else "unknown"
        raise CheckpointError(f"{path}: {kind} tensor {name!r:.80}")
    for name, (_, expected) in own.items():
        shape = stored[name].shape.tolist()[::-1]  # GGUF counts from the innermost dimension
        if shape != expected:
            raise CheckpointError(f"{path}: {name!r} has shape {shape}, expected {expected}")
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for name, (ours, _) in own.items():
        weight = dequantised(path, stored[name])
        if count := heads.get(name.split(".")[-2]):
            pairs = weight.unflatten(0, (count, -1, 2))  # [heads, E/2, 2, D]
            weight = pairs.transpose(1, 2).flatten(0, 2)
        weights[ours] = weight.to(dtype)
    return filled(policy, weights, tied=False)


def dequantised(path: Path, tensor) -> Tensor:
    from gguf.quants import dequantize

    try:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
    except NotImplementedError:
        kind = tensor.tensor_type.name
        raise CheckpointError(f"{path}: {tensor.name!r} has the unsupported type {kind}") from None
    if not torch.isfinite(weight).all():
        raise CheckpointError(f"{path}: {tensor.name!r} holds NaN or infinite weights")
    return weight


def read_vocabulary(fields: dict) -> Backend:
    """Byte-level BPE with the file's tokens and merges. Raises ValueError."""
    kind, rule = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or rule not in SPLITS:
        raise ValueError(f"a tokenizer of model {kind!r:.40} with rule {rule!r:.40}")
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    backend = Backend(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if SPLITS[rule]:
        split = pre_tokenizers.Split(Regex(SPLITS[rule]), "isolated")
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    backend.decoder = decoders.ByteLevel()
    kinds = list(zip(tokens, fields["tokenizer.ggml.token_type"], strict=True))
    special = [AddedToken(t, special=True, normalized=False) for t, k in kinds if k == CONTROL]
    backend.add_special_tokens(special)
    backend.add_tokens([AddedToken(t, normalized=False) for t, k in kinds if k == USER_DEFINED])
    return backend


def read_special(fields: dict) -> dict[str, str]:
    """Role -> token, as tokens.declared_tokens."""
    tokens, names = fields["tokenizer.ggml.tokens"], {"pad": "padding", "bos": "bos", "eos": "eos"}
    ids = {role: fields.get(f"tokenizer.ggml.{name}_token_id") for role, name in names.items()}
    return {f"{role}_token": tokens[i] for role, i in ids.items() if i is not None}
