"""Dense search: equal to brute force."""

import numpy as np
import pytest

from retrieval_cpp import DenseIndex


def brute_force(vectors, queries, k):
    scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    return np.lexsort((np.broadcast_to(np.arange(len(vectors)), scores.shape), -scores))[:, :k], scores


@pytest.mark.parametrize("n, d, b, k", [(1, 1, 1, 1), (100, 7, 3, 5), (1000, 64, 9, 10), (65, 384, 64, 65)])
def test_equals_brute_force(n, d, b, k):
    rng = np.random.default_rng(0)
    vectors = rng.integers(-8, 9, (n, d)).astype(np.float32)  # small integers: every order of summation is exact
    queries = rng.integers(-8, 9, (b, d)).astype(np.float32)
    ids, scores = DenseIndex(vectors).search(queries, k)
    expected, exact = brute_force(vectors, queries, k)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(exact, expected, axis=1))


def test_k_beyond_n_is_padded():
    ids, scores = DenseIndex(np.eye(2, dtype=np.float32)).search(np.ones((1, 2), np.float32), 4)
    assert ids.tolist() == [[0, 1, -1, -1]] and np.isneginf(scores[0, 2:]).all()


def test_converts_what_can_be_converted():
    vectors = np.asfortranarray(np.arange(12, dtype=np.float64).reshape(4, 3))
    ids, _ = DenseIndex(vectors[::2]).search([[1, 0, 0]], 1)
    assert ids.tolist() == [[1]]


GOOD = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: DenseIndex(np.full((2, 2), np.nan)), ValueError),
        (lambda: DenseIndex(np.ones(4)), ValueError),
        (lambda: DenseIndex(np.ones((4, 0))), ValueError),
        (lambda: DenseIndex(np.array([["a"]])), TypeError),
        (lambda: DenseIndex(np.ones((2, 2), complex)), TypeError),
        (lambda: DenseIndex(GOOD, storage="f8"), ValueError),
        (lambda: DenseIndex(GOOD).search(np.ones((1, 5)), 1), ValueError),
        (lambda: DenseIndex(GOOD).search(np.full((1, 4), np.inf), 1), ValueError),
        (lambda: DenseIndex(GOOD).search(np.ones(4), 1), ValueError),
        (lambda: DenseIndex(GOOD).search(GOOD, 0), ValueError),
        (lambda: DenseIndex(np.ones((0, 4))).search(GOOD, 1), ValueError),
    ],
)
def test_clear_errors(call, error):
    with pytest.raises(error):
        call()
