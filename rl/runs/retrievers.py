"""What the scripts search with, made from their arguments and a checkpoint's run.json.

    --retriever bm25                       words: retrieval_cpp.BM25Index; the default
    --retriever dense                      nearest vectors of --encoder DIR
    --retriever hybrid                     both rankings fused: retrieval_cpp.HybridIndex
    --retriever milvus --milvus-uri URI    rl/runs/milvus.py: full text, or with --encoder DIR dense
    --retriever http --retriever-url URL   rl/runs/remote.py: a server with Search-R1's protocol

Every retriever reads "title text" of the passages and has `search(queries, k)` -> ids int [Q, k],
scores float [Q, k]. Indexes, vectors and encoders are made once and kept under CACHE, named by the
hash of all that decides them. Left out: indexes that do not fit into memory (Milvus is for those).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from data.world import World
from model.pretrained import SentenceEncoder
from retrieval_cpp import BM25Index, DenseIndex, HybridIndex
from rl.runs.cache import CACHE, cached, key
from rl.runs.encoders import open_encoder, passage_vectors
from rl.runs.flags import UsageError, arg, flag
from rl.runs.info import KINDS, RetrieverInfo, RunInfo, run_info
from rl.runs.precision import precision
from rl.runs.remote import HttpRetriever

WORDS = ("stemmer", "stopwords")
VECTORS = ("encoder", "query_prefix", "passage_prefix")
OF_KIND = {  # which flags go with which kind
    "bm25": WORDS,
    "dense": VECTORS,
    "hybrid": WORDS + VECTORS,
    "milvus": ("milvus_uri", *VECTORS),
    "http": ("retriever_url",),
}
ADDRESS = {"milvus": "milvus_uri", "http": "retriever_url"}


@dataclass
class RetrieverArgs:
    """The flags that the scripts share."""

    retriever: str = arg(
        "",
        "what searches; empty: that of the checkpoint, or bm25",
        group="retriever",
        choices=KINDS,
    )
    encoder: str = arg(
        "", "directory of a sentence encoder: MiniLM, E5, BGE, GTE (needs transformers)"
    )
    query_prefix: str = arg("", "what the encoder wants before a query; for E5 'query: '")
    passage_prefix: str = arg("", "what the encoder wants before a passage; for E5 'passage: '")
    milvus_uri: str = arg(
        "",
        "http://HOST:19530 of a Milvus, or FILE.db for an embedded one; a login goes into the "
        "environment's MILVUS_TOKEN",
    )
    retriever_url: str = arg("", "with --retriever http: http://HOST:8000/retrieve, this world's")
    stemmer: str = arg("", "bm25, hybrid: search for stems; english, german, ... (PyStemmer)")
    stopwords: str = arg(
        "", "bm25, hybrid: english leaves the most common words out", choices=("english",)
    )


def choose(args: RetrieverArgs, recorded: RetrieverInfo) -> RetrieverInfo:
    """The checkpoint's retriever where the command line does not say otherwise. An address is the
    command line's alone. Raises UsageError for flags that do not go together."""
    given = {f.name: getattr(args, f.name) for f in fields(RetrieverArgs)}
    given = {name: value for name, value in given.items() if value}
    kind = given.setdefault("retriever", recorded.retriever)
    for name in given:
        if name != "retriever" and name not in OF_KIND[kind]:
            raise UsageError(f"{flag(name)} does not go with --retriever {kind}")
    if kind in ADDRESS and not given.pop(ADDRESS[kind], ""):
        raise UsageError(f"--retriever {kind} needs {flag(ADDRESS[kind])}")
    known = asdict(recorded) if kind == recorded.retriever else {}
    if kind in ("dense", "hybrid") and not given.get("encoder", known.get("encoder")):
        raise UsageError(f"--retriever {kind} needs --encoder")
    if given.keys() & set(VECTORS):
        known.pop("encoder_sha256", None)  # another encoder on purpose
    return RetrieverInfo(**known | given)


def open_world(name: str, args, made: RunInfo | dict | None = None):
    """A world and what searches it: (World, retriever, settings as RetrieverInfo has them).

    name: "" is the checkpoint's; args: a script's, with device and dtype beside those of
    RetrieverArgs; made: the checkpoint's run_info. Raises WorldError, CheckpointError, UsageError,
    RetrieverError.
    """
    if not isinstance(made, RunInfo):
        made = run_info(made or {}, "the checkpoint")
    if not (name or made.open_world):
        raise UsageError("the checkpoint does not say what world it was trained on; give --world")
    settings = choose(args, made.open_retriever)
    world = World.open(name or made.open_world)
    kind, encoder = settings.retriever, None
    if settings.encoder:
        encoder, settings = open_encoder(settings, args)
    if kind == "bm25":
        index = bm25_index(world, settings)
    elif kind == "http":
        index = HttpRetriever(args.retriever_url, world.corpus)
    elif kind == "milvus":
        index = open_collection(world, encoder, settings, args)
    else:
        dense = DenseIndex(passage_vectors(world, encoder, settings, args))
        encode = query_encoder(encoder, args)
        index = DenseRetriever(dense, encode)
        if kind == "hybrid":
            index = HybridIndex(bm25_index(world, settings), dense, encode)
    return world, index, {name: value for name, value in asdict(settings).items() if value}


def build(world: World, settings: RetrieverInfo) -> BM25Index:
    options = {name: getattr(settings, name) or None for name in WORDS}
    try:
        return BM25Index.build((p.full_text for p in world.corpus), **options)
    except (ImportError, ValueError) as error:  # the stemmer's
        raise UsageError(f"--stemmer {settings.stemmer}: {error}") from None


def bm25_index(world: World, settings: RetrieverInfo) -> BM25Index:
    decides = key(world.corpus_sha256, settings.stemmer, settings.stopwords)
    path = CACHE / f"bm25-{decides}.index"
    return cached(path, BM25Index.load, lambda: build(world, settings), BM25Index.save)


def query_encoder(encoder: SentenceEncoder, args) -> Callable[[Sequence[str]], np.ndarray]:
    """list of str -> float32 [Q, D]"""

    def encode(queries: Sequence[str]) -> np.ndarray:
        with precision(args.device, args.dtype):
            return encoder.encode_queries(queries)

    return encode


class DenseRetriever:
    """Nearest passages of a query's vector. encode: list of str -> float32 [Q, D]."""

    def __init__(self, index: DenseIndex, encode: Callable[[Sequence[str]], np.ndarray]):
        self.index, self.encode = index, encode

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        return self.index.search(self.encode(queries), k)


def open_collection(world: World, encoder: SentenceEncoder | None, settings: RetrieverInfo, args):
    from rl.runs.milvus import open_milvus

    content = settings.encoder_sha256[:16] if encoder else "bm25"
    return open_milvus(
        args.milvus_uri,
        f"smartrag_{world.corpus_sha256[:32]}_{content}",
        [p.full_text for p in world.corpus],
        query_encoder(encoder, args) if encoder else None,
        lambda: passage_vectors(world, encoder, settings, args),
    )
