"""The question sets and corpora that `python -m data.prepare` knows, and how what a command names
becomes files.

The table itself is sets.json. Splits have the field's names: an official dev set whose test set has
no published answers is the test split; split "" is still to be split. The paths after them lead to
a file, or to a member of an archive. A checksum is there only where one is published: in the
dataset_infos.json of Hugging Face datasets (HotpotQA, AmbigNQ, DPR's passages) or the url_checksums
of TensorFlow Datasets (TriviaQA), in both and alike for NQ-open, OpenBookQA and ARC. "megabytes" is
a round size that the file does not exceed, "browser" says that no program may fetch it.
"""

import json
from pathlib import Path
from urllib.parse import urlsplit

from data.prepare.download import by_hand, download
from data.world import WorldError

SPLITS = ("train", "dev", "test")
_TABLE = json.loads(Path(__file__).with_name("sets.json").read_text(encoding="utf-8"))
FILES, SETS, CORPORA = _TABLE["files"], _TABLE["sets"], _TABLE["corpora"]

NO_PASSAGES = (
    "no passages come with these questions: name a corpus with --corpus"
    f" ({', '.join(CORPORA)}, a file or a folder)"
)


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
        """A file of FILES, or a member of one."""
        name = path.partition("/")[0]
        known, target = FILES[name], self.downloads / name
        if "browser" in known and not target.exists():
            advice = by_hand(target, known["url"])
            raise WorldError(f"{name} cannot be downloaded without a browser: {advice}")
        if name not in self.sha256:
            limits = known.get("sha256"), known["megabytes"]
            self.sha256[name] = download(known["url"], target, *limits)
        return self.downloads / path

    def corpus(self, name: str) -> Path:
        return self.published(CORPORA[name]["file"]) if name in CORPORA else self.local(name)

    def questions(self, set_name: str, entries: list[str]) -> list[tuple[str, Path]]:
        """(split, file) of what is named, or else of what is published."""
        files = [(split, self.local(name)) for split, name in map(split_of, entries)]
        for _, file in files:
            if file.is_dir():
                advice = "name its files, as in --from train=FILE dev=FILE test=FILE"
                raise WorldError(f"{file}: a folder; {advice}")
        if len({split == "" for split, _ in files}) > 1:
            advice = "name the split of every file or of none, as in train=FILE test=FILE"
            raise WorldError(f"--from: {advice}")
        known = {} if files else SETS[set_name]["splits"]
        return files + [(split, self.published(path)) for split, path in known.items()]
