"""Who may import whom, and how many lines there may be (DESIGN, section 2), read from every
file."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from .shared import ROOT

PACKAGES = ("model", "rl", "retrieval_cpp", "data")
SCRIPTS = ("train_sft", "train_ppo", "evaluate")
MAY = (
    {"model": set(), "retrieval_cpp": set(), "data": set(), "rl": {"model", "data"}}
    | {script: set(PACKAGES) for script in SCRIPTS}
    | {"setup": {"retrieval_cpp"}}
)
THIRD_PARTY = {"torch", "tokenizers", "numpy", "safetensors", "tqdm"}
BUILD = {"setuptools", "pybind11"}  # setup.py alone
OPTIONAL = {"Stemmer", "pymilvus", "markdown_it", "gguf", "transformers"}  # inside a function alone
RETRIEVERS = "rl.runs.retrievers"  # the one module of rl that may import retrieval_cpp
# The other files of data are a wing, as its packages are.
DATA_CORE = ("data.world", "data.metrics")
COMPILED = {"retrieval_cpp._core"}  # not of Python

# Of all Python outside tests and benchmarks, and of the core.
LINES, CORE_LINES, FILE_LINES, FUNCTION_LINES, README_LINES = 9_500, 2_400, 300, 50, 130


class Import(NamedTuple):
    name: str  # dotted, as it is written
    names: tuple[str, ...]  # what is taken from it, () for "import name"
    inside: bool  # in a function


def imports(source: str) -> Iterator[Import]:
    """Every import of a file, dynamic ones of a literal name included. ValueError: a relative
    one."""
    dynamic = ("__import__", "import_module", "importlib.import_module")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

    def visit(node: ast.AST, inside: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, (), inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"line {node.lineno}: a relative import")
            yield Import(node.module, tuple(alias.name for alias in node.names), inside)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in dynamic:
            literal = isinstance(node.args[0], ast.Constant)
            yield Import(node.args[0].value if literal else "?", (), inside)
        inside = inside or isinstance(node, functions)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return visit(ast.parse(source), False)


def modules() -> dict[str, Path]:
    """Dotted name -> file of all Python outside tests and benchmarks; a package is its
    __init__.py."""
    files = [ROOT / f"{name}.py" for name in (*SCRIPTS, "setup")]
    for package in PACKAGES:
        files += sorted((ROOT / package).rglob("*.py"))
    found = {}
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


FILES = modules()
IMPORTS = {module: list(imports(file.read_text())) for module, file in FILES.items()}


def owner(module: str) -> str:
    return module.partition(".")[0]


def folder(module: str) -> str:
    """The package that a module stands in; of a script, itself."""
    is_package = FILES[module].name == "__init__.py"
    return module if is_package else module.rpartition(".")[0] or module


def is_core(module: str) -> bool:
    """A script, or a file of a core package that is in no wing."""
    if owner(module) == "data":
        return module in DATA_CORE
    return module in SCRIPTS or folder(module) in ("model", "rl")


def place(module: str) -> str:
    """Its package; the core of a package is apart from what else stands beside it."""
    core = is_core(module) and module not in SCRIPTS
    return f"{folder(module)} core" if core else folder(module)


def targets(one: Import) -> set[str]:
    """The modules of the project that an import needs."""
    found = set()
    for name in one.names or ("",):
        inner = f"{one.name}.{name}"
        found.add(inner if inner in FILES.keys() | COMPILED else one.name)
    return found & FILES.keys()


GRAPH = {
    module: set().union(*(targets(one) for one in found)) - {module}
    for module, found in IMPORTS.items()
}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Nodes of one circle, [] where there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        done.add(node)
        return next(filter(None, (visit(x, [*path, node]) for x in sorted(graph[node]))), [])

    return next(filter(None, (visit(node, []) for node in sorted(graph))), [])


# --------------------------------------------------------------- who imports whom


@pytest.mark.parametrize("package", MAY)
def test_packages_import_only_what_they_may(package):
    wrong = []
    for module, found in IMPORTS.items():
        if owner(module) != package:
            continue
        allowed = {package, *MAY[package], *THIRD_PARTY, *sys.stdlib_module_names}
        allowed |= {"retrieval_cpp"} if module == RETRIEVERS else set()
        allowed |= BUILD if package == "setup" else set()
        for one in found:
            name = owner(one.name)
            if name not in allowed and not (one.inside and name in OPTIONAL):
                wrong.append(f"{module} imports {one.name}")
    assert wrong == []


def test_no_core_file_imports_a_wing():
    core = [module for module in GRAPH if is_core(module) and module not in SCRIPTS]
    assert {"rl.rollout", "rl.ppo", "model.policy", "data.world"} <= set(core)
    edges = [(module, target) for module in core for target in sorted(GRAPH[module])]
    wrong = [f"{a} imports {b}" for a, b in edges if not is_core(b)]
    assert wrong == []


def test_no_script_imports_a_script_and_no_package_imports_one():
    wrong = [f"{a} imports {b}" for a in GRAPH for b in GRAPH[a] & {*SCRIPTS, "setup"}]
    assert wrong == []


def test_no_circle_between_files():
    assert circle(GRAPH) == []


def test_no_circle_between_packages():
    packages: dict[str, set[str]] = {}
    for module, found in GRAPH.items():
        here = packages.setdefault(place(module), set())
        here |= {place(target) for target in found} - {place(module)}
    assert circle(packages) == []


def test_every_source_file_has_an_owner():
    """A new package or script has to be named here, with what it may import."""
    tops = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".") and any(path.glob("*.py"))
    }
    assert tops - {"tests", "benchmarks", "docs"} == set(PACKAGES)
    assert {path.stem for path in ROOT.glob("*.py")} == {*SCRIPTS, "setup"}


@pytest.mark.parametrize(
    "source, expected",
    [
        ("import torch.nn as nn, os", [("torch.nn", (), False), ("os", (), False)]),
        ("from rl.ppo import a, b", [("rl.ppo", ("a", "b"), False)]),
        ("def f():\n    if True:\n        import Stemmer", [("Stemmer", (), True)]),
        ("if True:\n    from model import Policy", [("model", ("Policy",), False)]),
        ("import_module('train_sft')", [("train_sft", (), False)]),
        ("def f(x):\n    return __import__(x)", [("?", (), True)]),
        ("class A:\n    import rl", [("rl", (), False)]),
    ],
)
def test_the_reader_of_imports(source, expected):
    assert list(imports(source)) == expected


def test_the_reader_refuses_relative_imports():
    with pytest.raises(ValueError, match="line 2: a relative import"):
        list(imports("import os\nfrom .ppo import a"))


def test_targets_are_modules_of_the_project():
    assert targets(Import("rl", ("ranks", "Episode"), False)) == {"rl.ranks", "rl"}
    assert targets(Import("rl.runs", ("retrievers",), False)) == {"rl.runs.retrievers"}
    assert targets(Import("data.world", ("World",), False)) == {"data.world"}
    assert targets(Import("torch", (), False)) == set()


@pytest.mark.parametrize(
    "graph, expected",
    [
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
        ({"a": {"b"}, "b": {"a"}}, ["a", "b", "a"]),
    ],
)
def test_the_finder_of_circles(graph, expected):
    assert circle(graph) == expected


# --------------------------------------------------------------- budgets


def lines_of(module: str) -> int:
    return len(FILES[module].read_text().splitlines())


def functions(module: str) -> Iterator[tuple[str, int]]:
    """(name, lines) of every function of a module, its decorators not counted."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{module}.{node.name}", node.end_lineno - node.lineno + 1


def test_budgets_of_lines(capsys):
    folders: dict[str, int] = {}
    for module in FILES:
        folders[place(module)] = folders.get(place(module), 0) + lines_of(module)
    total, core = sum(folders.values()), sum(lines_of(m) for m in FILES if is_core(m))
    with capsys.disabled():
        print()
        for name, count in sorted(folders.items()):
            print(f"{name:24}{count:7,}")
        print(f"{'core with scripts':24}{core:7,}  of {CORE_LINES:,}")
        print(f"{'all':24}{total:7,}  of {LINES:,}")
    assert total <= LINES and core <= CORE_LINES


def test_no_file_is_too_long():
    assert {m: lines_of(m) for m in FILES if lines_of(m) > FILE_LINES} == {}


def test_no_function_is_too_long():
    found = dict(pair for module in FILES for pair in functions(module))
    assert {name: count for name, count in found.items() if count > FUNCTION_LINES} == {}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES
