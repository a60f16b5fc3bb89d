"""Search over HTTP: our server answers as Search-R1's does, our client as Search-R1 asks; both are
checked with hand-written bytes, and together against the index itself."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from data.world import World
from retrieval_cpp import BM25Index
from rl import RagEnv
from rl.environment import RetrieverError
from rl.runs import remote
from rl.runs.flags import UsageError
from rl.runs.remote import HttpRetriever
from rl.runs.serve import make_server
from tests.shared import ROOT

WORLD = World.open("tiny")
INDEX = BM25Index.build(p.full_text for p in WORLD.corpus)
QUESTIONS = [q.question for q in WORLD.questions("popqa", "test")]


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/retrieve"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def url():
    with running(make_server("127.0.0.1", 0, WORLD, INDEX)) as address:
        yield address


def ask(url: str, body: bytes, method="POST", path="/retrieve", **headers) -> tuple[int, object]:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=10)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(content) if method == "POST" else content


# ------------------------------------------------------------------------------------ the server


def test_the_reply_is_what_search_r1_reads(url):
    """Its client takes result[i][j]["document"]["contents"]: the title, then the text."""
    body = json.dumps({"queries": QUESTIONS[:2], "topk": 3, "return_scores": True}).encode()
    status, reply = ask(url, body)
    ids, scores = INDEX.search(QUESTIONS[:2], 3)
    assert status == 200 and list(reply) == ["result"]
    for hits, row, values in zip(reply["result"], ids, scores, strict=True):
        for hit, i, score in zip(hits, row, values, strict=True):
            passage = WORLD.corpus[i]
            title, _, text = hit["document"]["contents"].partition("\n")
            assert (title, text) == (f'"{passage.title}"', passage.text)
            assert hit["document"]["id"] == passage.id and hit["score"] == pytest.approx(score)


def test_without_scores_and_topk(url):
    status, reply = ask(url, json.dumps({"queries": QUESTIONS[:1]}).encode())
    best = [WORLD.corpus[i].id for i in INDEX.search(QUESTIONS[:1], WORLD.k)[0][0]]
    assert status == 200 and [document["id"] for document in reply["result"][0]] == best
    assert ask(url, b'{"queries": []}') == (200, {"result": []})
    assert ask(url, b'{"queries": ["zzyzx"]}') == (200, {"result": [[]]})


@pytest.mark.parametrize(
    "body, reason",
    [
        (b"", "Expecting value"),
        (b"\xff", "utf-8"),
        (b"[" * 100_000, "recursion"),
        (b"[]", "not a JSON object"),
        (b'{"queries": "a"}', "'queries' is not a list of texts"),
        (b'{"queries": [1]}', "'queries' is not a list of texts"),
        (b'{"queries": ["a"], "topk": 0}', "'topk' is not a whole number from 1 to 1000"),
        (b'{"queries": ["a"], "topk": 1e9}', "'topk' is not a whole number from 1 to 1000"),
        (b'{"queries": ["a"], "topk": true}', "'topk' is not a whole number from 1 to 1000"),
        (b'{"queries": ["a"' + b', "a"' * 100 + b'], "topk": 1000}', "more than 100,000 passages"),
    ],
)
def test_a_bad_request_is_told_why(url, body, reason):
    status, reply = ask(url, body)
    assert status == 400 and reason in reply["error"]


def test_other_paths_methods_and_sizes(url):
    assert ask(url, b"{}", path="/search") == (404, {"error": "POST /retrieve"})
    assert ask(url, b"", method="GET")[0] == 501
    status, reply = ask(url, b"{}", **{"Content-Length": str(1 << 40)})
    assert (status, reply["error"]) == (400, "a request of more than 67,108,864 bytes")


def test_a_retriever_that_fails_is_status_500():
    class Broken:
        def search(self, queries, k):
            raise RetrieverError("the disk is gone")

    with running(make_server("127.0.0.1", 0, WORLD, Broken())) as url:
        status, reply = ask(url, b'{"queries": ["a"]}')
    assert (status, reply["error"]) == (500, "the disk is gone")


def test_a_connection_stays_open_for_the_next_request(url):
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=10)
    connection.connect()
    used = connection.sock
    for _ in range(3):
        connection.request("POST", "/retrieve", b'{"queries": ["capital"]}')
        assert json.loads(connection.getresponse().read())["result"] and connection.sock is used
    connection.close()


def test_the_command_serves_until_it_is_stopped(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "rl.runs.serve", "--world", "tiny", "--port", "0"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        line = process.stdout.readline().decode()
        assert line.startswith(f"serving world tiny, {len(WORLD.corpus)} passages, bm25: POST http")
        found = HttpRetriever(line.split()[-1], WORLD.corpus).search(QUESTIONS[:5], 3)
        assert np.array_equal(found[0], INDEX.search(QUESTIONS[:5], 3)[0])
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130 and said.count(b"\n") == 1
    finally:
        process.kill()


# ------------------------------------------------------------------------------------ the client


def test_both_together_search_as_the_index_does(url, monkeypatch):
    monkeypatch.setattr(remote, "BATCH", 7)
    ids, scores = HttpRetriever(url, WORLD.corpus).search(QUESTIONS, 4)
    expected_ids, expected = INDEX.search(QUESTIONS, 4)
    assert np.array_equal(ids, expected_ids) and np.array_equal(scores, expected)


class Replies:
    """A server that gives these (status, body) in turn, the last one for ever."""

    def __init__(self, *replies: tuple[int, bytes]):
        self.replies, self.asked = list(replies), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append((self.path, json.loads(body)))
                status, content = outer.replies[0]
                outer.replies = outer.replies[1:] or outer.replies
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)


def hit(id: object = WORLD.corpus[3].id, score: object = 1.5) -> dict:
    return {"document": {"id": id, "contents": "x"}, "score": score}


def reply(*results) -> tuple[int, bytes]:
    return 200, json.dumps({"result": results}).encode()


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """Seconds that a retriever would have waited."""
    waited = []
    monkeypatch.setattr(remote, "sleep", waited.append)
    return waited


def searched(replies: Replies, queries=("a",), k=2):
    with running(replies.server) as url:
        return HttpRetriever(url, WORLD.corpus).search(list(queries), k)


def test_the_request_is_what_search_r1_sends():
    replies = Replies(reply([hit()], []))
    ids, scores = searched(replies, ["a", "é"])
    assert replies.asked == [
        ("/retrieve", {"queries": ["a", "é"], "topk": 2, "return_scores": True})
    ]
    assert ids.tolist() == [[3, -1], [-1, -1]]
    assert scores.tolist() == [[1.5, -np.inf], [-np.inf, -np.inf]]


def test_a_failure_is_tried_again_with_growing_waits(waits):
    replies = Replies((503, b"busy"), (200, b"{"), reply([hit()]))
    assert searched(replies)[0].tolist() == [[3, -1]] and waits == [0.5, 1.0]


def test_a_server_that_always_fails_is_no_empty_observation(waits):
    with running(Replies((500, b"the disk is gone")).server) as url:
        env = RagEnv(WORLD, HttpRetriever(url, WORLD.corpus))
        with pytest.raises(RetrieverError) as error:
            env.search(["a"])
    assert str(error.value) == (
        f"{url}: a search failed 5 times, at last with OSError: status 500: the disk is gone"
    )
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_a_redirect_is_not_followed():
    with pytest.raises(RetrieverError, match=r"OSError: status 302: "):
        searched(Replies((302, b"")))


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(RetrieverError, match=rf"^{url}: a search failed 5 times, .*refused"):
            HttpRetriever(url, WORLD.corpus).search(["a"], 1)


def test_a_silent_server_is_given_up(monkeypatch):
    monkeypatch.setattr(remote, "SECONDS", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RetrieverError, match=r"TimeoutError: timed out$"):
            HttpRetriever(url, WORLD.corpus).search(["a"], 1)


def test_an_endless_answer_is_cut(monkeypatch):
    monkeypatch.setattr(remote, "LARGEST", 100)
    with pytest.raises(RetrieverError, match=r"an answer of more than 100 bytes$"):
        searched(Replies(reply([hit()] * 9)))


@pytest.mark.parametrize(
    "answer, reason",
    [
        (reply(), "gave 0 results of at most 0 hits for 1 queries with k = 2"),
        (reply([], []), "gave 2 results of at most 0 hits for 1 queries with k = 2"),
        (reply([hit()] * 3), "gave 1 results of at most 3 hits for 1 queries with k = 2"),
        (reply("x"), "the answer is not"),
        (reply({}), "the answer is not"),
        ((200, b"[]"), "the answer is not"),
        ((200, b'{"result": null}'), "the answer is not"),
        (reply([7]), "the answer is not"),
        (reply([{"document": "text", "score": 1}]), "the answer is not"),
        (reply([{"document": {"contents": "x"}, "score": 1}]), "the answer is not"),
        (reply([hit(score=None)]), "the answer is not"),
        (reply([hit(score=float("nan"))]), "scores that are no numbers"),
        (reply([hit(score=float("inf"))]), "scores that are no numbers"),
        (reply([hit(score=10**400)]), "the answer is not"),
        (reply([hit(id="elsewhere")]), "no passage of this world has id 'elsewhere': it searches"),
        (reply([hit(id=-1)]), "no passage of this world has id '-1'"),
    ],
)
def test_what_is_no_answer_raises_at_once(answer, reason, waits):
    with running(Replies(answer).server) as url, pytest.raises(RetrieverError) as error:
        RagEnv(WORLD, HttpRetriever(url, WORLD.corpus), k=2).search(["a"])
    assert reason in str(error.value) and waits == []


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://a/",
        "file:///etc",
        "http://",
        "http://a:b/",
        "http://a:99999/",
        "http://a b/",
        "http://a/\r\nX: y",
        "http://é/",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UsageError, match=r"(?s)^--retriever-url .*not an address like http://HOST"):
        HttpRetriever(url, WORLD.corpus)
