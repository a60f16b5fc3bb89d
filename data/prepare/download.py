"""One file over HTTP: progress bar, resumed after a cut, checked, and there whole or not at all.

What has arrived lies beside the target as NAME.<tag>.part, where the tag stands for the server's version of the file
(ETag or Last-Modified, and length): it is continued only while the server still has that version.

Left out on purpose: parallel connections, credentials, addresses that want a browser (Google Drive).
"""

import hashlib
import http.client
import os
import re
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from data.files import WorldError

TRIES = 5  # connections in a row that bring nothing
PAUSE = 1.0  # seconds before the second, doubled before each further one
TIMEOUT = 30.0  # seconds without a byte
BLOCK = 1 << 18


class _Interrupted(Exception):
    """Worth another try: the connection broke, stood still, or the server was busy."""


def download(url: str, target: Path, sha256: str | None = None) -> str:
    """Fetch `url` into the file `target`; a target that is there already is only checked. Returns its SHA-256 in hex.

    Raises WorldError that says how to go on by hand; a partial file is kept for the next try, a wrong one is not.
    """
    if not re.match("https?://", url):
        raise WorldError(f"{url}: not an http or https address")
    if not target.exists():
        try:
            part = _fetch(url, target)
            _check(part, sha256, f"{url}: what was received", remove=True)
            os.replace(part, target)
        except OSError as error:
            raise WorldError(f"{target}: cannot be written: {error.strerror}") from None
    return _check(target, sha256, f"{target}: this file", remove=False)


def by_hand(target: Path, address: str) -> str:
    """What to do where a download does not work."""
    return f"fetch {address} by hand and put it at {target}"


def _check(file: Path, sha256: str | None, what: str, remove: bool) -> str:
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    except OSError as error:
        raise WorldError(f"{file}: cannot be read: {error.strerror}") from None
    if sha256 not in (None, digest.hexdigest()):
        if remove:
            file.unlink()
        raise WorldError(
            f"{what} has the SHA-256 {digest.hexdigest()}, expected {sha256}"
            + (
                " (discarded)"
                if remove
                else "; remove it to download again, or name it with --from to use it as it is"
            )
        )
    return digest.hexdigest()


def _fetch(url: str, target: Path) -> Path:
    """The whole file as a .part. Raises WorldError when it cannot be had."""
    failures, most = 0, 0  # most: bytes that were here at best; only more than that is progress
    while True:
        try:
            return _connect(url, target)
        except _Interrupted as error:
            have = sum(part.stat().st_size for part in _parts(target))
            failures = 1 if have > most else failures + 1
            most = max(most, have)
            if failures >= TRIES:
                kept = f" ({have:,} bytes are kept for the next try)" if have else ""
                raise WorldError(
                    f"{url}: {error}{kept}; try again, or {by_hand(target, 'it')}"
                ) from None
            time.sleep(PAUSE * 2 ** (failures - 1))


def _parts(target: Path) -> list[Path]:
    return [
        file for file in target.parent.glob("*.part") if file.name.startswith(f"{target.name}.")
    ]


def _connect(url: str, target: Path) -> Path:
    """One connection: append what it brings to the part. Returns the part when it is complete, else raises _Interrupted."""
    former = next(iter(_parts(target)), None)
    have = former.stat().st_size if former else 0
    request = urllib.request.Request(
        url,
        headers={"User-Agent": "nano-smartrag", **({"Range": f"bytes={have}-"} if have else {})},
    )
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if (
            error.code == 416 and former
        ):  # the server's file is no longer than what is here: start over
            former.unlink()
            raise _Interrupted("the file on the server has changed") from None
        if error.code in (408, 429) or error.code >= 500:
            raise _Interrupted(f"the server answers {error.code} {error.reason}") from None
        raise WorldError(
            f"{url}: the server answers {error.code} {error.reason}; {by_hand(target, 'the file')}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(
            getattr(error, "reason", None), socket.gaierror
        ):  # no such name, or no network: waiting helps nobody
            raise WorldError(
                f"{url}: cannot be reached ({_reason(error)}); {by_hand(target, 'it')}"
            ) from None
        raise _Interrupted(f"cannot be reached ({_reason(error)})") from None
    with answer:
        start, length = 0, answer.headers.get("Content-Length", "")
        if answer.status == 206:
            span = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            start = int(span[1]) if span else -1
        total = start + int(length) if length.isdecimal() else None
        version = f"{answer.headers.get('ETag') or answer.headers.get('Last-Modified')} {total}"
        part = target.with_name(
            f"{target.name}.{hashlib.sha256(version.encode()).hexdigest()[:8]}.part"
        )
        for stale in _parts(target):
            if stale != part or start not in (0, have):
                stale.unlink()
        if start and not part.exists():
            raise _Interrupted("the file on the server has changed")
        part.parent.mkdir(parents=True, exist_ok=True)
        _receive(answer, part, start, total)
    if total is not None and part.stat().st_size != total:
        if part.stat().st_size > total:
            part.unlink()
        raise _Interrupted("the connection was cut")
    return part


def _receive(answer: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> None:
    """Write the answer's bytes at `start` of the part. Raises _Interrupted; what has arrived stays."""
    name = part.name.rsplit(".", 2)[0]
    with (
        open(part, "ab" if start else "wb") as out,
        tqdm(
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            desc=name,
            dynamic_ncols=True,
        ) as bar,
    ):
        while True:
            try:
                block = answer.read1(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise _Interrupted(f"the connection was cut ({_reason(error)})") from None
            if not block:
                break
            out.write(block)
            bar.update(len(block))
        if total in (None, out.tell()):
            out.flush()
            os.fsync(out.fileno())


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return (
        f"nothing came for {TIMEOUT:g} seconds"
        if isinstance(reason, TimeoutError)
        else getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    )
