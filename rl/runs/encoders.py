"""Sentence encoders for dense search, and the vectors of all passages. Left out: encoders that are
trained here or along with the policy."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from data.world import World
from model.pretrained import SentenceEncoder
from rl import ranks
from rl.runs.cache import CACHE, cached, key
from rl.runs.flags import UsageError
from rl.runs.info import RetrieverInfo
from rl.runs.precision import precision
from rl.runs.progress import progress

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


def open_encoder(settings: RetrieverInfo, args) -> tuple[SentenceEncoder, RetrieverInfo]:
    """The encoder of --encoder, and settings that name it. Raises CheckpointError, UsageError."""
    prefixes = settings.query_prefix, settings.passage_prefix
    encoder = SentenceEncoder(settings.encoder, args.device, *prefixes)
    sha256 = encoder.sha256()
    if settings.encoder_sha256 not in ("", sha256):
        raise UsageError(
            f"{settings.encoder} is not the encoder that the checkpoint was made with; to search "
            f"with it all the same, give --encoder {settings.encoder}"
        )
    return encoder, replace(settings, encoder_sha256=sha256)
