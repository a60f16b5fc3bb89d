"""Passages behind a network: what remote retrievers share, and two of them.

HttpRetriever speaks the protocol of Search-R1 (Jin et al., 2025), `python -m rl.runs.serve`:

    POST /retrieve   {"queries": [...], "topk": k, "return_scores": true}
    -> {"result": [[{"document": {"id": ..., "contents": ...}, "score": ...}, ...], ...]}

MilvusIndex is a collection of a Milvus (milvus.io), a server, a cluster, or an embedded file. Full
text is its own BM25 with the k1 and b of retrieval_cpp (milvus-lite 3.2 scores each flushed segment
by that segment's statistics); dense search is exact.

Every call has a timeout and is tried again with growing waits; when the last try fails, or the
answer is none, it raises. No failure becomes an empty result. Left out: proxies, redirects,
approximate indexes, a loading that ranks share (all upsert the same rows).
"""

import importlib.util
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from time import sleep
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, Request

import numpy as np

from data.world import Passage
from rl.environment import RetrieverError
from rl.runs.flags import UsageError
from rl.runs.progress import progress

WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before each further try
SECONDS = 20.0  # timeout of a call
BATCH = 256  # queries of a call
LARGEST = 1 << 28  # bytes of an answer
PATIENT = {"timeout": 300.0}  # seconds of one call while loading
LONGEST = 65_535  # bytes of a text field of Milvus
ROWS = 500  # of one upsert
K1, B = 0.9, 0.4
INSTALL = (
    "--retriever milvus needs pymilvus (and milvus-lite for a FILE.db): pip install -e '.[milvus]'"
)


def persistently(what: str, call: Callable):
    """call(), again after a wait when it raises. Raises RetrieverError after the last try."""
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:  # what cannot be mended fails again in seconds, and is told then
            if wait is None:
                last = f"at last with {type(error).__name__}: {error}"
                raise RetrieverError(f"{what} failed {len(WAITS) + 1} times, {last}") from error
        sleep(wait)


class RemoteRetriever:
    """search(queries, k) in batches. A kind of server sets `name`, as errors call it, and `lexical`
    (it may find fewer than k), and has two methods: ask(queries, k), which is tried again when it
    raises, and hits(answer) -> the (row, score) of each query's passages, best first."""

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best passages of each query, best first: ids int64 [Q, k], scores float32 [Q, k],
        padded with -1 and -inf. Raises RetrieverError."""
        ids = np.full((len(queries), k), -1)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for start in range(0, len(queries), BATCH):
            batch = list(queries[start : start + BATCH])
            answer = persistently(f"{self.name}: a search", partial(self.ask, batch, k))
            results = self.hits(answer)
            most = max(map(len, results), default=0)
            if len(results) != len(batch) or most > k:
                given = f"{len(results)} results of at most {most} hits"
                asked = f"{len(batch)} queries with k = {k}"
                raise RetrieverError(f"{self.name} gave {given} for {asked}")
            for row, hits in enumerate(results, start):
                if hits:
                    ids[row, : len(hits)], scores[row, : len(hits)] = zip(*hits, strict=True)
        return ids, scores


class HttpRetriever(RemoteRetriever):
    """A server with Search-R1's protocol; ids are rows of `corpus`. Raises UsageError."""

    def __init__(self, url: str, corpus: Sequence[Passage]):
        try:
            parts = urlsplit(url)
            known = re.fullmatch("https?://[!-~]+", url) and parts.hostname and parts.port != 0
        except ValueError:
            known = False
        if not known:
            problem = "not an address like http://HOST:8000/retrieve"
            raise UsageError(f"--retriever-url {url}: {problem}")
        self.name, self.lexical = url, True  # what kind of index it is, is not known here
        self.rows = {passage.id: row for row, passage in enumerate(corpus)}
        self.opener = OpenerDirector()  # which knows neither proxies nor redirects
        self.opener.add_handler(HTTPHandler())
        self.opener.add_handler(HTTPSHandler())

    def ask(self, queries: list[str], k: int):
        body = json.dumps({"queries": queries, "topk": k, "return_scores": True}).encode()
        request = Request(self.name, body, {"Content-Type": "application/json"})
        with self.opener.open(request, timeout=SECONDS) as response:
            content = response.read(LARGEST + 1)
        if response.status != 200:
            raise OSError(f"status {response.status}: {content[:200].decode(errors='replace')}")
        if len(content) > LARGEST:
            raise OSError(f"an answer of more than {LARGEST:,} bytes")
        return json.loads(content)

    def hits(self, answer) -> list[list[tuple[int, float]]]:
        """Raises RetrieverError where the answer is none."""
        form = '{"result": [[{"document": {"id": ...}, "score": ...}, ...], ...]}'
        try:
            lists = [hits if isinstance(hits, list) else [None] for hits in answer["result"]]
            found = [[(str(x["document"]["id"]), float(x["score"])) for x in one] for one in lists]
        except (TypeError, KeyError, ValueError, OverflowError):
            raise RetrieverError(f"{self.name}: the answer is not {form}") from None
        if unknown := {name for hits in found for name, _ in hits} - self.rows.keys():
            problem = f"no passage of this world has id {min(unknown)!r}"
            raise RetrieverError(f"{self.name}: {problem}: it searches another corpus")
        return [[(self.rows[name], score) for name, score in hits] for hits in found]


