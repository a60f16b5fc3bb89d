"""Sentence encoders for dense search: somebody's own, or a small bi-encoder trained on the world's
questions; and the vectors of all passages. Left out: encoders trained along with the policy."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from data.metrics import contains_answer
from data.world import Question, World
from model.pretrained import SentenceEncoder
from model.pretrained.biencoder import BiEncoderConfig, Example, train_biencoder
from rl import ranks
from rl.runs.cache import CACHE, cached, key
from rl.runs.flags import UsageError
from rl.runs.info import RetrieverInfo
from rl.runs.precision import precision
from rl.runs.progress import progress
from rl.runs.questions import train_and_dev

CHUNK = 512  # passages per tick of the progress bar


def passage_vectors(
    world: World, encoder: SentenceEncoder, settings: RetrieverInfo, args
) -> np.ndarray:
    """Vectors of all passages, float32 [N, D]; each rank encodes its share of the chunks."""
    texts = [p.full_text for p in world.corpus]
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
    world: World, settings: RetrieverInfo, args, build: Callable
) -> tuple[SentenceEncoder, RetrieverInfo]:
    """The encoder of --encoder, or the small one of this world, whose training searches with
    build(); and settings that name it. Raises CheckpointError, UsageError."""
    directory = settings.encoder
    if not directory:
        directory = str(trained_encoder(world, args.dataset, args.device, build))
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


def trained_encoder(world: World, dataset: str, device: str, build: Callable) -> Path:
    """Directory of the bi-encoder of a world's training questions, trained by rank 0 where it is
    not in the cache."""
    questions = [q for one in train_and_dev(world, dataset)[0] for q in one]
    config, asked = BiEncoderConfig(), [[q.question, q.answers, q.gold_passages] for q in questions]
    directory = CACHE / f"encoder-{key(world.corpus_sha256, asked, repr(config))}"

    def train(_) -> None:
        if (directory / "config.json").exists():
            return
        examples = examples_of(questions, world, build())
        if not examples:
            raise UsageError(
                f"world {world.name!r}: no passage answers a question of {dataset}.train, so no "
                "encoder can be trained on them; give --encoder DIR"
            )
        print(
            f"training {directory}, a bi-encoder, on {len(examples)} questions of {dataset}.train"
        )
        texts = [p.full_text for p in world.corpus]
        with progress(config.steps, "bi-encoder", "step") as bar:
            encoder = train_biencoder(examples, texts, config, device, lambda loss: bar.update())
        temporary = directory.with_name(f"{directory.name}.{os.getpid()}")
        encoder.save(temporary)
        try:
            os.replace(temporary, directory)
        except OSError:  # another run was faster; its encoder is the same
            if not (directory / "config.json").exists():
                raise

    ranks.map(train, [None])
    return directory


def examples_of(questions: list[Question], world: World, bm25) -> list[Example]:
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
