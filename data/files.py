"""Reading other people's files: plain or .gz or inside an archive; JSON lines, one JSON list, tables.

Each reader yields ("FILE:LINE", record), holds one record at a time, and says in one line what is wrong and where.
A path may lead into an archive: "OpenBookQA.zip/Main/train.jsonl" is the member whose name ends in "Main/train.jsonl".

Left out on purpose: Parquet and other compressions (each is a dependency), encodings other than UTF-8.
"""

import codecs
import csv
import gzip
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ARCHIVES = (".zip", ".tar.gz", ".tgz")
BLOCK = 1 << 20  # bytes read at once from a JSON list, which may be one line
HEAD = 4096  # characters within which a list has to begin
LONGEST = (
    1 << 24
)  # characters: an error further than this from the end of what was read is no record cut in two
_HEAD = re.compile(
    r'\s*(?:\{\s*"[^"\\]*"\s*:\s*)?\['
)  # of a list, or of an object whose first value is a list
_SPACE = re.compile(r"\s*")
_MISSING = object()


class WorldError(ValueError):
    """What is wrong with a world or a file for one, in one line: "FILE:LINE: problem" where there is a file and a line."""


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, of a *.gz unpacked, or of an archive's member. Raises OSError and the archives' own errors."""
    archive = next((p for p in file.parents if p.name.endswith(ARCHIVES) and p.is_file()), None)
    if archive is None:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as stream:
            yield stream
        return
    wanted = file.relative_to(archive).as_posix()
    found = lambda name: f"/{name}".endswith(f"/{wanted}") and not name.startswith("__MACOSX/")
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


def _pieces(file: Path, cut: Callable[[BinaryIO], Iterable[bytes]]) -> Iterator[bytes]:
    """The file in pieces, with its read errors as WorldError: after how many lines it broke."""
    line = 1
    try:
        with opened(file) as stream:
            for piece in cut(stream):
                yield piece
                line += piece.count(b"\n")
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        problem = getattr(error, "strerror", None) or "damaged or cut off"
        raise WorldError(f"{file}:{line}: cannot be read: {problem}") from None


def text_lines(file: Path) -> Iterator[str]:
    """Lines with their ends, of UTF-8 with or without a byte order mark."""
    number = 0
    try:
        for number, line in enumerate(_pieces(file, iter), start=1):
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise WorldError(f"{file}:{number}: not UTF-8 text") from None


def json_lines(file: Path) -> Iterator[tuple[str, dict]]:
    """("FILE:LINE", JSON object) for each line that is not blank."""
    for number, line in enumerate(_pieces(file, iter), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested beyond all reason
            raise WorldError(f"{file}:{number}: not JSON") from None
        if not isinstance(row, dict):
            raise WorldError(f"{file}:{number}: not a JSON object")
        yield f"{file}:{number}", row


def json_list(file: Path) -> Iterator[tuple[str, dict]]:
    """("FILE:LINE", JSON object) for each element of the list that the file is, or that is the first value of the object
    that it is (TriviaQA's {"Data": [...], ...}). HotpotQA's training list is 566 MB on one line, so it is read in blocks."""
    blocks = codecs.iterdecode(
        _pieces(file, lambda stream: iter(lambda: stream.read(BLOCK), b"")), "utf-8-sig"
    )
    text, at, line, decode = "", 0, 1, json.JSONDecoder().raw_decode

    def wrong(problem: str, position: int | None = None) -> WorldError:
        return WorldError(
            f"{file}:{line + text.count(chr(10), at, at if position is None else position)}: {problem}"
        )

    def more() -> bool:
        """Drop what is read and append a block; False at the end of the file."""
        nonlocal text, at
        try:
            block = next(blocks, "")
        except UnicodeDecodeError as error:
            lines = text.count("\n", at) + error.object.count(b"\n", 0, error.start)
            raise WorldError(f"{file}:{line + lines}: not UTF-8 text") from None
        text, at = text[at:] + block, 0
        return block != ""

    def move(end: int) -> None:
        nonlocal line, at
        line, at = line + text.count("\n", at, end), end

    def following() -> str:
        """The character after white space, where the reader then stands; "" at the end of the file."""
        while True:
            move(_SPACE.match(text, at).end())
            if at < len(text) or not more():
                return text[at : at + 1]

    while not (head := _HEAD.match(text)) and len(text) < HEAD and more():
        pass
    if not head:
        raise wrong("not a JSON list (JSON lines go by the name *.jsonl)")
    move(head.end())
    first = True
    while following() != "]":
        if not first:
            if text[at : at + 1] != ",":
                raise wrong("not JSON")
            at += 1
            following()
        if text[at : at + 1] != "{":
            raise wrong("not a JSON object")
        while True:
            try:
                row, end = decode(text, at)
                break
            except RecursionError:
                raise wrong("not JSON") from None
            except json.JSONDecodeError as error:
                here = error.pos - at
                if len(text) - error.pos > LONGEST or not more():
                    raise wrong("not JSON", at + here) from None
        yield f"{file}:{line}", row
        move(end)
        first = False
    try:
        json.loads(
            head[0].strip() + text[at:] + "".join(blocks)
        )  # what follows the list has to close it
    except ValueError:
        raise wrong("not JSON") from None


def table(file: Path, columns: Iterable[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE:LINE", column -> text) for each record of a *.tsv or *.csv with a header that has these columns."""
    tabs = ".tsv" in file.suffixes
    number = 0  # last line of the last good record
    try:
        lines = codecs.iterdecode(_pieces(file, iter), "utf-8-sig")
        reader = csv.DictReader(lines, delimiter="\t" if tabs else ",", strict=True)
        for column in columns:
            if column not in (reader.fieldnames or ()):
                raise WorldError(f"{file}:1: the header lacks the column {column!r}")
        number = 1
        for record in reader:
            where, number = f"{file}:{reader.line_num}", reader.line_num
            if (
                None in record or None in record.values()
            ):  # csv's names for fields beyond the header, and for missing ones
                raise WorldError(f"{where}: the number of columns is not the header's")
            yield where, record
    except (csv.Error, UnicodeDecodeError):
        raise WorldError(
            f"{file}:{number + 1}: not {'tab' if tabs else 'comma'}-separated UTF-8 text"
        ) from None


def records(file: Path) -> Iterator[tuple[str, dict]]:
    """The records of a file, by its name."""
    for suffix, read in (
        (".jsonl", json_lines),
        (".json", json_list),
        (".tsv", table),
        (".csv", table),
    ):
        if file.name.removesuffix(".gz").endswith(suffix):
            return read(file)
    raise WorldError(
        f"{file}: its name must end in .jsonl, .json, .tsv or .csv, or in that and .gz"
    )


# ---------------------------------------------------------------------------------------------- checks of one field


def identifier(row: dict, where: str, seen: dict[str, str]) -> str:
    """The field "id", or BEIR's "_id", which `seen` must not hold yet."""
    id = string(row, "_id" if "_id" in row and "id" not in row else "id", where, name="id")
    if id in seen:
        raise WorldError(
            f"{where}: duplicate id {id!r}, first on line {seen[id].rpartition(':')[2]}"
        )
    seen[id] = where
    return id


def string(
    row: dict,
    field: str,
    where: str,
    *,
    name: str | None = None,
    blank: bool = False,
    default=_MISSING,
) -> str:
    if field not in row:
        if default is _MISSING:
            raise WorldError(f"{where}: lacks the field {name or field!r}")
        return default
    return _check_string(row[field], name or field, where, blank)


def strings(row: dict, field: str, where: str, *, name: str | None = None) -> tuple[str, ...]:
    return tuple(
        _check_string(value, f"{name or field}[{i}]", where, blank=False)
        for i, value in enumerate(
            typed(row, field, list, where, name=name, what="a list of strings")
        )
    )


def objects(row: dict, field: str, where: str) -> list[dict]:
    values = typed(row, field, list, where, what="a list of objects")
    if not all(isinstance(value, dict) for value in values):
        raise WorldError(f"{where}: {field!r} must be a list of objects")
    return values


def typed(
    row: dict, field: str, kind: type, where: str, *, name: str | None = None, what: str = ""
):
    """A field that must be there and be a list or a dict."""
    if field not in row:
        raise WorldError(f"{where}: lacks the field {name or field!r}")
    if not isinstance(row[field], kind):
        raise WorldError(
            f"{where}: {name or field!r} must be {what or {list: 'a list', dict: 'an object'}[kind]}"
        )
    return row[field]


def _check_string(value: object, name: str, where: str, blank: bool) -> str:
    if not isinstance(value, str):
        raise WorldError(f"{where}: {name!r} must be a string")
    if not blank and not value.strip():
        raise WorldError(f"{where}: {name!r} is blank")
    try:
        value.encode()
    except (
        UnicodeEncodeError
    ):  # JSON can spell half a character ("\ud800"), which no tokenizer or file can take
        raise WorldError(f"{where}: {name!r} is not valid Unicode") from None
    return value