class MilvusIndex(RemoteRetriever):
    """One collection. encode: list of str -> float32 [Q, D]; None: full text."""

    def __init__(self, client, collection: str, encode: Callable | None = None):
        self.name, self.lexical = "Milvus", encode is None
        self.client, self.collection, self.encode = client, collection, encode

    def ask(self, queries: list[str], k: int):
        data = queries if self.encode is None else list(self.encode(queries))
        options = {"anns_field": "vector", "output_fields": ["id"], "timeout": SECONDS}
        return self.client.search(self.collection, data=data, limit=k, **options)

    def hits(self, answer) -> list[list[tuple[int, float]]]:
        # BM25: a server gives the score, milvus-lite its negative; it is never below 0.
        score = float if self.encode else abs
        return [[(hit["id"], score(hit["distance"])) for hit in hits] for hits in answer]


def open_milvus(uri: str, collection: str, texts: Sequence[str], encode=None, vectors=None):
    """Connect, load what the collection lacks of `texts`, and return its MilvusIndex. vectors()
    gives the passages' float32 [N, D], and is called only where some have to be loaded. Raises
    UsageError, RetrieverError."""
    embedded = uri.endswith(".db")
    for package in ("pymilvus", "milvus_lite")[: 1 + embedded]:
        if not importlib.util.find_spec(package):
            raise UsageError(INSTALL)
    import pymilvus

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its tracebacks of what we handle
    token = os.environ.get("MILVUS_TOKEN", "")
    connect = partial(pymilvus.MilvusClient, uri, token=token, timeout=SECONDS)
    client = persistently(f"Milvus: connecting to {uri}", connect)
    if encode is None and not embedded:
        check_version(persistently("Milvus: its version", client.get_server_version), uri)
    load(client, collection, texts, encode, vectors)
    return MilvusIndex(client, collection, encode)


def check_version(version: str, uri: str) -> None:
    """Raises UsageError where a server is too old for full text."""
    if re.match(r"v?([01]|2\.[0-4])\.", version):
        needs = f"full text needs Milvus 2.5, and {uri} is {version}"
        raise UsageError(f"{needs}; with --encoder DIR it is dense")


def load(client, collection: str, texts: Sequence[str], encode, vectors) -> None:
    """Create the collection where there is none, and upsert the rows that it lacks."""
    long = next((i for i, text in enumerate(texts, 1) if len(text.encode()) > LONGEST), None)
    if long and encode is None:
        limit = f"the {LONGEST:,} bytes that Milvus takes"
        raise UsageError(f"passage {long} of the corpus has more than {limit}; split it")

    def rows_there() -> int:
        if not client.has_collection(collection, **PATIENT):
            create(client, collection, None if encode is None else encode([texts[0]]).shape[1])
        client.load_collection(collection, **PATIENT)
        count = client.query(collection, filter="", output_fields=["count(*)"], **PATIENT)
        return count[0]["count(*)"]

    there, total = persistently(f"Milvus: preparing {collection}", rows_there), len(texts)
    if there > total:
        wrong = f"collection {collection} holds {there} rows for {total} passages"
        raise RetrieverError(f"Milvus: {wrong}; drop it")
    if there == total:
        return
    field, values = ("text", texts) if encode is None else ("vector", vectors())
    with progress(total, "load into Milvus", "passage", initial=there) as bar:
        for start in range(there, total, ROWS):
            rows = [{"id": i, field: values[i]} for i in range(start, min(start + ROWS, total))]
            upsert = partial(client.upsert, collection, rows, **PATIENT)
            persistently(f"Milvus: loading passages from {start}", upsert)
            bar.update(len(rows))
    persistently("Milvus: flushing", partial(client.flush, collection, **PATIENT))


def create(client, collection: str, dimension: int | None) -> None:
    """Fields id (row of the corpus) and vector: dense of this dimension, or for None that of the
    words of a third field, text, under BM25."""
    from pymilvus import DataType, Function, FunctionType

    schema, index = client.create_schema(auto_id=False), client.prepare_index_params()
    schema.add_field("id", DataType.INT64, is_primary=True)
    if dimension is None:
        words = {"tokenizer": "standard", "filter": ["lowercase", "asciifolding"]}
        analysis = {"enable_analyzer": True, "analyzer_params": words}
        schema.add_field("text", DataType.VARCHAR, max_length=LONGEST, **analysis)
        schema.add_field("vector", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function("bm25", FunctionType.BM25, ["text"], ["vector"]))
        # "params" within params: the form that a server and milvus-lite both read.
        params = {"params": {"bm25_k1": K1, "bm25_b": B}}
        index.add_index("vector", "SPARSE_INVERTED_INDEX", metric_type="BM25", params=params)
    else:
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        index.add_index("vector", "FLAT", metric_type="IP")
    options = {"schema": schema, "index_params": index, "consistency_level": "Strong"}
    client.create_collection(collection, **options, **PATIENT)
