"""The Milvus retriever on an embedded milvus-lite, and its patience with a client that fails."""

import importlib.util

import numpy as np
import pytest

from data.world import World
from retrieval_cpp import BM25Index, DenseIndex
from rl import RagEnv, RetrieverError
from rl.runs import remote
from rl.runs.flags import UsageError
from rl.runs.remote import MilvusIndex, open_milvus

WORLD = World.open("tiny")
TEXTS = [p.full_text for p in WORLD.corpus]
QUESTIONS = [q.question for q in WORLD.questions("popqa", "test")]
RNG = np.random.default_rng(0)


def random_vectors(count: int) -> np.ndarray:
    """float32 [count, 24] of length 1"""
    x = RNG.standard_normal((count, 24))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


VECTORS = random_vectors(len(TEXTS))
WORDS = dict(zip(QUESTIONS, random_vectors(len(QUESTIONS)), strict=True))


def encode(texts):
    return np.stack([WORDS.get(text, VECTORS[0]) for text in texts])


def never(*_):
    raise AssertionError("asked for vectors that nobody needs")


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("milvus") / "passages.db")


@pytest.fixture(scope="module")
def full_text(uri) -> MilvusIndex:
    return open_milvus(uri, "words", TEXTS)


@pytest.fixture(scope="module")
def dense(uri) -> MilvusIndex:
    return open_milvus(uri, "vectors", TEXTS, encode, lambda: VECTORS)


def test_full_text_ranks_as_our_index(full_text):
    """Same k1 and b, and on these texts of ASCII words the same words: Milvus's scores have
    Lucene's old factor k1 + 1 on top."""
    ids, scores = full_text.search(QUESTIONS, 4)
    expected_ids, expected = BM25Index.build(TEXTS).search(QUESTIONS, 4)
    assert np.allclose(scores / (1 + remote.K1), expected, rtol=1e-4)
    clear = (
        np.diff(-BM25Index.build(TEXTS).search(QUESTIONS, 5)[1].astype(float)) > 1e-3
    )  # [Q, 4]: no tie with the next rank
    apart = clear & np.column_stack([np.full(len(ids), True), clear[:, :-1]])
    assert apart.mean() > 0.3 and np.array_equal(ids[apart], expected_ids[apart])


def test_dense_search_is_exact(dense):
    ids, scores = dense.search(QUESTIONS, 4)
    expected_ids, expected = DenseIndex(VECTORS).search(encode(QUESTIONS), 4)
    assert np.array_equal(ids, expected_ids) and np.allclose(scores, expected, atol=1e-5)


def test_a_query_without_a_known_word_finds_nothing(full_text):
    ids, scores = full_text.search(["zzyzx", QUESTIONS[0]], 3)
    assert ids[0].tolist() == [-1] * 3 and np.isneginf(scores[0]).all() and (ids[1] >= 0).all()


def test_an_existing_collection_is_used(uri, full_text, dense, monkeypatch):
    monkeypatch.setattr(remote, "create", never)
    for index in (full_text, dense):
        monkeypatch.setattr(index.client, "upsert", never)
    again = open_milvus(uri, "vectors", TEXTS, encode, never)
    assert np.array_equal(again.search(QUESTIONS[:9], 4)[0], dense.search(QUESTIONS[:9], 4)[0])
    assert np.array_equal(
        open_milvus(uri, "words", TEXTS).search(QUESTIONS[:9], 4)[0],
        full_text.search(QUESTIONS[:9], 4)[0],
    )


