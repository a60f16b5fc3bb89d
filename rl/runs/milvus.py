"""Passages in a Milvus (milvus.io): a server, a cluster, or an embedded file; BM25 full text or
nearest vectors, through pymilvus.

A corpus is one collection, named by the hashes of the corpus and of the encoder: who comes second
finds it loaded, and who was killed while loading goes on where it stopped (rows are upserted in
order, so their count says where that is). Every call has a timeout and is tried again with growing
waits; when the last try fails it raises. No failure becomes an empty result.

Full text is Milvus's own BM25 with the k1 and b of retrieval_cpp, over its "standard" words, lower
case, accents folded; milvus-lite 3.2 scores each flushed segment by that segment's statistics, so
it agrees with a whole index up to one segment. Dense search is exact (FLAT). Left out: hybrid
search, approximate indexes, partitions.
"""

import importlib.util
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from tqdm import tqdm

from rl.environment import RetrieverError
from rl.runs.flags import UsageError

TRIES, WAIT = 5, 0.5  # seconds before the second try, doubled before each further one
SEARCH_SECONDS, LOAD_SECONDS = 20.0, 300.0  # timeouts of one call
LONGEST = 65_535  # bytes of a text field
BATCH = 500  # rows per upsert, queries per search
K1, B = 0.9, 0.4
INSTALL = (
    "--retriever milvus needs pymilvus (and milvus-lite for a FILE.db): pip install -e '.[milvus]'"
)


def persistently(
    what: str,
    call: Callable,
    tries: int = TRIES,
    wait: float = WAIT,
    sleep: Callable[[float], None] = time.sleep,
):
    """call(), again after a wait when it raises. Raises RetrieverError after the last try."""
    for attempt in range(tries):
        try:
            return call()
        except Exception as error:  # whatever it is: what cannot be mended fails again within seconds, and is then said
            last = error
        if attempt + 1 < tries:
            sleep(wait * 2**attempt)
    raise RetrieverError(
        f"Milvus: {what} failed {tries} times, at last with {type(last).__name__}: {last}"
    ) from last


class MilvusIndex:
    """search(queries, k) over one collection; encode: list of str -> float32 [Q, D], None: full
    text."""

    def __init__(
        self,
        client,
        collection: str,
        encode: Callable[[Sequence[str]], np.ndarray] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.client, self.collection, self.encode, self.sleep = client, collection, encode, sleep

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best passages of each query, best first: ids int64 [Q, k], scores float32 [Q, k],
        padded with -1 and -inf. Raises RetrieverError."""
        ids = np.full((len(queries), k), -1)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for start in range(0, len(queries), BATCH):
            data = list(queries[start : start + BATCH])
            data = data if self.encode is None else list(self.encode(data))
            results = persistently(
                "a search",
                partial(
                    self.client.search,
                    self.collection,
                    data=data,
                    limit=k,
                    anns_field="vector",
                    output_fields=["id"],
                    timeout=SEARCH_SECONDS,
                ),
                sleep=self.sleep,
            )
            if len(results) != len(data):
                raise RetrieverError(f"Milvus gave {len(results)} results for {len(data)} queries")
            for row, hits in enumerate(results, start):
                for column, hit in enumerate(hits):
                    # BM25: a server gives the score, milvus-lite its negative; it is never below 0.
                    ids[row, column], scores[row, column] = (
                        hit["id"],
                        hit["distance"] if self.encode else abs(hit["distance"]),
                    )
        return ids, scores


def open_milvus(
    uri: str,
    collection: str,
    texts: Sequence[str],
    encode: Callable | None = None,
    vectors: Callable[[], np.ndarray] | None = None,
) -> MilvusIndex:
    """Connect, load what the collection lacks of `texts`, and return its index. vectors() gives
    the passages' float32 [N, D], and is called only where some have to be loaded. Raises
    UsageError, RetrieverError."""
    if (
        not importlib.util.find_spec("pymilvus")
        or uri.endswith(".db")
        and not importlib.util.find_spec("milvus_lite")
    ):
        raise UsageError(INSTALL)
    import pymilvus

    logging.getLogger("pymilvus").setLevel(
        logging.CRITICAL
    )  # its tracebacks of errors that are handled here
    client = persistently(
        f"connecting to {uri}",
        lambda: pymilvus.MilvusClient(
            uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=SEARCH_SECONDS
        ),
    )
    load(client, collection, texts, encode, vectors)
    return MilvusIndex(client, collection, encode)


def load(
    client,
    collection: str,
    texts: Sequence[str],
    encode: Callable | None,
    vectors: Callable[[], np.ndarray] | None,
) -> None:
    """Create the collection where there is none, and upsert the rows that it lacks."""
    if too_long := [i for i, text in enumerate(texts) if len(text.encode()) > LONGEST]:
        raise UsageError(
            f"passage {too_long[0] + 1} of the corpus has more than the {LONGEST:,} bytes that Milvus takes; split it"
        )
    patient = dict(timeout=LOAD_SECONDS)

    def prepared() -> int:
        """Rows that are there."""
        if not client.has_collection(collection, **patient):
            create(client, collection, None if encode is None else encode([texts[0]]).shape[1])
        client.load_collection(collection, **patient)
        return client.query(collection, filter="", output_fields=["count(*)"], **patient)[0][
            "count(*)"
        ]

    there = persistently(f"preparing the collection {collection}", prepared)
    if there > len(texts):
        raise RetrieverError(
            f"Milvus: collection {collection} holds {there} rows for {len(texts)} passages; drop it"
        )
    matrix = vectors() if encode is not None and there < len(texts) else None
    with tqdm(
        total=len(texts),
        initial=there,
        desc="load into Milvus",
        unit="passage",
        dynamic_ncols=True,
        disable=there == len(texts),
    ) as bar:
        for start in range(there, len(texts), BATCH):
            rows = [
                {"id": i, "text": texts[i]} | ({} if matrix is None else {"vector": matrix[i]})
                for i in range(start, min(start + BATCH, len(texts)))
            ]
            persistently(
                f"loading passages {start} to {start + len(rows) - 1}",
                partial(client.upsert, collection, rows, **patient),
            )
            bar.update(len(rows))
    if there < len(texts):
        persistently("flushing", partial(client.flush, collection, **patient))


def create(client, collection: str, dimension: int | None) -> None:
    """Fields id (row of the corpus), text, and vector: dense of this dimension, or for None the
    text's words under BM25."""
    from pymilvus import DataType, Function, FunctionType

    schema, index = client.create_schema(auto_id=False), client.prepare_index_params()
    schema.add_field("id", DataType.INT64, is_primary=True)
    if dimension is None:
        words = {"tokenizer": "standard", "filter": ["lowercase", "asciifolding"]}
        schema.add_field(
            "text",
            DataType.VARCHAR,
            max_length=LONGEST,
            enable_analyzer=True,
            analyzer_params=words,
        )
        schema.add_field("vector", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function("bm25", FunctionType.BM25, ["text"], ["vector"]))
        # "params" within params: the form that a server and milvus-lite both read.
        index.add_index(
            "vector",
            "SPARSE_INVERTED_INDEX",
            metric_type="BM25",
            params={"params": {"bm25_k1": K1, "bm25_b": B}},
        )
    else:
        schema.add_field("text", DataType.VARCHAR, max_length=LONGEST)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        index.add_index("vector", "FLAT", metric_type="IP")
    client.create_collection(
        collection,
        schema=schema,
        index_params=index,
        consistency_level="Strong",
        timeout=LOAD_SECONDS,
    )
