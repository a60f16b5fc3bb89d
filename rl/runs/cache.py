"""What takes minutes to make is made once: files under CACHE, named by the hash of all that decides
them. Left out: parts of a file (a kill loses what was made so far), and an end of old files."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from model import atomic_write
from rl import ranks
from rl.runs.progress import say

CACHE = Path("runs/cache")


def key(*parts) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def cached(path: Path, load: Callable[[Path], object], make: Callable[[], object], save: Callable):
    """load(path); where there is no such file, or only one of another version or torn, make(),
    which rank 0 saves: whole or not at all. Rank 0's finding counts for all ranks."""
    value = loaded(path, load)
    [readable] = ranks.map(lambda _: value is not None, [None])
    if readable:  # where another process wrote it since this rank looked, it is there by now
        return load(path) if value is None else value
    value = make()
    if ranks.rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f"{os.getpid()}.{path.name}")  # another process may be at it as well
        atomic_write(own, lambda temporary: save(value, temporary))
        os.replace(own, path)
    return value


def loaded(path: Path, load: Callable[[Path], object]):
    """load(path), None where there is no such file or it cannot be read."""
    if not path.exists():
        return None
    try:
        return load(path)
    except (ValueError, EOFError, RuntimeError) as error:
        say(f"{path}: {error}; it is made anew")
        return None
