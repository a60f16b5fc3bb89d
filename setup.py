"""Builds retrieval_cpp._core; everything else about the package is in pyproject.toml.

No -march=native: instruction sets are chosen at run time, so that one wheel runs everywhere.  No
-ffast-math and no contraction of a * b + c: scores, and the term frequencies decoded from postings,
must not depend on the compiler's mood.
SMARTRAG_CXXFLAGS adds flags (warnings, sanitizers): see retrieval_cpp/sanitize.py.
"""

import os
import runpy
import shlex
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

FOLDER = Path("retrieval_cpp")
EXTRA = shlex.split(os.environ.get("SMARTRAG_CXXFLAGS", ""))


class BuildWithTables(build_ext):
    """Generates the Unicode tables first."""

    def build_extensions(self):
        generated = Path(self.build_temp) / "generated"
        runpy.run_path(str(FOLDER / "unicode_tables.py"))["write"](generated / "unicode_tables.inc")
        for extension in self.extensions:
            extension.include_dirs.append(str(generated))
        super().build_extensions()


setup(
    ext_modules=[
        Pybind11Extension(
            "retrieval_cpp._core",
            [str(FOLDER / "bindings.cpp")],
            depends=sorted(str(p) for p in FOLDER.iterdir() if p.suffix in (".hpp", ".inc", ".py")),
            cxx_std=17,
            extra_compile_args=["-O3", "-ffp-contract=off", "-pthread", *EXTRA],
            extra_link_args=["-pthread", *EXTRA],
        )
    ],
    cmdclass={"build_ext": BuildWithTables},
)
