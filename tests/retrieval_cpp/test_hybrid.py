"""Fusion: worked examples."""

import numpy as np
import pytest

from retrieval_cpp import BM25Index, DenseIndex, HybridIndex

TEXTS = ["red apple", "green apple", "red car", "blue sky"]
VECTORS = np.eye(4, dtype=np.float32)


def hybrid(encoded):
    return HybridIndex(
        BM25Index.build(TEXTS),
        DenseIndex(VECTORS),
        lambda queries: np.tile(encoded, (len(queries), 1)),
    )


def test_reciprocal_ranks():
    # BM25 ranks 0 before 2 before 1 for "red apple red"; the vectors rank 2, 3, 1, 0.
    ids, scores = hybrid(np.float32([0.1, 0.2, 0.9, 0.3])).search(["red apple red"], 4)
    expected = {0: 1 / 61 + 1 / 64, 2: 1 / 62 + 1 / 61, 1: 1 / 63 + 1 / 63, 3: 1 / 62}
    assert ids[0].tolist() == sorted(expected, key=lambda i: -expected[i])
    np.testing.assert_allclose(scores[0], sorted(expected.values(), reverse=True), rtol=1e-6)


def test_no_words_in_common():
    ids, _ = hybrid(np.float32([0, 0, 1, 0])).search(["zzz"], 1)
    assert ids.tolist() == [[2]]


def test_errors():
    with pytest.raises(ValueError, match="passages"):
        HybridIndex(BM25Index.build(["a"]), DenseIndex(VECTORS), lambda q: q)
    with pytest.raises(ValueError, match="k must be"):
        hybrid(VECTORS[0]).search(["red"], 0)
    with pytest.raises(ValueError, match="encode gave 1"):
        HybridIndex(BM25Index.build(TEXTS), DenseIndex(VECTORS), lambda q: VECTORS[:1]).search(
            ["a", "b"], 1
        )
