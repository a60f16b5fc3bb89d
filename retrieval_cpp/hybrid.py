"""HybridIndex: words and vectors together, by reciprocal-rank fusion.

A passage's score is 1 / (60 + rank) summed over both rankings, which ignores their scores (Cormack,
Clarke and Buettcher, SIGIR 2009).  Left out: weighted sums of scores, which must be tuned.
"""

import operator
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from retrieval_cpp.bm25 import BM25Index
from retrieval_cpp.dense import DenseIndex

RRF_K = 60


class HybridIndex:
    """Fuses a BM25Index and a DenseIndex over the same N passages.

    encode: list of Q str -> float32 [Q, D]; depth: how many candidates each index brings.
    """

    def __init__(
        self,
        bm25: BM25Index,
        dense: DenseIndex,
        encode: Callable[[Sequence[str]], np.ndarray],
        depth: int = 100,
    ):
        if len(bm25) != len(dense):
            raise ValueError(f"the indexes hold {len(bm25)} and {len(dense)} passages")
        self.bm25, self.dense, self.encode, self.depth = bm25, dense, encode, depth

    def __len__(self) -> int:
        return len(self.bm25)

    def search(
        self, queries: Sequence[str], k: int, threads: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """As BM25Index.search, [Q, min(k, N)]; scores are the fused ones."""
        if operator.index(k) < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        depth = max(self.depth, k)
        lexical, _ = self.bm25.search(queries, depth, threads)
        semantic, _ = self.dense.search(self.encode(queries), depth, threads)
        if len(semantic) != len(lexical):
            raise ValueError(f"encode gave {len(semantic)} vectors for {len(lexical)} queries")
        shape = (len(queries), min(k, len(self)))
        ids, scores = np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32)
        for q in range(len(queries)):
            fused = defaultdict(float)
            for ranking in (lexical[q], semantic[q]):
                for rank, passage in enumerate(ranking[ranking >= 0].tolist(), start=1):
                    fused[passage] += 1 / (RRF_K + rank)
            best = sorted(fused.items(), key=lambda item: (-item[1], item[0]))[:k]
            for i, (passage, score) in enumerate(best):
                ids[q, i], scores[q, i] = passage, score
        return ids, scores
