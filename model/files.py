"""Files: written durably, read with suspicion.

What replaces a file is written beside it, flushed to the disk, then renamed: neither a kill nor a
power cut leaves half a file, and nothing old goes before the new is safe.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

UMASK = os.umask(0o077)
os.umask(UMASK)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one line that names the file."""


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let write(temporary path) make a file and put it in the place of `path`, or of what a link
    points to; never in that of a device or a folder. Raises OSError."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a regular file")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")  # another process's own
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:  # the second: that library's "disk full"
        raise not_written(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, now with the permissions of the user's umask, or a directory to the disk."""
    if path.is_file():
        os.chmod(path, 0o666 & ~UMASK)  # safetensors' files are for their owner alone
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def not_written(path: Path, error: Exception) -> OSError:
    return OSError(f"{path}: could not be written ({error}); what was there before is kept")


def write_json(path: Path, value) -> None:
    atomic_write(path, lambda temporary: temporary.write_text(json.dumps(value, indent=1) + "\n"))


def unreadable(path: Path, kind: str, error: Exception) -> CheckpointError:
    """What to say of a file that is not `kind`."""
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path}: not found")
    if path.is_file() and path.open("rb").read(40).startswith(b"version https://git-lfs"):
        problem = "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
        return CheckpointError(f"{path}: {problem}")
    return CheckpointError(f"{path}: not {kind} ({error!s:.200})")


def read_json(path: Path, kind: type = dict):
    """The `kind` in a JSON file from outside, of bounded size and depth. Raises CheckpointError."""
    try:
        if path.stat().st_size > 2**26:
            raise ValueError("larger than 64 MB")
        value = json.loads(path.read_bytes())
        level = [value]
        for _ in range(32):
            nested = [x for x in level if isinstance(x, (dict, list))]
            level = [y for x in nested for y in (x.values() if isinstance(x, dict) else x)]
        if level:
            raise ValueError("nested deeper than 32 levels")
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, "readable JSON", error) from None
    if not isinstance(value, kind):
        raise CheckpointError(f"{path}: not a JSON {'object' if kind is dict else kind.__name__}")
    return value


def weights_sha256(directory: str | Path) -> str:
    """Hash of the weight files of a checkpoint (or of one GGUF file); "" where there are none."""
    digest, path = hashlib.sha256(), Path(directory)
    files = [path] if path.is_file() else sorted(path.glob("*model*.safetensors"))
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest() if files else ""
