"""A folder of .txt, .md and .html files as passages of about 100 words, as DPR cut Wikipedia.

Passages end where a sentence or a paragraph does; every passage carries its document's title: a
Markdown file's first heading, an HTML file's <title> or <h1>, else the file's name. Ids are
"path/in/folder.md#1".

Left out on purpose: other kinds of files, front matter, tables, languages that are written without
spaces.
"""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from data.files import read_text, string
from data.world import Passage, WorldError

SUFFIXES = (".txt", ".md", ".html", ".htm")
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"""(?<=[.!?])\s+|(?<=[.!?]["')\]\u201d\u2019])\s+""")
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", re.MULTILINE)


def is_document(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def read_documents(source: Path, words: int) -> Iterator[tuple[str, Passage]]:
    """("FILE", passage) of a document, or of all in a folder and the folders in it, by name. Raises
    WorldError.
    """
    files = [source]
    if source.is_dir():
        inside = (file for file in source.rglob("*") if is_document(file) and file.is_file())
        files = sorted(
            file
            for file in inside
            if not any(part.startswith(".") for part in file.relative_to(source).parts)
        )
        if not files:
            raise WorldError(f"{source}: no {', '.join(SUFFIXES)} file in this folder")
    for file in files:
        name = file.relative_to(source).as_posix() if source.is_dir() else file.name
        string(
            {"file name": name}, "file name", ascii(str(file))
        )  # Linux takes any bytes for a name, an id does not
        title, text = _read(file)
        for number, passage in enumerate(cut(text, words), start=1):
            yield str(file), Passage(f"{name}#{number}", title, passage)


def cut(text: str, words: int) -> Iterator[str]:
    """Passages of at most `words` words, filled sentence by sentence; a paragraph's end is taken
    where it leaves a passage at least half full. A longer sentence is cut between words.
    """
    passage: list[str] = []
    for paragraph in _PARAGRAPH.split(text):
        for sentence in _SENTENCE.split(paragraph):
            new = sentence.split()
            if passage and len(passage) + len(new) > words:
                yield " ".join(passage)
                passage = []
            passage += new
            while len(passage) > words:
                yield " ".join(passage[:words])
                passage = passage[words:]
        if 2 * len(passage) >= words:
            yield " ".join(passage)
            passage = []
    if passage:
        yield " ".join(passage)


def _read(file: Path) -> tuple[str, str]:
    """Title and text."""
    text = read_text(file)
    title = " ".join(re.split(r"[\s_-]+", file.stem))
    if file.suffix.lower() == ".md":
        if heading := _HEADING.search(text):
            title, text = heading[1], text[: heading.start()] + text[heading.end() :]
        text = _HEADING.sub(r"\n\n\1\n\n", text)  # the other headings are paragraphs
    elif file.suffix.lower() != ".txt":
        page = _Page()
        page.feed(text)
        page.close()
        title, text = page.title or title, "".join(page.text)
    return " ".join(title.split()), text


_BLOCKS = """address article aside blockquote caption dd details div dl dt fieldset figcaption
figure footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol option p pre section summary table td
th tr ul"""


class _Page(HTMLParser):
    """The text of a page, with an empty line where a block begins or ends; scripts and styles are
    no text.
    """

    BLOCKS = frozenset(_BLOCKS.split())
    SILENT = frozenset(("script", "style", "noscript", "template", "title", "head"))

    def __init__(self):
        super().__init__()
        self.text: list[str] = []
        self.heads = {"title": "", "h1": ""}
        self.open: list[str] = []  # of the tags that matter here

    @property
    def title(self) -> str:
        return self.heads["title"].strip() or self.heads["h1"].strip()

    def handle_starttag(self, tag, attrs):
        if tag == "body":  # </head> may be left out
            self.open.clear()
        if tag in self.BLOCKS or tag == "br":
            self.text.append("\n" if tag == "br" else "\n\n")
        if tag in self.SILENT or (tag == "h1" and not self.heads["h1"]):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.BLOCKS:
            self.text.append("\n\n")
        if tag in self.open:
            del self.open[self.open.index(tag) :]

    def handle_data(self, data):
        if self.open and self.open[-1] in self.heads:
            self.heads[self.open[-1]] += data
        if not self.SILENT & set(self.open):
            self.text.append(data)
