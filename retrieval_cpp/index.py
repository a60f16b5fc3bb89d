"""The Python face of the kernel: BM25Index (bm25.hpp) with stop words and stemmers, DenseIndex
(dense.hpp), and HybridIndex, which fuses them.

Left out: field weights, phrases, deletion; approximate search, weighted sums of scores.
N passages or rows, D width, B and Q queries, k hits a query.
"""

import json
import operator
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from retrieval_cpp import _core
from retrieval_cpp._core import tokenize

Hits = tuple[np.ndarray, np.ndarray]  # ids int32 and scores float32, both [Q, k], best first
# Lucene's English stop words.
ENGLISH = """a an and are as at be but by for if in into is it no not of on or such that the their
then there these they this to was will with"""

RRF_K = 60
DEPTH = 100  # how many candidates each index of a HybridIndex brings, at least


def load_stemmer(name: str) -> Callable[[str], str]:
    """A Snowball stemmer by its name: "english", "porter", "german", ..."""
    try:
        import Stemmer
    except ImportError:
        raise ImportError("stemmer= needs PyStemmer: pip install PyStemmer") from None
    if name not in Stemmer.algorithms(aliases=True):
        raise ValueError(f"no stemmer {name!r}; there are {', '.join(Stemmer.algorithms())}")
    return Stemmer.Stemmer(name).stemWord


class BM25Index:
    """Exact BM25 over passages; `BM25Index.build(texts)` or `BM25Index.load(path)`."""

    lexical = True  # a query of unknown words finds nothing

    def __init__(self, core: "_core.BM25"):
        self._core = core

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        k1: float = 0.9,
        b: float = 0.4,
        stopwords: str | Iterable[str] | None = None,
        stemmer: str | None = None,
        threads: int = 0,
    ) -> "BM25Index":
        """Indexes the texts in order; passage i is the i-th text.  Texts are read once, never held.
        k1, b: as in bm25_plain.hpp; stopwords: "english", or words to leave out; stemmer: a
        Snowball name such as "english" or "porter" (needs PyStemmer); both are saved with the index
        and apply to queries too.  threads: 0 means one per core, at most 16; the index does not
        depend on it.  Raises TypeError for what is not str, ValueError for parameters out of
        range."""
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts must be an iterable of str, not one string")
        if isinstance(stopwords, str):
            if stopwords != "english":
                raise ValueError(f"stopwords must be 'english' or words, got {stopwords!r}")
            stopwords = ENGLISH.split()
        words = sorted({word for entry in stopwords or () for word in tokenize(entry)})
        settings = json.dumps({"stopwords": words, "stemmer": stemmer})
        stem = load_stemmer(stemmer) if stemmer else None
        return cls(_core.BM25.build(texts, k1, b, words, stem, settings, operator.index(threads)))

    def search(self, queries: Sequence[str], k: int, threads: int = 0) -> Hits:
        """The k best passages of each query, best first; ties go to the lower id.  Returns ids
        int32 [Q, min(k, N)] and scores float32 of the same shape.  Only passages that share a term
        with the query are found; rows are filled up with id -1 and score -inf."""
        if isinstance(queries, (str, bytes)):
            raise TypeError("queries must be a sequence of str, not one string")
        return self._core.search(list(queries), operator.index(k), operator.index(threads), False)

    def explain(self, query: str, id: int) -> list[tuple[str, int, int, float, float]]:
        """(term, count in the query, tf, idf, share of passage `id`'s score) of each term in it."""
        return self._core.explain(query, operator.index(id))

    def save(self, path: str | bytes | os.PathLike) -> None:
        """Replaces the file, or what a link leads to, at once: a kill leaves the old or the new."""
        self._core.save(os.path.realpath(path))

    @classmethod
    def load(cls, path: str | bytes | os.PathLike, verify: bool = True) -> "BM25Index":
        """Maps a saved index; its pages are read when needed and shared between processes.  verify:
        read every byte once and compare the checksum; without, a file that was cut short or is
        foreign is still found, a flipped bit is not.  Raises ValueError for such files."""
        core = _core.BM25.load(path, verify)
        settings = json.loads(core.settings)
        if settings["stemmer"] is not None:
            core = core.with_stemmer(load_stemmer(settings["stemmer"]), settings["stopwords"])
        return cls(core)

    def __len__(self) -> int:
        return len(self._core)


def float_matrix(array, what: str) -> np.ndarray:
    """The array as contiguous float32, if that loses nothing but precision."""
    array = np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{what} must be real numbers, got dtype {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


class DenseIndex:
    """Inner-product search over float32 [N, D]."""

    def __init__(self, vectors: np.ndarray, storage: str = "f32", rescore: bool = True):
        """storage: "f32", or "bf16" or "int8" to scan two or four times fewer bytes.  With rescore
        the float vectors are kept beside them and results are exactly those of "f32"; without,
        memory is two or four times smaller and scores are those of the rounded vectors."""
        self._core = _core.Dense(float_matrix(vectors, "vectors"), storage, bool(rescore))

    def search(self, queries: np.ndarray, k: int, threads: int = 0) -> Hits:
        """The rows with the k greatest inner products with each query of float32 [B, D]: ids int32
        [B, min(k, N)] and scores float32 of the same shape, best first."""
        queries = float_matrix(queries, "queries")
        return self._core.search(queries, operator.index(k), operator.index(threads))

    def save(self, path: str | bytes | os.PathLike) -> None:
        """As BM25Index.save."""
        self._core.save(os.path.realpath(path))

    @classmethod
    def load(cls, path: str | bytes | os.PathLike, verify: bool = True) -> "DenseIndex":
        """As BM25Index.load."""
        index = cls.__new__(cls)
        index._core = _core.Dense.load(path, verify)
        return index

    def __len__(self) -> int:
        return len(self._core)


class HybridIndex:
    """A BM25Index and a DenseIndex over the same N passages, by reciprocal-rank fusion: a passage's
    score is 1 / (60 + rank) summed over both rankings, which ignores their scores (Cormack, Clarke
    and Buettcher, SIGIR 2009).  encode: list of Q str -> float32 [Q, D]."""

    def __init__(self, bm25: BM25Index, dense: DenseIndex, encode: Callable):
        if len(bm25) != len(dense):
            raise ValueError(f"the indexes hold {len(bm25)} and {len(dense)} passages")
        self.bm25, self.dense, self.encode = bm25, dense, encode

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """As BM25Index.search, [Q, min(k, N)]; scores are the fused ones."""
        if operator.index(k) < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        lexical, _ = self.bm25.search(queries, max(DEPTH, k))
        semantic, _ = self.dense.search(self.encode(queries), max(DEPTH, k))
        if len(semantic) != len(lexical):
            raise ValueError(f"encode gave {len(semantic)} vectors for {len(lexical)} queries")
        shape = (len(queries), min(k, len(self.bm25)))
        ids, scores = np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32)
        for q in range(len(queries)):
            fused = defaultdict(float)
            for ranking in (lexical[q], semantic[q]):
                for rank, passage in enumerate(ranking[ranking >= 0].tolist(), start=1):
                    fused[passage] += 1 / (RRF_K + rank)
            best = sorted(fused.items(), key=lambda item: (-item[1], item[0]))[:k]
            for i, found in enumerate(best):
                ids[q, i], scores[q, i] = found
        return ids, scores
