"""Dense search: shares of what the core can do, and ratios against faiss at its best setting.

    python -m benchmarks.dense                    1,000,000 x 384 (needs about 8 GB)
    python -m benchmarks.dense --rows 200000      the short version

One pinned core, interleaved rounds, CPU time.  The two limits are measured in the same rounds:
reading memory from front to back, and independent multiply-adds.  faiss.IndexFlatIP runs in a
process of its own at the setting that is the fastest for each size of batch: all pairs of its
distance_compute_blas_threshold (scan or matrix product) and OPENBLAS_CORETYPE (its OpenBLAS does
not always pick the best kernel by itself) are tried on the first rows, and the winners are
printed.  Vectors are clustered points on the unit sphere (2,000 centres), because independent
Gaussian vectors have no near neighbours to find; queries are noisy copies of rows.  recall@10 is
against our exact f32 result.
"""

import argparse
import contextlib
import importlib.util
import itertools
import multiprocessing
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.peers import single_threaded

K, BATCHES = 10, (1, 64)
CORETYPES = ("", "HASWELL", "SKYLAKEX", "COOPERLAKE", "SAPPHIRERAPIDS")
THRESHOLDS = (1, 20, 1 << 30)  # a batch of fewer queries is scanned, not multiplied
TRIAL_ROWS = 50_000


