"""The question sets and corpora that `python -m data.prepare` knows, and how what a command names
becomes files; downloads are limited in size and in slowness, checked, and whole or not there.

The table itself is sets.json. Splits have the field's names: an official dev set whose test set has
no published answers is the test split; split "" is still to be split. The paths after them lead to
a file, or to a member of an archive. A checksum is there only where one is published: in the
dataset_infos.json of Hugging Face datasets (HotpotQA, AmbigNQ, DPR's passages) or the url_checksums
of TensorFlow Datasets (TriviaQA), in both and alike for NQ-open, OpenBookQA and ARC. "megabytes" is
a round size that the file does not exceed, "browser" says that no program may fetch it.

Left out on purpose: going on where a download broke off (`curl -C -` by hand does), credentials.
"""

import hashlib
import http.client
import json
import re
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from tqdm import tqdm

from data.files import make_directory, replacing
from data.world import WorldError, printable

SPLITS = ("train", "dev", "test")
_TABLE = json.loads(Path(__file__).with_name("sets.json").read_text(encoding="utf-8"))
FILES, SETS, CORPORA = _TABLE["files"], _TABLE["sets"], _TABLE["corpora"]

NO_PASSAGES = (
    "no passages come with these questions: name a corpus with --corpus"
    f" ({', '.join(CORPORA)}, a file or a folder)"
)
TIMEOUT = 30.0  # seconds without a byte
WINDOW, SLOWEST = 30.0, 1000  # seconds in which at least so many bytes a second must come
LARGEST = 20_000  # megabytes, where the size is not known
BLOCK = 1 << 18


def is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def split_of(entry: str) -> tuple[str, str]:
    """ "test=x.jsonl" -> ("test", "x.jsonl"); the split is "" where none is named."""
    split, _, name = entry.partition("=")
    return (split, name) if split in SPLITS and name else ("", entry)


class Inputs:
    """Local paths of what a command names; downloads on the way are noted in `sha256`."""

    def __init__(self, downloads: Path):
        self.downloads, self.sha256 = downloads, {}

    def local(self, name: str) -> Path:
        """A file, folder or address, or one of CORPORA."""
        if name in CORPORA:
            return self.published(CORPORA[name]["file"])
        if not is_address(name):
            return Path(name)
        file = self.downloads / (Path(name.partition("?")[0]).name or "download")
        self.sha256[file.name] = download(name, file)
        return file

    def published(self, path: str) -> Path:
        """A file of FILES, or a member of one."""
        name = path.partition("/")[0]
        known, target = FILES[name], self.downloads / name
        if "browser" in known and not target.exists():
            advice = f"fetch {known['url']} by hand and put it at {target}"
            raise WorldError(f"{name} cannot be downloaded without a browser: {advice}")
        if name not in self.sha256:
            limits = known.get("sha256"), known["megabytes"]
            self.sha256[name] = download(known["url"], target, *limits)
        return self.downloads / path

    def questions(self, set_name: str, entries: list[str]) -> dict[str, list[Path]]:
        """Split -> files of what is named, or else of what is published."""
        files = defaultdict(list)
        for split, name in map(split_of, entries):
            files[split].append(self.local(name))
        if "" in files and len(files) > 1:
            advice = "name the split of every file or of none, as in train=FILE test=FILE"
            raise WorldError(f"--from: {advice}")
        known = SETS[set_name]["splits"].items()
        return files or {split: [self.published(path)] for split, path in known}


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows redirects within a scheme, and from http to https."""

    def redirect_request(self, request, response, code, reason, headers, target):
        former, new = urlsplit(request.full_url).scheme, urlsplit(target).scheme
        if new not in (former, "https"):
            raise OSError(f"redirected from {former} to {new}: {target}")
        return super().redirect_request(request, response, code, reason, headers, target)


def download(url: str, target: Path, sha256: str | None = None, megabytes: int = LARGEST) -> str:
    """Fetch `url` into the file `target`, or only check what is there. Returns its SHA-256 in hex.
    megabytes: what the file does not exceed. Raises WorldError, which says how to go on by hand."""
    if not is_address(url):
        raise WorldError(f"{url}: not an http or https address")
    digest = hashlib.sha256()
    try:
        fetched = not target.exists()
        if fetched:
            make_directory(target.parent)
            with replacing(target) as out:
                _fetch(url, out, megabytes)
        with open(target, "rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    except (OSError, http.client.HTTPException, ValueError) as error:
        problem = f"cannot be downloaded to {target}: {str(error) or type(error).__name__}"
        advice = f"try again, or fetch it by hand and put it at {target}"
        raise WorldError(f"{url}: {problem}; {advice}") from None
    if sha256 not in (None, digest.hexdigest()):
        advice = "remove it to download again, or name it with --from to use it as it is"
        if fetched:
            target.unlink()
            advice = f"what came from {url} is discarded"
        problem = f"has the SHA-256 {digest.hexdigest()}, expected {sha256}"
        raise WorldError(f"{target}: {problem}; {advice}")
    return digest.hexdigest()


def _fetch(url: str, out: BinaryIO, megabytes: int) -> None:
    """Write what the server sends. Raises OSError, HTTPException, ValueError."""
    request = urllib.request.Request(url, headers={"User-Agent": "nano-smartrag"})
    opener = urllib.request.build_opener(_SameScheme)
    with opener.open(request, timeout=TIMEOUT) as answer:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        received, since, before = 0, time.monotonic(), 0  # the last two: of the present window
        with tqdm(desc=printable(url), total=total, unit="B", unit_scale=1, disable=None) as bar:
            while block := answer.read1(BLOCK):
                received += len(block)
                if max(received, total or 0) > megabytes * 1_000_000:
                    raise OSError(f"larger than {megabytes:,} MB, the most that it should have")
                seconds = time.monotonic() - since
                if seconds > WINDOW:
                    if received - before < SLOWEST * seconds:
                        raise OSError(f"slower than {SLOWEST:,} bytes a second")
                    since, before = time.monotonic(), received
                out.write(block)
                bar.update(len(block))
        if total not in (None, received):
            raise OSError(f"cut off after {received:,} of {total:,} bytes")
