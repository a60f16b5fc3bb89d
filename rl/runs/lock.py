"""One process per folder: an flock on FOLDER/lock, which ends with its process, however that ends.

The file stays and says whose folder this is. Left out: locks over several machines (a network file
system may ignore them).
"""

import fcntl
import os
from pathlib import Path
from typing import IO

from rl.runs.flags import UsageError

NAME, MARK = "lock", "nano-smartrag, process "


def lock(folder: Path) -> IO[str]:
    """Make the folder where there is none, and hold it until the returned file is closed. Raises
    UsageError, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / NAME, "a+")  # noqa: SIM115  held by the caller, for as long as it works there
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(100).strip().removeprefix(MARK)
        file.close()
        raise UsageError(
            f"{folder} is in use by process {holder}; wait for it, or end it"
        ) from None
    file.truncate(0)
    file.write(f"{MARK}{os.getpid()}\n")
    file.flush()
    return file


def is_ours(folder: Path) -> bool:
    """Whether somebody locked this folder before."""
    try:
        return (folder / NAME).read_bytes().startswith(MARK.encode())
    except OSError:
        return False
