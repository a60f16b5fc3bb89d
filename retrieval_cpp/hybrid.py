"""HybridIndex: words and vectors together.

Two ways of fusing two rankings: reciprocal-rank fusion, 1 / (60 + rank) summed (Cormack, Clarke and Buettcher, SIGIR
2009), which ignores the scores; and a weighted sum of scores normalised to [0, 1] within each query's candidates.
"""

import operator
from collections.abc import Callable, Sequence

import numpy as np

from retrieval_cpp.bm25 import BM25Index
from retrieval_cpp.dense import DenseIndex

RRF_K = 60


def reciprocal_ranks(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    ranks = np.arange(1, ids.shape[1] + 1)
    return np.broadcast_to(1.0 / (RRF_K + ranks), ids.shape)


def min_max(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    found = ids >= 0
    low = np.where(found, scores, np.inf).min(axis=1, keepdims=True)
    high = np.where(found, scores, -np.inf).max(axis=1, keepdims=True)
    spread = np.where(high > low, high - low, 1.0)
    return np.where(
        high > low,
        (np.where(found, scores, 0.0) - np.where(np.isfinite(low), low, 0.0)) / spread,
        1.0,
    )


class HybridIndex:
    """Fuses a BM25Index and a DenseIndex over the same passages; encode: list of str -> float32 [Q, D]."""

    def __init__(
        self,
        bm25: BM25Index,
        dense: DenseIndex,
        encode: Callable[[Sequence[str]], np.ndarray],
        fusion: str = "rrf",
        weight: float = 0.5,
        depth: int = 100,
    ):
        """fusion "rrf" or "sum"; weight is BM25's share; depth is how many candidates each index brings."""
        if len(bm25) != len(dense):
            raise ValueError(f"the indexes hold {len(bm25)} and {len(dense)} passages")
        if fusion not in ("rrf", "sum"):
            raise ValueError(f"fusion must be 'rrf' or 'sum', got {fusion!r}")
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be in [0, 1], got {weight}")
        self.bm25, self.dense, self.encode = bm25, dense, encode
        self.fusion, self.weight, self.depth = fusion, weight, depth

    def __len__(self) -> int:
        return len(self.bm25)

    def search(
        self, queries: Sequence[str], k: int, threads: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """As BM25Index.search; scores are the fused ones."""
        if operator.index(k) < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        depth = min(len(self), max(self.depth, k))
        lexical = self.bm25.search(queries, depth, threads)
        semantic = self.dense.search(self.encode(queries), depth, threads)
        if len(semantic[0]) != len(lexical[0]):
            raise ValueError(
                f"encode gave {len(semantic[0])} vectors for {len(lexical[0])} queries"
            )
        value = reciprocal_ranks if self.fusion == "rrf" else min_max
        weights = (1.0, 1.0) if self.fusion == "rrf" else (self.weight, 1.0 - self.weight)
        ids = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        values = [weight * value(*ranking) for weight, ranking in zip(weights, (lexical, semantic))]
        for q in range(len(queries)):
            fused: dict[int, float] = {}
            for (ranked, _), worth in zip((lexical, semantic), values):
                for passage, points in zip(ranked[q].tolist(), worth[q].tolist()):
                    if passage >= 0:
                        fused[passage] = fused.get(passage, 0.0) + points
            best = sorted(fused.items(), key=lambda item: (-item[1], item[0]))[:k]
            for i, (passage, score) in enumerate(best):
                ids[q, i], scores[q, i] = passage, score
        return ids, scores
