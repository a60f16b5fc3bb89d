"""Reading and writing files: plain, gzip or inside an archive, as lines of UTF-8 text.

What is wrong, and where, is said in one line (WorldError). A path may lead into an archive:
"OpenBookQA.zip/Main/train.jsonl" is the member whose name ends in "Main/train.jsonl". Nothing
unpacks or reads without a limit.

Left out on purpose: other compressions (each is a dependency), encodings other than UTF-8.
"""

import gzip
import io
import json
import math
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from data.world import WorldError

ARCHIVES = (".zip", ".tar.gz", ".tgz")
MB = 1_000_000
LIMIT = 64  # megabytes of a line; also what a small file may unpack to
RATIO = 30  # what a large file may unpack to, in its own sizes: text packs to a tenth or so
UNREADABLE = (  # what Python's readers of archives raise where one is damaged or encrypted
    *(OSError, EOFError, zlib.error, struct.error, zipfile.BadZipFile, tarfile.TarError),
    *(RuntimeError, ArithmeticError, LookupError, UnicodeError),
)
LONGEST_WORD = 1000  # characters
_PIECE = re.compile(rf"\S{{{LONGEST_WORD}}}(?=\S)")
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as surrogateescape reads them


def _unpacked(stream: BinaryIO) -> BinaryIO:
    """The stream, unpacked where its first bytes say gzip."""
    return gzip.GzipFile(fileobj=stream) if stream.peek(2)[:2] == b"\x1f\x8b" else stream


@contextmanager
def opened(file: Path) -> Iterator[tuple[BinaryIO, float]]:
    """The unpacked bytes of a file or archive's member; how many they may be. Raises UNREADABLE."""
    archive = next((p for p in file.parents if p.name.endswith(ARCHIVES) and p.is_file()), None)
    with open(archive or file, "rb") as on_disk:
        if on_disk.peek(64).startswith(b"version https://git-lfs"):
            problem = "a Git LFS pointer, not the file itself: run git lfs pull"
            raise WorldError(f"{archive or file}: {problem}")
        stream = _unpacked(_member(archive, on_disk, file) if archive else on_disk)
        size = os.fstat(on_disk.fileno()).st_size
        yield stream, math.inf if stream is on_disk else max(LIMIT * MB, RATIO * size)


def _member(archive: Path, stream: BinaryIO, file: Path) -> BinaryIO:
    """The first file in the archive whose name ends as `file` does."""
    wanted, zipped = file.relative_to(archive).as_posix(), archive.suffix == ".zip"
    packed = zipfile.ZipFile(stream) if zipped else tarfile.TarFile(fileobj=_unpacked(stream))
    for member in packed.infolist() if zipped else filter(tarfile.TarInfo.isfile, packed):
        name = member.filename if zipped else member.name
        if f"/{name}".endswith(f"/{wanted}") and not name.startswith("__MACOSX/"):
            return packed.open(member) if zipped else packed.extractfile(member)
    raise WorldError(f"{archive}: holds no file {wanted}")


def text_lines(file: Path, megabytes: int | None = None) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a UTF-8 text with the line ends of any system, \\n in the result.
    megabytes: of the longest line, LIMIT by default. Raises WorldError."""
    limit = LIMIT if megabytes is None else megabytes
    number = 1
    try:
        with opened(file) as (stream, left):
            text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape")
            while line := text.readline(limit * MB + 1):
                left -= len(line)
                if len(line) > limit * MB:
                    raise WorldError(f"{file}:{number}: a line of more than {limit} MB")
                if left < 0:
                    problem = f"unpacks to more than {LIMIT} MB and {RATIO} times its size"
                    raise WorldError(f"{file}: {problem}")
                if not line.isascii() and (bad := _ESCAPED.search(line)):
                    place = f"byte 0x{ord(bad[0]) - 0xDC00:02x} at character {bad.start() + 1}"
                    raise WorldError(f"{file}:{number}: not UTF-8 text: {place}")
                yield number, line
                number += 1
    except UNREADABLE as error:
        spoken = getattr(error, "strerror", None) or "damaged, cut off or encrypted"
        raise WorldError(f"{file}:{number}: cannot be read: {spoken}") from None


def read_text(file: Path, megabytes: int | None = None) -> str:
    """All lines of it. Raises WorldError."""
    return "".join(line for _, line in text_lines(file, megabytes))


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Takes what replaces the file, which is there whole, old or new, always. Raises OSError."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
        sync_directory(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(file: Path, rows: Iterable[object], indent: int | None = None) -> None:
    """Replace a file by these rows, each in a line of its own. Raises OSError."""
    with replacing(file) as out:
        texts = (json.dumps(row, ensure_ascii=False, indent=indent) for row in rows)
        out.writelines(f"{text}\n".encode() for text in texts)


def sync_directory(directory: Path) -> None:
    """Make renames in it survive a power cut. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(directory: Path) -> None:
    """Create it and what is above it, each of them to survive a power cut. Raises OSError."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def cut_words(text: str) -> str:
    """The text with longer words cut into pieces of LONGEST_WORD characters: a picture in base64 is
    a word of megabytes, and a tokenizer's training grows with its square."""
    return _PIECE.sub(r"\g<0> ", text) if len(text) > LONGEST_WORD else text


def tidy(text: str) -> str:
    return " ".join(text.split())
