"""The question sets and corpora that `python -m data.prepare` knows, where they are published, and
how what a command names becomes files.

The table itself is sets.json. Splits have the field's names: an official dev set whose test set has
no published answers is the test split. A checksum is there only where one is published: in the
dataset_infos.json of Hugging Face datasets (HotpotQA, AmbigNQ, DPR's passages) or the url_checksums
of TensorFlow Datasets (TriviaQA), in both and alike for NQ-open, OpenBookQA and ARC. "megabytes" is
a round size that the file does not exceed.
"""

import json
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from data.prepare.download import by_hand, download
from data.world import WorldError

SPLITS = ("train", "dev", "test")


class Source(NamedTuple):
    """A published file."""

    name: str  # on disk
    megabytes: int
    url: str = ""  # "": `page` has to be opened in a browser
    page: str = ""
    sha256: str | None = None


class KnownSet(NamedTuple):
    title: str  # for --help
    license: str
    citation: str
    # split ("": no splits) -> its file in SOURCES, "/", the member of an archive
    splits: dict[str, str]
    passages: bool = False  # published with the questions

    @property
    def sources(self) -> list[Source]:
        return [SOURCES[name] for name in dict.fromkeys(map(source_name, self.splits.values()))]


class KnownCorpus(NamedTuple):
    license: str
    citation: str
    file: str


_FILE = json.loads(Path(__file__).with_name("sets.json").read_text(encoding="utf-8"))
SOURCES = {name: Source(name, **fields) for name, fields in _FILE["files"].items()}
SETS = {name: KnownSet(**fields) for name, fields in _FILE["sets"].items()}
CORPORA = {name: KnownCorpus(**fields) for name, fields in _FILE["corpora"].items()}


def source_name(path: str) -> str:
    """ "archive.zip/member" -> "archive.zip"."""
    return path.partition("/")[0]


def is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def split_of(entry: str) -> tuple[str, str]:
    """ "test=x.jsonl" -> ("test", "x.jsonl"); the split is "" where none is named."""
    split, _, name = entry.partition("=")
    return (split, name) if split in SPLITS and name else ("", entry)


class Inputs:
    """Local paths of what a command names; downloads on the way are noted in `sha256`.

    The methods raise WorldError.
    """

    def __init__(self, downloads: Path):
        self.downloads, self.sha256 = downloads, {}

    def local(self, name: str) -> Path:
        """A file, folder or address."""
        if not is_address(name):
            return Path(name)
        file = self.downloads / (Path(urlsplit(name).path).name or "download")
        self.sha256[file.name] = download(name, file)
        return file

    def published(self, path: str) -> Path:
        """A file of SOURCES, or a member of one."""
        source = SOURCES[source_name(path)]
        target = self.downloads / source.name
        if not source.url and not target.exists():
            advice = by_hand(target, source.page)
            raise WorldError(f"{source.name} cannot be downloaded without a browser: {advice}")
        if source.name not in self.sha256:
            url = source.url or source.page
            self.sha256[source.name] = download(url, target, source.sha256, source.megabytes)
        return self.downloads / path

    def corpus(self, name: str) -> Path:
        return self.published(CORPORA[name].file) if name in CORPORA else self.local(name)

    def questions(self, set_name: str, entries: list[str]) -> list[tuple[str, Path]]:
        """(split, file) of --from, or of the set's own addresses; split "": not known."""
        files = []
        for split, name in map(split_of, entries):
            file = self.local(name)
            if file.is_dir():
                advice = "name its files, as in --from train=FILE dev=FILE test=FILE"
                raise WorldError(f"{file}: a folder; {advice}")
            files.append((split, file))
        if len({split == "" for split, _ in files}) > 1:
            advice = "name the split of every file or of none, as in train=FILE test=FILE"
            raise WorldError(f"--from: {advice}")
        known = SETS[set_name].splits if not files else {}
        return files or [(split, self.published(path)) for split, path in known.items()]
