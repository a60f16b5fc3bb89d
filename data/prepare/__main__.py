"""Turn a question set and a corpus into a world directory (the format is in data/world.py):

    python -m data.prepare hotpotqa --out worlds/hotpotqa                       downloads; its own paragraphs are the corpus
    python -m data.prepare nq --corpus psgs_w100 --out worlds/nq                over DPR's Wikipedia
    python -m data.prepare mine --documents DOCS --questions FAQ.csv --out worlds/mine
    python -m data.prepare popqa --train FILE --test FILE --out worlds/popqa    a closed world (data/popqa.py)

Prints what it did and writes the same as report.json into the world. The directory appears whole or not at all. Bad
input: one line on stderr, exit code 2.
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from data.prepare import popqa
from data.prepare.build import SPLITS, Corpus, arrange, read_splits
from data.prepare.download import download
from data.prepare.sets import CORPORA, SETS
from data.world import World, WorldError, write_corpus

DOWNLOADS = "runs/downloads"
CONTEXT_TOKENS = (
    192  # passages of more tokens do not fit four times into train_sft.py's default context
)


# ------------------------------------------------------------------------------------------------- any set, any corpus


def prepare_set(args: argparse.Namespace) -> str:
    """Read or download, build and write; returns the report as text. Raises WorldError."""
    known, checksums = SETS.get(args.set), {}
    no_corpus = WorldError(
        f"no passages come with these questions: name a corpus with --corpus ({', '.join(CORPORA)}, a file or a folder)"
    )
    if not args.corpus and not known.passages:  # before a download that leads nowhere
        raise no_corpus
    for file in args.inputs:  # before any download
        if not file.exists():
            raise WorldError(f"{file}: no such file or folder")
    files = question_files(args, checksums)
    sources = [corpus_file(name, args, checksums) for name in args.corpus]
    read, with_passages = read_splits(args.set, files)
    if not sources and not with_passages:
        raise no_corpus
    splits, dropped = arrange(read, args.dev_share, args.test_share)
    if sources and with_passages:  # their gold passages are in the corpus that was not taken
        splits = {
            split: [replace(question, gold_passages=None) for question in questions]
            for split, questions in splits.items()
        }
    corpus = Corpus(
        args.set,
        files,
        sources,
        [question for questions in splits.values() for question in questions],
        args.words,
    )
    origins = [(f"questions: {known.license}", known.citation)] if known else []
    origins += [
        (f"passages: {CORPORA[name][1]}", CORPORA[name][2])
        for name in args.corpus
        if name in CORPORA
    ]
    shown = ", ".join(source.name for source in sources) or "published with the questions"
    world = World(
        name=args.out.resolve().name,
        corpus=(),
        questions={f"{args.set}.{split}": questions for split, questions in splits.items()},
        license="; ".join(license for license, _ in origins),
        source="; ".join(citation for _, citation in origins),
        description=f"{known.title if known else 'Own questions'}; corpus: {shown}",
    )
    report = {
        "set": args.set,
        "files": [str(file) for _, file in files],
        "corpus": [str(source) for source in sources],
        "sha256": checksums,
        "read": {split or "all": len(questions) for split, questions in read.items()},
        "dropped": dropped,
        "splits": {split: len(questions) for split, questions in splits.items()},
        "with_gold_passages": {
            split: sum(bool(q.gold_passages) for q in questions)
            for split, questions in splits.items()
        },
    }
    write_world(world, args.out, report, {}, force=args.force, corpus=corpus)
    return describe_set(report)


def question_files(args: argparse.Namespace, checksums: dict[str, str]) -> list[tuple[str, Path]]:
    """(split, file) of --from, or of the set's own addresses; split "" where it is not known. Raises WorldError."""
    known = SETS[args.set].splits if args.set in SETS else {}
    files = []
    for entry in args.source:
        split, name = entry_split(entry)
        file = local_file(name, args.downloads, checksums)
        if file.is_dir():
            raise WorldError(
                f"{file}: a folder; name its files, as in --from train=FILE dev=FILE test=FILE"
            )
        published = [
            (s, file / member)
            for s, (source, member) in known.items()
            if source.name == file.name and split in ("", s)
        ]
        files += published or [(split, file)]
    for split, (source, member) in known.items() if not files else ():
        if source.name not in checksums:
            checksums[source.name] = source.fetch(args.downloads)
        files.append((split, args.downloads / source.name / member))
    if len({split == "" for split, _ in files}) > 1:
        raise WorldError(
            "--from: name the split of every file or of none, as in train=FILE test=FILE"
        )
    return files


