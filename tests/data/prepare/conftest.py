"""A file in a folder of its own."""

import gzip
import json

import pytest


@pytest.fixture
def write(tmp_path):
    """Writes a file: rows as JSON lines or, for *.json, as a list; text as it is; *.gz zipped."""

    def write(name, content):
        if not isinstance(content, (str, bytes)):
            content = (
                json.dumps(content)
                if ".json" in name and ".jsonl" not in name
                else "".join(json.dumps(row) + "\n" for row in content)
            )
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / name

    return write
