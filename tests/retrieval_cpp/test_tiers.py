"""Dense, common and rare terms, escapes, several rounds of blocks.

Equal to the slow twin at every instruction set.
"""

import numpy as np
import pytest

from retrieval_cpp import BM25Index, _core
from tests.retrieval_cpp.reference import BM25Twin

N = 9000  # three padded groups of 4,096; dense df > 1125, common df >= 71


@pytest.fixture(scope="module")
def corpus():
    """200 words of which word w is in about N / (w + 1) passages; frequencies from 1 to 60."""
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(N):
        words = np.flatnonzero(rng.random(200) < 1 / np.arange(1, 201) ** 1.1)
        counts = np.minimum(
            rng.geometric(0.5, len(words)) + (rng.random(len(words)) < 0.02) * 40, 60
        )
        texts.append(
            " ".join(f"w{w}" for w, c in zip(words, counts, strict=True) for _ in range(c))
        )
    return texts, BM25Index.build(texts), BM25Twin(texts)


def queries(count, words, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{w}" for w in rng.choice(words, rng.integers(1, 8))) for _ in range(count)]


@pytest.mark.parametrize(
    "words",
    [range(200), range(7), range(7, 60), range(100, 200)],
    ids=["all", "dense", "common", "rare"],
)
@pytest.mark.parametrize("k", [1, 10, 500])
def test_equals_the_twin(corpus, simd, words, k):
    _, index, twin = corpus
    batch = queries(25, list(words), seed=k)
    ids, scores = index.search(batch, k)
    twin_ids, twin_scores = twin.search(batch, k)
    np.testing.assert_array_equal(ids, twin_ids)
    np.testing.assert_array_equal(scores, twin_scores)


def test_long_queries_are_added_up_by_windows(corpus, simd):
    _, index, twin = corpus
    batch = [" ".join(f"w{w}" for w in range(200)), " ".join(f"w{w}" for w in range(199, 60, -1))]
    for a, b in zip(index.search(batch, 20), twin.search(batch, 20), strict=True):
        np.testing.assert_array_equal(a, b)


def test_all_matches_are_found(corpus, simd):
    _, index, twin = corpus
    for a, b in zip(index.search(["w150 w3"], N), twin.search(["w150 w3"], N), strict=True):
        np.testing.assert_array_equal(a, b)


def test_explain_reads_every_kind_of_list(corpus):
    texts, index, _ = corpus
    for i in (0, 4095, 4096, N - 1):
        rows = {row[0]: row[2] for row in index.explain(" ".join(f"w{w}" for w in range(200)), i)}
        words = texts[i].split()
        assert rows == {word: words.count(word) for word in words}


@pytest.mark.parametrize("k1, b", [(0.0, 0.4), (50.0, 1.0), (0.01, 0.0)])
def test_parameters_that_leave_no_room_for_codes(corpus, k1, b):
    texts = corpus[0][:600]
    batch = queries(10, list(range(40)), seed=1)
    for x, y in zip(
        BM25Index.build(texts, k1=k1, b=b).search(batch, 10),
        BM25Twin(texts, k1=k1, b=b).search(batch, 10),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


def test_identical_passages_at_scale():
    index = BM25Index.build("all the same words" for _ in range(100_000))
    ids, scores = index.search(["same words", "the"], 5)
    assert ids.tolist() == [[0, 1, 2, 3, 4]] * 2 and len(set(scores[0].tolist())) == 1


def test_saved_and_loaded(corpus, tmp_path):
    _, index, _ = corpus
    index.save(tmp_path / "index")
    batch = queries(50, list(range(200)), seed=3)
    for a, b in zip(
        BM25Index.load(tmp_path / "index").search(batch, 10), index.search(batch, 10), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_an_unknown_level_is_an_error(corpus, monkeypatch):
    monkeypatch.setenv("SMARTRAG_SIMD", "mmx")
    with pytest.raises(ValueError, match="SMARTRAG_SIMD"):
        corpus[1].search(["w1"], 1)
    assert "portable" in _core.simd_levels()
