"""The BM25 engines that benchmarks/bm25.py compares, behind one small face.

    build(corpus, directory)   text file, one passage a line, to an index on disk (timed)
    open(directory)            loads it
    settings, use(setting)     what can be chosen for a search; the benchmark takes the fastest
    search(queries, k)         from Python strings to ids and scores, with tokenisation
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
        yield from file


def bytes_under(directory: Path, *patterns: str) -> int:
    files = {
        path
        for pattern in patterns or ("*",)
        for path in directory.rglob(pattern)
        if path.is_file()
    }
    return sum(path.stat().st_size for path in files)


class Ours:
    name, needs, settings = "ours", (), ("",)

    def build(self, corpus: Path, directory: Path) -> None:
        from retrieval_cpp import BM25Index

        BM25Index.build(passages(corpus), k1=K1, b=B, threads=1).save(directory / "index")

    def open(self, directory: Path) -> None:
        from retrieval_cpp import BM25Index

        self.index = BM25Index.load(directory / "index")

    def use(self, setting: str) -> None:
        pass

    def search(self, queries, k):
        self.result = self.index.search(queries, k, threads=1)

    def top_scores(self) -> np.ndarray:
        return self.result[1]

    def size(self, directory: Path) -> int:
        return bytes_under(directory)


class Pisa:
    """PISA through pyterrier_pisa's native module, without pyterrier's data frames."""

    name, needs = "PISA", ("pyterrier_pisa",)
    settings = ("block_max_maxscore", "maxscore", "block_max_wand", "wand")

    def build(self, corpus: Path, directory: Path) -> None:
        from pyterrier_pisa import PisaIndex

        shutil.rmtree(directory)
        with open(corpus) as file:
            count = sum(1 for _ in file)
        # One batch: on one core PISA's indexer waits for ever once its queue of batches is full.
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
        settings = {"quantize": 0, "stop_fname": "", "bm25_k1": K1, "bm25_b": B}
        encoding = ("block_simdbp", "bm25", "")
        _pisathon.prepare_index(self.context, str(directory), *encoding, **settings)

    def use(self, setting: str) -> None:
        self.algorithm = setting

    def search(self, queries, k):
        size = len(queries) * k
        self.rows, self.k = len(queries), k
        self.row, self.rank = np.empty(size, np.int32), np.empty(size, np.int32)
        self.scores = np.empty(size, np.float32)
        self.count = self.retrieve(
            self.context,
            self.algorithm,
            list(enumerate(queries)),
            k=k,
            threads=1,
            pretokenised=False,
            query_weighted=0,
            result_qidxs=self.row,
            result_docnos=np.empty(size, object),
            result_ranks=self.rank,
            result_scores=self.scores,
        )

    def top_scores(self) -> np.ndarray:
        out = np.full((self.rows, self.k), -np.inf, np.float32)
        n = self.count
        out[self.row[:n], self.rank[:n]] = self.scores[:n]
        return out

    def size(self, directory: Path) -> int:
        parts = ("*block_simdbp*", "*wand*", "*.bmw*", "fwd.termlex", "fwd.doclex")
        return bytes_under(directory, *parts)


class Bm25s:
    name, needs, settings = "bm25s", ("bm25s", "numba"), ("numba", "numpy")

    def tokens(self, texts: list[str], **options):
        import bm25s

        return bm25s.tokenize(
            texts, token_pattern=r"(?u)\b\w+\b", stopwords=[], show_progress=False, **options
        )

    def build(self, corpus: Path, directory: Path) -> None:
        import bm25s

        index = bm25s.BM25(method="lucene", k1=K1, b=B)
        index.index(self.tokens(list(passages(corpus))), show_progress=False)
        index.save(directory)

    def open(self, directory: Path) -> None:
        import bm25s

        self.indexes = {}
        for backend in self.settings:
            self.indexes[backend] = bm25s.BM25.load(directory, mmap=backend == "numpy")
            self.indexes[backend].backend = backend
        self.indexes["numba"].activate_numba_scorer()

    def use(self, setting: str) -> None:
        self.index, self.threads = self.indexes[setting], int(setting == "numba")

    def search(self, queries, k):
        tokens = self.tokens(queries, return_ids=False)
        self.result = self.index.retrieve(tokens, k=k, show_progress=False, n_threads=self.threads)

    def top_scores(self) -> np.ndarray:
        return self.result.scores

    def size(self, directory: Path) -> int:
        return bytes_under(directory)


class Tantivy:
    """tantivy-py; its query path through Python scores every posting (no block-max pruning)."""

    name, needs, settings = "tantivy", ("tantivy",), ("",)

    def schema(self):
        import tantivy

        builder = tantivy.SchemaBuilder()
        return builder.add_text_field("text", stored=False, index_option="freq").build()

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

    def use(self, setting: str) -> None:
        pass

    def search(self, queries, k):
        parse, search = self.index.parse_query, self.searcher.search
        self.hits = [search(parse(query, ["text"]), k, count=False).hits for query in queries]

    def top_scores(self) -> np.ndarray:
        width = max(map(len, self.hits))
        rows = [[score for score, _ in hits] for hits in self.hits]
        return np.array([row + [-np.inf] * (width - len(row)) for row in rows])

    def size(self, directory: Path) -> int:
        return bytes_under(directory)


PEERS = {peer.name: peer for peer in (Ours, Pisa, Bm25s, Tantivy)}


def missing(peer) -> list[str]:
    return [module for module in peer.needs if importlib.util.find_spec(module) is None]


def single_threaded() -> None:
    """Before anything is imported that starts a pool of threads."""
    for library in ("OMP", "MKL", "OPENBLAS", "NUMBA", "RAYON"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
