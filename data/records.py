"""Records: JSON objects and rows of tables that know where they stand and check their fields.

Left out on purpose: a schema language; fields that nobody asks for are ignored.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from data.files import nfc, text_lines
from data.world import Passage, Question, WorldError

Item = TypeVar("Item", Passage, Question)


class Record(dict):
    """A JSON object from the place `where`, "FILE:LINE".

    The methods return fields; each raises WorldError, with the place, where one is not as it must
    be.
    """

    def __init__(self, value: object, where: str):
        if not isinstance(value, dict):
            raise WorldError(f"{where}: not a JSON object")
        super().__init__(value)
        self.where = where

    def error(self, problem: str) -> WorldError:
        return WorldError(f"{self.where}: {problem}")

    def field(self, name: str, kind: type, what: str):
        """A field that must be there and of this kind. what: the kind in words."""
        if name not in self:
            raise self.error(f"lacks the field {name!r}")
        if not isinstance(self[name], kind):
            raise self.error(f"{name!r} must be {what}")
        return self[name]

    def text(self, name: str, blank: bool = False) -> str:
        """Text in NFC; may it be blank?"""
        value = self.field(name, str, "a string")
        if not blank and not value.strip():
            raise self.error(f"{name!r} is blank")
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can spell half a character, "\ud800": no file takes it
            raise self.error(f"{name!r} is not valid Unicode") from None
        return nfc(value)

    def optional(self, name: str) -> str:
        """Text that may be blank, null or absent: "" then."""
        return "" if self.get(name) is None else self.text(name, blank=True)

    def texts(self, name: str, blank: bool = False) -> tuple[str, ...]:
        values = self.field(name, list, "a list of strings")
        named = Record({f"{name}[{i}]": value for i, value in enumerate(values)}, self.where)
        return tuple(named.text(place, blank) for place in named)

    def number(self, name: str) -> float | None:
        """A number of at least 0, or one as text; None where there is none."""
        value = self.get(name)
        if value is None or value == "":
            return None
        try:
            number = -1.0 if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = -1.0
        if not 0 <= number < 1e300:  # nor nan
            raise self.error(f"{name!r} must be a number of at least 0")
        return number

    def identity(self, needed: bool = False) -> str:
        """ "id" or BEIR's "_id", a string or a whole number; "" where there is none."""
        name = "_id" if "_id" in self and "id" not in self else "id"
        value = self.get(name)
        if value is None or value == "":
            if needed:
                raise self.error("lacks the field 'id'")
            return ""
        if type(value) is float and value.is_integer():
            value = int(value)
        return str(value) if type(value) is int else self.text(name)

    def object(self, name: str) -> "Record":
        return Record(self.field(name, dict, "an object"), self.where)

    def objects(self, name: str, names: tuple[str, ...] = ()) -> list["Record"]:
        """A list of objects, or of lists of values with these names.

        `datasets` exports both as an object of lists.
        """
        wanted = "a list of objects"
        values = self.field(name, (list, dict), wanted)
        if isinstance(values, dict):
            columns = [column for column in values.values() if isinstance(column, list)]
            if not columns or len(columns) < len(values):
                raise self.error(f"{name!r} must be {wanted}")
            if len(set(map(len, columns))) > 1:
                raise self.error(f"{name!r} must hold lists of one length")
            names, values = tuple(values), [list(row) for row in zip(*columns, strict=True)]
        if names:
            values = [
                dict(zip(names, one, strict=False)) if isinstance(one, list) else one
                for one in values
            ]
        if not all(isinstance(value, dict) for value in values):
            raise self.error(f"{name!r} must be {wanted}")
        return [Record(value, self.where) for value in values]


def collect(items: Iterable[tuple[str, Item]], empty: str) -> list[Item]:
    """The items of ("FILE:LINE", question or passage).

    Raises WorldError where two have one id, and where there is none: `empty`.
    """
    places: dict[str, str] = {}
    collected = []
    for where, item in items:
        first = places.setdefault(item.id, where)
        if first is not where:
            raise WorldError(f"{where}: duplicate id {item.id!r}, first at {first}")
        collected.append(item)
    if not collected:
        raise WorldError(empty)
    return collected


def parse_json(text: str, file: Path, line: int = 1) -> object:
    """The value of a text that begins on this line of the file. Raises WorldError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, or nested beyond reason
        line += getattr(error, "lineno", 1) - 1
        raise WorldError(f"{file}:{line}: not JSON") from None


def json_lines(file: Path) -> Iterator[Record]:
    """One JSON object for each line that is not blank. Raises WorldError."""
    for number, line in text_lines(file):
        if line := line.strip():
            yield Record(parse_json(line, file, number), f"{file}:{number}")
