"""Records of other people's files: JSON lines, one JSON list, tables; known by the file's name.

Left out on purpose: Parquet (a dependency), spreadsheets.
"""

import codecs
import csv
import json
from collections.abc import Iterable
from pathlib import Path

from data.files import UNREADABLE, Records, byte_lines, cannot_read, json_lines, json_object, opened
from data.world import WorldError

LARGEST_LIST = 4 << 30  # bytes of a JSON list, read at once; HotpotQA's training list has 0.57 GB


def json_list(file: Path) -> Records:
    """The elements of the list that the file is, or that is in the object that it is (TriviaQA's {"Data": [...]}).

    Their place is "FILE:record 3": a list may be one line of 566 MB.
    """
    try:
        with opened(file) as stream:
            content = stream.read(LARGEST_LIST + 1)
    except UNREADABLE as error:
        raise cannot_read(f"{file}:1", error) from None
    if len(content) > LARGEST_LIST:
        wanted = "make JSON lines (*.jsonl) of it"
        raise WorldError(f"{file}: larger than {LARGEST_LIST >> 30} GB; {wanted}")
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise WorldError(f"{file}:{number}: not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise WorldError(f"{file}:{getattr(error, 'lineno', 1)}: not JSON") from None
    if isinstance(rows, dict):
        rows = next((value for value in rows.values() if isinstance(value, list)), rows)
    if not isinstance(rows, list):
        raise WorldError(f"{file}: not a JSON list (JSON lines go by the name *.jsonl)")
    for number, row in enumerate(rows, start=1):
        where = f"{file}:record {number}"
        yield where, json_object(row, where)


def table(file: Path, columns: Iterable[str] = ()) -> Records:
    """Column -> text for each record of a *.tsv or *.csv with a header that has these columns."""
    tabs = ".tsv" in file.suffixes
    number = 0  # last line of the last good record
    try:
        lines = codecs.iterdecode(byte_lines(file), "utf-8-sig")
        reader = csv.DictReader(lines, delimiter="\t" if tabs else ",", strict=True)
        for column in columns:
            if column not in (reader.fieldnames or ()):
                raise WorldError(f"{file}:1: the header lacks the column {column!r}")
        number = 1
        for record in reader:
            where, number = f"{file}:{reader.line_num}", reader.line_num
            if None in record or None in record.values():  # csv's names for too many, and too few
                raise WorldError(f"{where}: the number of columns is not the header's")
            yield where, record
    except (csv.Error, UnicodeDecodeError):
        kind = "tab" if tabs else "comma"
        raise WorldError(f"{file}:{number + 1}: not {kind}-separated UTF-8 text") from None


READERS = {".jsonl": json_lines, ".json": json_list, ".tsv": table, ".csv": table}


def ending(file: Path) -> str:
    """The last part of the name but for .gz: ".jsonl"."""
    return Path(file.name.removesuffix(".gz")).suffix


def is_table(file: Path) -> bool:
    return ending(file) in (".tsv", ".csv")


def records(file: Path) -> Records:
    """The records of a file, by its name. Raises WorldError."""
    if ending(file) not in READERS:
        raise WorldError(f"{file}: its name must end in {', '.join(READERS)}, or in that and .gz")
    return READERS[ending(file)](file)
