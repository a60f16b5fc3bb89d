"""GGUF files of the Llama architecture, the format of llama.cpp: weights, vocabulary and merges.

The package `gguf` (extra [gguf]) reads and dequantises them. GGUF keeps the rows of query and key
projections in pairs (2 i, 2 i + 1), where Hugging Face's rotation pairs i with i + E/2. Left out on
purpose: other architectures, experts, biases, scaled rotations, SentencePiece, writing.
"""

from functools import partial
from pathlib import Path

import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from model.config import Config
from model.policy import Policy
from model.pretrained.families import Stored, build, translate
from model.pretrained.reading import reading

RULES = ("default", "gpt-2", "smollm")  # of splitting a text into words: all GPT-2's
CONTROL, USER_DEFINED = 3, 4  # types of tokens
FIELDS = {  # Hugging Face's names and GGUF's
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "head_dim": "attention.key_length",
}


def open_gguf(path: Path, dtype: torch.dtype) -> tuple[Policy, Backend, dict[str, str]]:
    """The policy without a value head, its tokenizer, and what that calls pad, bos and eos.

    Raises CheckpointError for a file that is foreign, cut off, or of a kind left out here.
    """
    with reading(path):
        from gguf import GGUFReader

        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        backend, special = read_vocabulary(fields)
        config = read_config(fields, {x.name: x.shape.tolist() for x in reader.tensors})
        stored = stored_in(reader.tensors, config)
    return build(path, config, stored, dtype), backend, special


def read_config(fields: dict, shapes: dict) -> Config:
    """Raises ValueError and KeyError."""
    if (family := fields["general.architecture"]) != "llama":
        raise ValueError(f"architecture {family!r:.40}, supported is 'llama'")
    given = {ours: fields.get(f"llama.{theirs}") for ours, theirs in FIELDS.items()}
    rows, tied = shapes["token_embd.weight"][-1], "output.weight" not in shapes
    given |= {"model_type": "llama", "vocab_size": rows, "tie_word_embeddings": tied}
    config = translate(given)
    scaled = fields.get("llama.rope.scaling.type", "none") != "none"
    rotated = fields.get("llama.rope.dimension_count", config.head_dim)
    if scaled or "rope_freqs.weight" in shapes or rotated != config.head_dim:
        raise ValueError("scaled or partial rotary positions")
    return config


def stored_in(tensors: list, config: Config) -> dict[str, Stored]:
    """The tensors of a GGUF file, by our names where we have one."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    table = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    with torch.device("meta"):
        ours = {table.get_name(x, (".weight",)): x for x in Policy(config).trunk_state()}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    found = {}
    for x in tensors:
        read = partial(dequantised, x, heads.get(x.name.split(".")[-2]))
        shape = x.shape.tolist()[::-1]  # GGUF counts from the innermost dimension
        found[ours.get(x.name, x.name)] = Stored(shape, read)
    return found


def dequantised(tensor, heads: int | None) -> Tensor:
    """float32; of a query or key projection with that many heads, the rows in our order."""
    from gguf.quants import dequantize

    weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
    if heads is None:
        return weight
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)  # of [H, E/2, 2, D]


def read_vocabulary(fields: dict) -> tuple[Backend, dict[str, str]]:
    """Byte-level BPE with the file's tokens and merges; role -> token. Raises ValueError."""
    kind, rule = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or rule not in RULES:
        raise ValueError(f"a tokenizer of model {kind!r:.40} with rule {rule!r:.40}")
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    backend = Backend(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    kinds = zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
    added = [(t, k == CONTROL) for t, k in kinds if k in (CONTROL, USER_DEFINED)]
    backend.add_tokens([AddedToken(t, special=special, normalized=False) for t, special in added])
    names = {"pad_token": "padding", "bos_token": "bos", "eos_token": "eos"}
    ids = {role: fields.get(f"tokenizer.ggml.{name}_token_id") for role, name in names.items()}
    return backend, {role: tokens[i] for role, i in ids.items() if i is not None}
