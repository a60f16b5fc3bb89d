"""BM25Index: the Python face of bm25.hpp, which does the work; here are stop words and stemmers.

Left out: field weights, phrases, deletion.  Q queries, k hits a query, N passages.
"""

import json
import operator
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from retrieval_cpp import _core
from retrieval_cpp._core import tokenize

Hits = tuple[np.ndarray, np.ndarray]  # ids int32 and scores float32, both [Q, k], best first
# Lucene's English stop words.
ENGLISH = """a an and are as at be but by for if in into is it no not of on or such that the their
then there these they this to was will with"""


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
