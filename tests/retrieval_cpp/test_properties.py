"""Properties on generated corpora, queries and texts: the kernel equals the slow twin."""

import unicodedata

import numpy as np
import pytest

from retrieval_cpp import BM25Index, DenseIndex, _core, tokenize
from tests.retrieval_cpp.reference import BM25Twin, tokens

pytest.importorskip("hypothesis", reason="property tests need hypothesis")
from hypothesis import given
from hypothesis import strategies as st

LEVELS = st.sampled_from(_core.simd_levels())

WORDS = st.sampled_from(["the", "of", "who", "was", "film", "Beyoncé", "ж", "日", "7", "rare"])
TEXTS = st.lists(st.lists(WORDS, max_size=12).map(" ".join), min_size=1, max_size=40)
QUERIES = st.lists(st.lists(WORDS, max_size=6).map(" ".join), min_size=1, max_size=4)


def at_level(level, call):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMARTRAG_SIMD", level)
        return call()


@given(level=LEVELS, texts=TEXTS, queries=QUERIES, k=st.integers(1, 50))
def test_bm25_equals_the_twin(level, texts, queries, k):
    ids, scores = at_level(level, lambda: BM25Index.build(texts).search(queries, k))
    twin_ids, twin_scores = BM25Twin(texts).search(queries, k)
    np.testing.assert_array_equal(ids, twin_ids)
    np.testing.assert_array_equal(scores, twin_scores)
    assert ids.dtype == np.int32 and scores.dtype == np.float32
    assert ids.shape == scores.shape == (len(queries), min(k, len(texts)))


@given(
    level=LEVELS,
    storage=st.sampled_from(["f32", "bf16", "int8"]),
    shape=st.tuples(st.integers(1, 200), st.integers(1, 40), st.integers(1, 15)),
    k=st.integers(1, 210),
    seed=st.integers(0, 99),
)
def test_dense_equals_brute_force(level, storage, shape, k, seed):
    (n, d, b), rng = shape, np.random.default_rng(seed)
    vectors = rng.integers(-9, 10, (n, d)).astype(
        np.float32
    )  # small integers: every order of summation is exact
    queries = rng.integers(-9, 10, (b, d)).astype(np.float32)
    ids, scores = at_level(level, lambda: DenseIndex(vectors, storage).search(queries, k))
    exact = queries @ vectors.T
    expected = np.lexsort((np.broadcast_to(np.arange(n), exact.shape), -exact))[:, :k]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(exact, expected, axis=1))


@given(st.text())
def test_words_of_any_text(text):
    assert tokenize(text) == tokens(text)


@given(st.text(alphabet="aB9 é\u0301Àßﬁ-_\u0345\u1100\u1161가日カ\U0001d165\U0001d16e"))
def test_marks_and_compositions(text):
    assert tokenize(text) == tokens(text)
    assert tokenize(unicodedata.normalize("NFD", text)) == tokenize(
        unicodedata.normalize("NFC", text)
    )
