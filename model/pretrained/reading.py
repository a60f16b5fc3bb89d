"""Files from outside, read with suspicion: what is wrong with one is one line that names it."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.files import CONFIGS, CheckpointError


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


def is_checkpoint(directory: str | Path) -> bool:
    """Whether a directory holds a whole policy, or adapters over one."""
    return any((Path(directory) / name).is_file() for name in CONFIGS)


def existing(directory: str | Path) -> Path:
    """The directory as a Path; CheckpointError where it holds no checkpoint."""
    if not is_checkpoint(directory):
        here = "no checkpoint here (config.json not found)"
        problem = here if Path(directory).is_dir() else "no such checkpoint directory"
        raise CheckpointError(f"{directory}: {problem}")
    return Path(directory)
