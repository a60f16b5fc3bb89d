"""What the scripts search with, made from their arguments and a checkpoint's run.json.

    --retriever bm25                       words: retrieval_cpp.BM25Index; the default
    --retriever dense                      nearest vectors of --encoder DIR, or of one trained here
    --retriever hybrid                     both rankings fused: retrieval_cpp.HybridIndex
    --retriever milvus --milvus-uri URI    rl/runs/remote.py: full text, or with --encoder DIR dense
    --retriever http --retriever-url URL   rl/runs/remote.py: a server with Search-R1's protocol

Every retriever reads "title text" of the passages and has `search(queries, k)` -> ids int [Q, k],
scores float [Q, k]. What takes minutes to make is kept under CACHE, named by the hash of all that
decides it. Left out: indexes that do not fit into memory (Milvus is for those), encoders trained
along with the policy, an end of old files.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from data.metrics import contains_answer
from data.world import Question, World
from model.files import sync
from model.pretrained import SentenceEncoder
from model.pretrained.biencoder import BiEncoderConfig, Example, train_biencoder
from retrieval_cpp import BM25Index, DenseIndex, HybridIndex
from rl import ranks
from rl.runs import remote
from rl.runs.flags import UsageError
from rl.runs.info import WORDS, RetrieverArgs, RetrieverInfo, RunInfo, choose
from rl.runs.precision import precision
from rl.runs.progress import progress, say
from rl.runs.questions import train_and_dev

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

    name: "" is the checkpoint's; args: a script's, with dataset, device and dtype beside those of
    RetrieverArgs; made: of the checkpoint. Raises WorldError, CheckpointError, UsageError,
    RetrieverError.
    """
    made = made or RunInfo()
    if not (name or made.open_world):
        raise UsageError("the checkpoint does not say what world it was trained on; give --world")
    settings = choose(args, made.open_retriever)
    world = World.open(name or made.open_world)
    kind, encoder = settings.retriever, None
    if kind in ("dense", "hybrid") or settings.encoder:
        encoder, settings = open_encoder(world, settings, args)

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
        with suppress(OSError):  # another process was faster with the same directory
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


def open_encoder(
    world: World, settings: RetrieverInfo, args
) -> tuple[SentenceEncoder, RetrieverInfo]:
    """The encoder of --encoder, or the small one of this world; and settings that name it. Raises
    CheckpointError, UsageError."""
    directory = settings.encoder or str(trained_encoder(world, settings, args))
    prefixes = settings.query_prefix, settings.passage_prefix
    encoder = SentenceEncoder.load(directory, args.device, *prefixes)
    sha256 = encoder.sha256()
    if settings.encoder_sha256 not in ("", sha256):
        other = f"{directory} is not the encoder that the checkpoint was made with"
        raise UsageError(f"{other}; to search with it all the same, give --encoder {directory}")
    return encoder, replace(settings, encoder=directory, encoder_sha256=sha256)


def trained_encoder(world: World, settings: RetrieverInfo, args) -> Path:
    """Directory of the bi-encoder of a world's training questions."""
    questions = [q for one in train_and_dev(world, args.dataset)[0] for q in one]
    config, asked = BiEncoderConfig(), [[q.question, q.answers, q.gold_passages] for q in questions]
    directory = CACHE / f"encoder-{key(world.corpus_sha256, asked, repr(config))}"

    def train() -> SentenceEncoder:
        examples = examples_of(questions, world, bm25_index(world, settings))
        on = f"{args.dataset}.train"
        if not examples:
            none = f"world {world.name!r}: no passage answers a question of {on}"
            raise UsageError(f"{none}, so no encoder can be trained on them; give --encoder DIR")
        say(f"training {directory}, a bi-encoder, on {len(examples)} questions of {on}")
        with progress(config.steps, "bi-encoder", "step") as bar:
            options = config, args.device, lambda loss: bar.update()
            return train_biencoder(examples, texts_of(world), *options)

    cached(directory, SentenceEncoder.load, train, SentenceEncoder.save)
    return directory


def examples_of(questions: list[Question], world: World, bm25: BM25Index) -> list[Example]:
    """What the bi-encoder learns from (DPR, section 3.2). Right: the gold passages, where none are
    known the best BM25 hit that holds an answer; wrong: the BM25 hits that hold none."""
    rows = {p.id: i for i, p in enumerate(world.corpus)}
    found, _ = bm25.search([q.question for q in questions], min(20, len(world.corpus)))
    examples = []
    for question, hits in zip(questions, found.tolist(), strict=True):
        hits = [i for i in hits if i >= 0]
        holding = [i for i in hits if contains_answer(world.corpus[i].full_text, question.answers)]
        right = holding[:1]
        if question.gold_passages is not None:
            right = [rows[i] for i in question.gold_passages]
        if right:
            wrong = tuple(i for i in hits if i not in holding and i not in right)
            examples.append(Example(question.question, tuple(right), wrong))
    return examples
