"""Serve a world's passages under Search-R1's protocol (rl/runs/remote.py), so that Search-R1, verl
or a train_ppo.py elsewhere (--retriever http) search with our index:

    python -m rl.runs.serve --world mini --port 8000

Python's own server, a thread for each connection; the index searches without Python's lock.
Left out: TLS, logins (put a proxy before it), batching over clients.
"""

import json
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from data.world import World
from rl.runs.flags import DEVICES, arg, main, parse
from rl.runs.precision import DTYPES, choose_dtype
from rl.runs.retrievers import RetrieverArgs, open_world

LARGEST = 1 << 26  # bytes of a request
MOST = 1000  # passages of a query


@dataclass
class Args(RetrieverArgs):
    world: str = arg("mini", "mini, mini:SEED, tiny, or a directory", "server")
    host: str = arg("127.0.0.1", "address to listen at; 0.0.0.0: every one of this machine")
    port: int = arg(8000, "port; 0: any that is free", most=65_535)
    dtype: str = arg("auto", "of the encoder's multiplications", "machine", choices=DTYPES)
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)


class BadRequest(ValueError):
    """The client's fault, told with status 400."""


def answer(request, world: World, index) -> dict:
    """The body of a reply. Raises BadRequest."""
    if not isinstance(request, dict):
        raise BadRequest("not a JSON object")
    queries, k = request.get("queries"), request.get("topk", world.k)
    if not isinstance(queries, list) or not all(isinstance(q, str) for q in queries):
        raise BadRequest("'queries' is not a list of texts")
    if type(k) is not int or not 1 <= k <= MOST:
        raise BadRequest(f"'topk' is not a whole number from 1 to {MOST}")
    ids, scores = index.search(queries, k) if queries else ([], [])
    result = []
    for row, values in zip(ids, scores, strict=True):
        hits = []
        for i, score in zip(row, values, strict=True):
            if i >= 0:
                hit = {"document": document(world.corpus[int(i)]), "score": float(score)}
                hits.append(hit if request.get("return_scores") else hit["document"])
        result.append(hits)
    return {"result": result}


def document(passage) -> dict:
    """As Search-R1's corpora have it: the title in quotes, the text from the second line on."""
    return {"id": passage.id, "contents": f'"{passage.title}"\n{passage.text}'}


def make_server(host: str, port: int, world: World, index) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open
        disable_nagle_algorithm = True
        timeout = 60  # seconds that an open connection may be silent

        def do_POST(self):
            try:
                if self.path.partition("?")[0] != "/retrieve":
                    return self.reply(404, {"error": "POST /retrieve"})
                length = int(self.headers.get("Content-Length", ""))
                if not 0 <= length <= LARGEST:
                    raise BadRequest(f"a request of more than {LARGEST:,} bytes")
                body = self.rfile.read(length)
                self.reply(200, answer(json.loads(body), world, index))
            except (BadRequest, ValueError, RecursionError) as error:
                self.reply(400, {"error": str(error)})
            except ConnectionError:  # the client went away
                self.close_connection = True
            except Exception as error:  # a retriever that fails is an error there, too
                self.reply(500, {"error": f"{type(error).__name__}: {error}"})

        def reply(self, status: int, body: dict) -> None:
            self.close_connection = self.close_connection or status != 200
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            """No line for every request."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    return server


def serve() -> None:
    args = parse(Args, __doc__)
    args.dtype = choose_dtype(args.dtype, args.device)
    world, index, settings = open_world(args.world, args)
    with make_server(args.host, args.port, world, index) as server:
        host, port = server.server_address[:2]
        kind = settings.get("retriever", "bm25")
        about = f"world {world.name}, {len(world.corpus):,} passages, {kind}"
        print(f"serving {about}: POST http://{host}:{port}/retrieve", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(serve)
