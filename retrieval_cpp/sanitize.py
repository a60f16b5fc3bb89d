"""The kernel's tests on builds with sanitizers: python retrieval_cpp/sanitize.py [address] [thread]

  address   AddressSanitizer and UndefinedBehaviorSanitizer, all tests of this folder
  thread    ThreadSanitizer, the tests with "thread" or "signal" in their name

Each build lies under build/, beside a copy of the tests; the ordinary extension stays as it is.
The sanitizer's runtime must come before Python's own libraries, hence LD_PRELOAD.  Python itself is
not built with it: leaks, which would be the interpreter's, are not looked for.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILDS = {  # sanitizers, runtime libraries, tests
    "address": ("address,undefined", ["libasan.so", "libubsan.so"], []),
    "thread": ("thread", ["libtsan.so"], ["-k", "thread or signal"]),
}


def runtime(library: str) -> str:
    """Where gcc keeps a sanitizer's runtime; it comes with the compiler."""
    command = [*shlex.split(os.environ.get("CXX", "g++")), f"-print-file-name={library}"]
    path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(path):
        sys.exit(f"error: {command[0]} has no {library}; set CXX to a g++ with its runtimes")
    return path


def check(name: str) -> int:
    sanitizers, libraries, selection = BUILDS[name]
    copy = ROOT / "build" / f"{name[0]}san"  # -k must not find "thread" in it
    shutil.rmtree(copy, ignore_errors=True)
    build = [sys.executable, "setup.py", "-q", "build", "-f", "-b", copy, "--build-lib", copy]
    flags = f"-g -O1 -fno-omit-frame-pointer -fsanitize={sanitizers} -fno-sanitize-recover=all"
    subprocess.run(build, cwd=ROOT, env=os.environ | {"SMARTRAG_CXXFLAGS": flags}, check=True)
    shutil.copytree(ROOT / "tests", copy / "tests")
    run = os.environ | {
        "LD_PRELOAD": " ".join(map(runtime, libraries)),
        "ASAN_OPTIONS": "detect_leaks=0",
        "OPENBLAS_NUM_THREADS": "1",  # numpy's own threads are none of our business
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
