"""BM25: queries per second, latency, index size and build time, side by side with every installed peer.

    python -m benchmarks.bm25                       1,000,000 passages (about 20 minutes of building the first time)
    python -m benchmarks.bm25 --passages 100000     the short version

Each engine lives in a process of its own on the same pinned core.  Rounds are interleaved: engine by engine, again and
again, so that a slow minute of the machine falls on all of them; medians and ranges over the rounds.  Rates and latencies are CPU time, so that other processes do not count.
The corpus and the indexes are kept under runs/bench; --rebuild makes the indexes, and their build times, anew.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import time
from pathlib import Path

import numpy as np

from benchmarks.corpus import corpus_file, queries
from benchmarks.peers import PEERS, missing, single_threaded


def log_to(path: Path) -> None:
    """Sends everything that the engine prints, in whatever language, to a file."""
    with open(path, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def build(connection, name: str, corpus: Path, directory: Path) -> None:
    """Builds an index in a fresh process, and says what it took."""
    log_to(directory.with_suffix(".log"))
    peer, start = PEERS[name](), time.process_time()
    peer.build(corpus, directory)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    connection.send({"build_seconds": seconds, "build_peak": peak, "bytes": peer.size(directory)})


def serve(connection, name: str, directory: Path, texts: list[str], k: int) -> None:
    """Answers "batch" and "single" with measurements until told to stop."""
    log_to(directory.with_suffix(".log"))
    peer, start = PEERS[name](), time.perf_counter()
    peer.open(directory)
    connection.send({"open_seconds": time.perf_counter() - start})
    peer.search(texts, k)  # warm: page cache, compiled kernels
    while (request := connection.recv()) != "stop":
        if request == "scores":
            connection.send(np.asarray(peer.top_scores(), np.float32))
        elif request == "batch":
            start = time.process_time()
            peer.search(texts, k)
            connection.send(len(texts) / (time.process_time() - start))
        else:
            latencies = []
            for text in texts:
                start = time.process_time_ns()
                peer.search([text], k)
                latencies.append((time.process_time_ns() - start) / 1e9)
            connection.send(np.percentile(latencies, [50, 99]))


class Engine:
    def __init__(self, name: str, corpus: Path, texts: list[str], k: int, rebuild: bool):
        self.name, peer = name, PEERS[name]
        folder = getattr(peer, "folder", name)
        directory = corpus.parent / f"{corpus.stem}-{folder}"
        record = directory.with_suffix(".json")
        spawn = multiprocessing.get_context("spawn")
        stale = (
            name == "ours" or rebuild and folder not in Engine.built
        )  # ours is what changes from run to run
        if stale or not record.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            here, there = spawn.Pipe()
            process = spawn.Process(target=build, args=(there, name, corpus, directory))
            process.start()
            there.close()
            record.write_text(json.dumps(self.receive(here, directory)))
            process.join()
        Engine.built.add(folder)
        self.facts = json.loads(record.read_text())
        self.connection, there = spawn.Pipe()
        self.process = spawn.Process(
            target=serve, args=(there, name, directory, texts, k), daemon=True
        )
        self.process.start()
        there.close()
        self.directory = directory
        self.facts |= self.receive(self.connection, directory)
        self.rates, self.latencies = [], []

    built: set[str] = set()

    def ask(self, request: str):
        self.connection.send(request)
        return self.receive(self.connection, self.directory)

    @staticmethod
    def receive(connection, directory: Path):
        try:
            return connection.recv()
        except EOFError:
            raise SystemExit(
                f"an engine failed; it said why in {directory.with_suffix('.log')}"
            ) from None

    def round(self) -> None:
        self.rates.append(self.ask("batch"))
        self.latencies.append(self.ask("single"))

    def stop(self) -> None:
        self.connection.send("stop")
        self.process.join()


def table(engines: list[Engine]) -> None:
    ours = np.median(engines[0].rates)
    print(
        f"{'engine':34}{'q/s':>9}{'range':>17}{'ours is':>9}{'p50 us':>9}{'p99 us':>9}{'index MB':>10}{'build s':>9}{'peak MB':>9}{'open ms':>9}"
    )
    for e in engines:
        rate, (p50, p99) = np.median(e.rates), np.median(e.latencies, axis=0) * 1e6
        print(
            f"{e.name:34}{rate:9.0f}{f'{min(e.rates):.0f}-{max(e.rates):.0f}':>17}{ours / rate:8.1f}x{p50:9.0f}{p99:9.0f}"
            f"{e.facts['bytes'] / 1e6:10.0f}{e.facts['build_seconds']:9.1f}{e.facts['build_peak'] / 1e6:9.0f}{e.facts['open_seconds'] * 1e3:9.1f}"
        )


def agreement(engines: list[Engine]) -> None:
    """How far each engine's k best scores are from ours, where it scores as we do."""
    ours = engines[0].ask("scores")
    for e in engines[1:]:
        scores = e.ask("scores")
        both = np.isfinite(ours) & np.isfinite(scores)
        ratio = np.median(scores[both] / ours[both])
        print(
            f"  {e.name}: largest relative difference of the top scores {np.abs(scores[both] / ratio / ours[both] - 1).max():.1e}"
        )


def scaling(corpus: Path, texts: list[str], k: int, cores: set[int]) -> None:
    """Two cores against one, wall time, where the process may use two."""
    if len(cores) < 2:
        print("two cores against one: not measured, this process is pinned to one core")
        return
    from retrieval_cpp import BM25Index

    os.sched_setaffinity(0, cores)
    index, times = BM25Index.load(corpus.parent / f"{corpus.stem}-ours" / "index"), {1: [], 2: []}
    for _ in range(7):
        for threads in times:
            start = time.perf_counter()
            index.search(texts, k, threads=threads)
            times[threads].append(time.perf_counter() - start)
    print(
        f"two cores against one, batch of {len(texts)}: {np.median(times[1]) / np.median(times[2]):.2f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peers", default=",".join(PEERS), help="comma-separated names; ours always runs"
    )
    parser.add_argument("--rebuild", action="store_true", help="build all indexes again")
    parser.add_argument(
        "--scaling", action="store_true", help="measure two threads too; needs two free cores"
    )
    parser.add_argument("--directory", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()

    single_threaded()
    corpus = corpus_file(arguments.passages, arguments.directory)
    texts = queries(corpus, arguments.queries)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    wanted = [name for name in PEERS if name == "ours" or name in arguments.peers.split(",")]
    for name in wanted:
        if missing(PEERS[name]):
            print(f"{name}: not installed ({', '.join(missing(PEERS[name]))})")
    engines = [
        Engine(name, corpus, texts, arguments.k, arguments.rebuild)
        for name in wanted
        if not missing(PEERS[name])
    ]
    for _ in range(arguments.rounds):
        for engine in engines:
            engine.round()
    print(
        f"BM25, {arguments.passages:,} passages, {len(texts)} queries, k = {arguments.k}, one core, {arguments.rounds} interleaved rounds"
    )
    table(engines)
    agreement(engines)
    for engine in engines:
        engine.stop()
    if arguments.scaling:
        scaling(corpus, texts, arguments.k, cores)


if __name__ == "__main__":
    main()
