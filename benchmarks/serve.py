"""Searches per second and latency of `python -m rl.runs.serve`, beside the index in one process.

python -m benchmarks.serve --world mini --seconds 3
"""

import http.client
import json
import threading
import time
from dataclasses import dataclass

import numpy as np

from rl.runs.flags import arg, main, parse
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.serve import make_server


@dataclass
class Args(RetrieverArgs):
    world: str = arg("mini", "world whose popqa.test questions are asked", "benchmark")
    seconds: float = arg(3.0, "of each row", least=0.1)
    k: int = arg(4, "passages per query", least=1)
    dataset: str = arg("popqa", "question set")
    dtype: str = arg("fp32", "of an encoder", choices=("fp32", "bf16"))
    device: str = arg("cpu", "of an encoder")


def client(address: tuple, queries: list[str], batch: int, k: int, until: float, found: list):
    """Ask until the time is over; `found` gets the seconds of every request."""
    connection, at = http.client.HTTPConnection(*address), 0
    while time.perf_counter() < until:
        asked = [queries[(at + i) % len(queries)] for i in range(batch)]
        body = json.dumps({"queries": asked, "topk": k, "return_scores": True})
        start = time.perf_counter()
        connection.request("POST", "/retrieve", body, {"Content-Type": "application/json"})
        assert len(json.loads(connection.getresponse().read())["result"]) == batch
        found.append(time.perf_counter() - start)
        at += batch


def benchmark() -> None:
    args = parse(Args, __doc__)
    world, index, _ = open_world(args.world, args)
    queries = [q.question for q in world.questions(args.dataset, "test")]
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + args.seconds:
        index.search(queries, args.k)
        count += len(queries)
    alone = count / (time.perf_counter() - start)
    print(f"{len(world.corpus):,} passages, k = {args.k}; the index alone: {alone:,.0f} queries/s")
    print(f"{'clients':>8}{'batch':>8}{'queries/s':>12}{'p50, ms':>10}{'p99, ms':>10}")
    server = make_server("127.0.0.1", 0, world, index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for clients in (1, 8):
        for batch in (1, 64):
            found, until = [], time.perf_counter() + args.seconds
            parts = (server.server_address[:2], queries, batch, args.k, until, found)
            threads = [threading.Thread(target=client, args=parts) for _ in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rate = batch * len(found) / args.seconds
            p50, p99 = 1000 * np.quantile(found, (0.5, 0.99))
            print(f"{clients:>8}{batch:>8}{rate:>12,.0f}{p50:>10.2f}{p99:>10.2f}")
    server.shutdown()


if __name__ == "__main__":
    main(benchmark)
