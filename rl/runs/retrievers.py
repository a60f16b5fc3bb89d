"""What the scripts search with, made from their arguments: words, vectors, both, or a search engine on other machines.

    --retriever bm25                       retrieval_cpp.BM25Index; the default
    --retriever dense                      nearest vectors of --encoder DIR, or else of a small bi-encoder that is trained here
    --retriever hybrid                     both rankings fused (retrieval_cpp.HybridIndex)
    --retriever milvus --milvus-uri URI    rl/milvus.py: full text, or with --encoder DIR dense

Every retriever reads "title text" of the passages and has `search(queries, k) -> ids int [Q, k], scores float [Q, k]`. The
settings travel in run.json, so that train_ppo and evaluate search with what the checkpoint was trained with. What takes
minutes is done once and kept under CACHE, named by the hash of all that decides it: a killed run goes on where it stopped.
Left out: indexes that do not fit into memory (Milvus is for those) and encoders trained along with the policy.
"""

import hashlib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.metrics import contains_answer
from data.world import Question, World
from model.pretrained import SentenceEncoder
from model.pretrained.biencoder import BiEncoderConfig, Example, train_biencoder
from retrieval_cpp import BM25Index, DenseIndex, HybridIndex
from rl.runs.flags import UsageError, arg
from rl.runs.run import precision

KINDS = ("bm25", "dense", "hybrid", "milvus")
CACHE = Path("runs/cache")
CHUNK = 512  # passages per tick of the progress bar; what a kill loses


@dataclass
class RetrieverArgs:
    """The flags that the three scripts share."""

    retriever: str = arg(
        "", f"{', '.join(KINDS)}; empty: that of the checkpoint, or bm25", choices=KINDS
    )
    encoder: str = arg(
        "",
        "directory of a BERT-type sentence encoder (MiniLM, E5, BGE, GTE); empty: dense and hybrid train a small one on the training questions",
    )
    query_prefix: str = arg("", "what the encoder wants before a query; for E5 'query: '")
    passage_prefix: str = arg("", "what the encoder wants before a passage; for E5 'passage: '")
    milvus_uri: str = arg(
        "",
        "http://HOST:19530 of a Milvus, or FILE.db for an embedded one; a login goes into the environment's MILVUS_TOKEN",
    )


def choose(args: RetrieverArgs, made: dict) -> dict:
    """Settings of the retriever: those of the checkpoint (`made`, its run.json) where the command line does not say otherwise."""
    given = {f.name: getattr(args, f.name) for f in fields(RetrieverArgs) if getattr(args, f.name)}
    recorded = made.get("open_retriever", {"retriever": "bm25"})
    chosen = given
    if given.get("retriever", recorded["retriever"]) == recorded["retriever"]:
        chosen = recorded | given
        if given.keys() & {"encoder", "query_prefix", "passage_prefix"}:
            chosen.pop("encoder_sha256", None)  # another encoder on purpose
    kind = chosen["retriever"]
    if kind == "bm25" and (extra := chosen.keys() - {"retriever"}):
        raise UsageError(f"--{min(extra).replace('_', '-')} does not go with --retriever bm25")
    if (kind == "milvus") != ("milvus_uri" in chosen):
        raise UsageError(
            "--retriever milvus needs --milvus-uri"
            if kind == "milvus"
            else f"--milvus-uri does not go with --retriever {kind}"
        )
    return chosen


def open_world(name: str, args, made: dict | None = None):
    """A world and what searches it: (World, retriever, settings for run.json). args: a script's, with dataset, device and
    dtype beside those of RetrieverArgs. Raises WorldError, CheckpointError, UsageError, RetrieverError."""
    settings = choose(args, made or {})
    world = World.open(name)
    kind = settings["retriever"]
    bm25 = BM25Index.build(p.full_text for p in world.corpus) if kind != "milvus" else None
    if kind == "bm25":
        return world, bm25, settings
    texts = [p.full_text for p in world.corpus]
    encoder = None
    if kind != "milvus" or "encoder" in settings:
        directory = settings.get("encoder") or str(
            trained_encoder(world, args.dataset, bm25, args.device)
        )
        encoder = SentenceEncoder.load(
            directory,
            args.device,
            settings.get("query_prefix", ""),
            settings.get("passage_prefix", ""),
        )
        sha256 = encoder.sha256()
        if settings.get("encoder_sha256", sha256) != sha256:
            raise UsageError(
                f"{directory} is not the encoder that the checkpoint was made with; to search with it all the same, give --encoder {directory}"
            )
        settings = settings | {"encoder": directory, "encoder_sha256": sha256}

    def encode(queries: list[str]) -> np.ndarray:
        with precision(args.device, args.dtype):
            return encoder.encode_queries(queries)

    def vectors() -> np.ndarray:
        return passage_vectors(world, texts, encoder, settings["encoder_sha256"], args)

    if kind == "milvus":
        from rl.runs.milvus import open_milvus

        content = settings["encoder_sha256"][:16] if encoder else "bm25"
        return (
            world,
            open_milvus(
                settings["milvus_uri"],
                f"smartrag_{world.corpus_sha256[:32]}_{content}",
                texts,
                encode if encoder else None,
                vectors,
            ),
            settings,
        )
    dense = DenseIndex(vectors())
    return (
        world,
        HybridIndex(bm25, dense, encode) if kind == "hybrid" else DenseRetriever(dense, encode),
        settings,
    )


