"""Two real collections: CACM against Anserini's published figure, Cranfield against bm25s."""

import gzip
import re
import tarfile
from collections import defaultdict

import numpy as np
import pytest

from retrieval_cpp import BM25Index, tokenize
from tests.shared import shared_path


def cacm():
    folder = shared_path("ir/cacm")
    with tarfile.open(folder / "cacm.tar.gz") as archive:
        pages = {
            member.name.split("/")[-1].removesuffix(".html"): archive.extractfile(member)
            .read()
            .decode("latin-1")
            for member in archive.getmembers()
            if member.name.endswith(".html")
        }
    passages = {name: re.sub(r"<[^>]*>", " ", page) for name, page in pages.items()}
    text = (folder / "topics.cacm.txt").read_text()
    topics = dict(re.findall(r"<DOCNO>\s*(\d+)\s*</DOCNO>(.*?)</DOC>", text, re.S))
    relevant = defaultdict(set)
    for line in (folder / "qrels.cacm.txt").read_text().splitlines():
        topic, _, name, grade = line.split()
        if int(grade) > 0:
            relevant[topic].add(name)
    return passages, topics, relevant


def mean_average_precision(passages, topics, relevant, index):
    names = list(passages)
    judged = [topic for topic in topics if relevant[topic]]
    ids, _ = index.search([topics[topic] for topic in judged], 1000)
    precisions = []
    for topic, row in zip(judged, ids, strict=True):
        hits = np.array([names[i] in relevant[topic] for i in row if i >= 0])
        ranks = np.flatnonzero(hits) + 1
        precisions.append((np.arange(1, len(ranks) + 1) / ranks).sum() / len(relevant[topic]))
    return float(np.mean(precisions)), len(judged)


def test_cacm_map_is_that_of_anserini():
    pytest.importorskip(
        "Stemmer", reason="the published figure is with Porter stems: pip install PyStemmer"
    )
    passages, topics, relevant = cacm()
    assert len(passages) == 3204
    index = BM25Index.build(passages.values(), k1=0.9, b=0.4, stopwords="english", stemmer="porter")
    score, judged = mean_average_precision(passages, topics, relevant, index)
    assert judged == 52
    assert score == pytest.approx(0.3123, abs=0.010)


def test_stemmed_index_survives_saving(tmp_path):
    pytest.importorskip("Stemmer", reason="stemming needs PyStemmer")
    index = BM25Index.build(["running runs", "a walk"], stemmer="porter")
    index.save(tmp_path / "index")
    assert index._core.vocabulary_size == 3
    assert BM25Index.load(tmp_path / "index").search(["run", "walking"], 1)[0].tolist() == [
        [0],
        [1],
    ]


def test_stop_words_of_a_query_are_not_stemmed():
    pytest.importorskip("Stemmer", reason="stemming needs PyStemmer")
    index = BM25Index.build(
        ["wa", "was"], stopwords=["was"], stemmer="porter"
    )  # "was" would stem to "wa"
    assert index.search(["was", "wa"], 1)[0].tolist() == [[-1], [0]]


def cranfield():
    folder = shared_path("ir/cranfield")
    with gzip.open(folder / "cran.all.1400.gz", "rt", encoding="latin-1") as file:
        entries = re.split(r"^\.I \d+\s*$", file.read(), flags=re.M)[1:]
    passages = [re.split(r"^\.W\s*$", entry, maxsplit=1, flags=re.M)[1] for entry in entries]
    queries = re.split(r"^\.I \d+\s*$", (folder / "cran.qry").read_text(), flags=re.M)[1:]
    return passages, [query.replace(".W", " ") for query in queries]


def test_cranfield_rankings_are_those_of_bm25s():
    bm25s = pytest.importorskip("bm25s", reason="bm25s is the oracle here")
    passages, queries = cranfield()
    assert len(passages) == 1400 and len(queries) == 225
    ids, scores = BM25Index.build(passages).search(queries, 10)
    peer = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    peer.index([tokenize(text) for text in passages], show_progress=False)
    overlaps = []
    for q, query in enumerate(queries):
        expected = peer.get_scores(tokenize(query))
        tenth = np.sort(expected)[-10]
        overlaps.append(
            np.mean(expected[ids[q]] >= tenth - 1e-4)
        )  # ties at the border count as found
        np.testing.assert_allclose(scores[q], np.sort(expected)[::-1][:10], atol=1e-4)
    assert np.mean(overlaps) >= 0.999
