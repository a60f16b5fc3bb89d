"""From arguments to what the scripts search with: caches, run.json."""

import json
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from data.world import World
from model.pretrained.encoder import SentenceEncoder
from retrieval_cpp import BM25Index, DenseIndex, HybridIndex
from rl.runs import remote, retrievers
from rl.runs.flags import UsageError
from rl.runs.retrievers import RetrieverArgs, RetrieverInfo, choose, open_world
from rl.runs.setting import run_info
from tests.model.foreign import bert_directory
from tests.model.test_checkpoint import Order

WORLD = World.open("tiny")
TEXTS = [p.full_text for p in WORLD.corpus]
QUESTIONS = [q.question for q in WORLD.questions("popqa", "test")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test has a cache of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """Random weights, and the words of the tiny world."""
    words = sorted(set(re.findall("[a-z]+|[^ ]", " ".join(TEXTS + QUESTIONS).lower())))
    return bert_directory(tmp_path_factory.mktemp("encoder"), words=words)


def same(found, expected) -> bool:
    """Whether two searches gave the same ids and scores."""
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def arguments(**fields):
    """As a script has them, multiplying in fp32."""
    args = RetrieverArgs(**{name: str(value) for name, value in fields.items()})
    args.device, args.dtype = "cpu", "fp32"
    return args


# ----------------------------------------------------------------------------------------- settings


DENSE = {"retriever": "dense", "encoder": "E", "encoder_sha256": "1"}


@pytest.mark.parametrize(
    "given, recorded, chosen",
    [
        ({}, {}, {"retriever": "bm25"}),
        ({}, DENSE, DENSE),
        ({"encoder": "F"}, DENSE, {"retriever": "dense", "encoder": "F"}),
        ({"retriever": "bm25"}, DENSE, {"retriever": "bm25"}),
        (
            {"retriever": "hybrid", "encoder": "F", "query_prefix": "query: "},
            {},
            {"retriever": "hybrid", "encoder": "F", "query_prefix": "query: "},
        ),
        ({"milvus_uri": "b.db"}, {"retriever": "milvus"}, {"retriever": "milvus"}),
    ],
)
def test_the_checkpoints_retriever_unless_the_command_line_says_otherwise(given, recorded, chosen):
    assert choose(arguments(**given), RetrieverInfo(**recorded)) == RetrieverInfo(**chosen)


@pytest.mark.parametrize(
    "given, problem",
    [
        ({"encoder": "E"}, "--encoder does not go with --retriever bm25"),
        ({"retriever": "dense", "stemmer": "english"}, "--stemmer does not go with"),
        ({"retriever": "http"}, "--retriever http needs --retriever-url"),
        ({"retriever": "dense"}, "--retriever dense needs --encoder"),
        (
            {"retriever": "bm25", "query_prefix": "query: "},
            "--query-prefix does not go with --retriever bm25",
        ),
        ({"retriever": "milvus"}, "--retriever milvus needs --milvus-uri"),
        (
            {"retriever": "dense", "milvus_uri": "a.db"},
            "--milvus-uri does not go with --retriever dense",
        ),
    ],
)
def test_flags_that_do_not_go_together(given, problem):
    with pytest.raises(UsageError, match=problem):
        choose(arguments(**given), RetrieverInfo())


# ------------------------------------------------------------------------------------ what searches


def test_bm25_is_the_default():
    world, index, settings = open_world("tiny", arguments())
    assert world.corpus_sha256 == WORLD.corpus_sha256 and settings == {"retriever": "bm25"}
    assert same(index.search(QUESTIONS, 3), BM25Index.build(TEXTS).search(QUESTIONS, 3))


def test_dense_and_hybrid_rank_by_the_encoders_vectors(encoder):
    """Against inner products of vectors that are encoded here one text at a time."""
    network = SentenceEncoder(encoder)

    def alone(texts):
        return np.concatenate([network.encode([text]) for text in texts])

    passages, queries = (
        alone(["p: " + t for t in TEXTS]),
        alone(["q: " + t for t in QUESTIONS[:40]]),
    )
    flags = {"encoder": encoder, "query_prefix": "q: ", "passage_prefix": "p: "}
    ids, scores = open_world("tiny", arguments(retriever="dense", **flags))[1].search(
        QUESTIONS[:40], 5
    )
    assert np.allclose(scores, -np.sort(-queries @ passages.T)[:, :5], atol=1e-5)
    assert np.allclose(np.take_along_axis(queries @ passages.T, ids, 1), scores, atol=1e-5)
    hybrid = HybridIndex(
        BM25Index.build(TEXTS),
        DenseIndex(passages),
        lambda texts: alone(["q: " + t for t in texts]),
    )
    found, expected = (
        index.search(QUESTIONS[:40], 5)[1]
        for index in (open_world("tiny", arguments(retriever="hybrid", **flags))[1], hybrid)
    )
    assert np.abs(found - expected).max() < 1e-3, "ranks may differ where vectors tie"


def test_vectors_are_computed_once_and_a_kill_leaves_nothing_behind(encoder, monkeypatch):
    monkeypatch.setattr(retrievers, "CHUNK", 100)
    calls, encode = [], SentenceEncoder.encode_passages

    def stopped(self, texts):
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, texts)

    monkeypatch.setattr(SentenceEncoder, "encode_passages", stopped)
    args = arguments(retriever="dense", encoder=encoder)
    with pytest.raises(KeyboardInterrupt):
        open_world("tiny", args)
    assert not list(Path().glob("runs/cache/*")), "half of the vectors would be taken for all"
    found = open_world("tiny", args)[1].search(QUESTIONS, 4)
    assert calls == [100] * (3 + len(TEXTS) // 100) + [len(TEXTS) % 100]
    (cache,) = Path("runs/cache").iterdir()
    assert np.allclose(np.load(cache), encode(SentenceEncoder(encoder), TEXTS), atol=1e-6)
    before, again = len(calls), open_world("tiny", args)[1].search(QUESTIONS, 4)
    assert len(calls) == before and same(found, again)
    for name, flags in (("tiny:1", {}), ("tiny", {"passage_prefix": "p: "})):
        open_world(name, arguments(retriever="dense", encoder=encoder, **flags))
    assert len(list(Path("runs/cache").iterdir())) == 3, (
        "another corpus or another prefix is another file"
    )


def test_the_word_index_is_built_once_per_corpus(monkeypatch):
    built, build = [], BM25Index.build
    monkeypatch.setattr(
        BM25Index, "build", lambda texts, **options: built.append(1) or build(texts, **options)
    )
    first = open_world("tiny", arguments())[1].search(QUESTIONS, 4)
    again = open_world("tiny", arguments())[1].search(QUESTIONS, 4)
    assert built == [1] and same(first, again)
    open_world("tiny:1", arguments())
    assert len(built) == 2 == len(list(Path("runs/cache").iterdir()))


def test_stems_and_stop_words_find_more_and_travel_in_the_settings():
    flags = {"stemmer": "english", "stopwords": "english"}
    _, index, settings = open_world("tiny", arguments(**flags))
    assert settings == {"retriever": "bm25", **flags}
    expected = BM25Index.build(TEXTS, **flags).search(QUESTIONS, 4)
    plain = open_world("tiny", arguments())[1].search(QUESTIONS, 4)
    made = {"open_world": "tiny", "open_retriever": settings}
    for found in (index, open_world("", arguments(), run_info(made, "D"))[1]):
        assert same(found.search(QUESTIONS, 4), expected)
    assert not same(plain, expected), "another cache file"


def test_a_stemmer_that_does_not_exist():
    with pytest.raises(UsageError, match=r"^--stemmer klingon: no stemmer 'klingon'; there are "):
        open_world("tiny", arguments(stemmer="klingon"))


def test_http_takes_its_address_from_the_command_line_alone():
    made = {
        "open_world": "tiny",
        "open_retriever": {"retriever": "http", "retriever_url": "http://evil"},
    }
    with pytest.raises(UsageError, match=r"^--retriever http needs --retriever-url$"):
        open_world("", arguments(), run_info(made, "D"))
    _, index, settings = open_world(
        "", arguments(retriever_url="http://mine:1/retrieve"), run_info(made, "D")
    )
    assert index.name == "http://mine:1/retrieve" and settings == {"retriever": "http"}


@pytest.mark.parametrize(
    "kind, spoil",
    [
        ("dense", lambda c: c.write_bytes(b"no array")),
        ("dense", lambda c: c.write_bytes(c.read_bytes()[:-9])),
        ("bm25", lambda c: c.write_bytes(c.read_bytes()[:-9])),
    ],
)
def test_a_spoilt_cache_is_made_anew(encoder, kind, spoil, capsys):
    """Also one that an older version wrote: what can be made again is no reason to stop."""
    args = arguments(retriever=kind, **({"encoder": encoder} if kind == "dense" else {}))
    open_world("tiny", args)
    (cache,) = Path("runs/cache").iterdir()
    whole = cache.read_bytes()
    spoil(cache)
    open_world("tiny", args)
    assert cache.read_bytes() == whole
    assert capsys.readouterr().out.endswith("it is made anew\n")


@pytest.mark.parametrize("kind", ["dense", "bm25"])
def test_what_is_cached_is_durable_before_it_is_in_place(encoder, kind, monkeypatch):
    order = Order(monkeypatch, Path("runs/cache"))
    open_world(
        "tiny", arguments(retriever=kind, **({"encoder": encoder} if kind == "dense" else {}))
    )
    [(_, own, path)] = [call for call in order.calls if call[0] == "replace"]
    assert own == f"{path}.{os.getpid()}.partial"
    at = order("replace", own, path)
    assert order.calls[at - 1 : at + 2 : 2] == [("fsync", own), ("fsync", ".")]


@pytest.mark.parametrize("kind", ["dense", "bm25"])
def test_a_full_disk_leaves_nothing_in_the_cache(encoder, kind):
    args = arguments(retriever=kind, **({"encoder": encoder} if kind == "dense" else {}))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"^\S+/runs/cache/\S+: could not be written"):
            open_world("tiny", args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(Path("runs/cache").iterdir()) == []


def test_milvus_holds_the_corpus_under_its_hash(encoder):
    found = {}
    for flags in ({}, {"encoder": encoder}):
        args = arguments(retriever="milvus", milvus_uri="passages.db", **flags)
        found[bool(flags)], (_, index, settings) = (
            open_world("tiny", args)[1].search(QUESTIONS, 4),
            open_world("tiny", args),
        )
        assert (
            index.collection.startswith(f"smartrag_{WORLD.corpus_sha256[:32]}_")
            and "milvus_uri" not in settings
        )
    dense = open_world("tiny", arguments(retriever="dense", encoder=encoder))[1].search(
        QUESTIONS, 4
    )
    assert np.allclose(found[True][1], dense[1], atol=1e-5)
    words = BM25Index.build(TEXTS).search(QUESTIONS, 4)
    assert np.allclose(found[False][1] / 1.9, words[1], rtol=1e-4)


def test_a_checkpoint_never_chooses_the_address(monkeypatch):
    """Neither what it is connected to, nor who is sent the token: only --milvus-uri does."""
    called = []
    monkeypatch.setenv("MILVUS_TOKEN", "secret")
    monkeypatch.setattr(remote, "open_milvus", lambda uri, *rest: called.append(uri))
    made = {
        "open_world": "tiny",
        "open_retriever": {"retriever": "milvus", "milvus_uri": "http://evil:1"},
    }
    with pytest.raises(UsageError, match=r"^--retriever milvus needs --milvus-uri$"):
        open_world("", arguments(), run_info(made, "D"))
    assert called == []
    open_world("", arguments(milvus_uri="http://mine:1"), run_info(made, "D"))
    assert called == ["http://mine:1"]


# ------------------------------------------------------------------------------ through the scripts


def test_the_retriever_travels_from_the_warm_up_to_ppo_and_evaluation(encoder):
    """ppo and evaluate take it from run.json, while the encoder is the same."""
    from tests.test_scripts import SFT, SHORT, call, message

    def recorded(checkpoint: str) -> dict:
        made = json.loads(Path(checkpoint, "run.json").read_text())["open_retriever"]
        return {name: value for name, value in made.items() if value}

    shutil.copytree(encoder, "encoder")
    dense = ["--retriever", "hybrid", "--encoder", "encoder"]
    assert call("sft", *SFT, *SHORT, *dense, "--out", "sft").code == 0
    made = recorded("sft")
    assert made.keys() == {"retriever", "encoder", "encoder_sha256"}
    assert (made["retriever"], made["encoder"]) == ("hybrid", "encoder")
    short = ["--iterations", 1, "--value-warmup", 0, "--episodes", 4, "--eval-rows", 8]
    result = call("ppo", "--init", "sft", *short, "--out", "ppo")
    assert result.code == 0 and recorded("ppo") == made
    question = ["--rows", 8, "--force", "question"]
    for flags, settings in (([], made), (["--retriever", "bm25"], {"retriever": "bm25"})):
        assert call("evaluate", "--checkpoint", "ppo", *question, *flags).code == 0
        result = Path("ppo/eval/tiny.popqa.test.force-question.json").read_text()
        assert json.loads(result)["retriever"] == settings
    Path("encoder/tokenizer_config.json").write_text('{"model_max_length": 20}')
    assert message("evaluate", "--checkpoint", "ppo") == (
        "encoder is not the encoder that the checkpoint was made with; "
        "to search with it all the same, give --encoder encoder"
    )
    Path("encoder/config.json").unlink()
    problem = "encoder: no encoder here (config.json not found)"
    assert message("evaluate", "--checkpoint", "ppo") == problem


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch):
    from tests.test_scripts import message

    assert (
        message(
            "sft", "--world", "tiny", "--retriever", "dense", "--encoder", "none", "--out", "out"
        )
        == "none: no encoder here (config.json not found)"
    )
    assert message("sft", "--retriever", "tf-idf").startswith(
        "argument --retriever: invalid choice: 'tf-idf'"
    )
    monkeypatch.setattr(remote.importlib.util, "find_spec", lambda _: None)
    assert (
        message(
            "sft",
            "--world",
            "tiny",
            "--retriever",
            "milvus",
            "--milvus-uri",
            "x.db",
            "--out",
            "out",
        )
        == remote.INSTALL
    )
    assert list(tmp_path.iterdir()) == []
