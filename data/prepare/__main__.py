"""Turn a question set and a corpus into a world directory (the format is in data/world.py):

    python -m data.prepare hotpotqa --out worlds/hotpotqa                       downloads; its own paragraphs are the corpus
    python -m data.prepare nq --corpus psgs_w100 --out worlds/nq                over DPR's Wikipedia
    python -m data.prepare mine --documents DOCS --questions FAQ.csv --out worlds/mine
    python -m data.prepare popqa --train FILE --test FILE --out worlds/popqa    a closed world (data/prepare/popqa.py)

Prints what it did and writes the same as report.json into the world. The directory appears whole or not at all. Bad
input: one line on stderr, exit code 2.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from data.files import sync_directory, write_lines
from data.load import save_world
from data.prepare import popqa
from data.prepare.build import SPLITS, arrange, check_gold, read_corpora, read_splits, word_counts
from data.prepare.download import download
from data.prepare.flags import parse
from data.prepare.sets import CORPORA, SETS, SOURCES, source_name
from data.world import World, WorldError

CONTEXT_TOKENS = 192  # longer passages do not fit four times into train_sft.py's default context


# -------------------------------------------------------------------------------------- any set, any corpus


class Inputs:
    """The files that a command names, downloaded where they are addresses; `sha256` has those of the downloads."""

    def __init__(self, args: argparse.Namespace):
        self.downloads, self.sha256 = args.downloads, {}
        named = [name for _, name in map(split_of, args.source)]
        for name in named + args.corpus:  # before any download
            if name not in CORPORA and not is_address(name) and not Path(name).exists():
                raise WorldError(f"{name}: no such file or folder")
        self.questions = self._question_files(args)
        self.corpus = [self._corpus_file(name) for name in args.corpus]

    def _question_files(self, args: argparse.Namespace) -> list[tuple[str, Path]]:
        """(split, file) of --from, or of the set's own addresses; split "" where it is not known."""
        known = SETS[args.set].splits if args.set in SETS else {}
        files = []
        for split, name in map(split_of, args.source):
            file = self._local(name)
            if file.is_dir():
                wanted = "name its files, as in --from train=FILE dev=FILE test=FILE"
                raise WorldError(f"{file}: a folder; {wanted}")
            published = [
                (part, file.parent / path)
                for part, path in known.items()
                if source_name(path) == file.name and split in ("", part)
            ]
            files += published or [(split, file)]
        if not files:
            files = [(split, self._published(path)) for split, path in known.items()]
        if len({split == "" for split, _ in files}) > 1:
            wanted = "name the split of every file or of none, as in train=FILE test=FILE"
            raise WorldError(f"--from: {wanted}")
        return files

    def _corpus_file(self, name: str) -> Path:
        return self._published(CORPORA[name].file) if name in CORPORA else self._local(name)

    def _published(self, path: str) -> Path:
        name = source_name(path)
        if name not in self.sha256:
            self.sha256[name] = SOURCES[name].fetch(self.downloads)
        return self.downloads / path

    def _local(self, name: str) -> Path:
        if not is_address(name):
            return Path(name)
        file = self.downloads / (Path(urlsplit(name).path).name or "download")
        self.sha256[file.name] = download(name, file)
        return file


def is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def split_of(entry: str) -> tuple[str, str]:
    """ "test=x.jsonl" -> ("test", "x.jsonl"); the split is "" where none is named."""
    split, _, name = entry.partition("=")
    return (split, name) if split in SPLITS and name else ("", entry)


def prepare_set(args: argparse.Namespace) -> dict:
    """Read or download, build and write; returns the report. Raises WorldError."""
    known = SETS.get(args.set)
    choices = f"{', '.join(CORPORA)}, a file or a folder"
    no_corpus = WorldError(
        f"no passages come with these questions: name a corpus with --corpus ({choices})"
    )
    if not args.corpus and not known.passages:  # before a download that leads nowhere
        raise no_corpus
    inputs = Inputs(args)
    read, corpus = read_splits(args.set, inputs.questions)
    splits, dropped = arrange(read, args.dev_share, args.test_share)
    if inputs.corpus:
        if corpus:  # the gold passages are in the corpus that was not taken
            for questions in splits.values():
                questions[:] = [replace(question, gold_passages=None) for question in questions]
        corpus = read_corpora(inputs.corpus, args.words)
    elif not corpus:
        raise no_corpus
    check_gold(splits, corpus)
    shown = ", ".join(source.name for source in inputs.corpus) or "published with the questions"
    origins = [("questions", known)] if known else []
    origins += [("passages", CORPORA[name]) for name in args.corpus if name in CORPORA]
    world = World(
        name=args.out.resolve().name,
        corpus=corpus,
        questions={f"{args.set}.{split}": questions for split, questions in splits.items()},
        license="; ".join(f"{what}: {origin.license}" for what, origin in origins),
        source="; ".join(origin.citation for _, origin in origins),
        description=f"{known.title if known else 'Own questions'}; corpus: {shown}",
    )
    published = {source.sha256 for source in SOURCES.values()}
    report = {
        "set": args.set,
        "files": [str(file) for _, file in inputs.questions],
        "corpus": [str(source) for source in inputs.corpus],
        "sha256": inputs.sha256,
        "without_published_checksum": [
            name for name, digest in inputs.sha256.items() if digest not in published
        ],
        "read": {split or "all": len(questions) for split, questions in read.items()},
        "overlap_dropped": dropped,
        "splits": {split: len(questions) for split, questions in splits.items()},
        "with_gold_passages": {
            split: sum(bool(q.gold_passages) for q in questions)
            for split, questions in splits.items()
        },
        "passages": len(corpus),
        "words_per_passage": word_counts(corpus),
    }
    write_world(world, args.out, report, [], args.force)
    return report


