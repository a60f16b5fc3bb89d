"""README.md and docs/: every name, link, flag, key and example in them is there and works."""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.world import World
from rl.report.summary import METRICS
from rl.study.study import COMPUTE, SHOWN
from tests.planted_bugs import BUGS, plant
from tests.shared import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
OWNERS = ("model", "rl", "data", "retrieval_cpp", "docs", "tests", "benchmarks")
SCRIPTS = ("train_sft.py", "train_ppo.py", "evaluate.py")
ENVIRONMENT = {**os.environ, "TQDM_DISABLE": "1"}


def run(*words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def fences(page: Path, language: str) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, page.read_text(), flags=re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """What stands between backticks, but for what a sentence places at a commit of the past."""
    return re.findall(r"`([^`\n]+)`(?! at commit)", without_fences(page.read_text()))


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request) -> Path:
    return request.param


# ------------------------------------------------------------------------------------------- README


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 130


def test_the_example_question_is_one_of_the_mini_world():
    [asked] = re.findall(r'--ask "([^"]+)"', README.read_text())
    assert asked in {q.question for q in World.open("mini").questions("popqa", "test")}
    assert f"<bos> {asked}\n" in README.read_text()


def test_the_core_is_at_most_nine_files():
    reading = README.read_text().partition("## Read it in this order")[2].partition("\n## ")[0]
    files = re.findall(r"^\| `([^`]+)` \|", reading, flags=re.MULTILINE)
    assert 0 < len(files) <= 9 and all((ROOT / file).is_file() for file in files)


# ---------------------------------------------------------------------------------- names and links


def named_files(page: Path) -> list[tuple[str, list[str]]]:
    """(path, names in it) of spans such as `rl/ppo.py` and `rl/rollout.py: rollout, decide`."""
    found = []
    for span in spans(page):
        path, _, names = span.partition(": ")
        if path in SCRIPTS or (
            path.partition("/")[0] in OWNERS and re.fullmatch(r"[\w./-]+", path)
        ):
            found.append((path, names.split(", ") if names else []))
    return found


def defines(source: str, name: str) -> bool:
    pattern = rf"^\s*(?:async )?(?:def|class) {name}\b|^\s*{name}\b\s*(?::[^=\n]+)?="
    return re.search(pattern, source, flags=re.MULTILINE) is not None


def test_every_path_and_name_exists(page):
    for path, names in named_files(page):
        assert (ROOT / path).exists(), f"{page.name} names {path}"
        for name in names:
            source = (ROOT / path).read_text()
            assert all(defines(source, part) for part in name.split(".")), f"{path}: {name}"


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_every_relative_link_resolves(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_fences(page.read_text())):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name} links to {link}"


@pytest.mark.parametrize(
    "heading, anchor",
    [("World and sets", "world-and-sets"), ("2. Warm-up: the loss", "2-warm-up-the-loss")],
)
def test_anchors_by_hand(heading, anchor):
    assert slug(heading) == anchor


# ----------------------------------------------------------------------------------------- commands


def commands(page: Path) -> list[list[str]]:
    """Words of every `python ...` command, of blocks and of spans."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ {4}(python .+)$", text, flags=re.MULTILINE)
    lines += [line.partition("|")[2].strip() for line in re.findall(r"^ {4}cat .+$", text, re.M)]
    lines += [span for span in spans(page) if span.startswith("python ")]
    lines = [line.partition(" | ")[0] for line in lines if line.startswith("python ")]
    return [shlex.split(line, comments=True) for line in lines]


@functools.cache
def flags_of(*program: str) -> frozenset[str]:
    """The flags in a program's --help."""
    if program[0] == "-m" and program[1] not in ("data.prepare", "rl.study.modules"):
        source = (ROOT / f"{program[1].replace('.', '/')}.py").read_text()
        return frozenset(re.findall(r'"(--[\w-]+)"', source))
    help = run(*program, "--help")
    assert help.returncode == 0, help.stderr
    text = help.stdout
    if program == ("evaluate.py",):  # the study's, too
        text += run(*program, "--compare", "--help").stdout
    return frozenset(re.findall(r"--[a-z][\w-]*", text))


def program_of(words: list[str]) -> tuple[str, ...]:
    if words[1] != "-m":
        return (words[1],)
    return tuple(words[1:4] if words[2] == "data.prepare" else words[1:3])


def test_every_command_names_a_program_and_its_flags(page):
    for words in commands(page):
        program = program_of(words)
        if program[0] == "-m":
            if program[1] == "pytest":
                continue
            module = ROOT / program[1].replace(".", "/")
            assert module.with_suffix(".py").is_file() or module.is_dir(), " ".join(words)
        else:
            assert (ROOT / program[0]).is_file(), " ".join(words)
        given = {word for word in words if re.fullmatch(r"--[\w-]+", word)}
        assert not given or given <= flags_of(*program), " ".join(words)
        handed_on = {
            flag for word in words if " " in word for flag in re.findall(r"--[\w-]+", word)
        }
        takers = (("train_sft.py",), ("train_ppo.py",), ("-m", "rl.study.modules"))
        assert handed_on <= frozenset.union(*(flags_of(*t) for t in takers)), " ".join(words)


