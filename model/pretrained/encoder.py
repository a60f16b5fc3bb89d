"""A BERT-type sentence encoder: text -> one unit vector. Opens MiniLM, E5, BGE, GTE of that type.

A bidirectional post-norm transformer with learned positions (Devlin et al., 2019, 1810.04805);
the vector is the mean over the tokens, or the first token's where the checkpoint's pooling says so
(Reimers and Gurevych, 2019, 1908.10084), of length 1. Parameter names are those of Hugging Face's
BertModel. Left out on purpose: dropout, the pooler, second segments (token type 1), and other
architectures (XLM-R, ModernBERT, GTE v1.5), which are refused by name.

Shapes: B texts, T tokens, D width, H heads, E head dimension, N texts of any number.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer as Backend
from tokenizers.implementations import BertWordPieceTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from model.checkpoint import names_in, read_tensors, save_tensors
from model.config import check_numbers
from model.files import CheckpointError, read_json
from model.tokenizer import open_backend

FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
POOLINGS = ("mean", "cls")


@dataclass(frozen=True)
class EncoderConfig:
    """The fields of a BertModel's `config.json` that shape it. Raises ValueError."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    def __post_init__(self):
        check_numbers(self)
        width, heads = self.hidden_size, self.num_attention_heads
        if width % heads:
            raise ValueError(
                f"hidden_size {width} is not a multiple of num_attention_heads {heads}"
            )

    @classmethod
    def load(cls, path: Path) -> "EncoderConfig":
        """Read `config.json`. Raises CheckpointError for anything that is not computed here."""
        given = read_json(path)
        try:
            if given.get("model_type") != "bert":
                raise ValueError(f"model_type is {given.get('model_type')!r:.40}, expected 'bert'")
            for name, ours in FIXED.items():
                if given.get(name, ours) != ours:
                    raise ValueError(
                        f"{name} = {given[name]!r:.40} is not supported (only {ours!r})"
                    )
            for field in fields(cls):
                if field.default is MISSING and field.name not in given:
                    raise ValueError(f"missing field {field.name!r}")
            return cls(**{f.name: given[f.name] for f in fields(cls) if f.name in given})
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None


class Embeddings(nn.Module):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        D = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, D)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, D)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, D)
        self.LayerNorm = nn.LayerNorm(D, config.layer_norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        position = self.position_embeddings.weight[: tokens.shape[1]]
        segment = self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(tokens) + position + segment)


