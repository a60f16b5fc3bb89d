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
import os
import re
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from data.files import make_directory, sync_directory
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


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows redirects within a scheme, and from http to https."""

    def redirect_request(self, request, response, code, reason, headers, target):
        former, new = urlsplit(request.full_url).scheme, urlsplit(target).scheme
        if new not in (former, "https"):
            raise OSError(f"redirected from {former} to {new}: {target}")
        return super().redirect_request(request, response, code, reason, headers, target)


def download(url: str, target: Path, sha256: str | None = None, megabytes: int = LARGEST) -> str:
    """Fetch `url` into the file `target`, or only check what is there. Returns its SHA-256 in hex.

    megabytes: what the file does not exceed. Raises WorldError, which says how to go on by hand.
    """
    if not url.startswith(("http://", "https://")):
        raise WorldError(f"{url}: not an http or https address")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists():
            advice = "remove it to download again, or name it with --from to use it as it is"
            return _checked(target, sha256, f"{target}: this file", advice)
        make_directory(target.parent)
        _fetch(url, part, megabytes)
        digest = _checked(part, sha256, f"{url}: what was received", "discarded")
        os.replace(part, target)
        sync_directory(target.parent)
        return digest
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, WorldError):
            raise
        problem = f"cannot be downloaded to {target}: {_reason(error)}"
        raise WorldError(f"{url}: {problem}; try again, or {by_hand(target, 'it')}") from None
    finally:
        with suppress(OSError):
            part.unlink()


def by_hand(target: Path, address: str) -> str:
    """What to do where a download does not work."""
    return f"fetch {address} by hand and put it at {target}"


def _checked(file: Path, sha256: str | None, what: str, advice: str) -> str:
    """The file's SHA-256. Raises WorldError where another one is expected."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    if sha256 not in (None, digest.hexdigest()):
        problem = f"has the SHA-256 {digest.hexdigest()}, expected {sha256}"
        raise WorldError(f"{what} {problem}; {advice}")
    return digest.hexdigest()


def _fetch(url: str, file: Path, megabytes: int) -> None:
    """Write what the server sends. Raises OSError, HTTPException, ValueError."""
    request = urllib.request.Request(url, headers={"User-Agent": "nano-smartrag"})
    opener = urllib.request.build_opener(_SameScheme)
    with opener.open(request, timeout=TIMEOUT) as answer, open(file, "wb") as out:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        received, since, before = 0, time.monotonic(), 0  # the last two: of the present window
        shown = {"total": total, "unit": "B", "unit_scale": True, "disable": None}
        with tqdm(desc=printable(url), **shown) as bar:
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
        out.flush()
        os.fsync(out.fileno())


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)  # of a URLError, what is behind it
    reason = reason if isinstance(reason, Exception) else error
    if isinstance(reason, TimeoutError):
        return f"nothing came for {TIMEOUT:g} seconds"
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
