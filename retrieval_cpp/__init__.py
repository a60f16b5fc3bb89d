"""What finds: BM25 and dense top-k search in C++17, and their fusion.

    index = BM25Index.build(texts)              # any iterable of str
    ids, scores = index.search(queries, k=4)    # int32 and float32 [Q, min(k, N)], best first

Q queries, k hits a query, N passages.  Results are exact; ties go to the lower passage id.
"""

from retrieval_cpp.bm25 import BM25Index, tokenize
from retrieval_cpp.dense import DenseIndex, HybridIndex

__all__ = ["BM25Index", "DenseIndex", "HybridIndex", "tokenize"]