class Output(nn.Module):
    """Post-norm: a sublayer's result is added to its input, then normalised."""

    def __init__(self, inner: int, width: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps)

    def forward(self, result: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(x + self.dense(result))


class Layer(nn.Module):
    """Nested as the field names it: attention.self.query, attention.output.dense, ..."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        D, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        projections = nn.ModuleDict({name: nn.Linear(D, D) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": projections, "output": Output(D, D, eps)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(D, inner)})
        self.output = Output(inner, D, eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, D], mask bool [B, 1, 1, T] -> [B, T, D]."""
        projected = [self.attention["self"][name](x) for name in ("query", "key", "value")]
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in projected)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B, H, T, E]
        x = self.attention["output"](read.transpose(1, 2).flatten(2), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Encoder(nn.Module):
    """The network: token ids -> unit vectors."""

    def __init__(self, config: EncoderConfig, pooling: str = "mean"):
        super().__init__()
        self.config, self.pooling = config, pooling
        self.embeddings = Embeddings(config)
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})

    def hidden(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens int64 [B, T], mask bool [B, T] (True: no padding) -> last states [B, T, D]."""
        x = self.embeddings(tokens)
        for layer in self.encoder["layer"]:
            x = layer(x, mask[:, None, None])
        return x

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """As `hidden` -> float32 [B, D], each of length 1."""
        x = self.hidden(tokens, mask).float()
        if self.pooling == "cls":
            return F.normalize(x[:, 0], dim=-1)
        return F.normalize((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)


class SentenceEncoder:
    """An encoder with its tokenizer: what a retriever needs. E5 tells queries by their prefixes."""

    def __init__(
        self,
        network: Encoder,
        backend: Backend,
        max_tokens=None,
        query_prefix="",
        passage_prefix="",
    ):
        """max_tokens: longer texts are cut to it, special tokens included."""
        self.network, self.backend = network, backend
        positions = network.config.max_position_embeddings
        self.max_tokens = min(max_tokens or positions, positions)
        self.query_prefix, self.passage_prefix = query_prefix, passage_prefix
        backend.no_padding()
        backend.enable_truncation(self.max_tokens)

    def batch(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Padded token ids int64 [B, T] and their mask bool [B, T], on the network's device."""
        rows = [torch.tensor(row.ids) for row in self.backend.encode_batch(list(texts))]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)  # with 0: the mask hides it
        mask = torch.arange(tokens.shape[1]) < torch.tensor([[len(row)] for row in rows])
        device = self.network.embeddings.LayerNorm.weight.device
        return tokens.to(device), mask.to(device)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Unit vectors float32 [N, D]; batches are of similar lengths."""
        out = np.empty((len(texts), self.network.config.hidden_size), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            out[rows] = self.network(*self.batch([texts[i] for i in rows])).cpu().numpy()
        return out

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode([self.query_prefix + text for text in texts])

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode([self.passage_prefix + text for text in texts])

    def sha256(self) -> str:
        """Hash of all that decides a passage's vector, and of the query prefix."""
        settings = [asdict(self.network.config), self.network.pooling, self.max_tokens]
        settings += [self.query_prefix, self.passage_prefix, self.backend.to_str()]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for _, tensor in sorted(self.network.state_dict().items()):
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def save(self, directory: Path) -> None:
        """What BertModel and sentence-transformers open; config.json, which makes it one, last."""
        config = {"model_type": "bert", "architectures": ["BertModel"], **FIXED}
        modes = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        (directory / "1_Pooling").mkdir(parents=True, exist_ok=True)
        save_tensors(self.network.state_dict(), directory / "model.safetensors")
        self.backend.save(str(directory / "tokenizer.json"))
        for name, value in {
            "1_Pooling/config.json": {k: v == self.network.pooling for k, v in modes.items()},
            "sentence_bert_config.json": {"max_seq_length": self.max_tokens},
            "config.json": config | asdict(self.network.config),
        }.items():
            (directory / name).write_text(json.dumps(value, indent=1) + "\n")

    @classmethod
    def load(
        cls, directory: str | Path, device="cpu", query_prefix="", passage_prefix=""
    ) -> "SentenceEncoder":
        """Open a directory of Hugging Face or sentence-transformers. Raises CheckpointError."""
        directory = Path(directory)
        if not (directory / "config.json").is_file():
            raise CheckpointError(f"{directory}: no encoder here (config.json not found)")
        config = EncoderConfig.load(directory / "config.json")
        with torch.device("meta"):
            network = Encoder(config, read_pooling(directory))
        path = directory / "model.safetensors"
        unused = {name for name in names_in(path) if name.startswith("pooler.")}
        unused.add("embeddings.position_ids")
        tensors = read_tensors(path, network.state_dict(), torch.float32, unused)
        network.load_state_dict(tensors, assign=True)
        backend, rows = open_wordpiece(directory), config.vocab_size
        if (size := backend.get_vocab_size()) > rows:
            raise CheckpointError(
                f"{directory}: the tokenizer has {size} tokens, the embedding {rows} rows"
            )
        limits = [_optional(directory / "sentence_bert_config.json").get("max_seq_length")]
        limits += [_optional(directory / "tokenizer_config.json").get("model_max_length")]
        limits = [int(x) for x in limits if isinstance(x, (int, float)) and 0 < x < 2**31]
        network = network.to(device).eval()
        return cls(network, backend, min(limits, default=None), query_prefix, passage_prefix)


def _optional(path: Path) -> dict:
    return read_json(path) if path.exists() else {}


def read_pooling(directory: Path) -> str:
    """What sentence-transformers' files say: "pooling_mode", or a flag a mode; else the mean."""
    path = directory / "modules.json"
    modules = read_json(path, list) if path.exists() else []
    for module in modules:
        kind = str(module.get("type") if isinstance(module, dict) else module).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise CheckpointError(f"{path}: a module of type {kind:.40} is not supported")
    path = directory / "1_Pooling/config.json"
    if not path.exists():
        return "mean"
    given = read_json(path)
    on = [
        name for name, value in given.items() if name.startswith("pooling_mode_") and value is True
    ]
    modes = [name.removeprefix("pooling_mode_").partition("_")[0] for name in on]
    mode = given.get("pooling_mode", modes[0] if len(modes) == 1 else modes)
    if mode not in POOLINGS:
        raise CheckpointError(
            f"{path}: pooling {mode!r:.40} is not supported (only {' or '.join(POOLINGS)})"
        )
    return mode


def open_wordpiece(directory: Path) -> Backend:
    """tokenizer.json, or the WordPiece of vocab.txt. Raises CheckpointError."""
    if (directory / "tokenizer.json").exists():
        return open_backend(directory / "tokenizer.json")
    path = directory / "vocab.txt"
    lowercase = _optional(directory / "tokenizer_config.json").get("do_lower_case", True)
    try:
        return BertWordPieceTokenizer(str(path), lowercase=lowercase is True)._tokenizer
    except Exception as error:  # the backend raises bare Exception for missing and foreign files
        raise CheckpointError(f"{path}: not a readable tokenizer ({error})") from None
