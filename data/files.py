"""Reading and writing files: plain, gzip or inside an archive; text, lines, JSON lines; fields.

What is wrong, and where, is said in one line (WorldError). A path may lead into an archive:
"OpenBookQA.zip/Main/train.jsonl" is the member whose name ends in "Main/train.jsonl". Nothing
unpacks or reads without a limit.

Left out on purpose: other compressions (each is a dependency), encodings other than UTF-8.
"""

import gzip
import io
import json
import os
import re
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from data.world import Question, WorldError

ARCHIVES = (".zip", ".tar.gz", ".tgz")
MB = 1_000_000
LIMIT = 64  # megabytes of a line; also what a small file may unpack to
RATIO = 100  # what a large file may unpack to, in its own sizes: text packs to a tenth or so
UNREADABLE = (
    *(OSError, EOFError, zlib.error, struct.error, zipfile.BadZipFile, tarfile.TarError),
    *(RuntimeError, NotImplementedError),  # a member that is encrypted, or packed in another way
)
Records = Iterator[tuple[str, dict]]  # ("FILE:LINE", record)
LONGEST_WORD = 1000  # characters
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD}}}\S+")
_PIECE = re.compile(rf"\S{{{LONGEST_WORD}}}(?=\S)")
_LFS = b"version https://git-lfs"
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as surrogateescape reads them


