"""Turn a question set and a corpus into a world directory (the format: data/load.py):

    python -m data.prepare hotpotqa --out DIR                     downloads it, and its paragraphs
    python -m data.prepare nq --corpus psgs_w100 --out DIR        over DPR's Wikipedia
    python -m data.prepare mine --documents DOCS --questions FAQ.csv --out DIR
    python -m data.prepare popqa --out DIR                        a closed world (build.py)

Prints what it did and writes the same as report.json into the world. The directory appears whole or
not at all. Bad input: one line on stderr, exit code 2.
"""

import argparse
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from data.files import sync_directory, write_json
from data.load import FEW, save_world
from data.prepare import build
from data.prepare.sets import CORPORA, NO_PASSAGES, SETS, Inputs, is_address, split_of
from data.world import World, WorldError, printable

CONTEXT_TOKENS = 192  # longer passages do not fit four times into train_sft.py's default context


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m data.prepare",
        description="Turn a question set and a corpus into a world, which all scripts open.",
        epilog="\n".join(
            f"{name}: {SETS[name]['title']}. {SETS[name]['citation']}" for name in SETS
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("set", metavar="SET", choices=SETS, help=", ".join(SETS))
    add("--out", type=Path, required=True, metavar="DIR", help="world directory to create")
    about = (
        "question files, as published, in our or FlashRAG's layout, or .csv, .tsv, .jsonl with"
        " question and answer or answers (several with | between them, or a JSON list); without a"
        " known split (train=FILE dev=FILE test=FILE) they are split by a hash of the question"
    )
    many = {"nargs": "+", "default": []}
    add("--from", "--questions", dest="source", metavar="[SPLIT=]FILE_OR_URL", help=about, **many)
    about = (
        f"passages: {', '.join(CORPORA)} (DPR's Wikipedia, 4.7 GB), an address, a file (ours,"
        " BEIR's, FlashRAG's, DPR's), or a folder of .txt, .md and .html files; for popqa without"
        " it, passages are generated from the answers"
    )
    add("--corpus", "--documents", metavar="FILE_OR_FOLDER", help=about, **many)
    add("--words", type=int, default=100, help="longest passage of a document (default: 100)")
    for flag in ("--dev-share", "--test-share"):
        add(flag, type=float, default=0.1, help="of questions without a split (default: 0.1)")
    add("--downloads", type=Path, default="runs/downloads", metavar="DIR", help="where they lie")
    args = parser.parse_args(argv)
    if args.words < 1 or not all(0 <= x < 0.5 for x in (args.dev_share, args.test_share)):
        parser.error("--words must be at least 1, shares at least 0 and less than 0.5")
    if not args.source and not SETS[args.set]["splits"]:
        parser.error(f"{args.set} needs --questions")
    return args


def prepare(args: argparse.Namespace) -> tuple[World, dict]:
    """Read or download, and build: the world and what is reported about it. Raises WorldError."""
    known, inputs = SETS[args.set], Inputs(args.downloads)
    if not args.corpus and not known.get("passages"):  # before a download that leads nowhere
        raise WorldError(NO_PASSAGES)
    files = inputs.questions(args.set, args.source)
    sources = [inputs.local(name) for name in args.corpus]
    read, published = build.read_splits(args.set, files)
    if args.set == "popqa" and not sources:
        splits, corpus, report = build.closed_world(read, args.dev_share, args.test_share)
        passages = "generated from the answers: figures do not compare with those over Wikipedia"
    else:
        splits, report = build.arrange(read, args.dev_share, args.test_share)
        corpus = build.choose_corpus(splits, published, sources, args.words, report)
        passages = ", ".join(source.name for source in sources) or "published with the questions"
    origins = [known, *(CORPORA[name] for name in args.corpus if name in CORPORA)]
    world = World(
        name=printable(args.out.resolve().name)[:100] or "world",
        corpus=corpus,
        questions={f"{args.set}.{split}": questions for split, questions in splits.items()},
        license="; ".join(origin["license"] for origin in origins).removeprefix("; "),
        source="; ".join(origin["citation"] for origin in origins).removeprefix("; "),
        description=f"{known['title']}; corpus: {passages}",
    )
    named = [str(file) for of_split in files.values() for file in of_split]
    before = {"files": named, "corpus": args.corpus or passages, "sha256": inputs.sha256}
    return world, before | build.counts(read, splits, corpus) | report


def check_paths(args: argparse.Namespace) -> None:
    """Raises WorldError unless the inputs exist, and the output does not or is an empty folder."""
    for name in [split_of(name)[1] for name in [*args.source, *args.corpus]]:
        if not (name in CORPORA or is_address(name) or Path(name).exists()):
            raise WorldError(f"{name}: no such file or folder")
    if args.out.exists() and not (args.out.is_dir() and next(args.out.iterdir(), None) is None):
        raise WorldError(f"{args.out}: exists and is not an empty folder")


def write_world(world: World, out: Path, report: dict) -> None:
    """Write the world and report.json beside `out`, then rename. Raises WorldError."""
    out = out.resolve()  # "." has no name to put anything beside
    new = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        save_world(world, new)
        write_json(new / "report.json", [report], indent=1)
        os.rename(new, out)
        sync_directory(out.parent)
    except OSError as error:
        raise WorldError(f"{out}: cannot be written: {error.strerror}") from None
    finally:  # on an interrupt too
        shutil.rmtree(new, ignore_errors=True)


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
    try:
        check_paths(args)
        world, report = prepare(args)
        write_world(world, args.out, report)
    except (WorldError, OSError) as error:  # OSError: a path too long, a folder without access
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; whole downloads are kept", file=sys.stderr)
        return 130
    for name, value in report.items():
        print(printable(f"{name}: {json.dumps(value, ensure_ascii=False)}"))
    if 0 < (count := report["splits"].get("train", 0)) < FEW:
        print(f"warning: {count:,} training questions; too few for a new policy, use --init")
    print(printable(f"wrote {args.out}; next: {next_command(args, report)}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
