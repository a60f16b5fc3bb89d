"""Records: JSON objects and rows of tables that know where they stand and check their fields, and
the questions and passages that they hold. What a file consists of is known by its name.

Left out on purpose: a schema language, Parquet (a dependency), spreadsheets.
"""

import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from unicodedata import normalize

from data import files
from data.world import Passage, Question, WorldError

KNOWN = {"question", "text"}  # columns: of questions, of passages
KINDS = {str: "a string", list: "a list of strings", dict: "an object"}
LARGEST_LIST = 4000  # megabytes of a JSON list that is one line; HotpotQA's training list has 566
Item = TypeVar("Item", Passage, Question)
csv.field_size_limit(files.LIMIT * files.MB)  # Python's own is 131,072 characters


class Record(dict):
    """A JSON object, or a row of a table (is_cells: column -> text, "" where empty), of the place
    `where`, "FILE:LINE". The methods return fields, or raise WorldError with the place."""

    def __init__(self, value: object, where: str, is_cells: bool = False):
        if not isinstance(value, dict):
            raise WorldError(f"{where}: not a JSON object")
        super().__init__(value)
        self.where, self.is_cells = where, is_cells

    def error(self, problem: str) -> WorldError:
        return WorldError(f"{self.where}: {problem}")

    def field(self, name: str, kind: type = object):
        """A field that must be there, and of this kind."""
        if name not in self:
            raise self.error(f"lacks the field {name!r}")
        if not isinstance(self[name], kind):
            raise self.error(f"{name!r} must be {KINDS[kind]}")
        return self[name]

    def text(self, name: str, blank: bool = False) -> str:
        """Text in NFC: files may spell an accented letter as two. May it be blank?"""
        value = self.field(name, str)
        if not blank and not value.strip():
            raise self.error(f"{name!r} is blank")
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can spell half a character, "\ud800": no file takes it
            raise self.error(f"{name!r} is not valid Unicode") from None
        return normalize("NFC", value)

    def optional(self, name: str) -> str:
        """Text that may be blank, null or absent: "" then."""
        return "" if self.get(name) is None else self.text(name, blank=True)

    def texts(self, name: str, blank: bool = False) -> tuple[str, ...]:
        values = self.field(name, list)
        named = Record({f"{name}[{i}]": value for i, value in enumerate(values)}, self.where)
        return tuple(named.text(place, blank) for place in named)

    def number(self, name: str) -> float | None:
        """A number of at least 0, or one as text; None where there is none."""
        value = self.get(name)
        if value in (None, ""):
            return None
        with suppress(TypeError, ValueError, OverflowError):
            if type(value) is not bool and 0 <= float(value) < 1e300:  # nor nan
                return float(value)
        raise self.error(f"{name!r} must be a number of at least 0")

    def identity(self) -> str:
        """ "id" or BEIR's "_id", a string or a whole number; "" where there is none."""
        value = self.get("id", self.get("_id"))
        if type(value) in (int, float) and value % 1 == 0:
            value = str(int(value))
        return "" if value in (None, "") else Record({"id": value}, self.where).text("id")

    def object(self, name: str) -> "Record":
        return Record(self.field(name, dict), self.where)

    def objects(self, name: str, names: tuple[str, ...] = ()) -> list["Record"]:
        """A list of objects, or of lists with these names; `datasets` has an object of lists."""
        values, error = self.field(name), self.error(f"{name!r} must be a list of objects")
        if isinstance(values, dict):
            names, columns = tuple(values), list(values.values())
            lengths = {len(column) if isinstance(column, list) else -1 for column in columns}
            if len(lengths) != 1 or -1 in lengths:
                raise error
            values = [list(row) for row in zip(*columns, strict=True)]
        if not isinstance(values, list):
            raise error
        rows = [dict(zip(names, v, strict=False)) if isinstance(v, list) else v for v in values]
        if not all(isinstance(row, dict) for row in rows):
            raise error
        return [Record(row, self.where) for row in rows]


def passage_of(row: Record) -> Passage:
    """The passage in a row of ours, of BEIR or of FlashRAG ("contents": title, line end, text)."""
    if "contents" in row and "text" not in row:
        title, _, text = row.text("contents").partition("\n")
        return Passage(row.identity(), title.strip().strip('"'), text)
    return Passage(row.identity(), row.optional("title"), row.text("text", blank=True))


