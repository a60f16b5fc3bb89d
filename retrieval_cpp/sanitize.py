"""The kernel's tests on builds with sanitizers: python retrieval_cpp/sanitize.py [address] [thread]

  address   AddressSanitizer and UndefinedBehaviorSanitizer, all tests of the room
  thread    ThreadSanitizer, the tests with "thread" in their name

Each build has a copy of the sources under build/, so that the ordinary extension stays as it is.  The sanitizer's
runtime must come before Python's own libraries, hence LD_PRELOAD.  Python itself is not built with it: leaks, which
would be the interpreter's, are not looked for.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = (
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "retrieval_cpp",
    "tests/__init__.py",
    "tests/shared.py",
    "tests/retrieval_cpp",
)
BUILDS = {
    "address": (
        "-fsanitize=address,undefined -fno-sanitize-recover=undefined",
        "libasan.so libubsan.so",
        [],
    ),
    "thread": ("-fsanitize=thread", "libtsan.so", ["-k", "thread"]),
}


def runtime(library: str) -> str:
    """Where gcc keeps a sanitizer's runtime; it comes with the compiler."""
    command = [*shlex.split(os.environ.get("CXX", "g++")), f"-print-file-name={library}"]
    path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(path):
        sys.exit(
            f"error: {command[0]} has no {library}; set CXX to a g++ with its sanitizer runtimes"
        )
    return path


def check(name: str) -> int:
    flags, libraries, selection = BUILDS[name]
    copy = ROOT / "build" / f"sanitize-{name}"
    shutil.rmtree(copy, ignore_errors=True)
    for path in COPIED:
        source, target = ROOT / path, copy / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        elif source.exists():
            shutil.copy(source, target)
    build = os.environ | {"SMARTRAG_CXXFLAGS": f"-g -O1 -fno-omit-frame-pointer {flags}"}
    subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=copy,
        env=build,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    run = os.environ | {
        "LD_PRELOAD": " ".join(runtime(library) for library in libraries.split()),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        "SMARTRAG_SHARED": os.environ.get("SMARTRAG_SHARED", str(ROOT.parent / "shared")),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/retrieval_cpp", *selection]
    return subprocess.run(command, cwd=copy, env=run).returncode


if __name__ == "__main__":
    names = sys.argv[1:] or list(BUILDS)
    if unknown := [name for name in names if name not in BUILDS]:
        sys.exit(f"unknown sanitizer {unknown[0]!r}; there are {', '.join(BUILDS)}")
    sys.exit(max(check(name) for name in names))