def clustered(
    path: Path, rows: int, dimension: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [rows, D], kept in a file that processes share, and queries [64, D]."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((2000, dimension), dtype=np.float32)
    vectors = np.memmap(path, np.float32, "w+", shape=(rows, dimension))
    for start in range(0, rows, 50_000):  # in pieces: no second copy of everything
        part = vectors[start : start + 50_000]
        part[:] = centres[rng.integers(0, 2000, len(part))]
        part += 0.6 * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    noise = rng.standard_normal((64, dimension), dtype=np.float32) / np.float32(dimension**0.5)
    queries = vectors[rng.choice(rows, 64, replace=False)] + 0.3 * noise
    return vectors, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def batches_of(queries: np.ndarray, batch: int) -> list[np.ndarray]:
    """One batch of all, or some batches of one."""
    return [queries] if batch > 1 else [query[None] for query in queries[:8]]


def milliseconds(search, batches: list[np.ndarray]) -> tuple[list[float], np.ndarray]:
    """CPU time of each batch, and the ids of the last."""
    times = []
    for batch in batches:
        start = time.process_time()
        result = search(batch)
        times.append(1e3 * (time.process_time() - start))
    return times, result


def serve_faiss(connection, path: Path, rows: int, queries: np.ndarray) -> None:
    """Answers (batch, threshold) with milliseconds and ids until told to stop."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(queries.shape[1])
    index.add(np.memmap(path, np.float32, "r").reshape(-1, queries.shape[1])[:rows])
    while (request := connection.recv()) != "stop":
        batch, faiss.cvar.distance_compute_blas_threshold = request
        connection.send(milliseconds(lambda q: index.search(q, K)[1], batches_of(queries, batch)))


class Faiss:
    """A process with its own OPENBLAS_CORETYPE, which is read when the library is loaded."""

    def __init__(self, coretype: str, *arguments):
        spawn = multiprocessing.get_context("spawn")
        self.connection, there = spawn.Pipe()
        os.environ["OPENBLAS_CORETYPE"] = coretype
        self.process = spawn.Process(target=serve_faiss, args=(there, *arguments), daemon=True)
        self.process.start()
        there.close()
        del os.environ["OPENBLAS_CORETYPE"]

    def search(self, batch: int, threshold: int) -> tuple[list[float], np.ndarray]:
        self.connection.send((batch, threshold))
        return self.connection.recv()

    def stop(self) -> None:
        self.connection.send("stop")
        self.process.join()


def best_settings(path: Path, rows: int, queries: np.ndarray) -> dict[int, tuple[str, int]]:
    """For each size of batch, the fastest (coretype, threshold) on the first rows."""
    trials = {batch: {} for batch in BATCHES}
    for coretype in CORETYPES:
        faiss = Faiss(coretype, path, min(rows, TRIAL_ROWS), queries)
        # A kernel that this machine cannot run ends the process.
        with contextlib.suppress(EOFError, BrokenPipeError):
            for batch, threshold in itertools.product(BATCHES, THRESHOLDS):
                times = [t for _ in range(3) for t in faiss.search(batch, threshold)[0]]
                trials[batch][coretype, threshold] = np.median(times)
            faiss.stop()
    for batch, results in trials.items():
        line = ", ".join(f"{c or 'default'}/{t} {ms:.2f}" for (c, t), ms in results.items())
        print(f"faiss, batch {batch}, ms by coretype/threshold on the first rows: {line}")
    return {batch: min(results, key=results.get) for batch, results in trials.items()}


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    pairs = zip(found.tolist(), expected.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


def figures(line: str, values: list[float], unit: str, note: str = "") -> None:
    low_high = f"{min(values):.2f}-{max(values):.2f}"
    print(f"{line:36}{np.median(values):10.2f} {unit:8}{low_high:>18}   {note}")


def measure(path: Path, vectors: np.ndarray, queries: np.ndarray, rounds: int) -> None:
    from retrieval_cpp import DenseIndex, _core

    (n, d), times, found, faiss, best = vectors.shape, defaultdict(list), {}, {}, {}
    if importlib.util.find_spec("faiss"):
        best = best_settings(path, n, queries)
        faiss = {coretype: Faiss(coretype, path, n, queries) for coretype, _ in best.values()}
    else:
        print("faiss: not installed (faiss-cpu)")
    indexes = {storage: DenseIndex(vectors, storage) for storage in ("f32", "bf16", "int8")}
    sample = np.array(vectors[: (1 << 30) // (4 * d)])  # enough for the yardstick
    for _ in range(rounds):
        times["read"].append(4e3 * n * d / _core.read_bandwidth(sample))
        times["fma"].append(64e3 * n * d / _core.fma_rate(20_000_000))
        for batch in BATCHES:
            for storage, index in indexes.items():
                taken, found[storage] = milliseconds(
                    lambda q, index=index: index.search(q, K, threads=1)[0],
                    batches_of(queries, batch),
                )
                times[storage, batch] += taken
            if best:
                taken, found["faiss"] = faiss[best[batch][0]].search(batch, best[batch][1])
                times["faiss", batch] += taken
    for process in faiss.values():
        process.stop()

    median = {name: np.median(values) for name, values in times.items()}
    print(f"dense search, {n:,} x {d}, k = {K}, one core, {_core.simd_level()}, {rounds} rounds")
    figures("reading memory", [4e-6 * n * d / ms for ms in times["read"]], "GB/s")
    figures("multiply-adds", [128e-6 * n * d / ms for ms in times["fma"]], "GFLOP/s")
    for batch, limit in zip(BATCHES, ("read", "fma"), strict=True):
        share = f"{median[limit] / median['f32', batch]:.1%} of the limit ({limit})"
        figures(f"f32, batch {batch}", times["f32", batch], "ms", share)
        for storage in ("bf16", "int8"):
            note = f"{median['f32', batch] / median[storage, batch]:.2f}x our f32"
            figures(f"{storage} + rescoring, batch {batch}", times[storage, batch], "ms", note)
        if best:
            coretype, threshold = best[batch]
            note = f"ours is {median['faiss', batch] / median['f32', batch]:.2f}x; "
            note += f"OPENBLAS_CORETYPE={coretype} threshold {threshold}"
            figures(f"faiss IndexFlatIP, batch {batch}", times["faiss", batch], "ms", note)
    for name in found.keys() - {"f32"}:
        print(f"  recall@10 of {name}: {recall(found[name], found['f32']):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    single_threaded()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors"
        vectors, queries = clustered(path, arguments.rows, arguments.dimension)
        measure(path, vectors, queries, arguments.rounds)


if __name__ == "__main__":
    main()
