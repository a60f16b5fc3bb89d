"""A folder of .txt, .md and .html files as passages of about 100 words, as DPR cut Wikipedia.

Passages end where a sentence or a paragraph does; every passage carries its document's title: a
Markdown file's first heading, an HTML file's <title> or <h1>, else the file's name. Ids are
"path/in/folder.md#1". Markup is no text: Markdown becomes HTML, of which the text is taken.

Left out on purpose: other kinds of files, front matter, the layout of tables, languages that are
written without spaces.
"""

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from data.files import LONGEST_WORD, cut_words, decode, nfc, read_bytes, string
from data.world import Passage, WorldError

SUFFIXES = (".txt", ".md", ".html", ".htm")
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"""(?<=[.!?])\s+|(?<=[.!?]["')\]\u201d\u2019])\s+""")
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?:.*\n)*?---[ \t]*\n")


def is_document(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def read_documents(
    source: Path, words: int, remarks: Counter[str]
) -> Iterator[tuple[str, Passage]]:
    """("FILE", passage) of a document, or of all in a folder and the folders in it, by name.

    remarks: what was left out or cut, and how often. Raises WorldError.
    """
    files = _documents(source, remarks) if source.is_dir() else [source]
    for file in files:
        name = file.relative_to(source).as_posix() if source.is_dir() else file.name
        # Linux takes any bytes for a name, an id does not.
        name = string({"file name": name}, "file name", ascii(str(file)))
        content = read_bytes(file)
        if b"\0" in content[:8192] and content[:2] not in (b"\xff\xfe", b"\xfe\xff"):
            remarks["left out: binary"] += 1
            continue
        title, text = _read(file, nfc(decode(content, file)))
        text, whole = cut_words(text), text
        if text != whole:
            remarks[f"words of more than {LONGEST_WORD:,} characters cut in {name}"] += 1
        number = 0
        for number, passage in enumerate(cut(text, words), start=1):
            yield str(file), Passage(f"{name}#{number}", title, passage)
        if not number:
            remarks["left out: empty"] += 1


def _documents(folder: Path, remarks: Counter[str]) -> list[Path]:
    files = []
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            if any(part.startswith(".") for part in file.relative_to(folder).parts):
                remarks["left out: hidden"] += 1
            elif is_document(file):
                files.append(file)
            else:
                remarks[f"left out: {file.suffix.lower() or 'no ending'}"] += 1
    if not files:
        others = ", ".join(f"{count} {what}" for what, count in remarks.items())
        about = f" ({others})" if others else ""
        raise WorldError(f"{folder}: no {', '.join(SUFFIXES)} file in this folder{about}")
    return files


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
            whole = (len(passage) - 1) // words * words  # all but the last 1 to `words` words
            for start in range(0, whole, words):
                yield " ".join(passage[start : start + words])
            passage = passage[max(0, whole) :]
        if 2 * len(passage) >= words:
            yield " ".join(passage)
            passage = []
    if passage:
        yield " ".join(passage)


def _read(file: Path, text: str) -> tuple[str, str]:
    """Title and text of the file that holds this text."""
    suffix, title = file.suffix.lower(), " ".join(re.split(r"[\s_-]+", file.stem))
    if suffix == ".md":
        heading, body = _markdown(file, text)
        title = "".join(_Page(heading, file).text).strip() or title
        text = "".join(_Page(body, file).text)
    elif suffix != ".txt":
        page = _Page(text, file)
        title, text = page.title or title, "".join(page.text)
    return " ".join(nfc(title).split()), text


def _markdown(file: Path, text: str) -> tuple[str, str]:
    """The first heading of a Markdown text, and the rest of it, as HTML."""
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        extra = "pip install -e '.[documents]'"
        raise WorldError(f"{file}: reading Markdown needs markdown-it-py: {extra}") from None
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = parser.parse(_FRONT_MATTER.sub("", text, 1) if text.startswith("---") else text)
    first = next((i for i, t in enumerate(tokens) if t.type == "heading_open"), len(tokens))
    heading, rest = tokens[first : first + 3], tokens[:first] + tokens[first + 3 :]
    html = [parser.renderer.render(part, parser.options, {}) for part in (heading, rest)]
    return html[0], html[1]


_BLOCKS = """address article aside blockquote caption dd details div dl dt fieldset figcaption
figure footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol option p pre section summary table td
th tr ul"""


class _Page(HTMLParser):
    """The text of a page, an empty line where a block begins or ends; scripts are no text."""

    BLOCKS = frozenset(_BLOCKS.split())
    SILENT = frozenset(("script", "style", "noscript", "template", "title", "head"))

    def __init__(self, source: str, file: Path):
        super().__init__()
        self.text: list[str] = []
        self.heads = {"title": "", "h1": ""}
        self.open: list[str] = []  # of the tags that matter here
        try:
            self.feed(source)
            self.close()
        except AssertionError:  # Python's parser gives up on some "<![..."
            raise WorldError(f"{file}: not HTML that can be read") from None

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