def test_a_cut_off_load_goes_on_where_it_stopped(uri, dense, monkeypatch):
    monkeypatch.setattr(remote, "ROWS", 100)
    client, calls = dense.client, []

    def upsert(collection, rows, **options):
        calls.append(rows[0]["id"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return type(client).upsert(client, collection, rows, **options)

    monkeypatch.setattr(client, "upsert", upsert)
    with pytest.raises(KeyboardInterrupt):
        remote.load(client, "cut", TEXTS, encode, lambda: VECTORS)
    remote.load(client, "cut", TEXTS, encode, lambda: VECTORS)
    batches = list(range(0, len(TEXTS), 100))
    assert calls == batches[:3] + batches[2:]
    assert np.array_equal(
        MilvusIndex(client, "cut", encode).search(QUESTIONS, 4)[0], dense.search(QUESTIONS, 4)[0]
    )


def test_a_collection_of_something_else_is_refused(dense):
    with pytest.raises(
        RetrieverError,
        match=rf"collection vectors holds {len(TEXTS)} rows for 10 passages; drop it",
    ):
        remote.load(dense.client, "vectors", TEXTS[:10], encode, never)


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """Seconds that a retriever would have waited."""
    waited = []
    monkeypatch.setattr(remote, "sleep", waited.append)
    return waited


class Flaky:
    """A client whose first `failures` searches fail."""

    def __init__(self, failures: int):
        self.failures, self.calls = failures, 0

    def search(self, collection, data, limit, timeout, **_):
        self.calls += 1
        assert timeout > 0
        if self.calls <= self.failures:
            raise ConnectionError(f"the server went away ({self.calls})")
        return [[{"id": 7, "distance": 1.5}] for _ in data]


@pytest.mark.parametrize("failures", [0, 1, 4])
def test_a_search_is_tried_again_with_growing_waits(failures, waits):
    client = Flaky(failures)
    ids, scores = MilvusIndex(client, "c").search(["a", "b"], 2)
    assert ids.tolist() == [[7, -1]] * 2 and scores.tolist() == [[1.5, -np.inf]] * 2
    assert client.calls == failures + 1 and waits == [0.5, 1.0, 2.0, 4.0][:failures]


def test_a_search_that_always_fails_raises_and_is_no_empty_observation(waits):
    client = Flaky(failures=10**9)
    env = RagEnv(WORLD, MilvusIndex(client, "c"))
    with pytest.raises(RetrieverError) as error:
        env.search(["a"])
    assert (
        str(error.value)
        == "Milvus: a search failed 5 times, at last with ConnectionError: the server went away (5)"
    )
    assert client.calls == 5 and waits == [0.5, 1.0, 2.0, 4.0]


def test_fewer_results_than_queries_is_an_error():
    client = Flaky(0)
    client.search = lambda *_, **__: [[]]
    with pytest.raises(
        RetrieverError, match=r"Milvus gave 1 results of at most 0 hits for 2 queries"
    ):
        MilvusIndex(client, "c").search(["a", "b"], 2)


@pytest.mark.parametrize(
    "version, old",
    [("2.3.5", True), ("v2.4.12", True), ("2.5.0", False), ("v3.0", False), ("dev", False)],
)
def test_full_text_on_an_old_server_says_so_at_once(version, old):
    if old:
        with pytest.raises(UsageError, match=r"^full text needs Milvus 2.5, and http://x is v?2"):
            remote.check_version(version, "http://x")
    else:
        remote.check_version(version, "http://x")


def test_more_hits_than_asked_for_is_an_error():
    with pytest.raises(
        RetrieverError, match=r"Milvus gave 1 results of at most 1 hits for 1 queries with k = 0"
    ):
        MilvusIndex(Flaky(0), "c").search(["a"], 0)


def test_no_server(monkeypatch):
    """Nobody listens on port 1; pymilvus itself logs a traceback, which must not be seen."""
    monkeypatch.setattr(remote, "WAITS", (0.0,))
    with pytest.raises(
        RetrieverError,
        match=r"connecting to http://127.0.0.1:1 failed 2 times, at last with MilvusException: ",
    ):
        open_milvus("http://127.0.0.1:1", "c", TEXTS)


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    real = importlib.util.find_spec
    for missing, uri in (("pymilvus", "http://127.0.0.1:1"), ("milvus_lite", "x.db")):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, missing=missing: None if name == missing else real(name),
        )
        with pytest.raises(UsageError, match=r"pip install -e '\.\[milvus\]'"):
            open_milvus(uri, "c", TEXTS)


def test_a_passage_that_milvus_cannot_hold(full_text):
    with pytest.raises(
        UsageError,
        match=r"passage 2 of the corpus has more than the 65,535 bytes that Milvus takes; split it",
    ):
        remote.load(full_text.client, "long", ["short", "é" * 40_000], None, None)
    assert not full_text.client.has_collection("long")
