"""Vectors: DenseIndex, the Python face of dense.hpp, and HybridIndex, which adds words to them.

Left out: approximate search, weighted sums of scores.  N rows, D width, B and Q queries, k hits.
"""

import operator
import os
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from retrieval_cpp import _core
from retrieval_cpp.bm25 import BM25Index, Hits

RRF_K = 60
DEPTH = 100  # how many candidates each index of a HybridIndex brings, at least


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
