"""Turn a question set and a corpus into a world directory (the format: data.world.World):

    python -m data.prepare hotpotqa --out DIR                     downloads it, and its paragraphs
    python -m data.prepare nq --corpus psgs_w100 --out DIR        over DPR's Wikipedia
    python -m data.prepare mine --documents DOCS --questions FAQ.csv --out DIR
    python -m data.prepare popqa --train FILE --test FILE --out DIR       a closed world (popqa.py)

Prints what it did and writes the same as report.json into the world. The directory appears whole or
not at all. Bad input: one line on stderr, exit code 2.
"""

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from data.files import make_directory, sync_directory, write_lines
from data.load import save_world
from data.prepare import build, popqa
from data.prepare.download import download
from data.prepare.flags import parse
from data.prepare.sets import CORPORA, SETS, SOURCES, source_name
from data.world import FEW, World, WorldError, printable

CONTEXT_TOKENS = 192  # longer passages do not fit four times into train_sft.py's default context


def is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def split_of(entry: str) -> tuple[str, str]:
    """ "test=x.jsonl" -> ("test", "x.jsonl"); the split is "" where none is named."""
    split, _, name = entry.partition("=")
    return (split, name) if split in build.SPLITS and name else ("", entry)


class Inputs:
    """Local paths of what a command names; downloads on the way are noted in `sha256`."""

    def __init__(self, downloads: Path):
        self.downloads, self.sha256 = downloads, {}

    def local(self, name: str) -> Path:
        """A file, folder or address."""
        if not is_address(name):
            return Path(name)
        file = self.downloads / (Path(urlsplit(name).path).name or "download")
        self.sha256[file.name] = download(name, file)
        return file

    def published(self, path: str) -> Path:
        """A file of SOURCES, or a member of one."""
        name = source_name(path)
        if name not in self.sha256:
            self.sha256[name] = SOURCES[name].fetch(self.downloads)
        return self.downloads / path

    def corpus(self, name: str) -> Path:
        return self.published(CORPORA[name].file) if name in CORPORA else self.local(name)

    def questions(self, set_name: str, entries: list[str]) -> list[tuple[str, Path]]:
        """(split, file) of --from, or of the set's own addresses; split "": not known."""
        known = SETS[set_name].splits if set_name in SETS else {}
        files = []
        for split, name in map(split_of, entries):
            file = self.local(name)
            if file.is_dir():
                advice = "name its files, as in --from train=FILE dev=FILE test=FILE"
                raise WorldError(f"{file}: a folder; {advice}")
            by_name = [
                (part, file.parent / path)
                for part, path in known.items()
                if source_name(path) == file.name and split in ("", part)
            ]
            files += by_name or [(split, file)]
        if len({split == "" for split, _ in files}) > 1:
            advice = "name the split of every file or of none, as in train=FILE test=FILE"
            raise WorldError(f"--from: {advice}")
        return files or [(split, self.published(path)) for split, path in known.items()]


def prepare_set(args: argparse.Namespace) -> tuple[World, dict]:
    """Read or download, and build. Raises WorldError."""
    known = SETS.get(args.set)
    choices = f"{', '.join(CORPORA)}, a file or a folder"
    problem = f"no passages come with these questions: name a corpus with --corpus ({choices})"
    if not args.corpus and not known.passages:  # before a download that leads nowhere
        raise WorldError(problem)
    inputs = Inputs(args.downloads)
    files = inputs.questions(args.set, args.source)
    sources = [inputs.corpus(name) for name in args.corpus]
    read, corpus = build.read_splits(args.set, files)
    if not sources and not corpus:
        raise WorldError(problem)
    splits, dropped = build.arrange(read, args.dev_share, args.test_share)
    if sources and corpus:  # the gold passages are in the corpus that was not taken
        for questions in splits.values():
            questions[:] = [replace(question, gold_passages=None) for question in questions]
    remarks = {}
    if sources:
        corpus, remarks = build.read_corpora(sources, args.words)
    build.check_gold(splits, corpus)
    origins = [("questions", known)] if known else []
    origins += [("passages", CORPORA[name]) for name in args.corpus if name in CORPORA]
    from_files = ", ".join(source.name for source in sources) or "published with the questions"
    world = World(
        name=printable(args.out.resolve().name)[:100] or "world",
        corpus=corpus,
        questions={f"{args.set}.{split}": questions for split, questions in splits.items()},
        license="; ".join(f"{what}: {origin.license}" for what, origin in origins),
        source="; ".join(origin.citation for _, origin in origins),
        description=f"{known.title if known else 'Own questions'}; corpus: {from_files}",
    )
    report = {
        "set": args.set,
        "files": [str(file) for _, file in files],
        "corpus": [str(source) for source in sources],
        "sha256": inputs.sha256,
        "read": {split or "all": len(questions) for split, questions in read.items()},
        "contradicting_duplicates": build.contradictions(read),
        "overlap_dropped": dropped,
        "splits": {split: len(questions) for split, questions in splits.items()},
        "with_gold_passages": {
            split: sum(bool(q.gold_passages) for q in splits[split]) for split in splits
        },
        "remarks": remarks,
        "passages": len(corpus),
        "words_per_passage": build.word_counts(corpus),
    }
    return world, report