class _Unpacked(io.RawIOBase):
    """What a packed stream holds, as long as it is no bomb."""

    def __init__(self, stream: BinaryIO, size: int, file: Path):
        self.stream, self.file = stream, file
        self.left = max(LIMIT * MB, RATIO * size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = self.stream.readinto1(buffer)  # before an error, all that is whole
        self.left -= count
        if self.left < 0:
            problem = f"unpacks to more than {LIMIT} MB and {RATIO} times its size"
            raise WorldError(f"{self.file}: {problem}")
        return count


def _unpacked(stream: io.BufferedReader, size: int, file: Path) -> io.BufferedReader:
    """The stream, unpacked where its first bytes say gzip. size: bytes on disk."""
    if not stream.peek(2).startswith(b"\x1f\x8b"):
        return stream
    return io.BufferedReader(_Unpacked(gzip.GzipFile(fileobj=stream), size, file))


@contextmanager
def opened(file: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file or of an archive's member, unpacked. Raises UNREADABLE, WorldError."""
    archive = next((p for p in file.parents if p.name.endswith(ARCHIVES) and p.is_file()), None)
    with open(archive or file, "rb") as whole:
        size = os.fstat(whole.fileno()).st_size
        if whole.peek(len(_LFS)).startswith(_LFS):
            problem = "a Git LFS pointer, not the file itself: run git lfs pull"
            raise WorldError(f"{archive or file}: {problem}")
        if archive is None:
            yield _unpacked(whole, size, file)
        else:
            with _member(archive, file.relative_to(archive).as_posix(), whole, size) as member:
                yield _unpacked(io.BufferedReader(_Unpacked(member, size, file)), size, file)


@contextmanager
def _member(archive: Path, wanted: str, whole: BinaryIO, size: int) -> Iterator[BinaryIO]:
    """The first file in the archive whose name ends in `wanted`."""

    def found(name: str) -> bool:
        return f"/{name}".endswith(f"/{wanted}") and not name.startswith("__MACOSX/")

    if archive.suffix == ".zip":
        with zipfile.ZipFile(whole) as zipped:
            if name := next(filter(found, zipped.namelist()), None):
                with zipped.open(name) as stream:
                    yield stream
                return
    else:
        with tarfile.open(fileobj=_unpacked(whole, size, archive), mode="r|") as tarred:
            if member := next((m for m in tarred if m.isfile() and found(m.name)), None):
                with tarred.extractfile(member) as stream:
                    yield stream
                return
    raise WorldError(f"{archive}: holds no file {wanted}")


def cannot_read(where: str, error: Exception) -> WorldError:
    spoken = str(error) if isinstance(error, RuntimeError) else "damaged or cut off"
    return WorldError(f"{where}: cannot be read: {getattr(error, 'strerror', None) or spoken}")


def read_bytes(file: Path, megabytes: int = LIMIT) -> bytes:
    """All of a file. Raises WorldError."""
    try:
        with opened(file) as stream:
            content = stream.read(megabytes * MB + 1)
    except UNREADABLE as error:
        raise cannot_read(f"{file}:1", error) from None
    if len(content) > megabytes * MB:
        raise WorldError(f"{file}: larger than {megabytes} MB")
    return content


def decode(content: bytes, file: Path) -> str:
    """UTF-8 text, with or without a byte order mark; lines end in \\n. Raises WorldError."""
    text = content.decode("utf-8-sig", "surrogateescape")
    return _utf8(text.replace("\r\n", "\n").replace("\r", "\n"), file, 1)


def read_text(file: Path, megabytes: int = LIMIT) -> str:
    return decode(read_bytes(file, megabytes), file)


def _utf8(text: str, file: Path, line: int) -> str:
    """The text, which begins on this line of the file, unless it holds other bytes."""
    if text.isascii() or not (bad := _ESCAPED.search(text)):
        return text
    line += text.count("\n", 0, bad.start())
    column = bad.start() - text.rfind("\n", 0, bad.start())
    byte = ord(bad[0]) - 0xDC00
    raise WorldError(f"{file}:{line}: not UTF-8 text: byte 0x{byte:02x} at character {column}")


def text_lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a UTF-8 text with the line ends of any system. Raises WorldError."""
    number = 1
    try:
        with opened(file) as stream:
            text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape")
            while line := text.readline(LIMIT * MB + 1):
                if len(line) > LIMIT * MB:
                    raise WorldError(f"{file}:{number}: a line of more than {LIMIT} MB")
                yield number, _utf8(line, file, number)
                number += 1
    except UNREADABLE as error:
        raise cannot_read(f"{file}:{number}", error) from None


def parse_json(text: str, file: Path, line: int = 1) -> object:
    """The value of a text that begins on this line of the file. Raises WorldError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, or nested beyond reason
        line += getattr(error, "lineno", 1) - 1
        raise WorldError(f"{file}:{line}: not JSON") from None


def json_object(value: object, where: str) -> dict:
    if not isinstance(value, dict):
        raise WorldError(f"{where}: not a JSON object")
    return value


def json_lines(file: Path) -> Records:
    """One JSON object for each line that is not blank. Raises WorldError."""
    for number, line in text_lines(file):
        if line := line.strip():
            where = f"{file}:{number}"
            yield where, json_object(parse_json(line, file, number), where)


# ----------------------------------------------------------------------------------- writing


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Replace a file: it is there whole, old or new, whatever happens. Raises OSError."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as out:
            out.writelines(line + "\n" for line in lines)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
        sync_directory(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


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


# ------------------------------------------------------------------------ fields of a record


def cut_words(text: str) -> tuple[str, int]:
    """The text with words of at most LONGEST_WORD characters, and how many longer ones there were.

    A picture in base64 is a word of megabytes, and a tokenizer's training grows with its square.
    """
    if len(text) <= LONGEST_WORD or not (long := _LONG_WORD.findall(text)):
        return text, 0
    return _PIECE.sub(r"\g<0> ", text), len(long)


def nfc(text: str) -> str:
    """Letters with accents as one character each: files may spell them as two."""
    return unicodedata.normalize("NFC", text)


def field(row: dict, name: str, kind: type, where: str, what: str):
    """A field that must be there and of this kind. what: the kind in words. Raises WorldError."""
    if name not in row:
        raise WorldError(f"{where}: lacks the field {name!r}")
    if not isinstance(row[name], kind):
        raise WorldError(f"{where}: {name!r} must be {what}")
    return row[name]


def string(row: dict, name: str, where: str, blank: bool = False) -> str:
    """A field that must be there and be text, in NFC; may it be blank? Raises WorldError."""
    value = field(row, name, str, where, "a string")
    if not blank and not value.strip():
        raise WorldError(f"{where}: {name!r} is blank")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half a character ("\ud800"), which no file can take
        raise WorldError(f"{where}: {name!r} is not valid Unicode") from None
    return nfc(value)


def optional(row: dict, name: str, where: str) -> str:
    """Text that may be blank, null or absent: "" then. Raises WorldError."""
    return "" if row.get(name) is None else string(row, name, where, blank=True)


def strings(row: dict, name: str, where: str) -> tuple[str, ...]:
    values = field(row, name, list, where, "a list of strings")
    named = {f"{name}[{i}]": value for i, value in enumerate(values)}
    return tuple(string(named, key, where) for key in named)


def choice(id: str, stem: str, options: dict[str, str], key: str, where: str) -> Question:
    """A multiple-choice question, options lettered in order; the text and its letter are right."""
    letters = dict(zip(options, "ABCDEFGHIJ", strict=False))
    if key not in letters:
        there_are = ", ".join(options)
        raise WorldError(f"{where}: the answer key {key!r} is none of the options {there_are}")
    texts = {label: string(options, label, where).strip() for label in letters}
    shown = [f"({letter}) {texts[label]}" for label, letter in letters.items()]
    return Question(id, " ".join([stem.strip(), *shown]), (texts[key], letters[key]))


def tidy(text: str) -> str:
    return " ".join(text.split())


def normalise(question: str) -> str:
    """Two questions are the same when this is: capitals and spaces do not count."""
    return tidy(question).casefold()
