"""Turn a real data set into a world directory (the format is in data/world.py):

    python -m data.prepare popqa --train popqa.train.jsonl --test popqa.test.jsonl --out worlds/popqa

One subcommand per data set. Each reads files that are already here, prints what it did, and writes the same as
report.json into the world. The directory appears whole or not at all. Bad input: one line on stderr, exit code 2.

Left out on purpose: downloads.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from data import popqa
from data.world import World, WorldError


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
    lines = [f"world popqa (seed {report['seed']}): closed; passages are generated from the answers, not Wikipedia", "",
             f"{'rows':18}{'train':>8}{'test':>8}"]
    for name in ("read", "inverted", "not_inverted", "duplicates_merged"):
        lines.append(f"{name.replace('_', ' '):18}{report[name]['train']:8,}{report[name]['test']:8,}")
    for row in not_inverted:
        kept = "kept, without a passage" if row["split"] == "test" else "left out"
        lines.append(f"  not inverted ({kept}): {row['id']} {row['question']!r}")
    lines += [
        f"overlap: {overlap['also_in_train']:,} of {overlap['unique_test_questions']:,} unique test questions occur in"
        " train; removed from train", "",
        f"passages: {report['passages']:,} ({kinds}); {words['mean']} words on average, title and text, at most"
        f" {words['max']}",
        "", f"{'questions':18}{'train':>8}{'dev':>8}{'test':>8}"]
    for name, sizes in {**report["relations"], "all": report["splits"]}.items():
        lines.append(f"{name:18}" + "".join(f"{sizes[split]:8,}" for split in ("train", "dev", "test")))
    for split, slices in report["slices"].items():
        lines.append(f"slices of {split}: " + ", ".join(f"{n:,} {name}" for name, n in sorted(slices.items())))
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
        raise WorldError(f"{out}: --force replaces worlds only, and this directory has no world.json")
    for file in inputs:
        if out.resolve() in file.resolve().parents:
            raise WorldError(f"{file}: lies in the directory that --force would replace")


def write_world(world: World, out: Path, report: dict, lists: dict[str, list[dict]], *, force: bool) -> None:
    """Write the world, report.json and the JSON-lines files `lists` beside `out`, then rename. Raises WorldError."""
    check_out(out, force)
    out = out.resolve()  # "." has no name to put anything beside
    temporary, former = (out.with_name(f".{out.name}.{os.getpid()}.{role}") for role in ("new", "old"))
    try:
        temporary.mkdir(parents=True)
        world.save(temporary)
        (temporary / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
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
        prog="python -m data.prepare", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Turn a real data set into a world directory, which train_sft.py, train_ppo.py and evaluate.py\n"
                    "open with --world DIR.")
    sets = parser.add_subparsers(dest="set", required=True, metavar="SET", title="data sets")

    one = sets.add_parser(
        "popqa", allow_abbrev=False, help="PopQA as a closed world: official questions, generated passages",
        description="Invert PopQA's 16 question templates into facts and write a short passage per fact. Test questions"
                    " are taken out of train; 500 rows of the rest become dev. FILE holds JSON lines (id, question,"
                    " answers) or is the authors' *.tsv; either may be .gz.")
    one.add_argument("--train", type=Path, required=True, metavar="FILE", help="official training questions")
    one.add_argument("--test", type=Path, required=True, metavar="FILE", help="official test questions")
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="world directory to create")
    one.add_argument("--seed", type=int, default=0, help="chooses wordings, distractors and dev rows (default: 0)")
    one.add_argument("--force", action="store_true", help="replace the world that is in DIR")
    one.set_defaults(prepare=prepare_popqa)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        check_out(args.out, args.force, (args.train, args.test))  # before the work, not after it
        print(args.prepare(args))
    except WorldError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\nwrote {args.out}; next: python train_sft.py --world {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
