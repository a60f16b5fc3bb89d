"""Reading and writing files: plain, .gz or inside an archive; JSON lines, and the fields of a
record.

What is wrong, and where, is said in one line (WorldError). A path may lead into an archive:
"OpenBookQA.zip/Main/train.jsonl" is the member whose name ends in "Main/train.jsonl".

Left out on purpose: other compressions (each is a dependency), encodings other than UTF-8.
"""

import gzip
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from data.world import Question, WorldError

ARCHIVES = (".zip", ".tar.gz", ".tgz")
UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError)
Records = Iterator[tuple[str, dict]]  # ("FILE:LINE", record)


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, of a *.gz unpacked, or of an archive's member. Raises UNREADABLE and
    WorldError.
    """
    archive = next((p for p in file.parents if p.name.endswith(ARCHIVES) and p.is_file()), None)
    if archive is None:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as stream:
            yield stream
        return
    wanted = file.relative_to(archive).as_posix()

    def found(name: str) -> bool:
        return f"/{name}".endswith(f"/{wanted}") and not name.startswith("__MACOSX/")

    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as members:
            if name := next(filter(found, members.namelist()), None):
                with members.open(name) as stream:
                    yield stream
                return
    else:
        with tarfile.open(archive) as members:
            if member := next((m for m in members if m.isfile() and found(m.name)), None):
                with members.extractfile(member) as stream:
                    yield stream
                return
    raise WorldError(f"{archive}: holds no file {wanted}")


def cannot_read(where: str, error: Exception) -> WorldError:
    problem = getattr(error, "strerror", None) or "damaged or cut off"
    return WorldError(f"{where}: cannot be read: {problem}")


def read_text(file: Path, megabytes: int = 64) -> str:
    """All of a UTF-8 file, with or without a byte order mark. Raises WorldError."""
    try:
        with opened(file) as stream:
            content = stream.read(megabytes * 1_000_000 + 1)
    except UNREADABLE as error:
        raise cannot_read(f"{file}:1", error) from None
    if len(content) > megabytes * 1_000_000:
        raise WorldError(f"{file}: larger than {megabytes} MB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise WorldError(f"{file}:{number}: not UTF-8 text") from None


def parse_json(text: str | bytes, file: Path, line: int = 1) -> object:
    """The value of a text that begins on this line of the file. Raises WorldError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested beyond reason
        line += getattr(error, "lineno", 1) - 1
        raise WorldError(f"{file}:{line}: not JSON") from None


def json_object(value: object, where: str) -> dict:
    if not isinstance(value, dict):
        raise WorldError(f"{where}: not a JSON object")
    return value


def json_lines(file: Path) -> Records:
    """One JSON object for each line that is not blank. Raises WorldError."""
    number = 0
    try:
        with opened(file) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    where = f"{file}:{number}"
                    yield where, json_object(parse_json(line.strip(), file, number), where)
    except UNREADABLE as error:
        raise cannot_read(f"{file}:{number + 1}", error) from None


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


# ------------------------------------------------------------------------ fields of a record


def field(row: dict, name: str, kind: type, where: str, what: str):
    """A field that must be there and of this kind. what: the kind in words. Raises WorldError."""
    if name not in row:
        raise WorldError(f"{where}: lacks the field {name!r}")
    if not isinstance(row[name], kind):
        raise WorldError(f"{where}: {name!r} must be {what}")
    return row[name]


def string(row: dict, name: str, where: str, blank: bool = False) -> str:
    """A field that must be there and be text; `blank` text only where that says so. Raises
    WorldError.
    """
    value = field(row, name, str, where, "a string")
    if not blank and not value.strip():
        raise WorldError(f"{where}: {name!r} is blank")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half a character ("\ud800"), which no file can take
        raise WorldError(f"{where}: {name!r} is not valid Unicode") from None
    return value


def optional(row: dict, name: str, where: str) -> str:
    """Text that may be blank, null or absent: "" then. Raises WorldError."""
    return "" if row.get(name) is None else string(row, name, where, blank=True)


def strings(row: dict, name: str, where: str) -> tuple[str, ...]:
    values = field(row, name, list, where, "a list of strings")
    named = {f"{name}[{i}]": value for i, value in enumerate(values)}
    return tuple(string(named, key, where) for key in named)


def choice(id: str, stem: str, options: dict[str, str], key: str, where: str) -> Question:
    """A multiple-choice question; the options are lettered in their order. Right are the text and
    its letter.
    """
    letters = dict(zip(options, "ABCDEFGHIJ", strict=False))
    if key not in letters:
        there_are = ", ".join(options)
        raise WorldError(f"{where}: the answer key {key!r} is none of the options {there_are}")
    shown = [
        f"({letter}) {string(options, label, where).strip()}" for label, letter in letters.items()
    ]
    return Question(id, " ".join([stem.strip(), *shown]), (options[key].strip(), letters[key]))


def tidy(text: str) -> str:
    return " ".join(text.split())


def normalise(question: str) -> str:
    """Two questions are the same when this is: capitals and spaces do not count, everything else
    does.
    """
    return tidy(question).casefold()
