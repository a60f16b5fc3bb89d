"""A file that is replaced: through links, and never a device or a folder."""

import os

import pytest

from model.files import atomic_write, write_json


def test_what_a_link_points_to_is_replaced(tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    write_json(link, {"a": 1})
    assert link.is_symlink() and real.read_text() == '{\n "a": 1\n}\n'
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.json", "real.json"]


def test_a_pipe_or_a_folder_is_not_replaced(tmp_path):
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for path in (pipe, folder):
        with pytest.raises(OSError, match="not a regular file"):
            atomic_write(path, lambda temporary: temporary.write_text("new"))
    assert pipe.is_fifo() and not list(folder.iterdir())
