"""Who may import whom (DESIGN, section 2), read from the source of every file."""

import ast
import sys
from pathlib import Path

import pytest

from .shared import ROOT

ROOMS = ("model", "rl", "retrieval_cpp", "data")
SCRIPTS = ("train_sft", "train_ppo", "evaluate")
MAY = (
    {"model": set(), "retrieval_cpp": set(), "data": set(), "rl": {"model", "data"}}
    | {script: {*ROOMS, *SCRIPTS} for script in SCRIPTS}
    | {"setup": {"retrieval_cpp"}}
)
THIRD_PARTY = {"torch", "tokenizers", "numpy", "safetensors", "tqdm"}
BUILD = {"setuptools", "pybind11"}  # setup.py alone
OPTIONAL = {"Stemmer", "pymilvus", "gguf"}  # inside a function alone
SEARCHES = "rl/runs/retrievers.py"  # makes the scripts' retriever from their arguments; the rest of rl takes any that has `search`


def files_of(owner: str) -> list[Path]:
    return sorted((ROOT / owner).rglob("*.py")) if owner in ROOMS else [ROOT / f"{owner}.py"]


def imports(source: str, package: str) -> list[tuple[str, bool]]:
    """(top-level name, whether inside a function) of every import, dynamic ones by a literal name included."""
    found = []

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name.partition(".")[0], inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.append((package if node.level else node.module.partition(".")[0], inside))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "__import__",
            "import_module",
            "importlib.import_module",
        ):
            found.append(
                (
                    node.args[0].value.partition(".")[0]
                    if isinstance(node.args[0], ast.Constant)
                    else "?",
                    inside,
                )
            )
        for child in ast.iter_child_nodes(node):
            visit(
                child,
                inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)),
            )

    visit(ast.parse(source), False)
    return found


@pytest.mark.parametrize("owner", MAY)
def test_rooms_import_only_what_they_may(owner):
    files = files_of(owner)
    assert files and all(file.is_file() for file in files)
    for file in files:
        for name, inside in imports(file.read_text(), owner):
            more = {"retrieval_cpp"} if str(file.relative_to(ROOT)) == SEARCHES else set()
            allowed = (
                {owner, *MAY[owner], *more, *THIRD_PARTY}
                | (BUILD if owner == "setup" else set())
                | (OPTIONAL if inside else set())
            )
            assert name in allowed or name in sys.stdlib_module_names, (
                f"{file.relative_to(ROOT)} imports {name}"
            )


def test_every_source_file_has_an_owner():
    """A new room or script has to be named here, with what it may import."""
    tops = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".") and any(path.glob("*.py"))
    }
    assert tops - {"tests", "benchmarks"} == set(ROOMS)
    assert {path.stem for path in ROOT.glob("*.py")} == {*SCRIPTS, "setup"}


def test_no_room_of_the_project_imports_tests_or_benchmarks():
    for owner in MAY:
        for file in files_of(owner):
            assert not {"tests", "benchmarks"} & {
                name for name, _ in imports(file.read_text(), owner)
            }, file


@pytest.mark.parametrize(
    "source, expected",
    [
        ("import torch.nn as nn, os", [("torch", False), ("os", False)]),
        ("from . import x\nfrom ..y import z", [("rl", False), ("rl", False)]),
        ("def f():\n    if True:\n        import Stemmer", [("Stemmer", True)]),
        ("if True:\n    from model.policy import Policy", [("model", False)]),
        (
            "import importlib\nimportlib.import_module('train_sft')",
            [("importlib", False), ("train_sft", False)],
        ),
        ("class A:\n    import rl", [("rl", False)]),
    ],
)
def test_the_reader_of_imports(source, expected):
    assert imports(source, "rl") == expected
