"""Sentence encoders, opened by `transformers` (extra [encoder]): text -> one unit vector.

The vector is the mean over a text's tokens, or its first token's, as the checkpoint's pooling file
says (Reimers and Gurevych, 2019, arXiv 1908.10084), of length 1. Any encoder that AutoModel knows
will do: MiniLM, E5, BGE, GTE. Left out on purpose: training, other poolings, layers behind them.

Shapes: B texts, T tokens, D width, N texts of any number.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from model.files import CheckpointError
from model.pretrained.families import stored_in
from model.pretrained.reading import read_json, reading, weights_sha256


class SentenceEncoder:
    """An encoder with its tokenizer: what a retriever needs. E5 tells queries by their prefixes."""

    def __init__(self, directory: str | Path, device="cpu", query_prefix="", passage_prefix=""):
        """Open a directory of Hugging Face or sentence-transformers. Raises CheckpointError."""
        self.directory = directory = Path(directory)
        if not (directory / "config.json").is_file():
            raise CheckpointError(f"{directory}: no encoder here (config.json not found)")
        self.query_prefix, self.passage_prefix = query_prefix, passage_prefix
        self.pooling = read_pooling(directory)
        self.network, self.tokenizer = open_network(directory)
        self.network.to(device)
        own = read_json(directory / "sentence_bert_config.json", optional=True)
        positions = self.network.config.max_position_embeddings
        limits = own.get("max_seq_length"), self.tokenizer.model_max_length, positions
        self.max_tokens = int(min(filter(None, limits)))  # longer texts are cut

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Unit vectors float32 [N, D]; batches are of similar lengths."""
        out = np.empty((len(texts), self.network.config.hidden_size), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        cut = {"padding": True, "truncation": True, "max_length": self.max_tokens}
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            batch = self.tokenizer([texts[i] for i in rows], return_tensors="pt", **cut)
            batch = batch.to(self.network.device)
            x = self.network(**batch).last_hidden_state.float()  # [B, T, D]
            summed = (x * batch.attention_mask[..., None]).sum(1)  # a multiple of the mean
            pooled = x[:, 0] if self.pooling == "cls" else summed
            out[rows] = F.normalize(pooled, dim=-1).cpu().numpy()
        return out

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode([self.query_prefix + text for text in texts])

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode([self.passage_prefix + text for text in texts])

    def sha256(self) -> str:
        """Hash of all that decides a passage's vector, and of the query prefix."""
        settings = [self.pooling, self.max_tokens, self.query_prefix, self.passage_prefix]
        digest = hashlib.sha256(json.dumps([*settings, weights_sha256(self.directory)]).encode())
        for path in sorted([*self.directory.glob("*.json"), *self.directory.glob("*.txt")]):
            digest.update(path.read_bytes())
        return digest.hexdigest()


def check_layers(directory: Path) -> None:
    """CheckpointError for more layers than there are weights for: each takes a quarter second."""
    layers = read_json(directory / "config.json").get("num_hidden_layers")
    tensors = set().union(*map(stored_in, directory.glob("*.safetensors")))
    stored = {part for name in tensors for part in name.split(".") if part.isdecimal()}
    # One that is stored once may be used several times.
    if type(layers) is int and layers > max(48, len(stored)):
        raise CheckpointError(f"{directory}: {layers} layers, weights of {len(stored)}")


def open_network(directory: Path):
    """transformers' model (float32) and tokenizer of a directory. Raises CheckpointError."""
    check_layers(directory)
    safe = {"local_files_only": True, "trust_remote_code": False}
    own = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    with reading(directory):
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar, set_verbosity_error

        disable_progress_bar()
        set_verbosity_error()  # what it warns of is checked below
        tokenizer = AutoTokenizer.from_pretrained(directory, **safe)
        network, found = AutoModel.from_pretrained(directory, **safe, **own)
        for name in sorted(name for name in found["missing_keys"] if "pooler" not in name):
            raise ValueError(f"missing tensor {name!r}")
        rows, tokens = network.config.vocab_size, len(tokenizer)
        if tokens > rows:
            raise ValueError(f"the tokenizer has {tokens} tokens, the embedding {rows} rows")
        trial = network.eval()(**tokenizer(["a", "a b c"], padding=True, return_tensors="pt"))
        states = {"last_hidden_state": trial.last_hidden_state}
        for name, tensor in (network.state_dict() | states).items():
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name!r} holds NaN or infinite weights")
    return network, tokenizer


def read_pooling(directory: Path) -> str:
    """What sentence-transformers' files say: "pooling_mode", or a flag a mode; else the mean."""
    for module in read_json(directory / "modules.json", list, optional=True):
        kind = str(module.get("type") if isinstance(module, dict) else module).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            problem = f"a module of type {kind:.40} is not supported"
            raise CheckpointError(f"{directory}/modules.json: {problem}")
    path = directory / "1_Pooling/config.json"
    given = read_json(path, optional=True)
    on = [name for name in given if name.startswith("pooling_mode_") and given[name] is True]
    mode = given.get("pooling_mode", " and ".join(name.split("_")[2] for name in on) or "mean")
    if mode not in ("mean", "cls"):
        raise CheckpointError(f"{path}: pooling {mode!r:.40} is not supported (only mean or cls)")
    return mode
