"""The BM25 engines that benchmarks/bm25.py compares, behind one small face.

    build(corpus, directory)   text file, one passage a line, to an index on disk (timed)
    open(directory)            loads it
    search(queries, k)         from Python strings to ids and scores: tokenisation and binding are part of the figure
    top_scores()               float [Q, k] of the last search, best first, to compare rankings

All: k1 .9, b .4, no stop words, no stemming, one thread.
"""

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np

K1, B = 0.9, 0.4


def passages(corpus: Path):
    with open(corpus) as file:
        for line in file:
            yield line


def bytes_under(directory: Path, *patterns: str) -> int:
    files = {
        path
        for pattern in patterns or ("*",)
        for path in directory.rglob(pattern)
        if path.is_file()
    }
    return sum(path.stat().st_size for path in files)


class Ours:
    name, needs = "ours", ()

    def build(self, corpus: Path, directory: Path) -> None:
        from retrieval_cpp import BM25Index

        BM25Index.build(passages(corpus), k1=K1, b=B, threads=1).save(directory / "index")

    def open(self, directory: Path) -> None:
        from retrieval_cpp import BM25Index

        self.index = BM25Index.load(directory / "index")

    def search(self, queries, k):
        self.result = self.index.search(queries, k, threads=1)

    def top_scores(self) -> np.ndarray:
        return self.result[1]

    def size(self, directory: Path) -> int:
        return bytes_under(directory)


class Pisa:
    """PISA through pyterrier_pisa's native module, without pyterrier's data frames."""

    name, needs, algorithm = "PISA block-max MaxScore", ("pyterrier_pisa",), "block_max_maxscore"
    folder = "PISA"

    def build(self, corpus: Path, directory: Path) -> None:
        from pyterrier_pisa import PisaIndex

        shutil.rmtree(directory)
        with open(corpus) as file:
            count = sum(1 for _ in file)
        # One batch: on a single core PISA's indexer waits for ever once its queue of batches is full.
        index = PisaIndex(
            str(directory),
            text_field="text",
            stemmer="none",
            stops="none",
            threads=1,
            batch_size=count,
        )
        index.index({"docno": str(i), "text": text} for i, text in enumerate(passages(corpus)))
        self.open(directory)  # compresses on first use

    def open(self, directory: Path) -> None:
        from pyterrier_pisa import _pisathon

        self.retrieve, self.context = _pisathon.retrieve, _pisathon.RetrievalContext()
        _pisathon.prepare_index(
            self.context,
            str(directory),
            "block_simdbp",
            "bm25",
            "",
            quantize=0,
            stop_fname="",
            bm25_k1=K1,
            bm25_b=B,
        )

    def search(self, queries, k):
        size = len(queries) * k
        self.rows, self.k = len(queries), k
        self.row, ids, rank = (
            np.empty(size, np.int32),
            np.empty(size, object),
            np.empty(size, np.int32),
        )
        self.scores = np.empty(size, np.float32)
        self.count = self.retrieve(
            self.context, self.algorithm, list(enumerate(queries)), k=k, threads=1, pretokenised=False, query_weighted=0,
            result_qidxs=self.row, result_docnos=ids, result_ranks=rank, result_scores=self.scores,
        )  # fmt: skip
        self.rank = rank

    def top_scores(self) -> np.ndarray:
        out = np.full((self.rows, self.k), -np.inf, np.float32)
        n = self.count
        out[self.row[:n], self.rank[:n]] = self.scores[:n]
        return out

    def size(self, directory: Path) -> int:
        return bytes_under(
            directory, "*block_simdbp*", "*wand*", "*.bmw*", "fwd.termlex", "fwd.doclex"
        )


class PisaWand(Pisa):
    name, algorithm = "PISA block-max WAND", "block_max_wand"


class Bm25s:
    needs, backend = ("bm25s",), "numpy"
    name, folder = "bm25s-numpy", "bm25s"

    def build(self, corpus: Path, directory: Path) -> None:
        import bm25s

        tokens = bm25s.tokenize(
            list(passages(corpus)), token_pattern=r"(?u)\b\w+\b", stopwords=[], show_progress=False
        )
        index = bm25s.BM25(method="lucene", k1=K1, b=B)
        index.index(tokens, show_progress=False)
        index.save(directory)

    def open(self, directory: Path) -> None:
        import bm25s

        self.tokenizer = bm25s.tokenize
        self.index = bm25s.BM25.load(directory, mmap=False)
        self.index.backend = self.backend
        if self.backend == "numba":
            self.index.activate_numba_scorer()

    def search(self, queries, k):
        tokens = self.tokenizer(
            queries,
            token_pattern=r"(?u)\b\w+\b",
            stopwords=[],
            show_progress=False,
            return_ids=False,
        )
        self.result = self.index.retrieve(
            tokens, k=k, show_progress=False, n_threads=0 if self.backend == "numpy" else 1
        )

    def top_scores(self) -> np.ndarray:
        return self.result.scores

    def size(self, directory: Path) -> int:
        return bytes_under(directory)


class Bm25sNumba(Bm25s):
    name, needs, backend = "bm25s-numba", ("bm25s", "numba"), "numba"


class Tantivy:
    """tantivy-py; its query path through Python scores every posting (no block-max pruning)."""

    name, needs, folder = "tantivy (no pruning from Python)", ("tantivy",), "tantivy"

    def schema(self):
        import tantivy

        return (
            tantivy.SchemaBuilder()
            .add_text_field("text", stored=False, index_option="freq")
            .build()
        )

    def build(self, corpus: Path, directory: Path) -> None:
        import tantivy

        index = tantivy.Index(self.schema(), path=str(directory))
        writer = index.writer(heap_size=500_000_000, num_threads=1)
        for text in passages(corpus):
            writer.add_document(tantivy.Document(text=text))
        writer.commit()
        writer.wait_merging_threads()

    def open(self, directory: Path) -> None:
        import tantivy

        self.index = tantivy.Index(self.schema(), path=str(directory))
        self.index.reload()
        self.searcher = self.index.searcher()

    def search(self, queries, k):
        parse, search = self.index.parse_query, self.searcher.search
        self.hits = [search(parse(query, ["text"]), k, count=False).hits for query in queries]

    def top_scores(self) -> np.ndarray:
        width = max(map(len, self.hits))
        return np.array(
            [[score for score, _ in hits] + [-np.inf] * (width - len(hits)) for hits in self.hits]
        )

    def size(self, directory: Path) -> int:
        return bytes_under(directory)


PEERS = {peer.name: peer for peer in (Ours, Pisa, PisaWand, Bm25sNumba, Bm25s, Tantivy)}


def missing(peer) -> list[str]:
    return [module for module in peer.needs if importlib.util.find_spec(module) is None]


def single_threaded() -> None:
    """Before anything is imported that starts a pool of threads."""
    for library in ("OMP", "MKL", "OPENBLAS", "NUMBA", "RAYON"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
