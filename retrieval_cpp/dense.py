"""DenseIndex: the Python face of dense.hpp.

Left out: approximate search.  N rows, D width, B queries, k hits a query.
"""

import operator
import os

import numpy as np

from retrieval_cpp import _core


def float_matrix(array, what: str) -> np.ndarray:
    """The array as contiguous float32, if that loses nothing but precision."""
    array = np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{what} must be real numbers, got dtype {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


class DenseIndex:
    """Inner-product search over float32 [N, D]."""

    def __init__(self, vectors: np.ndarray, storage: str = "f32", rescore: bool = True):
        """storage: "f32", or "bf16" or "int8" to scan two or four times fewer bytes.

        With rescore the float vectors are kept beside them and results are exactly those of "f32";
        without, memory is two or four times smaller and scores are those of the rounded vectors.
        """
        self._core = _core.Dense(float_matrix(vectors, "vectors"), storage, bool(rescore))

    def search(
        self, queries: np.ndarray, k: int, threads: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows with the k greatest inner products with each query of float32 [B, D].

        Returns ids int32 [B, min(k, N)] and scores float32 of the same shape, best first.
        """
        return self._core.search(
            float_matrix(queries, "queries"), operator.index(k), operator.index(threads)
        )

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

    @property
    def nbytes(self) -> int:
        return self._core.nbytes
