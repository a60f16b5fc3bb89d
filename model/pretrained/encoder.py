"""A BERT-type sentence encoder: text -> one unit vector. Opens MiniLM, E5, BGE and GTE checkpoints of the BERT architecture.

A bidirectional post-norm transformer with learned positions (Devlin et al., 2019, arXiv 1810.04805); the vector is the mean
over the tokens, or the first token's where the checkpoint's pooling says so (Reimers and Gurevych, 2019, 1908.10084), of
length 1. Parameter names are those of Hugging Face's BertModel. Left out on purpose: dropout, the pooler, second segments
(token type 1), and other architectures (XLM-R, ModernBERT, GTE v1.5), which are refused by name.

Shapes: B texts, T tokens, D width, H heads, E head dimension, N texts of any number.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend
from tokenizers.implementations import BertWordPieceTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from model.files import CheckpointError

FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
}  # all that is computed here
POOLINGS = ("mean", "cls")


@dataclass(frozen=True)
class EncoderConfig:
    """The fields of a BertModel's `config.json` that shape it."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @classmethod
    def load(cls, path: Path) -> "EncoderConfig":
        """Read `config.json`. Raises CheckpointError for anything that this encoder does not compute."""
        given = read_object(path)
        if given.get("model_type") != "bert":
            raise CheckpointError(
                f"{path}: model_type is {given.get('model_type')!r}, expected 'bert'"
            )
        for name, ours in FIXED.items():
            if given.get(name, ours) != ours:
                raise CheckpointError(
                    f"{path}: {name} = {given[name]!r} is not supported (only {ours!r})"
                )
        known = {f.name: given[f.name] for f in fields(cls) if f.name in given}
        for f in fields(cls):
            if f.name not in known and f.default is MISSING:
                raise CheckpointError(f"{path}: missing field {f.name!r}")
            if f.name in known and (
                type(known[f.name]) not in ((int,) if f.type is int else (int, float))
                or not known[f.name] > 0
            ):
                raise CheckpointError(
                    f"{path}: {f.name} = {known[f.name]!r} is not a positive {'whole ' if f.type is int else ''}number"
                )
        config = cls(**known)
        if config.hidden_size % config.num_attention_heads:
            raise CheckpointError(
                f"{path}: hidden_size {config.hidden_size} is not a multiple of num_attention_heads {config.num_attention_heads}"
            )
        return config


class Embeddings(nn.Module):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.LayerNorm(
            self.word_embeddings(tokens)
            + self.position_embeddings.weight[: tokens.shape[1]]
            + self.token_type_embeddings.weight[0]
        )


