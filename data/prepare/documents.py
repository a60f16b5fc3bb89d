"""A folder of .txt, .md and .html files as passages of about 100 words, as DPR cut Wikipedia.

Passages end where a sentence or a paragraph does; every passage carries its document's title: an
HTML file's <title>, else the first heading, else the file's name. Ids are "path/in/folder.md#1".
Markup is no text: Markdown becomes HTML, of which the text is taken.

Left out on purpose: other kinds of files, front matter, tables' layout, languages without spaces.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from unicodedata import normalize

from data.files import LONGEST_WORD, UNREADABLE, cut_words, opened, read_text, tidy
from data.records import Record
from data.world import Passage, WorldError

SUFFIXES = (".txt", ".md", ".html", ".htm")
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"""(?<=[.!?])\s+|(?<=[.!?]["')\]\u201d\u2019])\s+""")
_INLINE = """a abbr b bdi bdo br cite code data del dfn em font i img ins kbd label mark q s samp
small span strike strong sub sup time tt u var wbr"""  # elements; all others are blocks
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?:.*\n)*?---[ \t]*\n")


def read_documents(
    source: Path, words: int, remarks: Counter[str]
) -> Iterator[tuple[str, Passage]]:
    """("FILE", passage) of a document, or of all in a folder and the folders in it, by name.
    remarks: what was left out or cut, and how often. Raises WorldError."""
    files = _documents(source, remarks) if source.is_dir() else [source]
    for file in files:
        name = file.relative_to(source).as_posix() if source.is_dir() else file.name
        # Linux takes any bytes for a name, an id does not.
        name = Record({"file name": name}, ascii(str(file))).text("file name")
        head = b""
        with suppress(UNREADABLE), opened(file) as (stream, _):  # reading it will say why
            head = stream.peek(8192)
        if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
            remarks["left out: binary"] += 1
            continue
        title, text = _read(file, normalize("NFC", read_text(file)))
        if text != (text := cut_words(text)):
            remarks[f"words of more than {LONGEST_WORD:,} characters cut in {name}"] += 1
        number = 0
        for number, passage in enumerate(cut(text, words), start=1):
            yield str(file), Passage(f"{name}#{number}", title, passage)
        if not number:
            remarks["left out: empty"] += 1


def _documents(folder: Path, remarks: Counter[str]) -> list[Path]:
    files = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            remarks["left out: hidden"] += 1
        elif file.suffix.lower() in SUFFIXES:
            files.append(file)
        else:
            remarks[f"left out: {file.suffix.lower() or 'no ending'}"] += 1
    if not files:
        others = ", ".join(f"{count} {what}" for what, count in remarks.items()) or "empty"
        raise WorldError(f"{folder}: no {', '.join(SUFFIXES)} file in this folder ({others})")
    return files


def cut(text: str, words: int) -> Iterator[str]:
    """Passages of at most `words` words, filled sentence by sentence; a paragraph's end is taken
    where it leaves a passage at least half full. A longer sentence is cut between words."""
    passage: list[str] = []
    for paragraph in _PARAGRAPH.split(text):
        for sentence in _SENTENCE.split(paragraph):
            new = sentence.split()
            if passage and len(passage) + len(new) > words:
                yield " ".join(passage)
                passage = []
            passage += new
            whole = max(0, len(passage) - 1) // words * words  # all but the last 1 to `words` words
            for start in range(0, whole, words):
                yield " ".join(passage[start : start + words])
            passage = passage[whole:]
        if 2 * len(passage) >= words:
            yield " ".join(passage)
            passage = []
    if passage:
        yield " ".join(passage)


def _read(file: Path, text: str) -> tuple[str, str]:
    """Title and text of the file that holds this text."""
    title = re.sub(r"[\s_-]+", " ", file.stem)
    suffix = file.suffix.lower()
    if suffix != ".txt":
        page = _Page(_markdown_to_html(file, text) if suffix == ".md" else text, file)
        title, text = tidy(page.title) or title, "".join(page.text)
    return tidy(normalize("NFC", title)), text


def _markdown_to_html(file: Path, text: str) -> str:
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise WorldError(f"{file}: Markdown needs pip install -e '.[documents]'") from None
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return parser.render(_FRONT_MATTER.sub("", text))


class _Page(HTMLParser):
    """Title and text of a page, an empty line where a block begins or ends; scripts are no text."""

    HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
    SILENT = frozenset(("script", "style", "noscript", "template", "head", "title", "svg"))
    INLINE = frozenset(_INLINE.split())

    def __init__(self, source: str, file: Path):
        super().__init__()
        self.title = ""
        self.text: list[str] = []
        self.open: list[str] = []  # tags whose content is no text: of SILENT, and the title's
        try:
            self.feed(source)
            self.close()
        except AssertionError:  # Python's parser gives up on some "<![..."
            raise WorldError(f"{file}: not HTML that can be read") from None

    def handle_starttag(self, tag, attrs):
        block = tag not in self.INLINE
        if tag == "body" or (block and self.HEADINGS & set(self.open)):
            self.open.clear()  # </head> and </h1> may be left out
        if block or tag == "br":
            self.text.append("\n\n" if block else "\n")
        opens = tag in self.SILENT or (tag in self.HEADINGS and not self.title.strip())
        if opens and tag not in self.open:  # which stays short, whatever a page holds
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.INLINE:
            self.text.append("\n\n")
        if tag in self.open:
            del self.open[self.open.index(tag) :]

    def handle_data(self, data):
        if not self.open:
            self.text.append(data)
        elif self.open[-1] in (*self.HEADINGS, "title") and "svg" not in self.open:
            self.title += data
