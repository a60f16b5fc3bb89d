"""The question sets and corpora that `python -m data.prepare` knows: where they are published, and
as what.

The table itself is sets.json. Splits have the field's names: an official dev set whose test set has
no published answers is the test split. A checksum is there only where one is published: in the
dataset_infos.json of Hugging Face datasets (HotpotQA, AmbigNQ, DPR's passages) or the url_checksums
of TensorFlow Datasets (TriviaQA), in both and alike for NQ-open, OpenBookQA and ARC. "megabytes" is
a round size that the file does not exceed.
"""

import json
from pathlib import Path
from typing import NamedTuple

from data.prepare.download import by_hand, download
from data.world import WorldError


class Source(NamedTuple):
    """A published file."""

    name: str  # on disk
    megabytes: int
    url: str = ""  # "": `page` has to be opened in a browser
    page: str = ""
    sha256: str | None = None

    def fetch(self, directory: Path) -> str:
        """SHA-256 of the file in `directory`, downloaded if it must be. Raises WorldError."""
        target = directory / self.name
        if not self.url and not target.exists():
            advice = by_hand(target, self.page)
            raise WorldError(f"{self.name} cannot be downloaded without a browser: {advice}")
        return download(self.url or self.page, target, self.sha256, self.megabytes)


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


def source_name(path: str) -> str:
    """ "archive.zip/member" -> "archive.zip"."""
    return path.partition("/")[0]


_FILE = json.loads(Path(__file__).with_name("sets.json").read_text(encoding="utf-8"))
SOURCES = {name: Source(name, **fields) for name, fields in _FILE["files"].items()}
SETS = {name: KnownSet(**fields) for name, fields in _FILE["sets"].items()}
CORPORA = {name: KnownCorpus(**fields) for name, fields in _FILE["corpora"].items()}