def entry_split(entry: str) -> tuple[str, str]:
    """ "test=x.jsonl" -> ("test", "x.jsonl"); the split is "" where none is named."""
    split, _, name = entry.partition("=")
    return (split, name) if split in SPLITS and name else ("", entry)


def corpus_file(name: str, args: argparse.Namespace, checksums: dict[str, str]) -> Path:
    """A file or folder of --corpus, downloaded where it is a known name or an address. Raises WorldError."""
    if name not in CORPORA:
        return local_file(name, args.downloads, checksums)
    source = CORPORA[name][0]
    checksums[source.name] = source.fetch(args.downloads)
    return args.downloads / source.name


def remote(name: str) -> bool:
    return re.match("https?://", name) is not None


def local_file(name: str, downloads: Path, checksums: dict[str, str]) -> Path:
    if not remote(name):
        return Path(name)
    file = downloads / (Path(urlsplit(name).path).name or "download")
    checksums[file.name] = download(name, file)
    return file


def describe_set(report: dict) -> str:
    """The report as the lines that are printed."""
    lines = [
        f"{name}: sha256 {digest}"
        + ("" if digest in PUBLISHED else " (no published checksum to compare with)")
        for name, digest in report["sha256"].items()
    ]
    lines.append("read: " + ", ".join(f"{n:,} {split}" for split, n in report["read"].items()))
    lines += [
        f"overlap: {n:,} questions of {pair.split()[0]} occur in {pair.split()[2]}; removed from {pair.split()[0]}"
        for pair, n in report["dropped"].items()
    ]
    lines.append(
        f"passages: {report['passages']:,}; {report['words_per_passage']['mean']} words on average, title and text, at most "
        f"{report['words_per_passage']['max']}"
    )
    lines.append(
        "questions: "
        + ", ".join(
            f"{n:,} {split} ({report['with_gold_passages'][split]:,} with gold passages)"
            for split, n in report["splits"].items()
        )
    )
    return "\n".join(lines)


PUBLISHED = {
    source.sha256
    for source, *_ in [
        *CORPORA.values(),
        *(file for known in SETS.values() for file in known.splits.values()),
    ]
}


# ------------------------------------------------------------------------------------------------- PopQA as a closed world


def prepare_popqa(args: argparse.Namespace) -> str:
    """Read, build and write; returns the report as text. Raises WorldError."""
    train, test = popqa.read(args.train), popqa.read(args.test)
    world, not_inverted, report = popqa.build(train, test, args.seed)
    write_world(world, args.out, report, {"not_inverted.jsonl": not_inverted}, force=args.force)
    return describe_popqa(report, not_inverted)


