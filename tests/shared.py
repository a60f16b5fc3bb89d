"""Where the tests find real data that is never part of the repository.

`shared_path("ir/cacm")` is a path below the folder `shared` beside the checkout (or
$SMARTRAG_SHARED). Where it is absent the calling test is skipped and says so; on CI ($CI set)
absence is a failure.
"""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_path(relative: str) -> Path:
    base = Path(os.environ.get("SMARTRAG_SHARED", ROOT.parent / "shared"))
    path = base / relative
    if not path.exists():
        message = f"real data not found: {path} (set SMARTRAG_SHARED to the folder that holds it)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
