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

from model.checkpoint import names_in
from model.files import CheckpointError, read_json, weights_sha256

POOLINGS = ("mean", "cls")


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
        limits = [self.tokenizer.model_max_length, self.network.config.max_position_embeddings]
        limits.append(_optional(directory / "sentence_bert_config.json").get("max_seq_length"))
        self.max_tokens = min(int(x) for x in limits if x)  # longer texts are cut

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Unit vectors float32 [N, D]; batches are of similar lengths."""
        out = np.empty((len(texts), self.network.config.hidden_size), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            out[rows] = self.vectors([texts[i] for i in rows]).cpu().numpy()
        return out

    def vectors(self, texts: list[str]) -> torch.Tensor:
        """One batch: unit vectors float32 [B, D]."""
        cut = {"padding": True, "truncation": True, "max_length": self.max_tokens}
        batch = self.tokenizer(texts, return_tensors="pt", **cut).to(self.network.device)
        x = self.network(**batch).last_hidden_state.float()  # [B, T, D]
        if self.pooling == "cls":
            return F.normalize(x[:, 0], dim=-1)
        return F.normalize((x * batch.attention_mask[..., None]).sum(1), dim=-1)

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
    tensors = set().union(*map(names_in, directory.glob("*.safetensors")))
    stored = {part for name in tensors for part in name.split(".") if part.isdecimal()}
    # One that is stored once may be used several times.
    if type(layers) is int and layers > max(48, len(stored)):
        raise CheckpointError(f"{directory}: {layers} layers, weights of {len(stored)}")


def open_network(directory: Path):
    """transformers' model (float32) and tokenizer of a directory. Raises CheckpointError."""
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar, set_verbosity_error
    except ImportError:
        need = "sentence encoders need the package transformers: pip install transformers"
        raise CheckpointError(f"{directory}: {need}") from None
    disable_progress_bar()
    set_verbosity_error()  # what it warns of is checked below
    check_layers(directory)
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, **safe)
        safe |= {"use_safetensors": True, "dtype": torch.float32}
        network, found = AutoModel.from_pretrained(directory, output_loading_info=True, **safe)
        trial = tokenizer(["a", "a b c"], padding=True, return_tensors="pt")
        states = {"last_hidden_state": network.eval()(**trial).last_hidden_state}
    except Exception as error:  # of whatever makes the library stumble in a foreign file
        problem = " ".join(str(error).split())
        problem = f"not an encoder that transformers opens ({problem:.200})"
        raise CheckpointError(f"{directory}: {problem}") from None
    rows, tokens = network.config.vocab_size, len(tokenizer)
    problems = [f"missing tensor {x!r}" for x in sorted(found["missing_keys"]) if "pooler" not in x]
    if tokens > rows:
        problems.append(f"the tokenizer has {tokens} tokens, the embedding {rows} rows")
    for name, tensor in (network.state_dict() | states).items():
        if not torch.isfinite(tensor).all():
            problems.append(f"{name!r} holds NaN or infinite weights")
    if problems:
        raise CheckpointError(f"{directory}: {problems[0]}")
    return network, tokenizer


def _optional(path: Path, kind: type = dict):
    return read_json(path, kind) if path.exists() else kind()


def read_pooling(directory: Path) -> str:
    """What sentence-transformers' files say: "pooling_mode", or a flag a mode; else the mean."""
    for module in _optional(directory / "modules.json", list):
        kind = str(module.get("type") if isinstance(module, dict) else module).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            problem = f"a module of type {kind:.40} is not supported"
            raise CheckpointError(f"{directory}/modules.json: {problem}")
    path = directory / "1_Pooling/config.json"
    given = _optional(path)
    on = [
        name for name, value in given.items() if name.startswith("pooling_mode_") and value is True
    ]
    modes = [name.removeprefix("pooling_mode_").partition("_")[0] for name in on]
    mode = given.get("pooling_mode", " and ".join(modes) or "mean")
    if mode not in POOLINGS:
        expected = " or ".join(POOLINGS)
        raise CheckpointError(f"{path}: pooling {mode!r:.40} is not supported (only {expected})")
    return mode
