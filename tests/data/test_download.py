"""Downloads from a local server that behaves and misbehaves."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from data import WorldError
from data.prepare import download

DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """Serves `data` under every address. `cuts`: bytes after which the next connections break; `answers`: status codes
    that come before it serves. What was asked for is in `ranges`."""
    state = SimpleNamespace(
        data=DATA,
        etag='"1"',
        cuts=[],
        answers=[],
        ranges=[],
        knows_ranges=True,
        length=None,
        stall=threading.Event(),
        stalls=0,
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            state.ranges.append(self.headers.get("Range"))
            self.close_connection = True
            if state.answers:
                return self.send_error(state.answers.pop(0))
            start = (
                int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                if state.knows_ranges and self.headers.get("Range")
                else 0
            )
            if start and start >= len(state.data):
                return self.send_error(416)
            body = state.data[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(state.data) - 1}/{len(state.data)}"
                )
            self.send_header("ETag", state.etag)
            self.send_header(
                "Content-Length", str(len(body) if state.length is None else state.length - start)
            )
            self.end_headers()
            if state.stalls:
                state.stalls -= 1
                self.wfile.write(body[:100])
                self.wfile.flush()
                state.stall.wait(10)
                return
            self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    state.url = f"http://127.0.0.1:{http.server_port}/some/set.jsonl?dl=1"
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    yield state
    state.stall.set()
    http.shutdown()
    http.server_close()


def fails(url, target, sha256=None) -> str:
    with pytest.raises(WorldError) as caught:
        download.download(url, target, sha256)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("sha256", [SHA, None])
def test_a_whole_file(server, tmp_path, sha256):
    target = tmp_path / "new/folder/set.jsonl"
    assert download.download(server.url, target, sha256) == SHA
    assert target.read_bytes() == DATA and [file.name for file in target.parent.iterdir()] == [
        "set.jsonl"
    ]
    assert (
        download.download("http://127.0.0.1:9/gone", target, sha256) == SHA
    )  # what is there is not fetched again
    assert server.ranges == [None]


def test_a_cut_connection_is_resumed(server, tmp_path):
    server.cuts = [3000, 0, 4000]
    assert download.download(server.url, tmp_path / "x", SHA) == SHA
    assert server.ranges == [None, "bytes=3000-", "bytes=3000-", "bytes=7000-"]
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_a_later_command_resumes(server, tmp_path):
    server.cuts = [3000] + [0] * 9
    said = fails(server.url, tmp_path / "x", SHA)
    assert said == (
        f"{server.url}: the connection was cut (3,000 bytes are kept for the next try); try again, or fetch it by hand and put it at"
        f" {tmp_path / 'x'}"
    )
    assert not (tmp_path / "x").exists() and len(server.ranges) == download.TRIES
    server.cuts = []
    assert download.download(server.url, tmp_path / "x", SHA) == SHA
    assert server.ranges[-1] == "bytes=3000-"


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.knows_ranges, server.cuts = False, [3000]
    assert download.download(server.url, tmp_path / "x", SHA) == SHA
    assert server.ranges == [None, "bytes=3000-"]


def test_another_version_is_not_appended_to_the_former(server, tmp_path):
    server.cuts = [3000] + [0] * 9
    fails(server.url, tmp_path / "x")
    server.cuts, server.data, server.etag = [], DATA[::-1], '"2"'
    assert download.download(server.url, tmp_path / "x") == hashlib.sha256(DATA[::-1]).hexdigest()
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_a_shorter_version_than_what_is_here(server, tmp_path):
    server.cuts = [3000] + [0] * 9
    fails(server.url, tmp_path / "x")
    server.cuts, server.data, server.etag = [], b"short", '"2"'
    download.download(server.url, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"short"


@pytest.mark.parametrize("promised", [len(DATA) + 10, len(DATA) - 10])
def test_a_wrong_length(server, tmp_path, promised):
    """Too long a promise is never fulfilled; too short a one gives a file that the checksum refuses."""
    server.length = promised
    said = fails(server.url, tmp_path / "x", SHA)
    assert (
        ("the connection was cut" in said or "has changed" in said)
        if promised > len(DATA)
        else "expected" in said
    )
    assert not (tmp_path / "x").exists()


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    server.data = DATA + b"!"
    received = hashlib.sha256(DATA + b"!").hexdigest()
    assert (
        fails(server.url, tmp_path / "x", SHA)
        == f"{server.url}: what was received has the SHA-256 {received}, expected {SHA} (discarded)"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_that_is_there_already_stays(server, tmp_path):
    (tmp_path / "x").write_bytes(b"mine")
    assert fails(server.url, tmp_path / "x", SHA) == (
        f"{tmp_path / 'x'}: this file has the SHA-256 {hashlib.sha256(b'mine').hexdigest()}, expected {SHA}; remove it to download again,"
        " or name it with --from to use it as it is"
    )
    assert (tmp_path / "x").read_bytes() == b"mine" and server.ranges == []


@pytest.mark.parametrize("code, reason", [(404, "Not Found"), (403, "Forbidden")])
def test_what_the_server_refuses(server, tmp_path, code, reason):
    server.answers = [code]
    assert (
        fails(server.url, tmp_path / "x")
        == f"{server.url}: the server answers {code} {reason}; fetch the file by hand and put it at {tmp_path / 'x'}"
    )
    assert len(server.ranges) == 1 and list(tmp_path.iterdir()) == []


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.answers = [503, 429, 500]
    assert download.download(server.url, tmp_path / "x", SHA) == SHA
    server.answers = [503] * 9
    assert fails(server.url, tmp_path / "y").startswith(
        f"{server.url}: the server answers 503 Service Unavailable; try again, or fetch it by hand"
    )


def test_a_connection_that_stands_still(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    server.stalls = 1
    assert download.download(server.url, tmp_path / "x", SHA) == SHA
    assert server.ranges == [None, "bytes=100-"]


@pytest.mark.parametrize(
    "url, problem",
    [
        ("http://no-such-host.invalid/x", "cannot be reached ("),
        ("http://127.0.0.1:9/x", "cannot be reached (Connection refused)"),
        ("ftp://example.org/x", "not an http or https address"),
        ("file:///etc/hostname", "not an http or https address"),
    ],
)
def test_no_server(server, tmp_path, url, problem):
    said = fails(url, tmp_path / "x")
    assert said.startswith(f"{url}: {problem}") and (
        str(tmp_path / "x") in said or "not an http" in said
    )
    assert list(tmp_path.iterdir()) == []


def test_disk_full(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    assert (
        fails(server.url, tmp_path / "x")
        == f"{tmp_path / 'x'}: cannot be written: No space left on device"
    )
    assert not (tmp_path / "x").exists()
