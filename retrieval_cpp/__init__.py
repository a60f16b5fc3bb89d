"""What finds: BM25 and dense top-k search in C++17, and their fusion (README.md beside this file).

Results are exact; ties go to the lower passage id.
"""

from retrieval_cpp.index import BM25Index, DenseIndex, HybridIndex, tokenize

__all__ = ["BM25Index", "DenseIndex", "HybridIndex", "tokenize"]
