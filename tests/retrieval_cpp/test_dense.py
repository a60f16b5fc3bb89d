"""Dense search: equal to brute force."""

import numpy as np
import pytest

from retrieval_cpp import DenseIndex


def brute_force(vectors, queries, k):
    scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    return np.lexsort((np.broadcast_to(np.arange(len(vectors)), scores.shape), -scores))[
        :, :k
    ], scores


@pytest.mark.parametrize(
    "n, d, b, k", [(1, 1, 1, 1), (100, 7, 3, 5), (1000, 64, 9, 10), (65, 384, 64, 65)]
)
def test_equals_brute_force(n, d, b, k, simd):
    rng = np.random.default_rng(0)
    vectors = rng.integers(-8, 9, (n, d)).astype(
        np.float32
    )  # small integers: every order of summation is exact
    queries = rng.integers(-8, 9, (b, d)).astype(np.float32)
    ids, scores = DenseIndex(vectors).search(queries, k)
    expected, exact = brute_force(vectors, queries, k)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(exact, expected, axis=1))


def clustered(n=3000, d=96, queries=40, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(30, d))
    points = centres[rng.integers(0, 30, n + queries)] + 0.4 * rng.normal(size=(n + queries, d))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return points[:n], points[n:]


@pytest.mark.parametrize("storage", ["bf16", "int8"])
@pytest.mark.parametrize("dimension", [1, 3, 96])
def test_rescored_equals_f32_bit_for_bit(storage, dimension, simd):
    vectors, queries = clustered(d=dimension)
    expected = DenseIndex(vectors).search(queries, 10)
    for a, b in zip(DenseIndex(vectors, storage).search(queries, 10), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_batches_and_threads_do_not_matter(simd):
    vectors, queries = clustered()
    for storage in ("f32", "bf16", "int8"):
        index = DenseIndex(vectors, storage)
        expected = index.search(queries, 10, threads=1)
        for threads in (2, 5):
            for a, b in zip(index.search(queries, 10, threads=threads), expected, strict=True):
                np.testing.assert_array_equal(a, b)
        alone = [index.search(query[None], 10) for query in queries]
        np.testing.assert_array_equal(np.concatenate([ids for ids, _ in alone]), expected[0])
        np.testing.assert_array_equal(np.concatenate([scores for _, scores in alone]), expected[1])


@pytest.mark.parametrize("storage, tolerance", [("bf16", 0.004), ("int8", 0.02)])
def test_without_rescoring_scores_are_near(storage, tolerance, simd):
    vectors, queries = clustered()
    index = DenseIndex(vectors, storage, rescore=False)
    ids, scores = index.search(queries, 10)
    np.testing.assert_allclose(
        scores, np.take_along_axis(queries @ vectors.T, ids, axis=1), atol=tolerance
    )
    assert index._core.nbytes < 0.55 * DenseIndex(vectors)._core.nbytes


def test_extreme_values(simd):
    vectors = np.float32([[3e38, 0], [-3e38, 0], [1e-45, 1e-45], [0, 0]])
    for storage in ("f32", "bf16", "int8"):
        ids, scores = DenseIndex(vectors, storage).search([[1, 0], [0, 0], [1e-38, 0]], 4)
        assert (
            ids[0].tolist()[0] == 0
            and ids[0].tolist()[-1] == 1
            and scores[0, 0] == np.float32(3e38)
        ), storage
        assert sorted(ids[1].tolist()) == [0, 1, 2, 3]


def test_k_is_at_most_the_number_of_rows():
    ids, scores = DenseIndex(np.eye(2, dtype=np.float32)).search(np.ones((1, 2), np.float32), 4)
    assert ids.tolist() == [[0, 1]] and scores.tolist() == [[1, 1]]


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
        (lambda: DenseIndex(np.full((1, 4), 3e38)).search(GOOD, 1), ValueError),
        (lambda: DenseIndex(np.ones((0, 4))).search(GOOD, 1), ValueError),
    ],
)
def test_clear_errors(call, error):
    with pytest.raises(error):
        call()