def prepare_popqa(args: argparse.Namespace) -> dict:
    """PopQA as a closed world: read, build and write; returns the report. Raises WorldError."""
    train, test = popqa.read(args.train), popqa.read(args.test)
    world, not_inverted, report = popqa.build(train, test, args.seed)
    write_world(world, args.out, report, not_inverted, args.force)
    for row in not_inverted:
        kept = "kept, without a passage" if row["split"] == "test" else "left out"
        print(f"not inverted ({kept}): {row['id']} {row['question']!r}")
    return report


# -------------------------------------------------------------------------------------- writing


def check_out(out: Path, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Raises WorldError unless `out` may be written: absent, empty, or with `force` a world without the `inputs`."""
    if not out.exists():
        return
    if not out.is_dir():
        raise WorldError(f"{out}: exists and is not a directory")
    if not any(out.iterdir()):
        return
    if not force:
        raise WorldError(f"{out}: exists and is not empty (--force replaces a world)")
    if not (out / "world.json").is_file():
        problem = "--force replaces worlds only, and this directory has no world.json"
        raise WorldError(f"{out}: {problem}")
    for file in inputs:
        if out.resolve() in file.resolve().parents:
            raise WorldError(f"{file}: lies in the directory that --force would replace")


def write_world(
    world: World, out: Path, report: dict, not_inverted: list[dict], force: bool
) -> None:
    """Write the world and its report beside `out`, then rename. Raises WorldError."""
    check_out(out, force)
    out = out.resolve()  # "." has no name to put anything beside
    temporary, former = (
        out.with_name(f".{out.name}.{os.getpid()}.{role}") for role in ("new", "old")
    )
    try:
        temporary.mkdir(parents=True)
        save_world(world, temporary)
        write_lines(temporary / "report.json", [json.dumps(report, indent=1)])
        if not_inverted:
            rows = (json.dumps(row, ensure_ascii=False) for row in not_inverted)
            write_lines(temporary / "not_inverted.jsonl", rows)
        if out.exists():
            os.rename(out, former)
        os.rename(temporary, out)
        sync_directory(out.parent)
    except OSError as error:
        if former.exists() and not out.exists():
            os.rename(former, out)
        raise WorldError(f"{out}: cannot be written: {error.strerror}") from None
    finally:  # on an interrupt too
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(former, ignore_errors=True)


# -------------------------------------------------------------------------------------- command line


def describe(report: dict) -> str:
    """A line for each entry: "splits: 80 train, 10 dev, 10 test"."""
    lines = []
    for name, value in report.items():
        name = name.replace("_", " ")
        if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
            lines.append(describe({f"{name}, {key}": part for key, part in value.items()}))
        elif isinstance(value, dict):
            parts = ", ".join(f"{_number(part)} {key}" for key, part in value.items())
            lines.append(f"{name}: {parts.replace('_', ' ') or 'none'}")
        else:
            parts = value if isinstance(value, list) else [_number(value)]
            lines.append(f"{name}: {', '.join(parts) or 'none'}")
    return "\n".join(lines)


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def next_command(args: argparse.Namespace, report: dict) -> str:
    """What to type now: training where there is something to train on."""
    world = f"--world {args.out}"
    if args.closed:
        return f"python train_sft.py {world}"
    if not report["splits"].keys() >= {"train", "dev"}:
        split = next(iter(report["splits"]))
        return f"python evaluate.py {world} --dataset {args.set} --split {split}"
    tokens = min(CONTEXT_TOKENS, 32 * round(report["words_per_passage"]["max"] * 1.6 / 32))
    longer = f" --passage-tokens {tokens}" if tokens > 64 else ""
    return f"python train_sft.py {world} --dataset {args.set}{longer}"


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        names = [args.train, args.test] if args.closed else [*args.source, *args.corpus]
        local = [Path(split_of(str(name))[1]) for name in names if not is_address(str(name))]
        check_out(args.out, args.force, local)  # before the work, not after it
        report = prepare_popqa(args) if args.closed else prepare_set(args)
    except WorldError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; whole downloads are kept", file=sys.stderr)
        return 130
    print(f"{describe(report)}\n\nwrote {args.out}; next: {next_command(args, report)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
