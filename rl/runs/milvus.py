"""Passages in a Milvus (milvus.io): a server, a cluster, or an embedded file; BM25 full text or
nearest vectors, through pymilvus.

A corpus is one collection, named by the hashes of the corpus and of the encoder: who comes second
finds it loaded, and who was killed while loading goes on where it stopped (rows are upserted in
order, so their count says where that is). Every call has a timeout and is tried again with growing
waits; when the last try fails it raises. No failure becomes an empty result.

Full text is Milvus's own BM25 with the k1 and b of retrieval_cpp, over its "standard" words, lower
case, accents folded; milvus-lite 3.2 scores each flushed segment by that segment's statistics, so
it agrees with a whole index up to one segment. Dense search is exact (FLAT). Left out: hybrid
search, approximate indexes, partitions, a loading that ranks share (each upserts the same rows).
"""

import importlib.util
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from rl.environment import RetrieverError
from rl.runs.flags import UsageError
from rl.runs.progress import progress
from rl.runs.remote import persistently

SEARCH_SECONDS, LOAD_SECONDS = 20.0, 300.0  # timeouts of one call
LONGEST = 65_535  # bytes of a text field
BATCH = 500  # rows per upsert, queries per search
K1, B = 0.9, 0.4
INSTALL = (
    "--retriever milvus needs pymilvus (and milvus-lite for a FILE.db): pip install -e '.[milvus]'"
)


class MilvusIndex:
    """One collection. encode: list of str -> float32 [Q, D]; None: full text."""

    def __init__(
        self,
        client,
        collection: str,
        encode: Callable[[Sequence[str]], np.ndarray] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.client, self.collection, self.encode, self.sleep = client, collection, encode, sleep
        self.lexical = encode is None  # a query of unknown words finds nothing

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best passages of each query, best first: ids int64 [Q, k], scores float32 [Q, k],
        padded with -1 and -inf. Raises RetrieverError."""
        ids = np.full((len(queries), k), -1)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        options = {"anns_field": "vector", "output_fields": ["id"], "timeout": SEARCH_SECONDS}
        for start in range(0, len(queries), BATCH):
            batch = list(queries[start : start + BATCH])
            data = batch if self.encode is None else list(self.encode(batch))
            call = partial(self.client.search, self.collection, data=data, limit=k, **options)
            results = persistently("Milvus: a search", call, sleep=self.sleep)
            if len(results) != len(data):
                raise RetrieverError(f"Milvus gave {len(results)} results for {len(data)} queries")
            for row, hits in enumerate(results, start):
                if len(hits) > k:
                    raise RetrieverError(f"Milvus gave {len(hits)} hits where {k} were asked for")
                found = [hit["distance"] for hit in hits]
                ids[row, : len(hits)] = [hit["id"] for hit in hits]
                # BM25: a server gives the score, milvus-lite its negative; it is never below 0.
                scores[row, : len(hits)] = found if self.encode else np.abs(found)
        return ids, scores


def open_milvus(
    uri: str,
    collection: str,
    texts: Sequence[str],
    encode: Callable | None = None,
    vectors: Callable[[], np.ndarray] | None = None,
) -> MilvusIndex:
    """Connect, load what the collection lacks of `texts`, and return its index. vectors() gives the
    passages' float32 [N, D], and is called only where some have to be loaded. Raises UsageError,
    RetrieverError."""
    embedded = uri.endswith(".db")
    for package in ("pymilvus", "milvus_lite")[: 1 + embedded]:
        if not importlib.util.find_spec(package):
            raise UsageError(INSTALL)
    import pymilvus

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its tracebacks of what we handle
    token = os.environ.get("MILVUS_TOKEN", "")
    connect = partial(pymilvus.MilvusClient, uri, token=token, timeout=SEARCH_SECONDS)
    client = persistently(f"Milvus: connecting to {uri}", connect)
    if encode is None and not embedded:
        check_version(
            persistently("Milvus: asking for its version", client.get_server_version), uri
        )
    load(client, collection, texts, encode, vectors)
    return MilvusIndex(client, collection, encode)


def check_version(version: str, uri: str) -> None:
    """Raises UsageError where a server is too old for full text."""
    number = re.match(r"v?(\d+)\.(\d+)", version)
    if number and tuple(map(int, number.groups())) < (2, 5):
        raise UsageError(
            f"full text needs Milvus 2.5, and {uri} is {version}; with --encoder DIR it is dense"
        )


def load(
    client,
    collection: str,
    texts: Sequence[str],
    encode: Callable | None,
    vectors: Callable[[], np.ndarray] | None,
) -> None:
    """Create the collection where there is none, and upsert the rows that it lacks."""
    for number, text in enumerate(texts, start=1):
        if len(text.encode()) > LONGEST:
            limit = f"the {LONGEST:,} bytes that Milvus takes"
            raise UsageError(f"passage {number} of the corpus has more than {limit}; split it")
    patient = {"timeout": LOAD_SECONDS}

    def prepared() -> int:
        """Rows that are there."""
        if not client.has_collection(collection, **patient):
            create(client, collection, None if encode is None else encode([texts[0]]).shape[1])
        client.load_collection(collection, **patient)
        count = client.query(collection, filter="", output_fields=["count(*)"], **patient)
        return count[0]["count(*)"]

    there = persistently(f"Milvus: preparing the collection {collection}", prepared)
    if there > len(texts):
        raise RetrieverError(
            f"Milvus: collection {collection} holds {there} rows for {len(texts)} passages; drop it"
        )
    if there == len(texts):
        return
    matrix = vectors() if encode is not None else None
    with progress(len(texts), "load into Milvus", "passage", initial=there) as bar:
        for start in range(there, len(texts), BATCH):
            end = min(start + BATCH, len(texts))
            rows = [{"id": i, "text": texts[i]} for i in range(start, end)]
            if matrix is not None:
                rows = [row | {"vector": matrix[row["id"]]} for row in rows]
            upsert = partial(client.upsert, collection, rows, **patient)
            persistently(f"Milvus: loading passages {start} to {end - 1}", upsert)
            bar.update(len(rows))
    persistently("Milvus: flushing", partial(client.flush, collection, **patient))


def create(client, collection: str, dimension: int | None) -> None:
    """Fields id (row of the corpus), text, and vector: dense of this dimension, or for None the
    text's words under BM25."""
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
        schema.add_field("text", DataType.VARCHAR, max_length=LONGEST)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        index.add_index("vector", "FLAT", metric_type="IP")
    options = {"consistency_level": "Strong", "timeout": LOAD_SECONDS}
    client.create_collection(collection, schema=schema, index_params=index, **options)