class DenseRetriever:
    """Nearest passages of a query's vector. encode: list of str -> float32 [Q, D]."""

    def __init__(self, index: DenseIndex, encode):
        self.index, self.encode = index, encode

    def search(self, queries: list[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        return self.index.search(self.encode(queries), k)


def key(*parts) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def passage_vectors(
    world: World, texts: list[str], encoder: SentenceEncoder, encoder_sha256: str, args
) -> np.ndarray:
    """Vectors of all passages, float32 [N, D], from the cache or computed into it.

    The file has its final size from the start and rows of zeros; a row that is not of length 1 has not been (wholly) written.
    """
    path = CACHE / f"vectors-{key(world.corpus_sha256, encoder_sha256, args.dtype)}.npy"
    shape = (len(texts), encoder.network.config.hidden_size)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        with open(temporary, "wb") as file:
            np.save(
                file, np.zeros(shape, np.float32)
            )  # real zeros: a full disk is an error here, not a crash in the map below
        os.replace(temporary, path)
    try:
        vectors = np.load(path, mmap_mode="r+")
    except (ValueError, EOFError) as error:
        raise UsageError(f"{path}: not a readable cache of vectors ({error}); delete it") from None
    if vectors.shape != shape or vectors.dtype != np.float32:
        raise UsageError(
            f"{path}: holds {vectors.dtype} {list(vectors.shape)}, expected float32 {list(shape)}; delete it"
        )
    todo = np.flatnonzero(np.abs(np.einsum("nd,nd->n", vectors, vectors) - 1) > 1e-3)
    todo = sorted(
        todo.tolist(), key=lambda i: -len(texts[i])
    )  # alike lengths together; the longest first, so that the bar's estimate errs high
    with tqdm(
        total=len(texts),
        initial=len(texts) - len(todo),
        desc="encode",
        unit="passage",
        dynamic_ncols=True,
        disable=not todo,
    ) as bar:
        for start in range(0, len(todo), CHUNK):
            rows = todo[start : start + CHUNK]
            with precision(args.device, args.dtype):
                vectors[rows] = encoder.encode_passages([texts[i] for i in rows])
            bar.update(len(rows))
    vectors.flush()
    return vectors


def examples_of(questions: list[Question], world: World, bm25: BM25Index) -> list[Example]:
    """What the bi-encoder learns from. Right: the gold passages, where none are known the best BM25 hit that holds an answer;
    wrong: the BM25 hits that hold none (DPR, section 3.2)."""
    rows = {p.id: i for i, p in enumerate(world.corpus)}
    found, _ = bm25.search([q.question for q in questions], min(20, len(world.corpus)))
    examples = []
    for question, hits in zip(questions, found.tolist()):
        holding = [
            i
            for i in hits
            if i >= 0 and contains_answer(world.corpus[i].full_text, question.answers)
        ]
        right = (
            holding[:1]
            if question.gold_passages is None
            else [rows[i] for i in question.gold_passages]
        )
        if right:
            examples.append(
                Example(
                    question.question,
                    tuple(right),
                    tuple(i for i in hits if i >= 0 and i not in holding and i not in right),
                )
            )
    return examples


def trained_encoder(world: World, dataset: str, bm25: BM25Index, device: str) -> Path:
    """Directory of the bi-encoder of a world's training questions, from the cache or trained into it."""
    questions, config = [q for one in world.union(dataset, "train") for q in one], BiEncoderConfig()
    directory = (
        CACHE
        / f"encoder-{key(world.corpus_sha256, [[q.question, q.answers, q.gold_passages] for q in questions], repr(config))}"
    )
    if (directory / "config.json").exists():
        return directory
    examples = examples_of(questions, world, bm25)
    if not examples:
        raise UsageError(
            f"world {world.name!r}: no passage answers a question of {dataset}.train, so no encoder can be trained on them; give --encoder DIR"
        )
    print(f"training a bi-encoder on {len(examples)} questions of {dataset}.train ({directory})")
    with tqdm(total=config.steps, desc="bi-encoder", unit="step", dynamic_ncols=True) as bar:

        def progress(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        encoder = train_biencoder(
            examples, [p.full_text for p in world.corpus], config, device, progress
        )
    temporary = directory.with_name(f"{directory.name}.{os.getpid()}")
    encoder.save(temporary)
    try:
        os.replace(temporary, directory)
    except OSError:  # another run was faster; its encoder is the same
        if not (directory / "config.json").exists():
            raise
    return directory
