"""Records of other people's files: JSON lines, one JSON list, tables; known by the file's name.

Left out on purpose: Parquet (a dependency), spreadsheets.
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from data.files import (
    UNREADABLE,
    Records,
    cannot_read,
    json_lines,
    json_object,
    opened,
    parse_json,
    read_text,
)
from data.world import WorldError

LARGEST_LIST = 4000  # megabytes of a JSON list, read at once; HotpotQA's training list has 566


def json_list(file: Path) -> Records:
    """Elements of the list that the file is, or that is in the object that it is ({"Data": []}).

    Their place is "FILE:record 3": a list may be one line of 566 MB. Raises WorldError.
    """
    rows = parse_json(read_text(file, LARGEST_LIST), file)
    if isinstance(rows, dict):
        rows = next((value for value in rows.values() if isinstance(value, list)), rows)
    if not isinstance(rows, list):
        raise WorldError(f"{file}: not a JSON list (JSON lines go by the name *.jsonl)")
    for number, row in enumerate(rows, start=1):
        where = f"{file}:record {number}"
        yield where, json_object(row, where)


def table(file: Path, columns: Iterable[str] = ()) -> Records:
    """Column -> text for each record of a table that has these columns. Raises WorldError."""
    kind = "tab" if ending(file) == ".tsv" else "comma"
    number = 0  # last line of the last good record
    try:
        with opened(file) as stream:
            lines = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
            delimiter = "\t" if kind == "tab" else ","
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            for column in columns:
                if column not in (reader.fieldnames or ()):
                    raise WorldError(f"{file}:1: the header lacks the column {column!r}")
            number = 1
            for record in reader:
                where = f"{file}:{reader.line_num}"
                "".join(map(str, record.values())).encode()  # raises where a byte was escaped
                if None in record or None in record.values():  # csv's names for too many, too few
                    raise WorldError(f"{where}: the number of columns is not the header's")
                number = reader.line_num
                yield where, record
    except (csv.Error, UnicodeError):
        raise WorldError(f"{file}:{number + 1}: not {kind}-separated UTF-8 text") from None
    except UNREADABLE as error:
        raise cannot_read(f"{file}:{number + 1}", error) from None


READERS = {".jsonl": json_lines, ".json": json_list, ".tsv": table, ".csv": table}


def ending(file: Path) -> str:
    """The last part of the name but for .gz: ".jsonl"."""
    return Path(file.name.removesuffix(".gz")).suffix


def is_table(file: Path) -> bool:
    return ending(file) in (".tsv", ".csv")


def records(file: Path) -> Records:
    """The records of a file. Raises WorldError."""
    if ending(file) not in READERS:
        raise WorldError(f"{file}: its name must end in {', '.join(READERS)}, or in that and .gz")
    return READERS[ending(file)](file)
