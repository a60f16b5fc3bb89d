"""Saved indexes: the same results after loading; damage is an error or changes nothing."""

import os

import numpy as np
import pytest

from retrieval_cpp import BM25Index, DenseIndex

TEXTS = ["the quick brown fox", "the lazy dog", "Beyoncé and the fox", "", "dog dog dog"]


def small_index(kind):
    if kind == "bm25":
        return BM25Index.build(TEXTS), BM25Index, ["fox dog", "the"]
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    return DenseIndex(vectors), DenseIndex, vectors[:2]


@pytest.fixture(params=["bm25", "dense"])
def saved(request, tmp_path):
    index, cls, queries = small_index(request.param)
    path = tmp_path / "index"
    index.save(path)
    return path, cls, queries, index.search(queries, 3)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_round_trip(saved):
    path, cls, queries, expected = saved
    index = cls.load(path)
    path.unlink()  # a mapped file may be removed
    assert same(index.search(queries, 3), expected)


def test_saving_a_loaded_index_over_itself(saved):
    path, cls, queries, expected = saved
    before = path.read_bytes()
    index = cls.load(path)
    index.save(path)
    assert path.read_bytes() == before and same(index.search(queries, 3), expected)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_truncated_at_every_byte(saved):
    path, cls, _, _ = saved
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        with pytest.raises((ValueError, OSError)):
            cls.load(path)


def test_flipped_at_every_byte(saved):
    path, cls, queries, expected = saved
    data = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for i, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << i % 8]), i)
            try:
                index = cls.load(path)
            except (ValueError, OSError):
                pass
            else:
                assert same(index.search(queries, 3), expected), f"byte {i}"
            os.pwrite(file.fileno(), bytes([byte]), i)
    assert same(cls.load(path).search(queries, 3), expected)


def test_foreign_files(saved, tmp_path):
    path, cls, _, _ = saved
    data = bytearray(path.read_bytes())
    other = DenseIndex if cls is BM25Index else BM25Index
    with pytest.raises(ValueError, match="another kind"):
        other.load(path)
    path.write_bytes(data[:8] + data[11:7:-1] + data[12:])
    with pytest.raises(ValueError, match="byte order"):
        cls.load(path)
    path.write_bytes(data[:12] + b"\x63" + data[13:])
    with pytest.raises(ValueError, match="version 99"):
        cls.load(path)
    path.write_bytes(b"PK\x03\x04" + bytes(1000))
    with pytest.raises(ValueError, match="not a SmartRAG index"):
        cls.load(path)
    with pytest.raises(ValueError):
        cls.load(tmp_path)


def test_a_failed_save_leaves_the_old_file(saved, tmp_path):
    path, cls, queries, expected = saved
    index = cls.load(path)
    with pytest.raises(OSError):
        index.save(tmp_path / "missing" / "index")
    assert same(cls.load(path).search(queries, 3), expected)


def test_without_the_checksum_torn_files_are_still_found(saved):
    path, cls, queries, expected = saved
    data = path.read_bytes()
    assert same(cls.load(path, verify=False).search(queries, 3), expected)
    for length in range(len(data)):
        os.truncate(path, length)  # cut short
        with pytest.raises((ValueError, OSError)):
            cls.load(path, verify=False)
        os.truncate(path, len(data))  # the end never arrived: zeros
        if any(data[length:]):
            with pytest.raises((ValueError, OSError)):
                cls.load(path, verify=False)
        path.write_bytes(data)


def test_links_are_kept_and_their_targets_replaced(saved, tmp_path):
    path, cls, queries, expected = saved
    index = cls.load(path)
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "target"
    link.symlink_to(target)
    for _ in range(2):  # a target that is not there yet, and one that is
        index.save(link)
        assert link.is_symlink() and same(cls.load(target).search(queries, 3), expected)
    assert [p.name for p in target.parent.iterdir()] == ["target"]


def test_paths_of_any_kind(saved, tmp_path):
    path, cls, queries, expected = saved
    index, odd = cls.load(str(path)), os.fsencode(tmp_path) + b"/\xff\xfe"
    index.save(odd)
    assert same(cls.load(odd).search(queries, 3), expected)
    with pytest.raises(FileNotFoundError, match="odd"):
        cls.load(odd + b"odd")
    for call in (index.save, cls.load):
        with pytest.raises(ValueError, match="null"):
            call(str(path) + "\0.bak")
        with pytest.raises(TypeError):
            call(3.5)


def test_a_pipe_is_not_waited_for(saved, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="regular file"):
        saved[1].load(tmp_path / "pipe")