def test_every_flag_that_is_named_exists(page):
    known = frozenset.union(*(flags_of(script) for script in SCRIPTS))
    known |= flags_of("-m", "data.prepare", "mine") | flags_of("-m", "data.prepare", "popqa")
    for span in spans(page):
        if span.startswith("--"):
            given = set(re.findall(r"(?:^| )\"?(--[a-z][\w-]*)", span))
            assert given <= known, f"{page.name}: {span}"


# ---------------------------------------------------------------------------------- what runs leave


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """sft/ and ppo/ of a few steps on the world `tiny`."""
    out = tmp_path_factory.mktemp("docs")
    small = ("--hidden-size", 32, "--layers", 2, "--vocab-size", 400, "--probe", 20)
    steps = ("--read-steps", 2, "--mix-steps", 2, "--episodes", 8)
    sft = run("train_sft.py", "--world", "tiny", "--out", out / "sft", *small, *steps, "--ranks", 1)
    assert sft.returncode == 0, sft.stderr
    steps = ("--iterations", 2, "--value-warmup", 1, "--episodes", 8, "--minibatch", 4)
    flags = (*steps, "--eval-rows", 6, "--ranks", 1)
    ppo = run("train_ppo.py", "--init", out / "sft", "--out", out / "ppo", *flags)
    assert ppo.returncode == 0, ppo.stderr
    return out


def logged(run: Path) -> set[str]:
    """Every key of a metrics.jsonl, nested ones included; the names of slices are no keys."""
    found = set()

    def visit(line: dict) -> None:
        for key, value in line.items():
            found.add(key)
            if isinstance(value, dict):
                below = value.values() if "slices" in key else [value]
                for item in below:
                    visit(item)

    for line in (run / "metrics.jsonl").read_text().splitlines():
        visit(json.loads(line))
    return found


METRICS_PAGE = ROOT / "docs/metrics.md"


@pytest.mark.parametrize("script, folder", [("train_sft.py", "sft"), ("train_ppo.py", "ppo")])
def test_every_logged_key_is_explained_and_no_other(runs, script, folder):
    section = METRICS_PAGE.read_text().partition(f"## `{script}`")[2].partition("\n## ")[0]
    in_tables = set()
    for cell in re.findall(r"^\| (`[^|]+) \|", section, flags=re.MULTILINE):
        in_tables |= set(re.findall(r"`([^`]+)`", cell))
    keys = logged(runs / folder)
    assert keys - set(re.findall(r"`([^`]+)`", section)) == set()
    assert in_tables - keys == set()


def test_every_column_is_explained():
    columns = METRICS_PAGE.read_text().partition("## Columns of the tables")[2]
    assert set(METRICS) <= set(re.findall(r"`([^`]+)`", columns))
    study = columns.partition("## Columns of the study")[2]
    assert {*SHOWN, *COMPUTE} <= set(re.findall(r"`([^`]+)`", columns + study))


def test_the_example_of_the_readme_runs(runs, tmp_path):
    [example] = fences(README, "python")
    assert len(example.splitlines()) <= 20 and "runs/ppo" in example
    file = tmp_path / "example.py"
    file.write_text(example.replace("runs/ppo", str(runs / "ppo")))
    result = run("-c", f"exec(open({str(file)!r}).read())")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    questions = World.open("mini").questions("popqa", "test")[:3]
    assert [line for line in lines if line.startswith("<bos>")] == [
        line for line in lines if any(q.question in line for q in questions)
    ]
    assert len(re.findall(r"P\(\[RETRIEVE\]\) = [01]\.\d{3}, reward [+-]", result.stdout)) == 3


def test_the_world_of_own_data_is_written_as_it_says(tmp_path, monkeypatch):
    [example] = fences(ROOT / "docs/own-data.md", "python")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    world = World.open(tmp_path / "runs/norland")
    assert (world.name, world.k, world.quota, len(world.corpus)) == ("norland", 1, 1, 1)
    assert world.questions("mine", "test")[0].answers == ("Velmor",)


# --------------------------------------------------------------------------------- the planted bugs


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The packages and their tests, to be broken."""
    root = tmp_path_factory.mktemp("planted")
    unread = shutil.ignore_patterns("__pycache__", ".*", "runs", "build", "*.egg-info")
    for name in (*OWNERS, "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=unread)
        else:
            shutil.copy(source, root)
    return root


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.file)
def test_every_planted_bug_is_caught_by_its_test(copy, bug):
    before = (copy / bug.file).read_text()
    plant(bug, copy)
    try:
        result = run("-m", "pytest", "-x", bug.test, cwd=copy)
    finally:
        (copy / bug.file).write_text(before)
    assert result.returncode == 1 and "1 failed" in result.stdout, result.stdout + result.stderr
