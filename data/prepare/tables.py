"""Records of other people's files: JSON lines, one JSON list, tables; known by the file's name.

Left out on purpose: Parquet (a dependency), spreadsheets.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from data import files
from data.records import Record, json_lines, parse_json
from data.world import WorldError

LARGEST_LIST = 4000  # megabytes of a JSON list that is one line; HotpotQA's training list has 566
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t"}
csv.field_size_limit(files.LIMIT * files.MB)  # Python's own is 131,072 characters


class Row(Record):
    """A row of a table: column -> text. "" is an empty cell."""


def json_list(file: Path) -> Iterator[Record]:
    """Elements of the list that the file is, or that is in the object that it is ({"Data": []}).

    Their place is "FILE:record 3": a list may be one line of 566 MB. Raises WorldError.
    """
    rows = parse_json(files.read_text(file, LARGEST_LIST), file)
    if isinstance(rows, dict):
        rows = next((value for value in rows.values() if isinstance(value, list)), rows)
    if not isinstance(rows, list):
        raise WorldError(f"{file}: not a JSON list (JSON lines go by the name *.jsonl)")
    for number, row in enumerate(rows, start=1):
        yield Record(row, f"{file}:record {number}")


def table(file: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """The records of a table that has these columns; empty rows are none.

    Its delimiter is whichever gives the header these columns. Raises WorldError.
    """
    lines = files.text_lines(file)
    number, first = next((line for line in lines if line[1].strip()), (1, ""))
    start, number = number, number - 1  # the header's line, the last line of the last good record
    kind = "tab" if ending(file) == ".tsv" else "comma"
    try:
        kind, header = _header(first, f"{file}:{start}", kind, set(columns))
        number = start
        reader = csv.reader((line for _, line in lines), delimiter=DELIMITERS[kind], strict=True)
        for row in reader:
            number = start + reader.line_num
            while len(row) > len(header) and not row[-1].strip():
                row.pop()
            if any(cell.strip() for cell in row):
                if len(row) != len(header):
                    raise WorldError(f"{file}:{number}: the number of columns is not the header's")
                yield Row(dict(zip(header, row, strict=True)), f"{file}:{number}")
    except csv.Error:
        raise WorldError(f"{file}:{number + 1}: not {kind}-separated text") from None


def _header(line: str, where: str, kind: str, columns: set[str]) -> tuple[str, list[str]]:
    """A key of DELIMITERS, `kind` if it fits, and the columns: "Has Space" is has_space."""
    headers = {}
    for name in sorted(DELIMITERS, key=kind.__ne__):
        cells = next(csv.reader([line], delimiter=DELIMITERS[name], strict=True), [])
        header = ["_".join(cell.lower().split()) for cell in cells]
        while header and not header[-1]:
            header.pop()
        headers[name] = header
        if columns <= set(header):
            if twice := [cell for cell in header if cell and header.count(cell) > 1]:
                raise WorldError(f"{where}: the header has the column {twice[0]!r} twice")
            return name, header
    widest = max(headers.values(), key=len)
    lacking = sorted(columns - set(widest))[0]
    there_are = ", ".join(widest) or "nothing"
    raise WorldError(f"{where}: the header lacks the column {lacking!r}; it has: {there_are}")


def ending(file: Path) -> str:
    """The last part of the name but for .gz: ".jsonl"."""
    return Path(file.name.removesuffix(".gz")).suffix.lower()


def records(file: Path, columns: tuple[str, ...]) -> Iterator[Record]:
    """The records of a file; columns: what a table needs. Raises WorldError."""
    suffix = ending(file)
    if suffix in (".tsv", ".csv"):
        return table(file, columns)
    readers = {".jsonl": json_lines, ".json": json_list}
    if suffix not in readers:
        wanted = ".jsonl, .json, .tsv, .csv, or in that and .gz"
        raise WorldError(f"{file}: its name must end in {wanted}")
    return readers[suffix](file)
