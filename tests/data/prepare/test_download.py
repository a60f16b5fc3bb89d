"""Downloads from a local server that behaves and misbehaves."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from data import WorldError
from data.prepare import sets as download

DATA = bytes(range(256)) * 4000  # 1.024 MB
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """Serves `data` under every address, unless `answer` (status, reason) or `redirect` says
    otherwise.

    cut: bytes after which the connection breaks; length: the promised one; drip: seconds between
    blocks of 100 bytes.
    """
    state = SimpleNamespace(
        data=DATA, answer=None, redirect=None, cut=None, length=len(DATA), drip=None, requests=0
    )
    state.stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.requests += 1
            if state.answer:
                return self.send_error(*state.answer)
            self.send_response(302 if state.redirect else 200)
            if state.redirect:
                self.send_header("Location", state.redirect)
            if state.length is not None:
                self.send_header("Content-Length", str(state.length))
            self.end_headers()
            if state.drip is None:
                self.wfile.write(state.data[: state.cut])
            else:
                for at in range(0, len(state.data), 100):
                    self.wfile.write(state.data[at : at + 100])
                    if state.stop.wait(state.drip):
                        return

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    state.url = f"http://127.0.0.1:{http.server_port}/some/set.jsonl?dl=1"
    monkeypatch.setenv("no_proxy", "*")
    yield state
    state.stop.set()
    http.shutdown()
    http.server_close()


def fails(tmp_path, url, sha256=None, megabytes=5) -> str:
    """The message, and nothing is left behind."""
    with pytest.raises(WorldError) as caught:
        download.download(url, tmp_path / "x", sha256, megabytes)
    assert str(caught.value).isprintable()  # one line, no escapes
    assert list(tmp_path.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize("sha256", [SHA, None])
@pytest.mark.parametrize("length", [len(DATA), None])
def test_a_whole_file(server, tmp_path, sha256, length, capfd):
    server.length = length
    target = tmp_path / "new/folder/set.jsonl"
    assert download.download(server.url, target, sha256) == SHA
    assert target.read_bytes() == DATA
    assert [file.name for file in target.parent.iterdir()] == ["set.jsonl"]
    assert download.download("http://127.0.0.1:9/gone", target, sha256) == SHA  # not fetched again
    assert server.requests == 1
    assert capfd.readouterr().err == "", "no bar where there is no terminal"


@pytest.mark.parametrize("cut", [0, 3000])
def test_a_cut_connection(server, tmp_path, cut):
    server.cut = cut
    target = tmp_path / "x"
    assert fails(tmp_path, server.url) == (
        f"{server.url}: cannot be downloaded to {target}: cut off after {cut:,} of 1,024,000 bytes;"
        f" try again, or fetch it by hand and put it at {target}"
    )


@pytest.mark.parametrize("length", [len(DATA), None])
def test_a_file_larger_than_its_known_size(server, tmp_path, length):
    """Refused by the promised length, or as soon as so much has come."""
    server.length = length
    server.data = DATA if length else DATA * 20
    assert "larger than 1 MB, the most that it should have" in fails(tmp_path, server.url, None, 1)


def test_a_promise_too_short_gives_a_file_that_the_checksum_refuses(server, tmp_path):
    server.length = len(DATA) - 10
    received = hashlib.sha256(DATA[:-10]).hexdigest()
    problem = f"has the SHA-256 {received}, expected {SHA}; what came from {server.url}"
    assert fails(tmp_path, server.url, SHA) == f"{tmp_path / 'x'}: {problem} is discarded"


def test_a_wrong_file_that_is_there_already_stays(server, tmp_path):
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(WorldError) as caught:
        download.download(server.url, tmp_path / "x", SHA)
    assert str(caught.value) == (
        f"{tmp_path / 'x'}: has the SHA-256 {hashlib.sha256(b'mine').hexdigest()},"
        f" expected {SHA}; remove it to"
        " download again, or name it with --from to use it as it is"
    )
    assert (tmp_path / "x").read_bytes() == b"mine" and server.requests == 0


@pytest.mark.parametrize("code, reason", [(404, "Not Found"), (503, "Busy"), (403, "\x1b[31mred")])
def test_what_the_server_refuses(server, tmp_path, code, reason):
    server.answer = code, reason
    assert f"{tmp_path / 'x'}: HTTP Error {code}: " in fails(tmp_path, server.url)


def test_a_connection_that_stands_still(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    server.drip = 10
    started = time.monotonic()
    assert "timed out; " in fails(tmp_path, server.url)
    assert time.monotonic() - started < 5


def test_a_connection_that_drips(server, tmp_path, monkeypatch):
    """Never silent for long, and never done: 100 bytes each 10 ms are 10,000 bytes a second."""
    monkeypatch.setattr(download, "WINDOW", 0.2)
    monkeypatch.setattr(download, "SLOWEST", 100_000)
    server.drip = 0.01
    assert "slower than 100,000 bytes a second" in fails(tmp_path, server.url)


def test_redirects(server, tmp_path):
    """Within a scheme and from http to https; to no other."""
    server.redirect = "ftp://127.0.0.1:9/x"
    assert "redirected from http to ftp: ftp://127.0.0.1:9/x; " in fails(tmp_path, server.url)
    server.redirect = "file:///etc/hostname"
    assert "Redirection to url 'file:///etc/hostname' is not allowed" in fails(tmp_path, server.url)
    server.redirect = "https://127.0.0.1:9/x"
    assert "Connection refused" in fails(tmp_path, server.url)


@pytest.mark.parametrize(
    "url, problem",
    [
        ("http://no-such-host.invalid/x", "cannot be downloaded to "),
        ("http://127.0.0.1:9/x", "cannot be downloaded to "),
        ("http://[::1/x", "cannot be downloaded to "),
        ("ftp://example.org/x", "not an http or https address"),
        ("file:///etc/hostname", "not an http or https address"),
    ],
)
def test_no_server(server, tmp_path, url, problem):
    assert fails(tmp_path, url).startswith(f"{url}: {problem}")


def test_a_file_in_place_of_the_folder(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorldError, match="File exists"):
        download.download(server.url, tmp_path / "file/x")


def test_disk_full(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert f"to {tmp_path / 'x'}: [Errno 28] No space left on device; " in fails(
        tmp_path, server.url
    )
