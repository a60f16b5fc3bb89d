"""Dense search: shares of what the core can do, and ratios against faiss.

    python -m benchmarks.dense                    1,000,000 x 384 (needs about 6.5 GB)
    python -m benchmarks.dense --rows 200000      the short version

One process, one pinned core, interleaved rounds.  The two limits are measured in the same rounds: reading memory from
front to back, and independent multiply-adds.  faiss.IndexFlatIP runs with distance_compute_blas_threshold = 20, so that
a batch of 64 is a matrix product as ours is; with its default it would be 64 scans.  Vectors are clustered points on
the unit sphere (2,000 centres), because independent Gaussian vectors have no near neighbours to find; queries are noisy
copies of rows.  recall@10 is against our own exact f32 result.
"""

import argparse
import importlib.util
import os
import time
from collections import defaultdict

import numpy as np

from benchmarks.peers import single_threaded

K = 10


def clustered(
    rows: int, dimension: int, queries: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((2000, dimension), dtype=np.float32)
    vectors = np.empty((rows, dimension), np.float32)
    for start in range(0, rows, 50_000):  # in pieces: no second copy of everything
        part = vectors[start : start + 50_000]
        part[:] = centres[rng.integers(0, 2000, len(part))]
        part += 0.6 * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    picked = vectors[rng.choice(rows, queries, replace=False)]
    picked = picked + 0.3 * rng.standard_normal(picked.shape, dtype=np.float32) / np.sqrt(
        np.float32(dimension)
    )
    return vectors, picked / np.linalg.norm(picked, axis=1, keepdims=True)


def timed(work) -> tuple[float, object]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    return float(
        np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), expected.tolist())])
    )


def figures(line: str, values: list[float], unit: str, note: str = "") -> None:
    print(
        f"{line:44}{np.median(values):10.2f} {unit:8}{f'{min(values):.2f}-{max(values):.2f}':>18}   {note}"
    )


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

    from retrieval_cpp import DenseIndex, _core

    n, d = arguments.rows, arguments.dimension
    vectors, queries = clustered(n, d, 64)
    ones = [query[None] for query in queries[:8]]
    indexes = {storage: DenseIndex(vectors, storage) for storage in ("f32", "bf16", "int8")}
    faiss = None
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(1)
        faiss.cvar.distance_compute_blas_threshold = 20
        flat = faiss.IndexFlatIP(d)
        flat.add(vectors)
    else:
        print("faiss: not installed (faiss-cpu)")
    if n * d * 4 > 1 << 30:
        vectors = vectors[: (1 << 30) // (4 * d)].copy()  # enough for the yardstick

    seconds, found = defaultdict(list), {}
    for _ in range(arguments.rounds):
        seconds["read"].append(4 * n * d / _core.read_bandwidth(vectors))
        seconds["fma"].append(64 * n * d / _core.fma_rate(20_000_000))
        for storage, index in indexes.items():
            for one in ones:
                seconds[storage, 1].append(timed(lambda: index.search(one, K, threads=1))[0])
            time_64, (found[storage], _) = timed(lambda: index.search(queries, K, threads=1))
            seconds[storage, 64].append(time_64)
        if faiss:
            for one in ones:
                seconds["faiss", 1].append(timed(lambda: flat.search(one, K))[0])
            time_64, (_, found["faiss"]) = timed(lambda: flat.search(queries, K))
            seconds["faiss", 64].append(time_64)

    gigabytes, gigaflops = 4 * n * d / 1e9, 2 * 64 * n * d / 1e9
    median = {name: np.median(values) for name, values in seconds.items()}
    print(
        f"dense search, {n:,} x {d}, k = {K}, one core, {_core.simd_level()}, {arguments.rounds} interleaved rounds"
    )
    figures("reading memory", [gigabytes / s for s in seconds["read"]], "GB/s")
    figures("multiply-adds", [gigaflops / s for s in seconds["fma"]], "GFLOP/s")
    figures(
        "f32, batch 1",
        [1e3 * s for s in seconds["f32", 1]],
        "ms",
        f"{median['read'] / median['f32', 1]:.1%} of the bandwidth",
    )
    figures(
        "f32, batch 64",
        [1e3 * s for s in seconds["f32", 64]],
        "ms",
        f"{median['fma'] / median['f32', 64]:.1%} of the arithmetic",
    )
    if faiss:
        for batch in (1, 64):
            ratio = median["faiss", batch] / median["f32", batch]
            figures(
                f"faiss IndexFlatIP, batch {batch}",
                [1e3 * s for s in seconds["faiss", batch]],
                "ms",
                f"ours is {ratio:.2f}x",
            )
        print(f"  recall@10 of faiss against ours: {recall(found['faiss'], found['f32']):.4f}")
    for storage in ("bf16", "int8"):
        for batch in (1, 64):
            ratio = median["f32", batch] / median[storage, batch]
            figures(
                f"{storage} + exact rescoring, batch {batch}",
                [1e3 * s for s in seconds[storage, batch]],
                "ms",
                f"{ratio:.2f}x our f32",
            )
        print(f"  recall@10 of {storage}: {recall(found[storage], found['f32']):.4f}")


if __name__ == "__main__":
    main()
