"""What the scripts search with, made from their arguments and a checkpoint's run.json: words (bm25,
the default), nearest vectors (dense), both rankings fused (hybrid), or a server (remote.py).

Every retriever reads "title text" of the passages and has `search(queries, k)` -> ids int [Q, k],
scores float [Q, k]. What takes minutes to make is kept under CACHE, named by the hash of all that
decides it. Left out: indexes that do not fit into memory (Milvus is for those), encoders that
are trained, an end of old files.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np

from data.world import World
from model.files import atomic_write
from model.pretrained.encoder import SentenceEncoder
from retrieval_cpp import BM25Index, DenseIndex, HybridIndex
from rl import ranks
from rl.runs import remote
from rl.runs.flags import UsageError, arg, flag
from rl.runs.launch import precision
from rl.runs.progress import progress, say

WORDS = ("stemmer", "stopwords")
PREFIXES = ("query_prefix", "passage_prefix")
KINDS = {  # of retrievers: the flag that each needs, and those that it takes
    "bm25": ("", WORDS),
    "dense": ("encoder", PREFIXES),
    "hybrid": ("encoder", WORDS + PREFIXES),
    "milvus": ("milvus_uri", ("encoder", *PREFIXES)),
    "http": ("retriever_url", ()),
}
ADDRESSES = ("milvus_uri", "retriever_url")
CACHE = Path("runs/cache")
CHUNK = 512  # passages per tick of the progress bar


@dataclass
class RetrieverInfo:
    """How the passages are searched; "" where the kind of retriever has no such thing."""

    retriever: str = arg("", "empty: the checkpoint's, or bm25", "retriever", choices=tuple(KINDS))
    encoder: str = arg("", "directory of a sentence encoder: MiniLM, E5, BGE, GTE")
    query_prefix: str = arg("", "what the encoder wants before a query; for E5 'query: '")
    passage_prefix: str = arg("", "what the encoder wants before a passage; for E5 'passage: '")
    stemmer: str = arg("", "bm25, hybrid: search for stems; english, german, ... (PyStemmer)")
    stopwords: str = arg("", "bm25, hybrid: english leaves common words out", choices=("english",))
    encoder_sha256: str = ""  # of its weights; no flag


@dataclass
class RetrieverArgs(RetrieverInfo):
    """The flags that the scripts share."""

    milvus_uri: str = arg("", "http://HOST:19530 (login: $MILVUS_TOKEN), or an embedded FILE.db")
    retriever_url: str = arg("", "with --retriever http: http://HOST:8000/retrieve, this world's")


def choose(args: RetrieverArgs, recorded: RetrieverInfo) -> RetrieverInfo:
    """The checkpoint's retriever where the command line does not say otherwise. Raises UsageError
    for flags that do not go together."""
    given = {f.name: getattr(args, f.name) for f in fields(RetrieverArgs)}
    given = {name: value for name, value in given.items() if value}
    before = recorded.retriever or "bm25"
    kind = given.setdefault("retriever", before)
    needed, taken = KINDS[kind]
    for name in given:
        if name not in ("retriever", needed, *taken):
            raise UsageError(f"{flag(name)} does not go with --retriever {kind}")
    settings = asdict(recorded) if kind == before else {}
    if given.keys() & {"encoder", *PREFIXES}:
        settings.pop("encoder_sha256", None)  # another encoder on purpose
    settings |= given
    if needed and not settings.get(needed):
        raise UsageError(f"--retriever {kind} needs {flag(needed)}")
    for name in ADDRESSES:  # never recorded
        settings.pop(name, None)
    return RetrieverInfo(**settings)


def open_world(name: str, args: RetrieverArgs, made=None):
    """A world and what searches it: (World, retriever, settings as RetrieverInfo has them).

    name: "" is the checkpoint's; args: a script's, with device and dtype beside those of
    RetrieverArgs; made: the checkpoint's RunInfo (setting.py). Raises WorldError, CheckpointError,
    UsageError, RetrieverError.
    """
    name = name or (made.open_world if made else "")
    if not name:
        raise UsageError("the checkpoint does not say what world it was trained on; give --world")
    settings = choose(args, made.open_retriever if made else RetrieverInfo())
    world = World.open(name)
    kind = settings.retriever
    if settings.encoder:
        dense = DenseRetriever(world, settings, args)
        settings = replace(settings, encoder_sha256=dense.sha256)
    if kind in ("dense", "hybrid"):
        index, dense.index = dense, DenseIndex(dense.vectors())
        if kind == "hybrid":
            index = HybridIndex(bm25_index(world, settings), dense.index, dense.encode)
    elif kind == "http":
        index = remote.HttpRetriever(args.retriever_url, world.corpus)
    elif kind == "milvus":
        collection = f"smartrag_{world.corpus_sha256[:32]}_{settings.encoder_sha256[:16] or 'bm25'}"
        how = (dense.encode, dense.vectors) if settings.encoder else ()
        index = remote.open_milvus(args.milvus_uri, collection, texts_of(world), *how)
    else:
        index = bm25_index(world, settings)
    return world, index, {name: value for name, value in asdict(settings).items() if value}


def texts_of(world: World) -> list[str]:
    return [passage.full_text for passage in world.corpus]


def cached(name: str, parts: list, load: Callable, make: Callable, save: Callable):
    """load(path), a file of CACHE whose `name` has the hash of the `parts` in it. Where there is
    none, or only one of another version or torn, all ranks make() it, and rank 0 saves it: whole or
    not at all."""
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]
    path = CACHE / name.format(key)

    def is_readable(_) -> bool:
        try:
            return path.exists() and load(path) is not None
        except (ValueError, EOFError, RuntimeError) as error:
            say(f"{path}: {error}; it is made anew")
            return False

    def keep(_) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, partial(save, value))

    if not all(ranks.map(is_readable, [None])):
        value = make()
        ranks.map(keep, [None])
    return load(path)


def save_vectors(vectors: np.ndarray, path: Path) -> None:
    with open(path, "wb") as file:  # np.save gives a path another ending
        np.save(file, vectors)


def bm25_index(world: World, settings: RetrieverInfo) -> BM25Index:
    options = {name: getattr(settings, name) or None for name in WORDS}

    def build() -> BM25Index:
        return BM25Index.build(texts_of(world), **options)

    try:
        parts = [world.corpus_sha256, options]
        return cached("bm25-{}.index", parts, BM25Index.load, build, BM25Index.save)
    except (ImportError, ValueError) as error:  # the stemmer's
        raise UsageError(f"--stemmer {settings.stemmer}: {error}") from None


class DenseRetriever:
    """Nearest passages of a query's vector, from the sentence encoder of --encoder. Raises
    CheckpointError, UsageError."""

    index: DenseIndex  # of `vectors`

    def __init__(self, world: World, settings: RetrieverInfo, args):
        prefixes = settings.query_prefix, settings.passage_prefix
        self.encoder = SentenceEncoder(settings.encoder, args.device, *prefixes)
        self.world, self.args, self.sha256 = world, args, self.encoder.sha256()
        if settings.encoder_sha256 not in ("", self.sha256):
            other = f"{settings.encoder} is not the encoder that the checkpoint was made with"
            advice = f"to search with it all the same, give --encoder {settings.encoder}"
            raise UsageError(f"{other}; {advice}")

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        return self.index.search(self.encode(queries), k)

    def encode(self, queries: Sequence[str]) -> np.ndarray:
        """Their vectors, float32 [Q, D]."""
        with precision(self.args.device, self.args.dtype):
            return self.encoder.encode_queries(queries)

    def vectors(self) -> np.ndarray:
        """Of all passages, float32 [N, D]."""
        parts = [self.world.corpus_sha256, self.sha256, self.args.dtype]
        load = partial(np.load, mmap_mode="r")
        return cached("vectors-{}.npy", parts, load, self.encode_all, save_vectors)

    def encode_all(self) -> np.ndarray:
        """Each rank encodes its share of the chunks."""
        texts = texts_of(self.world)
        # Alike lengths together; the longest first, so that the bar's estimate errs high.
        rows = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        vectors = np.empty((len(texts), self.encoder.network.config.hidden_size), np.float32)
        with progress(len(texts), "encode", "passage") as bar:

            def encode(chunk: list[int]) -> np.ndarray:
                with precision(self.args.device, self.args.dtype):
                    found = self.encoder.encode_passages([texts[i] for i in chunk])
                bar.update(len(chunk) * ranks.size())
                return found

            for chunk, found in zip(chunks, ranks.map(encode, chunks), strict=True):
                vectors[chunk] = found
        return vectors
