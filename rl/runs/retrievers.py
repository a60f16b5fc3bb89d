"""What the scripts search with, made from their arguments and a checkpoint's run.json.

    --retriever bm25                       words: retrieval_cpp.BM25Index; the default
    --retriever dense                      nearest vectors of --encoder DIR
    --retriever hybrid                     both rankings fused: retrieval_cpp.HybridIndex
    --retriever milvus --milvus-uri URI    rl/runs/remote.py: full text, or with --encoder DIR dense
    --retriever http --retriever-url URL   rl/runs/remote.py: a server with Search-R1's protocol

Every retriever reads "title text" of the passages and has `search(queries, k)` -> ids int [Q, k],
scores float [Q, k]. What takes minutes to make is kept under CACHE, named by the hash of all that
decides it. Left out: indexes that do not fit into memory (Milvus is for those), encoders that
are trained, an end of old files.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from data.world import World
from model.files import sync
from model.pretrained.encoder import SentenceEncoder
from retrieval_cpp import BM25Index, DenseIndex, HybridIndex
from rl import ranks
from rl.runs import remote
from rl.runs.flags import UsageError
from rl.runs.info import WORDS, RetrieverArgs, RetrieverInfo, RunInfo, choose
from rl.runs.precision import precision
from rl.runs.progress import progress, say

CACHE = Path("runs/cache")
CHUNK = 512  # passages per tick of the progress bar


class DenseRetriever:
    """Nearest passages of a query's vector. encode: list of str -> float32 [Q, D]."""

    def __init__(self, index: DenseIndex, encode: Callable[[Sequence[str]], np.ndarray]):
        self.index, self.encode = index, encode

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        return self.index.search(self.encode(queries), k)


def open_world(name: str, args: RetrieverArgs, made: RunInfo | None = None):
    """A world and what searches it: (World, retriever, settings as RetrieverInfo has them).

    name: "" is the checkpoint's; args: a script's, with device and dtype beside those of
    RetrieverArgs; made: of the checkpoint. Raises WorldError, CheckpointError, UsageError,
    RetrieverError.
    """
    made = made or RunInfo()
    if not (name or made.open_world):
        raise UsageError("the checkpoint does not say what world it was trained on; give --world")
    settings = choose(args, made.open_retriever)
    world = World.open(name or made.open_world)
    kind, encoder = settings.retriever, None
    if settings.encoder:
        encoder, settings = open_encoder(settings, args)

    def encode(queries: Sequence[str]) -> np.ndarray:
        with precision(args.device, args.dtype):
            return encoder.encode_queries(queries)

    def vectors() -> np.ndarray:
        return passage_vectors(world, encoder, settings, args)

    if kind == "bm25":
        index = bm25_index(world, settings)
    elif kind == "http":
        index = remote.HttpRetriever(args.retriever_url, world.corpus)
    elif kind == "milvus":
        content = settings.encoder_sha256[:16] or "bm25"
        collection = f"smartrag_{world.corpus_sha256[:32]}_{content}"
        how = (encode, vectors) if encoder else (None, None)
        index = remote.open_milvus(args.milvus_uri, collection, texts_of(world), *how)
    else:
        index = DenseRetriever(DenseIndex(vectors()), encode)
        if kind == "hybrid":
            index = HybridIndex(bm25_index(world, settings), index.index, encode)
    return world, index, {name: value for name, value in asdict(settings).items() if value}


def texts_of(world: World) -> list[str]:
    return [passage.full_text for passage in world.corpus]


def key(*parts) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def cached(path: Path, load: Callable[[Path], object], make: Callable[[], object], save: Callable):
    """load(path); where there is no such file, or only one of another version or torn, make() on
    all ranks, and what rank 0 made is saved: whole or not at all. Rank 0's finding counts."""
    value = None
    if path.exists():
        try:
            value = load(path)
        except (ValueError, EOFError, RuntimeError) as error:
            say(f"{path}: {error}; it is made anew")

    def keep(_) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f"{os.getpid()}.{path.name}")
        save(value, own)
        sync(own)
        os.replace(own, path)

    [readable] = ranks.map(lambda _: value is not None, [None])
    if not readable:
        value = make()
        ranks.map(keep, [None])
    stale = value is None or (ranks.rank() and not readable)
    return load(path) if stale else value


def bm25_index(world: World, settings: RetrieverInfo) -> BM25Index:
    options = {name: getattr(settings, name) or None for name in WORDS}
    path = CACHE / f"bm25-{key(world.corpus_sha256, options)}.index"

    def build() -> BM25Index:
        return BM25Index.build(texts_of(world), **options)

    try:
        return cached(path, BM25Index.load, build, BM25Index.save)
    except (ImportError, ValueError) as error:  # the stemmer's
        raise UsageError(f"--stemmer {settings.stemmer}: {error}") from None


def passage_vectors(
    world: World, encoder: SentenceEncoder, settings: RetrieverInfo, args
) -> np.ndarray:
    """Vectors of all passages, float32 [N, D]; each rank encodes its share of the chunks."""
    texts, width = texts_of(world), encoder.network.config.hidden_size

    def make() -> np.ndarray:
        # Alike lengths together; the longest first, so that the bar's estimate errs high.
        rows = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        vectors = np.empty((len(texts), width), np.float32)
        with progress(len(texts), "encode", "passage") as bar:

            def encode(chunk: list[int]) -> np.ndarray:
                with precision(args.device, args.dtype):
                    found = encoder.encode_passages([texts[i] for i in chunk])
                bar.update(len(chunk) * ranks.size())
                return found

            for chunk, found in zip(chunks, ranks.map(encode, chunks), strict=True):
                vectors[chunk] = found
        return vectors

    decides = key(world.corpus_sha256, settings.encoder_sha256, args.dtype)
    load, save = partial(np.load, mmap_mode="r"), lambda vectors, path: np.save(path, vectors)
    return cached(CACHE / f"vectors-{decides}.npy", load, make, save)


def open_encoder(settings: RetrieverInfo, args) -> tuple[SentenceEncoder, RetrieverInfo]:
    """The encoder of --encoder, and settings that name it. Raises CheckpointError, UsageError."""
    prefixes = settings.query_prefix, settings.passage_prefix
    encoder = SentenceEncoder(settings.encoder, args.device, *prefixes)
    sha256 = encoder.sha256()
    if settings.encoder_sha256 not in ("", sha256):
        other = f"{settings.encoder} is not the encoder that the checkpoint was made with"
        advice = f"to search with it all the same, give --encoder {settings.encoder}"
        raise UsageError(f"{other}; {advice}")
    return encoder, replace(settings, encoder_sha256=sha256)