def describe_popqa(report: dict, not_inverted: list[dict]) -> str:
    """The report as the lines that are printed."""
    overlap, words = report["overlap"], report["words_per_passage"]
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in report["passage_kinds"].items())
    lines = [
        f"world popqa (seed {report['seed']}): closed; passages are generated from the answers, not Wikipedia",
        "",
        f"{'rows':18}{'train':>8}{'test':>8}",
    ]
    for name in ("read", "inverted", "not_inverted", "duplicates_merged"):
        lines.append(
            f"{name.replace('_', ' '):18}{report[name]['train']:8,}{report[name]['test']:8,}"
        )
    for row in not_inverted:
        kept = "kept, without a passage" if row["split"] == "test" else "left out"
        lines.append(f"  not inverted ({kept}): {row['id']} {row['question']!r}")
    lines += [
        f"overlap: {overlap['also_in_train']:,} of {overlap['unique_test_questions']:,} unique test questions occur in"
        " train; removed from train",
        "",
        f"passages: {report['passages']:,} ({kinds}); {words['mean']} words on average, title and text, at most"
        f" {words['max']}",
        "",
        f"{'questions':18}{'train':>8}{'dev':>8}{'test':>8}",
    ]
    for name, sizes in {**report["relations"], "all": report["splits"]}.items():
        lines.append(
            f"{name:18}" + "".join(f"{sizes[split]:8,}" for split in ("train", "dev", "test"))
        )
    for split, slices in report["slices"].items():
        lines.append(
            f"slices of {split}: "
            + ", ".join(f"{n:,} {name}" for name, n in sorted(slices.items()))
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------- writing


def check_out(out: Path, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Raises WorldError unless `out` may be written: absent, an empty directory, or with `force` a former world that
    holds none of the `inputs`."""
    if not out.exists():
        return
    if not out.is_dir():
        raise WorldError(f"{out}: exists and is not a directory")
    if not any(out.iterdir()):
        return
    if not force:
        raise WorldError(f"{out}: exists and is not empty (--force replaces a world)")
    if not (out / "world.json").is_file():
        raise WorldError(
            f"{out}: --force replaces worlds only, and this directory has no world.json"
        )
    for file in inputs:
        if out.resolve() in file.resolve().parents:
            raise WorldError(f"{file}: lies in the directory that --force would replace")


def write_world(
    world: World,
    out: Path,
    report: dict,
    lists: dict[str, list[dict]],
    *,
    force: bool,
    corpus: Corpus | None = None,
) -> None:
    """Write the world, report.json and the JSON-lines files `lists` beside `out`, then rename. Raises WorldError.

    corpus: passages that are read while they are written, instead of the world's own; its figures go into the report.
    """
    check_out(out, force)
    out = out.resolve()  # "." has no name to put anything beside
    temporary, former = (
        out.with_name(f".{out.name}.{os.getpid()}.{role}") for role in ("new", "old")
    )
    try:
        temporary.mkdir(parents=True)
        world.save(temporary)
        if corpus is not None:
            write_corpus(
                temporary,
                tqdm(corpus, desc="corpus", unit="passage", unit_scale=True, dynamic_ncols=True),
            )
            report |= {
                "passages": corpus.passages,
                "words_per_passage": {
                    "mean": round(corpus.total_words / corpus.passages, 1),
                    "max": corpus.longest,
                },
            }
        (temporary / "report.json").write_text(
            json.dumps(report, indent=1) + "\n", encoding="utf-8"
        )
        for name, rows in lists.items():
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (temporary / name).write_text("".join(lines), encoding="utf-8")
        if out.exists():
            os.rename(out, former)
        os.rename(temporary, out)
    except OSError as error:
        if former.exists() and not out.exists():
            os.rename(former, out)
        raise WorldError(f"{out}: cannot be written: {error.strerror}") from None
    finally:  # on an interrupt too
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(former, ignore_errors=True)


# ------------------------------------------------------------------------------------------------- command line


class Parser(argparse.ArgumentParser):
    """argparse, with an error of one line instead of the usage and the error."""

    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m data.prepare",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Turn a real data set into a world directory, which train_sft.py, train_ppo.py and evaluate.py\n"
        "open with --world DIR.",
    )
    sets = parser.add_subparsers(dest="set", required=True, metavar="SET", title="question sets")
    for name, known in SETS.items():
        one = sets.add_parser(
            name,
            allow_abbrev=False,
            help=known.title,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description=f"{known.title}. {known.citation}\nLicence: {known.license}.\nPublished as:\n"
            + "\n".join(
                f"  {source.url or source.page}"
                for source in {source.name: source for source, _ in known.splits.values()}.values()
            ),
        )
        add_flags(one)
        if name == "popqa":
            one.add_argument(
                "--train",
                type=Path,
                metavar="FILE",
                help="closed world: official training questions",
            )
            one.add_argument(
                "--test",
                type=Path,
                metavar="FILE",
                help="closed world: official test questions; passages are then generated"
                " from the answers, and --from, --corpus and the shares are not used",
            )
            one.add_argument(
                "--seed",
                type=int,
                default=0,
                help="closed world: chooses wordings, distractors and dev rows (default: 0)",
            )
    mine = sets.add_parser(
        "mine",
        allow_abbrev=False,
        help="your own questions about your own documents",
        description=(
            "Questions: .csv, .tsv or .jsonl with question and answer or answers (several with | between them, or a JSON list). Documents: a"
            " folder of .txt, .md and .html files, or a corpus in a known layout."
        ),
    )
    add_flags(mine, own=True)
    args = parser.parse_args(argv)
    closed = args.set == "popqa" and (args.train or args.test)
    if closed and not (args.train and args.test):
        parser.error("popqa: --train and --test go together")
    args.prepare = prepare_popqa if closed else prepare_set
    named = [entry_split(entry)[1] for entry in args.source] + [
        name for name in args.corpus if name not in CORPORA
    ]
    args.inputs = (
        [args.train, args.test] if closed else [Path(name) for name in named if not remote(name)]
    )
    return args


def add_flags(parser: argparse.ArgumentParser, own: bool = False) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="world directory to create"
    )
    parser.add_argument(
        "--questions" if own else "--from",
        dest="source",
        nargs="+",
        default=[],
        required=own,
        metavar="[SPLIT=]FILE_OR_URL",
        help="question files, as published or in our, FlashRAG's or a table's layout; without a known split (train=FILE dev=FILE"
        " test=FILE) they are split by a hash of the question",
    )
    parser.add_argument(
        "--documents" if own else "--corpus",
        dest="corpus",
        nargs="+",
        default=[],
        required=own,
        metavar="FILE_OR_FOLDER",
        help=f"passages: {', '.join(CORPORA)} (DPR's Wikipedia, 4.7 GB), an address, a file (ours, BEIR's, FlashRAG's, DPR's), or"
        " a folder of .txt, .md and .html files",
    )
    parser.add_argument(
        "--words",
        type=words,
        default=100,
        help="longest passage that documents are cut into (default: 100)",
    )
    parser.add_argument(
        "--dev-share", type=share, default=0.1, help="of questions without a split (default: 0.1)"
    )
    parser.add_argument(
        "--test-share", type=share, default=0.1, help="of questions without a split (default: 0.1)"
    )
    parser.add_argument(
        "--downloads",
        type=Path,
        default=Path(DOWNLOADS),
        metavar="DIR",
        help=f"where downloads lie (default: {DOWNLOADS})",
    )
    parser.add_argument("--force", action="store_true", help="replace the world that is in --out")


def share(text: str) -> float:
    if not 0 <= (value := float(text)) < 0.5:
        raise argparse.ArgumentTypeError(f"must be at least 0 and less than 0.5, not {text}")
    return value


def words(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def next_command(args: argparse.Namespace) -> str:
    """What to type now: training where there is something to train on."""
    if args.prepare is prepare_popqa:
        return f"python train_sft.py --world {args.out}"
    report = json.loads((args.out / "report.json").read_text(encoding="utf-8"))
    if not report["splits"].keys() >= {"train", "dev"}:
        return f"python evaluate.py --world {args.out} --dataset {args.set} --split {next(iter(report['splits']))}"
    tokens = min(CONTEXT_TOKENS, 32 * round(report["words_per_passage"]["max"] * 1.6 / 32))
    return f"python train_sft.py --world {args.out} --dataset {args.set}" + (
        f" --passage-tokens {tokens}" if tokens > 64 else ""
    )


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        check_out(args.out, args.force, args.inputs)  # before the work, not after it
        print(args.prepare(args))
    except WorldError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what was downloaded is kept", file=sys.stderr)
        return 130
    print(f"\nwrote {args.out}; next: {next_command(args)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
