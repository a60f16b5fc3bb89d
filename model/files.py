"""Files: written durably, read with suspicion.

What replaces a file is written beside it, flushed to the disk, then renamed: neither a kill nor a
power cut leaves half a file, and nothing old goes before the new is safe.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    temporary = path.with_name(path.name + ".partial")
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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What stumbles over a file from outside ends in a CheckpointError of one line that names it.
    A ValueError speaks for itself."""
    try:
        yield
    except Exception as error:
        problem = " ".join(str(error).split())[:400]
        if isinstance(error, FileNotFoundError):
            problem = "not found"
        elif isinstance(error, ModuleNotFoundError):
            problem = f"needs the package {error.name}: pip install {error.name}"
        elif isinstance(error, KeyError):
            problem = f"missing field {problem:.80}"
        elif path.is_file() and path.open("rb").read(40).startswith(b"version https://git-lfs"):
            problem = "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
        elif type(error) is not ValueError:
            problem = f"not readable here ({problem:.200})"
        raise CheckpointError(f"{path}: {problem}") from None


def read_json(path: Path, kind: type = dict, optional: bool = False):
    """The `kind` in a JSON file from outside, of bounded size and depth; an empty one where an
    optional file is absent. Raises CheckpointError."""
    if optional and not path.exists():
        return kind()
    with reading(path):
        if path.stat().st_size > 2**26:
            raise ValueError("larger than 64 MB")
        value = json.loads(path.read_bytes())
        level = [value]
        for _ in range(32):
            nested = [x for x in level if isinstance(x, (dict, list))]
            level = [y for x in nested for y in (x.values() if isinstance(x, dict) else x)]
        if level:
            raise ValueError("nested deeper than 32 levels")
        if not isinstance(value, kind):
            raise ValueError(f"not a JSON {'object' if kind is dict else kind.__name__}")
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
