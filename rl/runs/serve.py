"""Serve a world's passages under Search-R1's protocol (rl/runs/remote.py), so that Search-R1, verl
or a train_ppo.py elsewhere (--retriever http) search with our index, a thread for each connection:

    python -m rl.runs.serve --world mini --port 8000

Left out: TLS, logins (put a proxy before it), batching over clients.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from data.world import World
from rl.environment import RagEnv, RetrieverError
from rl.runs.flags import DEVICES, arg, main, parse
from rl.runs.launch import DTYPES, choose_dtype
from rl.runs.retrievers import RetrieverArgs, open_world

LARGEST = 1 << 26  # bytes of a request
MOST, MOST_OF_ALL = 1000, 100_000  # passages of a query, of a request


@dataclass
class Args(RetrieverArgs):
    world: str = arg("mini", "mini, mini:SEED, tiny, or a directory", "server")
    host: str = arg("127.0.0.1", "address to listen at; 0.0.0.0: every one of this machine")
    port: int = arg(8000, "port; 0: any that is free", most=65_535)
    dtype: str = arg("auto", "of the encoder's multiplications", "machine", choices=DTYPES)
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)


def answer(request, world: World, index) -> dict:
    """The body of a reply. Raises ValueError for the client's faults, RetrieverError."""
    if not isinstance(request, dict):
        raise ValueError("not a JSON object")
    queries, k = request.get("queries"), request.get("topk", world.k)
    if not isinstance(queries, list) or not all(isinstance(q, str) for q in queries):
        raise ValueError("'queries' is not a list of texts")
    if type(k) is not int or not 1 <= k <= MOST:
        raise ValueError(f"'topk' is not a whole number from 1 to {MOST}")
    if len(queries) * k > MOST_OF_ALL:
        raise ValueError(f"more than {MOST_OF_ALL:,} passages for all queries together")
    result = []
    for turn in RagEnv(world, index, k).search(queries):
        # As Search-R1's corpora have it: the title in quotes, the text from the second line on.
        found = [world.corpus[row] for row in turn.passages]
        hits = [{"id": p.id, "contents": f'"{p.title}"\n{p.text}'} for p in found]
        if request.get("return_scores"):
            pairs = zip(hits, turn.scores, strict=True)
            hits = [{"document": hit, "score": score} for hit, score in pairs]
        result.append(hits)
    return {"result": result}


def make_server(host: str, port: int, world: World, index) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open
        disable_nagle_algorithm = True
        timeout = 60  # seconds that an open connection may be silent

        def do_POST(self):
            with suppress(ConnectionError):  # the client went away
                status, body = self.outcome()
                self.close_connection = self.close_connection or status != 200
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def outcome(self) -> tuple[int, dict]:
            if self.path.partition("?")[0] != "/retrieve":
                return 404, {"error": "POST /retrieve"}
            try:
                length = int(self.headers.get("Content-Length", ""))
                if not 0 <= length <= LARGEST:
                    raise ValueError(f"a request of more than {LARGEST:,} bytes")
                return 200, answer(json.loads(self.rfile.read(length)), world, index)
            except (ValueError, RecursionError) as error:
                return 400, {"error": str(error)}
            except RetrieverError as error:
                return 500, {"error": str(error)}

        def log_message(self, *_):
            """No line for every request."""

    return ThreadingHTTPServer((host, port), Handler)


def serve() -> None:
    args = parse(Args, __doc__)
    args.dtype = choose_dtype(args.dtype, args.device)
    world, index, settings = open_world(args.world, args)
    about = f"world {world.name}, {len(world.corpus):,} passages, {settings['retriever']}"
    with make_server(args.host, args.port, world, index) as server:
        host, port = server.server_address[:2]
        print(f"serving {about}: POST http://{host}:{port}/retrieve", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(serve)
