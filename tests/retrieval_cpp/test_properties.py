"""Properties on generated corpora, queries and texts: the kernel equals the slow twin."""

import unicodedata

import numpy as np
import pytest

from retrieval_cpp import BM25Index, tokenize
from tests.retrieval_cpp.reference import BM25Twin, tokens

pytest.importorskip("hypothesis", reason="property tests need hypothesis")
from hypothesis import given, strategies as st  # noqa: E402

WORDS = st.sampled_from("the of who was film Beyoncé α 日 7 rare".split())
TEXTS = st.lists(st.lists(WORDS, max_size=12).map(" ".join), min_size=1, max_size=40)
QUERIES = st.lists(st.lists(WORDS, max_size=6).map(" ".join), min_size=1, max_size=4)


@given(texts=TEXTS, queries=QUERIES, k=st.integers(1, 50))
def test_bm25_equals_the_twin(texts, queries, k):
    ids, scores = BM25Index.build(texts).search(queries, k)
    twin_ids, twin_scores = BM25Twin(texts).search(queries, k)
    np.testing.assert_array_equal(ids, twin_ids)
    np.testing.assert_array_equal(scores, twin_scores)
    assert ids.dtype == np.int32 and scores.dtype == np.float32 and ids.shape == (len(queries), k)


@given(st.text())
def test_words_of_any_text(text):
    assert tokenize(text) == tokens(text)


@given(st.text(alphabet="aB9 é\u0301Àßﬁ-_\u0345\u1100\u1161가日カ\U0001d165\U0001d16e"))
def test_marks_and_compositions(text):
    assert tokenize(text) == tokens(text)
    assert tokenize(unicodedata.normalize("NFD", text)) == tokenize(unicodedata.normalize("NFC", text))
