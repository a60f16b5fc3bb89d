"""One file over HTTP, limited in size and in slowness, checked, and there whole or not at all.

Left out on purpose: going on where a download broke off (`curl -C -` by hand does), parallel
connections, credentials, addresses that want a browser (Google Drive).
"""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from tqdm import tqdm

from data.files import make_directory, sync_directory
from data.world import WorldError, printable

TIMEOUT = 30.0  # seconds without a byte
WINDOW, SLOWEST = 30.0, 1000  # seconds in which at least so many bytes a second must come
LARGEST = 20_000  # megabytes, where the size is not known
BLOCK = 1 << 18


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows redirects within a scheme, and from http to https."""

    def redirect_request(self, request, response, code, reason, headers, target):
        former, new = urlsplit(request.full_url).scheme, urlsplit(target).scheme
        if new not in (former, "https"):
            raise WorldError(f"{request.full_url}: is redirected from {former} to {new}: {target}")
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
            return _expect(sha256, _digest(target), f"{target}: this file", advice)
        make_directory(target.parent)
        with open(part, "wb") as out:
            digest = _fetch(url, target, out, megabytes)
            out.flush()
            os.fsync(out.fileno())
        _expect(sha256, digest, f"{url}: what was received", "discarded")
        os.replace(part, target)
        sync_directory(target.parent)
        return digest
    except OSError as error:
        raise WorldError(f"{target}: cannot be read or written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            part.unlink()


def by_hand(target: Path, address: str) -> str:
    """What to do where a download does not work."""
    return f"fetch {address} by hand and put it at {target}"


def _expect(sha256: str | None, digest: str, what: str, advice: str) -> str:
    if sha256 not in (None, digest):
        raise WorldError(f"{what} has the SHA-256 {digest}, expected {sha256}; {advice}")
    return digest


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


class _Broken(Exception):
    """What the server sent is not the file."""


def _fetch(url: str, target: Path, out: BinaryIO, megabytes: int) -> str:
    """Write what the server sends; its SHA-256. Raises WorldError, and the disk's OSError."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "nano-smartrag"})
        answer = urllib.request.build_opener(_SameScheme).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        problem = f"the server answers {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, WorldError):
            raise
        problem = f"cannot be reached ({_reason(error)})"
    else:
        try:
            with answer:
                return _receive(answer, out, megabytes, target.name)
        except _Broken as error:
            problem = str(error)
    raise WorldError(f"{url}: {problem}; try again, or {by_hand(target, 'it')}")


def _receive(answer: http.client.HTTPResponse, out: BinaryIO, megabytes: int, name: str) -> str:
    digest, received = hashlib.sha256(), 0
    length = answer.headers.get("Content-Length", "")
    total = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
    since, before = time.monotonic(), 0  # of the present window
    with tqdm(
        total=total, unit="B", unit_scale=True, desc=printable(name), dynamic_ncols=True
    ) as bar:
        while block := _block(answer):
            received += len(block)
            if max(received, total or 0) > megabytes * 1_000_000:
                raise _Broken(f"larger than {megabytes:,} MB, the most that it should have")
            seconds = time.monotonic() - since
            if seconds > WINDOW:
                if received - before < SLOWEST * seconds:
                    raise _Broken(f"slower than {SLOWEST:,} bytes a second")
                since, before = time.monotonic(), received
            digest.update(block)
            out.write(block)
            bar.update(len(block))
    if total not in (None, received):
        raise _Broken(f"the connection was cut after {received:,} of {total:,} bytes")
    return digest.hexdigest()


def _block(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"the connection was cut ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return f"nothing came for {TIMEOUT:g} seconds"
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
