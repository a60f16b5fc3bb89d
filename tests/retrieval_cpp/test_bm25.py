"""BM25 search: equal to the slow twin and to bm25s."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from retrieval_cpp import BM25Index, tokenize


def zipf_texts(count=2000, vocabulary=3000, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 60, count)
    return [" ".join(f"w{w}" for w in np.minimum(rng.zipf(1.2, n), vocabulary)) for n in lengths]


@pytest.mark.parametrize("k1, b", [(0.9, 0.4), (1.2, 0.75), (0.0, 0.5), (2.0, 0.0), (3.0, 1.0)])
def test_equals_bm25s(k1, b):
    bm25s = pytest.importorskip("bm25s", reason="bm25s is the oracle here")
    texts = zipf_texts()
    queries = zipf_texts(50, seed=1)
    queries = [" ".join(query.split()[:8]) for query in queries]
    ids, scores = BM25Index.build(texts, k1=k1, b=b).search(queries, k=10)
    peer = bm25s.BM25(method="lucene", k1=k1, b=b)
    peer.index([tokenize(text) for text in texts], show_progress=False)
    for q, query in enumerate(queries):
        expected = peer.get_scores(tokenize(query))
        found = ids[q] >= 0
        np.testing.assert_allclose(
            scores[q][found], np.sort(expected)[::-1][: found.sum()], atol=1e-4
        )
        np.testing.assert_allclose(scores[q][found], expected[ids[q][found]], atol=1e-4)
        assert found.sum() == min(10, (expected > 0).sum())


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_plain_search_bit_for_bit(seed):
    """bm25_plain.hpp, which scores every posting, is the oracle of bm25.hpp."""
    rng = np.random.default_rng(seed)
    index = BM25Index.build(zipf_texts(3000, seed=seed), k1=rng.uniform(0, 3), b=rng.uniform())
    queries = zipf_texts(60, seed=seed + 100)
    queries += [" ".join(queries[:n]) for n in (5, 20, 60)]
    for k in (1, 10, 500, 3000):
        fast = index.search(queries, k)
        for a, b in zip(fast, index._core.search(queries, k, 1, True), strict=True):
            np.testing.assert_array_equal(a, b)


def test_more_terms_than_16_bits_can_bound():
    words = [f"w{i}" for i in range(5000)]
    index = BM25Index.build([" ".join(words[i : i + 50]) for i in range(0, 5000, 10)])
    for n in (4000, 4096, 4097, 5000):
        fast = index.search([" ".join(words[:n])], 500)
        for a, b in zip(fast, index._core.search([" ".join(words[:n])], 500, 1, True), strict=True):
            np.testing.assert_array_equal(a, b)


def test_building_threads_do_not_matter(tmp_path):
    texts = [f"{text} d{i}" for i, text in enumerate(zipf_texts(5000))]
    files = []
    for threads in (1, 2, 3, 16):
        BM25Index.build(texts, stopwords=["w1", "w7"], threads=threads).save(tmp_path / "index")
        files.append((tmp_path / "index").read_bytes())
    assert files[1:] == files[:1] * 3


def test_threads_do_not_matter():
    index = BM25Index.build(zipf_texts())
    queries = zipf_texts(64, seed=2)
    expected = index.search(queries, 5, threads=1)
    for threads in (0, 2, 3, 64):
        for a, b in zip(index.search(queries, 5, threads=threads), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_python_threads_share_an_index():
    index = BM25Index.build(zipf_texts())
    batches = [zipf_texts(16, seed=seed) for seed in range(8)]
    expected = [index.search(batch, 5, threads=1)[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for ids, wanted in zip(
            pool.map(lambda batch: index.search(batch, 5, threads=2)[0], batches),
            expected,
            strict=True,
        ):
            np.testing.assert_array_equal(ids, wanted)


def test_ties_go_to_the_lower_id():
    ids, scores = BM25Index.build(["same text"] * 7).search(["text"], 3)
    assert ids.tolist() == [[0, 1, 2]] and len(set(scores[0].tolist())) == 1


def test_padding():
    ids, scores = BM25Index.build(["a b", "c", ""]).search(["a", "zzz", ""], 2)
    assert ids.tolist() == [[0, -1], [-1, -1], [-1, -1]]
    assert np.isneginf(scores[0, 1:]).all() and np.isneginf(scores[1:]).all()


def test_k_is_at_most_the_number_of_passages():
    ids, scores = BM25Index.build(["a b", "c", ""]).search(["c a", "a"], 10**9)
    assert ids.tolist() == [[1, 0, -1], [0, -1, -1]] and scores.shape == (2, 3)


def test_explain_adds_up():
    texts = zipf_texts(300)
    index = BM25Index.build(texts)
    ids, scores = index.search([texts[5]], 3)
    for id, score in zip(ids[0], scores[0], strict=True):
        rows = index.explain(texts[5], int(id))
        assert sum(score for *_, score in rows) == pytest.approx(score, abs=1e-5)
        assert all(tf == tokenize(texts[id]).count(term) for term, _, tf, *_ in rows)
    assert index.explain("nowhere", 0) == []


def test_stopwords():
    index = BM25Index.build(["the cat", "the dog"], stopwords="english")
    assert index._core.vocabulary_size == 2
    assert index.search(["the"], 1)[0].tolist() == [[-1]]
    assert BM25Index.build(["the cat"], stopwords=["Cat"]).search(["cat", "the"], 1)[
        0
    ].tolist() == [[-1], [0]]


def test_generator_and_properties():
    index = BM25Index.build(text for text in ["a b c", "a"])
    assert len(index) == 2 and index._core.vocabulary_size == 3 and index._core.nbytes > 0


def test_mixed_inputs_that_must_simply_work():
    long_word, many = "x" * 1_000_000, "t " * 1_000_000
    texts = ["", "the", long_word, many, "😀 😀", "שלום", "nul\x00byte"] + [
        "same words here"
    ] * 1000
    index = BM25Index.build(texts)
    ids, _ = index.search([long_word, "t", "t " * 1000, "שלום", "byte", "😀", "", "same"], 2000)
    assert ids[:5, 0].tolist() == [2, 3, 3, 5, 6] and (ids[5:7] == -1).all()
    assert ids[7, :1000].tolist() == list(range(7, 1007)) and (ids[7, 1000:] == -1).all()


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: BM25Index.build("one string"), TypeError),
        (lambda: BM25Index.build([b"bytes"]), TypeError),
        (lambda: BM25Index.build(["a", None]), TypeError),
        (lambda: BM25Index.build(["a"], k1=-1), ValueError),
        (lambda: BM25Index.build(["a"], b=float("nan")), ValueError),
        (lambda: BM25Index.build(["a"], stopwords="klingon"), ValueError),
        (lambda: BM25Index.build([]).search(["a"], 1), ValueError),
        (lambda: BM25Index.build(["a"]).search(["a"], 0), ValueError),
        (lambda: BM25Index.build(["a"]).search(["a"], -3), ValueError),
        (lambda: BM25Index.build(["a"]).search(["a"], 1.5), TypeError),
        (lambda: BM25Index.build(["a"]).search("a", 1), TypeError),
        (lambda: BM25Index.build(["a"]).search([1], 1), TypeError),
        (lambda: BM25Index.build(["a"]).search(["a"], 1, threads=-1), ValueError),
        (lambda: BM25Index.build(["a"]).explain("a", 1), IndexError),
        (lambda: BM25Index.build(["a"], stemmer="klingon"), (ValueError, ImportError)),
        (lambda: BM25Index.build(["a"], threads=-1), ValueError),
        (lambda: BM25Index.load("/nonexistent/index"), OSError),
    ],
)
def test_clear_errors(call, error):
    with pytest.raises(error):
        call()
