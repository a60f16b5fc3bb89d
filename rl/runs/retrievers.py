"""What the scripts search with, made from their arguments and a checkpoint's run.json.

    --retriever bm25                       words: retrieval_cpp.BM25Index; the default
    --retriever dense                      nearest vectors of --encoder DIR, or of one trained here
    --retriever hybrid                     both rankings fused: retrieval_cpp.HybridIndex
    --retriever milvus --milvus-uri URI    rl/runs/milvus.py: full text, or with --encoder DIR dense

Every retriever reads "title text" of the passages and has `search(queries, k)` -> ids int [Q, k],
scores float [Q, k]. Indexes, vectors and encoders are made once and kept under CACHE, named by the
hash of all that decides them. Left out: indexes that do not fit into memory (Milvus is for those)
and encoders trained along with the policy.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from data.metrics import contains_answer
from data.world import Question, World
from model.checkpoint import atomic_write
from model.pretrained import SentenceEncoder
from model.pretrained.biencoder import BiEncoderConfig, Example, train_biencoder
from retrieval_cpp import BM25Index, DenseIndex, HybridIndex
from rl import ranks
from rl.runs.flags import UsageError, arg, flag
from rl.runs.info import KINDS, RetrieverInfo, RunInfo, run_info
from rl.runs.precision import precision
from rl.runs.progress import progress

CACHE = Path("runs/cache")
CHUNK = 512  # passages per tick of the progress bar
OF_KIND = {  # which flags go with which kind
    "bm25": (),
    "dense": ("encoder", "query_prefix", "passage_prefix"),
    "hybrid": ("encoder", "query_prefix", "passage_prefix"),
    "milvus": ("milvus_uri", "encoder", "query_prefix", "passage_prefix"),
}


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
        "",
        "directory of a BERT-type sentence encoder (MiniLM, E5, BGE, GTE); empty: dense and hybrid "
        "train a small one on the training questions",
    )
    query_prefix: str = arg("", "what the encoder wants before a query; for E5 'query: '")
    passage_prefix: str = arg("", "what the encoder wants before a passage; for E5 'passage: '")
    milvus_uri: str = arg(
        "",
        "http://HOST:19530 of a Milvus, or FILE.db for an embedded one; a login goes into the "
        "environment's MILVUS_TOKEN",
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
    if kind == "milvus" and not given.pop("milvus_uri", ""):
        raise UsageError("--retriever milvus needs --milvus-uri")
    known = asdict(recorded) if kind == recorded.retriever else {}
    if given.keys() & {"encoder", "query_prefix", "passage_prefix"}:
        known.pop("encoder_sha256", None)  # another encoder on purpose
    return RetrieverInfo(**known | given)


def open_world(name: str, args, made: RunInfo | dict | None = None):
    """A world and what searches it: (World, retriever, settings as RetrieverInfo has them).

    name: "" is the checkpoint's; args: a script's, with dataset, device and dtype beside those of
    RetrieverArgs; made: the checkpoint's run_info. Raises WorldError, CheckpointError, UsageError,
    RetrieverError.
    """
    if not isinstance(made, RunInfo):
        made = run_info(made or {}, "the checkpoint")
    if not (name or made.open_world):
        raise UsageError("the checkpoint does not say what world it was trained on; give --world")
    settings = choose(args, made.open_retriever)
    world = World.open(name or made.open_world)
    texts = [p.full_text for p in world.corpus]
    kind, encoder = settings.retriever, None
    if kind != "bm25" and (kind != "milvus" or settings.encoder):
        encoder, settings = open_encoder(world, texts, settings, args)
    if kind == "milvus":
        index = open_collection(world, texts, encoder, settings, args)
    elif kind == "bm25":
        index = bm25_index(world, texts)
    else:
        dense = DenseIndex(passage_vectors(world, texts, encoder, settings, args))
        encode = query_encoder(encoder, args)
        words = bm25_index(world, texts) if kind == "hybrid" else None
        index = HybridIndex(words, dense, encode) if words else DenseRetriever(dense, encode)
    return world, index, {name: value for name, value in asdict(settings).items() if value}


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


def open_collection(world: World, texts: list[str], encoder, settings: RetrieverInfo, args):
    from rl.runs.milvus import open_milvus

    content = settings.encoder_sha256[:16] if encoder else "bm25"
    return open_milvus(
        args.milvus_uri,
        f"smartrag_{world.corpus_sha256[:32]}_{content}",
        texts,
        query_encoder(encoder, args) if encoder else None,
        lambda: passage_vectors(world, texts, encoder, settings, args),
    )


# ------------------------------------------------------------------------------------ made once


def key(*parts) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def cached(path: Path, load: Callable[[Path], object], make: Callable[[], object], save: Callable):
    """load(path), or where there is no such file make(), which rank 0 saves: whole or not at all.
    Ranks go the same way. Raises UsageError for a file that cannot be read."""
    [there] = ranks.map(lambda _: path.exists(), [None])
    if there:
        try:
            return load(path)
        except (ValueError, EOFError, RuntimeError) as error:
            raise UsageError(f"{path}: not a readable cache ({error}); delete it") from None
    value = make()
    if ranks.rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f"{os.getpid()}.{path.name}")  # another process may be at it as well
        atomic_write(own, lambda temporary: save(value, temporary))
        os.replace(own, path)
    return value


def bm25_index(world: World, texts: list[str]) -> BM25Index:
    path = CACHE / f"bm25-{key(world.corpus_sha256)}.index"
    return cached(path, BM25Index.load, lambda: BM25Index.build(texts), BM25Index.save)


def passage_vectors(
    world: World, texts: list[str], encoder: SentenceEncoder, settings: RetrieverInfo, args
) -> np.ndarray:
    """Vectors of all passages, float32 [N, D]; each rank encodes its share of the chunks."""
    width = encoder.network.config.hidden_size

    def load(path: Path) -> np.ndarray:
        vectors = np.load(path, mmap_mode="r")
        if vectors.shape != (len(texts), width) or vectors.dtype != np.float32:
            expected = f"expected float32 {[len(texts), width]}"
            raise ValueError(f"holds {vectors.dtype} {list(vectors.shape)}, {expected}")
        return vectors

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

    def save(vectors: np.ndarray, path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, vectors)

    decides = key(world.corpus_sha256, settings.encoder_sha256, args.dtype)
    return cached(CACHE / f"vectors-{decides}.npy", load, make, save)


def open_encoder(
    world: World, texts: list[str], settings: RetrieverInfo, args
) -> tuple[SentenceEncoder, RetrieverInfo]:
    """The encoder of --encoder, or the small one of this world; and settings that name it."""
    directory = settings.encoder
    if not directory:
        directory = str(trained_encoder(world, texts, args.dataset, args.device))
    prefixes = settings.query_prefix, settings.passage_prefix
    encoder = SentenceEncoder.load(directory, args.device, *prefixes)
    sha256 = encoder.sha256()
    if settings.encoder_sha256 not in ("", sha256):
        raise UsageError(
            f"{directory} is not the encoder that the checkpoint was made with; to search with it "
            f"all the same, give --encoder {directory}"
        )
    named = {"encoder": directory, "encoder_sha256": sha256}
    return encoder, RetrieverInfo(**asdict(settings) | named)


def trained_encoder(world: World, texts: list[str], dataset: str, device: str) -> Path:
    """Directory of the bi-encoder of a world's training questions, trained by rank 0 where it is
    not in the cache."""
    questions = [q for one in world.union(dataset, "train") for q in one]
    config, asked = BiEncoderConfig(), [[q.question, q.answers, q.gold_passages] for q in questions]
    directory = CACHE / f"encoder-{key(world.corpus_sha256, asked, repr(config))}"

    def train(_) -> None:
        if (directory / "config.json").exists():
            return
        examples = examples_of(questions, world, BM25Index.build(texts))
        if not examples:
            raise UsageError(
                f"world {world.name!r}: no passage answers a question of {dataset}.train, so no "
                "encoder can be trained on them; give --encoder DIR"
            )
        print(
            f"training a bi-encoder on {len(examples)} questions of {dataset}.train ({directory})"
        )
        with progress(config.steps, "bi-encoder", "step") as bar:

            def tick(loss: float) -> None:
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()

            encoder = train_biencoder(examples, texts, config, device, tick)
        temporary = directory.with_name(f"{directory.name}.{os.getpid()}")
        encoder.save(temporary)
        try:
            os.replace(temporary, directory)
        except OSError:  # another run was faster; its encoder is the same
            if not (directory / "config.json").exists():
                raise

    ranks.map(train, [None])
    return directory


def examples_of(questions: list[Question], world: World, bm25: BM25Index) -> list[Example]:
    """What the bi-encoder learns from (DPR, section 3.2). Right: the gold passages, where none are
    known the best BM25 hit that holds an answer; wrong: the BM25 hits that hold none."""
    rows = {p.id: i for i, p in enumerate(world.corpus)}
    found, _ = bm25.search([q.question for q in questions], min(20, len(world.corpus)))
    examples = []
    for question, hits in zip(questions, found.tolist(), strict=True):
        hits = [i for i in hits if i >= 0]
        texts = {i: world.corpus[i].full_text for i in hits}
        holding = [i for i in hits if contains_answer(texts[i], question.answers)]
        right = holding[:1]
        if question.gold_passages is not None:
            right = [rows[i] for i in question.gold_passages]
        if right:
            wrong = tuple(i for i in hits if i not in holding and i not in right)
            examples.append(Example(question.question, tuple(right), wrong))
    return examples
