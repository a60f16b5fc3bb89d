"""One process per folder: an flock on FOLDER/lock, which ends with its process, however that ends.

The file says whose folder this is and who is at work; it goes when the work is done. Left out:
locks over several machines (a network file system may ignore them).
"""

import fcntl
import os
from pathlib import Path
from typing import IO

from rl.runs.flags import UsageError

NAME, MARK = "lock", "nano-smartrag, process "


def lock(folder: Path) -> IO[str]:
    """Make the folder where there is none, and hold it until the returned file is closed. Raises
    UsageError where another process holds it, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    file = open(path, "a+")  # noqa: SIM115  the caller closes it
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(100).strip().removeprefix(MARK)
        file.close()
        raise UsageError(
            f"{folder} is in use by process {holder}; wait for it, or end it"
        ) from None
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        file.close()  # unlocked between opening and locking it
        return lock(folder)
    file.truncate(0)
    file.write(f"{MARK}{os.getpid()}\n")
    file.flush()
    return file


def unlock(folder: Path, file: IO[str]) -> None:
    (folder / NAME).unlink(missing_ok=True)  # while it is held: nobody else's is removed
    file.close()


def is_ours(folder: Path) -> bool:
    """Whether somebody locked this folder before."""
    try:
        return (folder / NAME).read_bytes().startswith(MARK.encode())
    except OSError:
        return False
