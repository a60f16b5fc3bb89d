"""BM25Index: the Python face of bm25.hpp, which does the work; here are stop words, stemmers and names."""

import json
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from retrieval_cpp import _core

# Lucene's English stop words.
ENGLISH = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
).split()


class TermScore(NamedTuple):
    """One term's share of a passage's score: score = count * idf * tf / (tf + norm)."""

    term: str
    count: int  # occurrences in the query
    tf: int  # occurrences in the passage
    idf: float
    score: float


def tokenize(text: str) -> list[str]:
    """The words of a text as the index sees them: letters and numbers, case and accents folded."""
    return _core.tokenize(text)


def load_stemmer(name: str | None) -> Callable[[str], str] | None:
    """A Snowball stemmer by its name: "english", "porter", "german", ..."""
    if name is None:
        return None
    try:
        import Stemmer
    except ImportError as error:
        raise ImportError("stemmer= needs PyStemmer: pip install PyStemmer") from error
    try:
        return Stemmer.Stemmer(name).stemWord
    except KeyError:
        raise ValueError(
            f"no stemmer {name!r}; there are {', '.join(Stemmer.algorithms())}"
        ) from None


def stopword_list(stopwords: str | Iterable[str] | None) -> list[str]:
    if stopwords is None:
        return []
    if isinstance(stopwords, str):
        if stopwords not in ("en", "english"):
            raise ValueError(
                f"stopwords must be 'english' or an iterable of words, got {stopwords!r}"
            )
        return ENGLISH
    return sorted({word for entry in stopwords for word in tokenize(entry)})


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
        """Indexes the texts in order; passage i is the i-th text.  Texts are read once and never held.

        stopwords: "english", or words to leave out; stemmer: a Snowball name such as "english" or "porter" (needs
        PyStemmer).  Building runs on one thread; `threads` is there for symmetry with search.
        """
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts must be an iterable of str, not one string")
        if operator.index(threads) < 0:
            raise ValueError(f"threads must not be negative, got {threads}")
        words = stopword_list(stopwords)
        settings = json.dumps({"stopwords": words, "stemmer": stemmer})
        return cls(_core.BM25.build(texts, k1, b, words, load_stemmer(stemmer), settings))

    def search(
        self, queries: Sequence[str], k: int, threads: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best passages of each query: ids int32 [Q, k] and scores float32 [Q, k], padded with -1 and -inf."""
        if isinstance(queries, (str, bytes)):
            raise TypeError("queries must be a sequence of str, not one string")
        return self._core.search(list(queries), operator.index(k), operator.index(threads))

    def explain(self, query: str, id: int) -> list[TermScore]:
        """What each term of the query adds to passage `id`'s score."""
        return [TermScore(*row) for row in self._core.explain(query, operator.index(id))]

    def save(self, path: str | os.PathLike) -> None:
        self._core.save(os.fspath(path))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "BM25Index":
        """Maps a saved index; the pages are shared between processes."""
        core = _core.BM25.load(os.fspath(path))
        settings = json.loads(core.settings)
        if settings["stemmer"] is not None:
            core = core.with_stemmer(load_stemmer(settings["stemmer"]), settings["stopwords"])
        return cls(core)

    def __len__(self) -> int:
        return len(self._core)

    @property
    def nbytes(self) -> int:
        return self._core.nbytes

    @property
    def vocabulary_size(self) -> int:
        return self._core.vocabulary_size
