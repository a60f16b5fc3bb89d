"""Records of other people's files: JSON lines, one JSON list, tables; known by the file's name.

Left out on purpose: Parquet (a dependency), spreadsheets.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from data.files import (
    LIMIT,
    MB,
    Records,
    field,
    json_lines,
    json_object,
    optional,
    parse_json,
    read_text,
    string,
    strings,
    text_lines,
)
from data.world import Passage, WorldError

LARGEST_LIST = 4000  # megabytes of a JSON list, read at once; HotpotQA's training list has 566
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t"}
csv.field_size_limit(LIMIT * MB)  # Python's own is 131,072 characters


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
    """Column -> text for each record of a table that has these columns; empty rows are none.

    Its delimiter is whichever gives the header these columns. Raises WorldError.
    """
    lines = text_lines(file)
    number, first = next((line for line in lines if line[1].strip()), (1, ""))
    start, number = number, number - 1  # the header's line, the last line of the last good record
    kind = "tab" if ending(file) == ".tsv" else "comma"
    try:
        kind, header = _header(first, f"{file}:{start}", kind, set(columns))
        number = start
        reader = csv.reader((line for _, line in lines), delimiter=DELIMITERS[kind], strict=True)
        for row in reader:
            where = f"{file}:{start + reader.line_num}"
            while len(row) > len(header) and not row[-1].strip():
                row.pop()
            if any(cell.strip() for cell in row):
                if len(row) != len(header):
                    raise WorldError(f"{where}: the number of columns is not the header's")
                yield where, dict(zip(header, row, strict=True))
            number = start + reader.line_num
    except csv.Error:
        raise WorldError(f"{file}:{number + 1}: not {kind}-separated text") from None


def _header(line: str, where: str, kind: str, columns: set[str]) -> tuple[str, list[str]]:
    """A key of DELIMITERS, first of all `kind`, and the header's columns: "Possible Answers" is
    possible_answers.
    """
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


READERS = {".jsonl": json_lines, ".json": json_list, ".tsv": table, ".csv": table}


def ending(file: Path) -> str:
    """The last part of the name but for .gz: ".jsonl"."""
    return Path(file.name.removesuffix(".gz")).suffix.lower()


def is_table(file: Path) -> bool:
    return ending(file) in (".tsv", ".csv")


def records(file: Path, columns: Iterable[str] = ()) -> Records:
    """The records of a file; columns: what a table needs. Raises WorldError."""
    if ending(file) not in READERS:
        raise WorldError(f"{file}: its name must end in {', '.join(READERS)}, or in that and .gz")
    return table(file, columns) if is_table(file) else READERS[ending(file)](file)


# ------------------------------------------------------------------------- parts of a record


def objects(row: dict, name: str, where: str) -> list[dict]:
    """A list of objects; `datasets` exports it as an object of lists. Raises WorldError."""
    values = row.get(name)
    if values and isinstance(values, dict) and all(isinstance(v, list) for v in values.values()):
        if len({len(column) for column in values.values()}) > 1:
            raise WorldError(f"{where}: {name!r} must hold lists of one length")
        rows = zip(*values.values(), strict=True)
        return [dict(zip(values, items, strict=True)) for items in rows]
    values = field(row, name, list, where, "a list of objects")
    if not all(isinstance(value, dict) for value in values):
        raise WorldError(f"{where}: {name!r} must be a list of objects")
    return values


def pairs(row: dict, name: str, where: str) -> Iterable:
    """A list of pairs; `datasets` exports it as an object of two lists. Raises WorldError."""
    if isinstance(row.get(name), dict) and row[name]:
        return [tuple(pair.values()) for pair in objects(row, name, where)]
    return field(row, name, list, where, "a list")


def an_object(row: dict, name: str, where: str) -> dict:
    return field(row, name, dict, where, "an object")


def identity(row: dict, where: str, needed: bool = False) -> str:
    """ "id" or "_id", a string or a number; "" where the layout has none. Raises WorldError."""
    name = "_id" if "_id" in row and "id" not in row else "id"
    if name not in row and not needed:
        return ""
    value = row.get(name)
    if type(value) is int or (type(value) is float and value.is_integer()):
        return str(int(value))
    return string({"id": value} if name in row else row, "id", where)


def whole_number(row: dict, name: str, where: str) -> float | None:
    """A number, or one as text; None where there is none. Raises WorldError."""
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not (0 <= number < 1e300 and number.is_integer()):
        raise WorldError(f"{where}: {name!r} must be a whole number")
    return number


def passage_of(title: str | None, text: str, where: str) -> Passage:
    """A passage that is published without an id: equal ones are one passage. Raises WorldError."""
    fields = {"title": title, "text": text}
    title, text = optional(fields, "title", where), string(fields, "text", where, blank=True)
    return Passage(hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16], title, text)


def answer_list(value: object, column: str, where: str) -> tuple[str, ...]:
    """A list of one answer or more, or such a list in JSON. Raises WorldError."""
    try:
        values = json.loads(value) if isinstance(value, str) else value
        answers = strings({column: values}, column, where)
    except (ValueError, RecursionError):  # also strings' own error
        answers = ()
    if not answers:
        raise WorldError(f"{where}: {column!r} must be a JSON list of one answer or more")
    return answers


def aliases(text: str, column: str, where: str) -> Iterable[str]:
    """The answers in a cell: a JSON list, or "|" between them. Brackets and bars may also be text:
    "[sic]", "|x|", "P(A|B)". Raises WorldError.
    """
    if re.match(r"\s*\[\s*[\"'\]]", text):
        return answer_list(text, column, where)
    parts = [part.strip() for part in text.split("|")]
    while parts and not parts[-1]:
        parts.pop()
    torn = any(part.count(a) != part.count(b) for part in parts for a, b in ("()", "[]", "{}"))
    return [text] if torn or "" in parts else parts


def answers_of(row: dict, where: str) -> tuple[str, ...]:
    answers = unique(strings(row, "answer", where))
    if not answers:
        raise WorldError(f"{where}: 'answer' is empty")
    return answers


def unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