def check_paths(out: Path, force: bool, inputs: Iterable[Path]) -> None:
    """Raises WorldError unless the inputs exist and `out` may be written.

    It may where it is absent, empty, or with `force` a world that holds none of the inputs.
    """
    for file in inputs:
        if not file.exists():
            raise WorldError(f"{file}: no such file or folder")
    if out.exists() and not out.is_dir():
        raise WorldError(f"{out}: exists and is not a directory")
    if not out.exists() or not any(out.iterdir()):
        return
    if not force:
        raise WorldError(f"{out}: exists and is not empty (--force replaces a world)")
    if not (out / "world.json").is_file():
        problem = "--force replaces worlds only, and this directory has no world.json"
        raise WorldError(f"{out}: {problem}")
    for file in inputs:
        if out.resolve() in file.resolve().parents:
            raise WorldError(f"{file}: lies in the directory that --force would replace")


def write_world(world: World, out: Path, report: dict) -> None:
    """Write the world and report.json beside `out`, then rename. Raises WorldError."""
    out = out.resolve()  # "." has no name to put anything beside
    new, former = (out.with_name(f".{out.name}.{os.getpid()}.{role}") for role in ("new", "old"))
    try:
        make_directory(new)
        save_world(world, new)
        write_lines(new / "report.json", [json.dumps(report, indent=1, ensure_ascii=False)])
        if out.exists():
            os.rename(out, former)
        os.rename(new, out)
        sync_directory(out.parent)
    except OSError as error:
        if former.exists() and not out.exists():
            os.rename(former, out)
        raise WorldError(f"{out}: cannot be written: {error.strerror}") from None
    finally:  # on an interrupt too
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(former, ignore_errors=True)


def next_command(args: argparse.Namespace, report: dict) -> str:
    """What to type now: training where there is something to train on."""
    world = f"--world {shlex.quote(str(args.out))} --dataset {args.set}"
    if not report["splits"].keys() >= {"train", "dev"}:
        return f"python evaluate.py {world} --split {next(iter(report['splits']))}"
    tokens = min(CONTEXT_TOKENS, 32 * round(report["words_per_passage"]["max"] * 1.6 / 32))
    passages = f" --passage-tokens {tokens}" if tokens > 64 else ""
    run = shlex.quote(f"runs/{args.out.resolve().name}-sft")
    return f"python train_sft.py {world}{passages} --out {run}"


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    named = [str(args.train), str(args.test)] if args.closed else [*args.source, *args.corpus]
    names = [split_of(name)[1] for name in named]
    local = [Path(name) for name in names if name not in CORPORA and not is_address(name)]
    try:
        check_paths(args.out, args.force, local)  # before the work, not after it
        if args.closed:
            world, report = popqa.build(popqa.read(args.train), popqa.read(args.test), args.seed)
        else:
            world, report = prepare_set(args)
        write_world(world, args.out, report)
    except WorldError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a path too long, a folder that may not be read
        print(printable(f"error: {error.filename}: {error.strerror}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; whole downloads are kept", file=sys.stderr)
        return 130
    for name, value in report.items():
        print(printable(f"{name}: {json.dumps(value, ensure_ascii=False)}"))
    print()
    if 0 < (count := report["splits"].get("train", 0)) < FEW:
        print(f"warning: {count:,} training questions; too few for a new policy, use --init")
    print(printable(f"wrote {args.out}; next: {next_command(args, report)}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
