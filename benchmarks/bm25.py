"""BM25: queries per second, latency, index size and build time, beside every installed peer.

    python -m benchmarks.bm25                       1,000,000 passages (20 minutes of building once)
    python -m benchmarks.bm25 --passages 100000     the short version
    python -m benchmarks.bm25 --words 1,2,4,128,129 one line for each length of query
    python -m benchmarks.bm25 --scaling             two threads against one; needs two free cores

Each engine lives in a process of its own on the same pinned core.  Rounds are interleaved, engine
by engine, so that a slow minute of the machine falls on all of them; medians over the rounds.
 Times are CPU time, so that other processes do not count.  Where an engine can be set in several
ways, each is tried on the first queries of a set, and the fastest is taken and printed.  The
corpus and the indexes are kept under runs/bench; --rebuild makes the indexes, and their build
times, anew.
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

from benchmarks.corpus import corpus_file, long_queries, queries
from benchmarks.peers import PEERS, missing, single_threaded

SETS = {  # of queries: words of each, how many, k
    "3-10 words": ((3, 10), 1000, 10),
    "20-30 words": ((20, 30), 200, 100),
}
SWEEP = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 127, 128, 129, 130, 200, 300, 400)


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


def seconds_of(peer, batches: list[list[str]], k: int) -> np.ndarray:
    """CPU seconds of each batch."""
    times = []
    for batch in batches:
        start = time.process_time_ns()
        peer.search(batch, k)
        times.append((time.process_time_ns() - start) / 1e9)
    return np.array(times)


def serve(connection, name: str, directory: Path) -> None:
    """Answers (set, texts, k) with measurements until told to stop."""
    log_to(directory.with_suffix(".log"))
    peer, start, best = PEERS[name](), time.perf_counter(), {}
    peer.open(directory)
    connection.send({"open_seconds": time.perf_counter() - start})
    while (request := connection.recv()) != "stop":
        key, texts, k = request
        singles = [[text] for text in texts]
        if key not in best:  # warm, and find the best setting
            trials = {}
            for setting in peer.settings:
                peer.use(setting)
                peer.search(texts, k)
                trials[setting] = seconds_of(peer, singles[:100], k).sum()
            best[key] = min(trials, key=trials.get)
        peer.use(best[key])
        latencies = seconds_of(peer, singles, k)
        rate = len(texts) / seconds_of(peer, [texts], k)[0]
        connection.send((best[key], rate, latencies, np.asarray(peer.top_scores(), np.float32)))


class Engine:
    """One peer in a process of its own, and what was measured of it."""

    def __init__(self, name: str, corpus: Path, rebuild: bool):
        self.name, spawn = name, multiprocessing.get_context("spawn")
        self.directory = corpus.parent / f"{corpus.stem}-{name}"
        record = self.directory.with_suffix(".json")
        if name == "ours" or rebuild or not record.exists():  # ours changes from run to run
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory.mkdir(parents=True)
            self.connection, there = spawn.Pipe()
            process = spawn.Process(target=build, args=(there, name, corpus, self.directory))
            process.start()
            there.close()
            record.write_text(json.dumps(self.receive()))
            process.join()
        self.connection, there = spawn.Pipe()
        arguments = (there, name, self.directory)
        self.process = spawn.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        there.close()
        self.information = json.loads(record.read_text()) | self.receive()

    def receive(self):
        try:
            return self.connection.recv()
        except EOFError:
            log = self.directory.with_suffix(".log")
            raise SystemExit(f"an engine failed; it said why in {log}") from None

    def measure(self, key, texts: list[str], k: int):
        self.connection.send((key, texts, k))
        return self.receive()

    def stop(self) -> None:
        self.connection.send("stop")
        self.process.join()


def measured(engines: list[Engine], key, texts: list[str], k: int, rounds: int) -> dict:
    """Of each engine: its setting, rates [rounds], latencies [rounds, Q] and top scores."""
    out = {}
    for engine in engines:  # not counted: engines get warm and find their settings
        engine.measure(key, texts, k)
    results = [[engine.measure(key, texts, k) for engine in engines] for _ in range(rounds)]
    for engine, rows in zip(engines, zip(*results, strict=True), strict=True):
        settings, rates, latencies, scores = zip(*rows, strict=True)
        out[engine.name] = settings[0], np.array(rates), np.array(latencies), scores[0]
    return out


def table(name: str, found: dict, k: int) -> None:
    print(f"{name}, k = {k}")
    print(f"{'engine':28}{'q/s':>9}{'range':>15}{'ours is':>9}{'p50 us':>9}{'p99 us':>9}   agrees")
    _, ours, _, expected = found["ours"]
    for engine, (setting, rates, latencies, scores) in found.items():
        low, high = np.percentile(np.median(latencies, axis=0), [50, 99]) * 1e6
        spread, ratio = f"{rates.min():.0f}-{rates.max():.0f}", np.median(ours) / np.median(rates)
        # How far the k best scores are from ours, up to a factor that is the same for all.
        both = np.isfinite(expected) & np.isfinite(scores)
        quotient = scores[both] / expected[both]
        difference = np.abs(quotient / np.median(quotient) - 1).max()
        print(
            f"{f'{engine} {setting}':28}{np.median(rates):9.0f}{spread:>15}{ratio:8.1f}x"
            f"{low:9.0f}{high:9.0f}   {difference:.0e}"
        )


def sweep(engines: list[Engine], corpus: Path, lengths: list[int], rounds: int) -> None:
    """Milliseconds a query by its number of distinct words, k = 10."""
    print("milliseconds a query, by the number of its distinct words, k = 10")
    print(f"{'words':>6}" + "".join(f"{engine.name:>28}" for engine in engines))
    for words in lengths:
        texts = long_queries(corpus, words, words, count=20)
        line = f"{words:6}"
        for setting, _, latencies, _ in measured(engines, words, texts, 10, rounds).values():
            line += f"{setting:>18}{np.median(latencies, axis=0).mean() * 1e3:10.3f}"
        print(line)


def scaling(corpus: Path, texts: list[str], cores: set[int]) -> None:
    """Two threads against one, wall time, where the process may use two cores."""
    if len(cores) < 2:
        print("two threads against one: not measured, this process is pinned to one core")
        return
    from retrieval_cpp import BM25Index

    os.sched_setaffinity(0, cores)
    index = BM25Index.load(corpus.parent / f"{corpus.stem}-ours" / "index")
    passages = corpus.read_text().splitlines()
    for what, work, rounds in (
        (f"search of {len(texts)}", lambda threads: index.search(texts, 10, threads=threads), 7),
        ("build", lambda threads: BM25Index.build(passages, threads=threads), 3),
    ):
        seconds = {1: [], 2: []}
        for _ in range(rounds):
            for threads, taken in seconds.items():
                start = time.perf_counter()
                work(threads)
                taken.append(time.perf_counter() - start)
        one, two = np.median(seconds[1]), np.median(seconds[2])
        print(f"{what}: {one:.2f} s on one thread, {two:.2f} s on two, {one / two:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=",".join(PEERS), help="names; ours always runs")
    parser.add_argument("--words", default="", help=f"lengths to sweep; 'all': {SWEEP}")
    parser.add_argument("--rebuild", action="store_true", help="build all indexes again")
    parser.add_argument("--scaling", action="store_true", help="measure two threads too")
    parser.add_argument("--directory", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()

    single_threaded()
    corpus = corpus_file(arguments.passages, arguments.directory)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    wanted = [name for name in PEERS if name == "ours" or name in arguments.peers.split(",")]
    for name in wanted:
        if missing(PEERS[name]):
            print(f"{name}: not installed ({', '.join(missing(PEERS[name]))})")
    engines = [
        Engine(name, corpus, arguments.rebuild) for name in wanted if not missing(PEERS[name])
    ]
    print(f"BM25, {arguments.passages:,} passages, one core, {arguments.rounds} rounds")
    print(f"{'engine':28}{'index MB':>9}{'build s':>9}{'peak MB':>9}{'open ms':>9}")
    for engine in engines:
        kept = engine.information
        sizes = f"{kept['bytes'] / 1e6:9.0f}{kept['build_seconds']:9.1f}"
        opened = f"{kept['build_peak'] / 1e6:9.0f}{kept['open_seconds'] * 1e3:9.1f}"
        print(f"{engine.name:28}{sizes}{opened}")
    if arguments.words:
        lengths = SWEEP if arguments.words == "all" else map(int, arguments.words.split(","))
        sweep(engines, corpus, list(lengths), arguments.rounds)
    else:
        for name, ((least, most), count, k) in SETS.items():
            pick = queries if most <= 10 else long_queries
            texts = pick(corpus, least, most, count)
            table(name, measured(engines, name, texts, k, arguments.rounds), k)
    for engine in engines:
        engine.stop()
    if arguments.scaling:
        scaling(corpus, queries(corpus, 3, 10, 1000), cores)


if __name__ == "__main__":
    main()
