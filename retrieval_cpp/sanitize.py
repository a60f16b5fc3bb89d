"""The kernel's tests on builds with sanitizers: python retrieval_cpp/sanitize.py

AddressSanitizer with UndefinedBehaviorSanitizer on all tests of this folder, ThreadSanitizer on
those with "thread" or "signal" in their name.  Each build lies under build/, beside a copy of the
tests.  The sanitizer's runtime must come before Python's own libraries, hence LD_PRELOAD.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def check(sanitizers: str, libraries: list[str], selection: list[str]) -> None:
    copy = ROOT / "build" / sanitizers[:4]  # -k must not find "thread" in it
    shutil.rmtree(copy, ignore_errors=True)
    build = [sys.executable, "setup.py", "-q", "build", "-f", "-b", copy, "--build-lib", copy]
    flags = f"-g -O1 -fno-omit-frame-pointer -fsanitize={sanitizers} -fno-sanitize-recover=all"
    subprocess.run(build, cwd=ROOT, env=os.environ | {"SMARTRAG_CXXFLAGS": flags}, check=True)
    shutil.copytree(ROOT / "tests", copy / "tests")
    compiler = os.environ.get("CXX", "g++").split()
    paths = [[*compiler, f"-print-file-name={library}"] for library in libraries]
    run = os.environ | {
        "LD_PRELOAD": " ".join(subprocess.check_output(q, text=True).strip() for q in paths),
        "ASAN_OPTIONS": "detect_leaks=0",  # they would be the interpreter's
        "OPENBLAS_NUM_THREADS": "1",  # numpy's own threads are none of our business
        "PYTHONMALLOC": "malloc",
        "SMARTRAG_SHARED": os.environ.get("SMARTRAG_SHARED", str(ROOT.parent / "shared")),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/retrieval_cpp", *selection]
    subprocess.run(command, cwd=copy, env=run, check=True)


if __name__ == "__main__":
    check("address,undefined", ["libasan.so", "libubsan.so"], [])
    check("thread", ["libtsan.so"], ["-k", "thread or signal"])