def question_of(row: Record) -> Question:
    """The question in a row of the world format; unknown fields are ignored. Raises WorldError."""
    question = row.text("question")
    foreign = "golden_answers" in row and "answers" not in row
    name = "golden_answers" if foreign else "answers"
    answers = row.texts(name)
    if not answers:
        raise row.error(f"{name!r} is empty")
    if any(files.cut_words(text) != text for text in (question, *answers)):
        raise row.error(f"a word of more than {files.LONGEST_WORD:,} characters")
    gold = None if row.get("gold_passages") is None else row.texts("gold_passages")
    slice_name, relation, kind = (
        row.optional(name).strip() or None for name in ("slice", "relation", "type")
    )
    popularity = row.number("popularity")
    return Question(row.identity(), question, answers, slice_name, relation, popularity, gold, kind)


def collect(items: Iterable[tuple[str, Item]], empty: str) -> list[Item]:
    """The items of ("FILE:LINE", question or passage). Raises WorldError where one has no id, where
    two have the same, and where there is none: `empty`."""
    found: dict[str, tuple[str, Item]] = {}
    for where, item in items:
        if not item.id:
            raise WorldError(f"{where}: lacks the field 'id'")
        if item.id in found:
            raise WorldError(f"{where}: duplicate id {item.id!r}, first at {found[item.id][0]}")
        found[item.id] = where, item
    if not found:
        raise WorldError(empty)
    return [item for _, item in found.values()]


def parse_json(text: str, file: Path, line: int = 1) -> object:
    """The value of a text that begins on this line of the file. Raises WorldError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, or nested beyond reason
        line += getattr(error, "lineno", 1) - 1
        raise WorldError(f"{file}:{line}: not JSON") from None


def json_lines(file: Path) -> Iterator[Record]:
    """One JSON object for each line that is not blank. Raises WorldError."""
    for number, line in files.text_lines(file):
        if line := line.strip():
            yield Record(parse_json(line, file, number), f"{file}:{number}")


def json_list(file: Path) -> Iterator[Record]:
    """Elements of the list that the file is, or that is in the object that it is ({"Data": []}).
    Their place is "FILE:record 3": a list may be one line of 566 MB. Raises WorldError."""
    rows = parse_json(files.read_text(file, LARGEST_LIST), file)
    if isinstance(rows, dict):
        rows = next((value for value in rows.values() if isinstance(value, list)), rows)
    if not isinstance(rows, list):
        raise WorldError(f"{file}: not a JSON list (JSON lines go by the name *.jsonl)")
    for number, row in enumerate(rows, start=1):
        yield Record(row, f"{file}:record {number}")


def column_names(cells: list[str]) -> list[str]:
    """ "Has Space" is has_space; empty ones at the end are none."""
    names = ["_".join(cell.strip('"').lower().split()) for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def table(file: Path) -> Iterator[Record]:
    """The records of a table; empty rows are none. Its delimiter is whichever of , ; and tab gives
    the first line a column that is known, and most columns. Raises WorldError."""
    numbered = files.text_lines(file)
    start, first = next((line for line in numbered if line[1].strip()), (1, ""))
    headers = {delimiter: column_names(first.split(delimiter)) for delimiter in ",;\t"}
    best = max(headers, key=lambda d: (not KNOWN.isdisjoint(headers[d]), len(headers[d])))
    lines = itertools.chain([first], (line for _, line in numbered))
    reader = csv.reader(lines, delimiter=best, strict=True)
    number = start - 1  # the last line of the last good record
    try:
        header = column_names(next(reader))
        if twice := [name for name in header if name and header.count(name) > 1]:
            raise WorldError(f"{file}:{start}: the header has the column {twice[0]!r} twice")
        for row in reader:
            number = start - 1 + reader.line_num
            while len(row) > len(header) and not row[-1].strip():
                row.pop()
            if any(cell.strip() for cell in row):
                if len(row) != len(header):
                    raise WorldError(f"{file}:{number}: the number of columns is not the header's")
                yield Record(dict(zip(header, row, strict=True)), f"{file}:{number}", True)
    except csv.Error as error:
        raise WorldError(f"{file}:{number + 1}: not a table: {error}") from None


READERS = {".jsonl": json_lines, ".json": json_list, ".tsv": table, ".csv": table}


def records(file: Path) -> Iterator[Record]:
    """The records of a file. Raises WorldError."""
    suffix = Path(file.name.removesuffix(".gz")).suffix.lower()
    if suffix not in READERS:
        wanted = f"{', '.join(READERS)}, or in that and .gz"
        raise WorldError(f"{file}: its name must end in {wanted}")
    return READERS[suffix](file)
