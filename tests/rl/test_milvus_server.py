"""The dense path of the Milvus retriever on a real server, Milvus 2.3.5, which has no full text.

    pip install --no-deps milvus==2.3.5        the server in a wheel, Linux on x86-64; then
    python -m pytest tests/rl/test_milvus_server.py

It takes a minute and 1 GB of memory, so it is not part of the extra `test`.
"""

import re
import socket
from pathlib import Path

import numpy as np
import pytest

from retrieval_cpp import DenseIndex
from rl.runs import remote
from rl.runs.flags import UsageError
from rl.runs.remote import MilvusIndex, open_milvus
from tests.model.foreign import bert_directory
from tests.rl.test_milvus import QUESTIONS, TEXTS, VECTORS, encode, never
from tests.test_resume import same
from tests.test_scripts import PPO, SFT, call, message

milvus = pytest.importorskip("milvus", reason="a real Milvus: pip install --no-deps milvus==2.3.5")


class Config(milvus.MilvusServerConfig):
    def try_bind_port(self, port: int):
        """Also where connections of a server that was killed are still waiting for their end."""
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            return None


class Server:
    """A server over a folder, at one address, that can be killed and started again."""

    def __init__(self, folder: Path):
        self.options = {"data_dir": str(folder)}
        self.start()
        self.options["proxy_port"] = self.server.listen_port
        self.uri = f"http://127.0.0.1:{self.server.listen_port}"

    def start(self) -> None:
        self.server = milvus.MilvusServer(Config(**self.options))
        self.server.start()

    def kill(self) -> None:
        self.server.server_proc.kill()
        self.server.server_proc.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("milvus"))
    yield server
    server.server.stop()


def test_dense_search_is_our_own(server):
    asked = QUESTIONS[:150]
    assert len(asked) == 150
    index = open_milvus(server.uri, "vectors", TEXTS, encode, lambda: VECTORS)
    expected = DenseIndex(VECTORS).search(encode(asked), 4)
    for again in (index, open_milvus(server.uri, "vectors", TEXTS, encode, never)):
        ids, scores = again.search(asked, 4)
        assert np.array_equal(ids, expected[0]) and np.allclose(scores, expected[1], atol=1e-5)


def test_full_text_says_at_once_which_version_it_needs(server, monkeypatch):
    monkeypatch.setattr(remote, "sleep", pytest.fail)  # no second try
    expected = f"^full text needs Milvus 2.5, and {server.uri} is v?2.3"
    with pytest.raises(UsageError, match=expected):
        open_milvus(server.uri, "words", TEXTS)


def test_a_server_that_is_killed_in_a_rollout(server, tmp_path, monkeypatch):
    """kill -9: exit code 2 and one line; when it is back the run goes on, to the bits of a run that
    nothing interrupted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "WAITS", (0.1, 0.1))
    monkeypatch.setattr(remote, "SECONDS", 2.0)
    words = sorted(set(re.findall("[a-z]+|[^ ]", " ".join(TEXTS + QUESTIONS).lower())))
    bert_directory(Path("encoder"), words=words)
    assert call("sft", *SFT, "--out", "sft").code == 0
    search = ["--retriever", "milvus", "--milvus-uri", server.uri, "--encoder", "encoder"]
    argv = ["--init", "sft", *PPO, *search, "--save-seconds", 0]
    assert call("ppo", *argv, "--out", "whole").code == 0
    ask, asked = MilvusIndex.ask, []

    def ask_until_killed(self, queries, k):
        asked.append(len(queries))
        if len(asked) == 4:
            server.kill()
        return ask(self, queries, k)

    with monkeypatch.context() as patch:
        patch.setattr(MilvusIndex, "ask", ask_until_killed)
        said = message("ppo", *argv, "--out", "killed")
    assert said.startswith("Milvus: a search failed 3 times, at last with ") and len(asked) == 6
    assert (tmp_path / "killed/training.safetensors").exists()
    assert message("ppo", *argv, "--out", "killed").startswith("Milvus: ")  # and nobody is there
    server.start()
    assert "resuming killed" in call("ppo", *argv, "--out", "killed").out
    same(tmp_path / "killed", tmp_path / "whole")
