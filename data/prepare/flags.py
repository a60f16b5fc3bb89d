"""The command line of python -m data.prepare: one subcommand for each question set, and `mine`."""

import argparse
from pathlib import Path

from data.prepare.sets import CORPORA, SETS

DOWNLOADS = "runs/downloads"


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, with errors of one line."""

    def __init__(self, **kwargs):
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=layout, **kwargs)

    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m data.prepare",
        description="Turn a real data set into a world directory, which train_sft.py,\n"
        "train_ppo.py and evaluate.py open with --world DIR.",
    )
    parser.set_defaults(train=None, test=None)
    sets = parser.add_subparsers(dest="set", required=True, metavar="SET", title="question sets")
    for name, known in SETS.items():
        addresses = [f"  {source.url or source.page}" for source in known.sources]
        about = [f"{known.title}. {known.citation}", f"Licence: {known.license}.", "Published as:"]
        one = sets.add_parser(name, help=known.title, description="\n".join(about + addresses))
        add_flags(one, "--from", "--corpus", required=False)
        if name == "popqa":
            add_closed_flags(one)
    about = (
        "Questions: .csv, .tsv or .jsonl with question and answer or answers (several with |\n"
        "between them, or a JSON list). Documents: a folder of .txt, .md and .html files, or a\n"
        "corpus in a known layout."
    )
    mine = sets.add_parser(
        "mine", help="your own questions about your own documents", description=about
    )
    add_flags(mine, "--questions", "--documents", required=True)
    args = parser.parse_args(argv)
    args.closed = bool(args.train or args.test)
    if args.closed and not (args.train and args.test):
        parser.error("popqa: --train and --test go together")
    return args


def add_flags(parser: Parser, questions: str, corpus: str, required: bool) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="world directory to create")
    about_questions = (
        "question files, as published or in our, FlashRAG's or a table's layout; without a known"
        " split (train=FILE dev=FILE test=FILE) they are split by a hash of the question"
    )
    about_corpus = (
        f"passages: {', '.join(CORPORA)} (DPR's Wikipedia, 4.7 GB), an address, a file (ours,"
        " BEIR's, FlashRAG's, DPR's), or a folder of .txt, .md and .html files"
    )
    for flag, name, metavar, about in (
        (questions, "source", "[SPLIT=]FILE_OR_URL", about_questions),
        (corpus, "corpus", "FILE_OR_FOLDER", about_corpus),
    ):
        many = {"nargs": "+", "default": [], "required": required}
        add(flag, dest=name, metavar=metavar, help=about, **many)
    add("--words", type=words, default=100, help="longest passage of a document (default: 100)")
    for flag in ("--dev-share", "--test-share"):
        add(flag, type=share, default=0.1, help="of questions without a split (default: 0.1)")
    about = f"where downloads lie (default: {DOWNLOADS})"
    add("--downloads", type=Path, default=Path(DOWNLOADS), metavar="DIR", help=about)
    add("--force", action="store_true", help="replace the world that is in --out")


def add_closed_flags(parser: Parser) -> None:
    about = "Passages are generated from the answers; --from, --corpus and the shares are not used."
    add = parser.add_argument_group("closed world", about).add_argument
    for split in ("train", "test"):
        add(f"--{split}", type=Path, metavar="FILE", help=f"official {split} questions")
    about = "chooses wordings, distractors and dev rows (default: 0)"
    add("--seed", type=int, default=0, help=about)


def share(text: str) -> float:
    if not 0 <= (value := float(text)) < 0.5:
        raise argparse.ArgumentTypeError(f"must be at least 0 and less than 0.5, not {text}")
    return value


def words(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value
