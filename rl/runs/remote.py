"""Passages behind an address that speaks the protocol of Search-R1 (Jin et al., 2025):

    POST /retrieve   {"queries": [...], "topk": k, "return_scores": true}
    -> {"result": [[{"document": {"id": ..., "contents": ...}, "score": ...}, ...], ...]}

A document's id names a passage of our world, so the server must search the same corpus:
`python -m rl.runs.serve` does. Every call has a timeout and is tried again; whatever is no answer
to the queries raises. Left out: proxies, redirects, logins.
"""

import http.client
import json
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import SplitResult, urlsplit

import numpy as np

from data.world import Passage
from rl.environment import RetrieverError
from rl.runs.flags import UsageError

TRIES, WAIT = 5, 0.5  # seconds before the second try, doubled before each further one
SECONDS = 20.0  # timeout of a call
BATCH = 256  # queries of a call
LARGEST = 1 << 28  # bytes of an answer


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
        except Exception as error:  # what cannot be mended fails again in seconds, and is told then
            last = error
        if attempt + 1 < tries:
            sleep(wait * 2**attempt)
    reason = f"{type(last).__name__}: {last}"
    raise RetrieverError(f"{what} failed {tries} times, at last with {reason}") from last


class HttpRetriever:
    """search(queries, k) at an address; ids are rows of `corpus`. Raises UsageError."""

    lexical = True  # it may find fewer than k: what kind of index it is, is not known here

    def __init__(
        self, url: str, corpus: Sequence[Passage], sleep: Callable[[float], None] = time.sleep
    ):
        self.url, self.sleep = url, sleep
        self.parts = checked_address(url)
        self.rows = {passage.id: row for row, passage in enumerate(corpus)}

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best passages of each query, best first: ids int64 [Q, k], scores float32 [Q, k],
        padded with -1 and -inf. Raises RetrieverError."""
        ids = np.full((len(queries), k), -1)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for start in range(0, len(queries), BATCH):
            batch = list(queries[start : start + BATCH])
            call = partial(self.post, {"queries": batch, "topk": k, "return_scores": True})
            answer = persistently(f"a search at {self.url}", call, sleep=self.sleep)
            for row, hits in enumerate(self.hits(answer, len(batch), k), start):
                for column, hit in enumerate(hits):
                    ids[row, column], scores[row, column] = hit
        return ids, scores

    def post(self, body: dict):
        """The JSON that the server answers with."""
        secure = self.parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self.parts.hostname, self.parts.port, timeout=SECONDS)
        try:
            path = self.parts.path + (f"?{self.parts.query}" if self.parts.query else "")
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path or "/retrieve", json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read(LARGEST + 1)
        finally:
            connection.close()
        if response.status != 200:
            raise OSError(f"status {response.status}: {content[:200].decode(errors='replace')}")
        if len(content) > LARGEST:
            raise OSError(f"an answer of more than {LARGEST:,} bytes")
        return json.loads(content)

    def hits(self, answer, count: int, k: int) -> list[list[tuple[int, float]]]:
        """(row, score) of every hit. Raises RetrieverError where the answer is no such thing."""
        results = answer.get("result") if isinstance(answer, dict) else None
        if not isinstance(results, list) or not all(isinstance(hits, list) for hits in results):
            raise RetrieverError(f"{self.url}: the answer has no lists of hits under 'result'")
        if len(results) != count:
            raise RetrieverError(f"{self.url} gave {len(results)} results for {count} queries")
        if (most := max(map(len, results), default=0)) > k:
            raise RetrieverError(f"{self.url} gave {most} hits where {k} were asked for")
        return [[self.hit(entry) for entry in hits] for hits in results]

    def hit(self, entry) -> tuple[int, float]:
        try:
            name, score = str(entry["document"]["id"]), float(entry["score"])
        except (TypeError, KeyError, ValueError, OverflowError):
            form = '{"document": {"id": ...}, "score": ...}'
            raise RetrieverError(f"{self.url}: a hit is not {form}") from None
        if name not in self.rows:
            reason = "it searches another corpus"
            raise RetrieverError(f"{self.url}: no passage of this world has id {name!r}: {reason}")
        if not math.isfinite(score):
            raise RetrieverError(f"{self.url}: passage {name!r} has the score {score}")
        return self.rows[name], score


def checked_address(url: str) -> SplitResult:
    """Raises UsageError for what is no http or https address."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"--retriever-url {url}: not an address like http://HOST:8000/retrieve")
    return parts
