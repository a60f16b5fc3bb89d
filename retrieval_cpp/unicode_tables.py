"""Writes unicode_tables.inc, the folding tables that tokens.hpp compiles in.

One code point becomes a short string: its NFKD form, case-folded, without combining marks, and a
space for everything that is neither a letter nor a number.  setup.py runs this at build time: the
tables are those of the Python they serve.  Left out: language-specific rules (Turkish dotless i,
German ä = ae), segmentation; ideographs and kana are words of one character each, as in UAX #29.

Layout   page[cp >> 8] -> row, action[row * 256 + (cp & 255)] ->
         0 break   1 keep as it is   2 drop   3 keep, a word of its own   4 + i  replace by string i
"""

import itertools
import unicodedata
from pathlib import Path

BREAK, KEEP, DROP, ALONE, REPLACE = range(5)
IDEOGRAPHS = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x3FFFF))


def fold(character: str) -> str:
    """What one character contributes to a text's words; a space ends a word."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    out = ""
    for c in folded:
        alone = any(low <= ord(c) <= high for low, high in IDEOGRAPHS)
        if unicodedata.category(c)[0] not in "LNM":
            out += " "
        elif unicodedata.category(c) != "Mn" and not unicodedata.combining(c):
            out += f" {c} " if alone else c
    return out


def action(character: str, strings: dict[bytes, int]) -> int:
    """The action of a code point; replacements that are new join the strings."""
    if unicodedata.category(character) in ("Cn", "Co", "Cs"):
        return BREAK
    folded = fold(character)
    if not folded.strip():
        return BREAK if folded else DROP
    if folded in (character, f" {character} "):
        return KEEP if folded == character else ALONE
    return REPLACE + strings.setdefault(folded.encode(), len(strings))


def c_array(declaration: str, values: list[int]) -> str:
    lines = [",".join(map(str, values[i : i + 24])) for i in range(0, len(values), 24)]
    return f"inline constexpr {declaration}[] = {{\n" + ",\n".join(lines) + "\n};\n"


def write(path: Path) -> None:
    strings, rows = {}, {}  # replacements and rows of 256 actions -> their numbers
    table = [action(chr(code_point), strings) for code_point in range(0x110000)]
    blocks = (tuple(table[i : i + 256]) for i in range(0, len(table), 256))
    pages = [rows.setdefault(block, len(rows)) for block in blocks]
    offsets = [0, *itertools.accumulate(map(len, strings))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"// Unicode {unicodedata.unidata_version}, by unicode_tables.py; not to be edited.\n"
        + c_array("std::uint16_t kPage", pages)
        + c_array("std::uint16_t kAction", [action for row in rows for action in row])
        + c_array("std::uint32_t kReplacementOffset", offsets)
        + c_array("unsigned char kReplacement", list(b"".join(strings)))
    )