class Layer(nn.Module):
    """Post-norm: each sublayer's output is added to its input, then normalised. The nesting is the field's names'."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        D, self.heads = config.hidden_size, config.num_attention_heads
        output = lambda width: nn.ModuleDict(
            {"dense": nn.Linear(width, D), "LayerNorm": nn.LayerNorm(D, config.layer_norm_eps)}
        )
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict(
                    {name: nn.Linear(D, D) for name in ("query", "key", "value")}
                ),
                "output": output(D),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(D, config.intermediate_size)})
        self.output = output(config.intermediate_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, D], mask bool [B, 1, 1, T] -> [B, T, D]."""
        B, T, D = x.shape
        q, k, v = (
            self.attention["self"][name](x).view(B, T, self.heads, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        )  # [B, H, T, E]
        seen = (
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(B, T, D)
        )
        x = self.attention["output"]["LayerNorm"](x + self.attention["output"]["dense"](seen))
        return self.output["LayerNorm"](
            x + self.output["dense"](F.gelu(self.intermediate["dense"](x)))
        )


class Encoder(nn.Module):
    """The network: token ids -> unit vectors."""

    def __init__(self, config: EncoderConfig, pooling: str = "mean"):
        super().__init__()
        self.config, self.pooling = config, pooling
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))}
        )

    def hidden(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens int64 [B, T], mask bool [B, T] (True: a token, not padding) -> the last layer's states [B, T, D]."""
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
    """An encoder with its tokenizer: what a retriever needs. Queries and passages differ by their prefixes alone (E5: "query: ", "passage: ")."""

    def __init__(
        self,
        network: Encoder,
        backend: Backend,
        max_tokens: int | None = None,
        query_prefix: str = "",
        passage_prefix: str = "",
    ):
        """max_tokens: longer texts are cut to it, special tokens included; at most the positions of the network."""
        self.network, self.backend = network, backend
        self.max_tokens = min(
            max_tokens or network.config.max_position_embeddings,
            network.config.max_position_embeddings,
        )
        self.query_prefix, self.passage_prefix = query_prefix, passage_prefix
        backend.no_padding()
        backend.enable_truncation(self.max_tokens)

    def batch(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Padded token ids int64 [B, T] and their mask bool [B, T], on the network's device."""
        rows = [torch.tensor(encoding.ids) for encoding in self.backend.encode_batch(list(texts))]
        tokens = nn.utils.rnn.pad_sequence(
            rows, batch_first=True
        )  # with 0: whatever it is, the mask hides it
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
        settings = [
            asdict(self.network.config),
            self.network.pooling,
            self.max_tokens,
            self.query_prefix,
            self.passage_prefix,
            self.backend.to_str(),
        ]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for _, tensor in sorted(self.network.state_dict().items()):
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def save(self, directory: Path) -> None:
        """config.json, model.safetensors and tokenizer.json, which BertModel opens too; 1_Pooling as sentence-transformers keeps it."""
        config = {
            "model_type": "bert",
            "architectures": ["BertModel"],
            **FIXED,
            **asdict(self.network.config),
        }
        (directory / "1_Pooling").mkdir(parents=True, exist_ok=True)
        (directory / "1_Pooling/config.json").write_text(
            json.dumps(
                {
                    f"pooling_mode_{name}": value == self.network.pooling
                    for name, value in (("mean_tokens", "mean"), ("cls_token", "cls"))
                }
            )
            + "\n"
        )
        (directory / "sentence_bert_config.json").write_text(
            json.dumps({"max_seq_length": self.max_tokens}) + "\n"
        )
        save_file(
            {k: v.contiguous().cpu() for k, v in self.network.state_dict().items()},
            directory / "model.safetensors",
            {"format": "pt"},
        )
        self.backend.save(str(directory / "tokenizer.json"))
        (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    @classmethod
    def load(
        cls,
        directory: str | Path,
        device: str = "cpu",
        query_prefix: str = "",
        passage_prefix: str = "",
    ) -> "SentenceEncoder":
        """Open a checkpoint directory of Hugging Face or sentence-transformers. Raises CheckpointError that names the file."""
        directory = Path(directory)
        if not (directory / "config.json").is_file():
            raise CheckpointError(f"{directory}: no encoder here (config.json not found)")
        config, pooling = EncoderConfig.load(directory / "config.json"), read_pooling(directory)
        network = Encoder(config, pooling)
        load_weights(network, directory / "model.safetensors")
        backend = load_backend(directory)
        if backend.get_vocab_size() > config.vocab_size:
            raise CheckpointError(
                f"{directory}: the tokenizer has {backend.get_vocab_size()} tokens, the embedding {config.vocab_size} rows"
            )
        limits = (
            read_object(directory / name).get(field)
            for name, field in (
                ("sentence_bert_config.json", "max_seq_length"),
                ("tokenizer_config.json", "model_max_length"),
            )
            if (directory / name).exists()
        )
        max_tokens = min(
            (int(x) for x in limits if isinstance(x, (int, float)) and x > 0), default=None
        )  # tokenizer_config's may be 1e30: "none"
        return cls(network.to(device).eval(), backend, max_tokens, query_prefix, passage_prefix)


def read_object(path: Path) -> dict:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value


def read_pooling(directory: Path) -> str:
    """What sentence-transformers' files say ("pooling_mode", or one flag per mode in older ones); without them, the mean."""
    try:
        modules = (
            json.loads((directory / "modules.json").read_text())
            if (directory / "modules.json").exists()
            else []
        )
        kinds = [module["type"].rpartition(".")[2] for module in modules]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{directory}/modules.json: not a list of modules ({error})"
        ) from None
    if other := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise CheckpointError(
            f"{directory}/modules.json: a module of type {other[0]} is not supported"
        )
    path = directory / "1_Pooling/config.json"
    if not path.exists():
        return "mean"
    given = read_object(path)
    modes = [
        name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for name, on in given.items()
        if name.startswith("pooling_mode_") and on is True
    ]
    mode = given.get("pooling_mode", modes[0] if len(modes) == 1 else modes)
    if mode not in POOLINGS:
        raise CheckpointError(
            f"{path}: pooling {mode!r} is not supported (only {' or '.join(POOLINGS)})"
        )
    return mode


def load_backend(directory: Path) -> Backend:
    """tokenizer.json, or the WordPiece of vocab.txt."""
    path = directory / "tokenizer.json"
    try:
        if path.exists():
            return Backend.from_file(str(path))
        path = directory / "vocab.txt"
        settings = (
            read_object(directory / "tokenizer_config.json")
            if (directory / "tokenizer_config.json").exists()
            else {}
        )
        return BertWordPieceTokenizer(
            str(path), lowercase=settings.get("do_lower_case", True)
        )._tokenizer
    except CheckpointError:
        raise
    except Exception as error:  # the backend raises bare Exception for missing and foreign files
        raise CheckpointError(f"{path}: not a readable tokenizer ({error})") from None


def load_weights(network: Encoder, path: Path) -> None:
    """Copy a BertModel's safetensors; every name and shape must agree, but for the parts that give no sentence vector."""
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors raises its own class for torn and foreign files
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith("pooler.") and name != "embeddings.position_ids"
    }
    own = network.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        raise CheckpointError(f"{path}: {'missing' if name in own else 'unknown'} tensor {name!r}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{path}: {name!r} has shape {list(tensor.shape)}, expected {list(own[name].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name!r} holds NaN or infinite weights")
        own[name].copy_(tensor)
