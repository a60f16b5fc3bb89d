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
from model.pretrained import SentenceEncoder
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
        encoder = Encoder(settings, args)
        settings = replace(settings, encoder_sha256=encoder.sha256)
    if kind == "bm25":
        index = bm25_index(world, settings)
    elif kind == "http":
        index = remote.HttpRetriever(args.retriever_url, world.corpus)
    elif kind == "milvus":
        collection = f"smartrag_{world.corpus_sha256[:32]}_{settings.encoder_sha256[:16] or 'bm25'}"
        vectors = partial(encoder.passages, world) if encoder else None
        index = remote.open_milvus(args.milvus_uri, collection, texts_of(world), encoder, vectors)
    else:
        index = DenseRetriever(DenseIndex(encoder.passages(world)), encoder)
        if kind == "hybrid":
            index = HybridIndex(bm25_index(world, settings), index.index, encoder)
    return world, index, {name: value for name, value in asdict(settings).items() if value}


def texts_of(world: World) -> list[str]:
    return [passage.full_text for passage in world.corpus]


def cached(kind: str, parts: list, load: Callable, make: Callable, save: Callable):
    """load(path), a file of CACHE that is named by the hash of the `parts`. Where there is none, or
    only one of another version or torn, all ranks make() it, and rank 0 saves it: whole or not at
    all."""
    name, _, ending = kind.partition(".")
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]
    path = CACHE / f"{name}-{key}.{ending}"

    def is_readable(_) -> bool:
        try:
            return path.exists() and load(path) is not None
        except (ValueError, EOFError, RuntimeError) as error:
            say(f"{path}: {error}; it is made anew")
            return False

    def keep(_) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f"{os.getpid()}.{path.name}")
        save(value, own)
        sync(own)
        os.replace(own, path)

    if not all(ranks.map(is_readable, [None])):
        value = make()
        ranks.map(keep, [None])
    return load(path)


def bm25_index(world: World, settings: RetrieverInfo) -> BM25Index:
    options = {name: getattr(settings, name) or None for name in WORDS}
    parts, make = (
        [world.corpus_sha256, options],
        lambda: BM25Index.build(texts_of(world), **options),
    )
    try:
        return cached("bm25.index", parts, BM25Index.load, make, BM25Index.save)
    except (ImportError, ValueError) as error:  # the stemmer's
        raise UsageError(f"--stemmer {settings.stemmer}: {error}") from None


class Encoder:
    """The sentence encoder of --encoder. Raises CheckpointError, UsageError."""

    def __init__(self, settings: RetrieverInfo, args):
        prefixes = settings.query_prefix, settings.passage_prefix
        self.network, self.args = SentenceEncoder(settings.encoder, args.device, *prefixes), args
        self.sha256 = self.network.sha256()
        if settings.encoder_sha256 not in ("", self.sha256):
            other = f"{settings.encoder} is not the encoder that the checkpoint was made with"
            advice = f"to search with it all the same, give --encoder {settings.encoder}"
            raise UsageError(f"{other}; {advice}")

    def __call__(self, queries: Sequence[str]) -> np.ndarray:
        """Their vectors, float32 [Q, D]."""
        with precision(self.args.device, self.args.dtype):
            return self.network.encode_queries(queries)

    def passages(self, world: World) -> np.ndarray:
        """Vectors of all passages, float32 [N, D]; each rank encodes its share of the chunks."""
        parts = [world.corpus_sha256, self.sha256, self.args.dtype]
        load, make = partial(np.load, mmap_mode="r"), partial(self.encode, texts_of(world))
        return cached(
            "vectors.npy", parts, load, make, lambda vectors, path: np.save(path, vectors)
        )

    def encode(self, texts: list[str]) -> np.ndarray:
        # Alike lengths together; the longest first, so that the bar's estimate errs high.
        rows = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        vectors = np.empty((len(texts), self.network.network.config.hidden_size), np.float32)
        with progress(len(texts), "encode", "passage") as bar:

            def encode(chunk: list[int]) -> np.ndarray:
                with precision(self.args.device, self.args.dtype):
                    found = self.network.encode_passages([texts[i] for i in chunk])
                bar.update(len(chunk) * ranks.size())
                return found

            for chunk, found in zip(chunks, ranks.map(encode, chunks), strict=True):
                vectors[chunk] = found
        return vectors
