"""What a person, or another program, reads on the terminal and on pages: tables, episodes, answers.

What data holds may have been written by anyone: control characters never reach a terminal, markup
never a page. Tables are Markdown on a terminal and in files, HTML on a page.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import NamedTuple

from data.files import nfc
from data.world import Question, printable
from rl.report.evaluation import OWN, Results, own_decisions
from rl.report.summary import COLUMNS, THRESHOLDS, paired_interval
from rl.runs.flags import UsageError
from rl.runs.run import plain


class Table(NamedTuple):
    title: str
    head: Sequence[str]
    rows: list[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rule = ["-" * width for width in widths]
        text = [
            "| " + " | ".join(map(str.ljust, line, widths)) + " |"
            for line in (self.head, rule, *self.rows)
        ]
        return "\n".join([f"## {self.title}\n", *text, ""])

    def html(self) -> str:
        """The first cell of each row is its heading."""
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in self.head)
        body = ""
        for first, *rest in self.rows:
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
            body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
        return (
            f'<h3>{escape(self.title)}</h3><div class="scroll" tabindex="0"><table>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )


def cell(value: float | None) -> str:
    """Counts as integers, rates with three digits, "-" for a figure over nothing."""
    if value is None or value != value:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def interval(values: Sequence[float]) -> str:
    """A difference with its interval."""
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*values)


def rows_of(figures: dict[str, dict]) -> list[list[str]]:
    return [[label, *(cell(m[name]) for name in COLUMNS)] for label, m in figures.items()]


def comparison(results: Results) -> list[Table]:
    """All rows; the own decisions per slice; the last checkpoint's own decisions minus each row."""
    own = own_decisions(results)
    figures = {f"{c}: {row}": r.about | r.about["metrics"] for (c, row), r in results.items()}
    tables = [Table("Comparison", ["", *COLUMNS], rows_of(figures))]
    names = dict.fromkeys(name for r in own.values() for name in r.about["slices"])
    if names:
        parts = {f"{c}: {name}": r.about["slices"][name] for name in names for c, r in own.items()}
        tables.append(Table(f"{OWN.capitalize()}, per slice", ["", *COLUMNS], rows_of(parts)))
    if not own:
        return tables
    last, best = list(own.items())[-1]
    rows = []
    for (checkpoint, row), other in results.items():
        if other is not best:
            pairs = [(best.values(f), other.values(f)) for f in ("reward", "em")]
            intervals = [interval(paired_interval(*pair)) for pair in pairs]
            rows.append([f"{checkpoint}: {row}", *intervals])
    if rows:
        title = f"{last}, {OWN}, minus each (paired bootstrap, 95 %)"
        tables.append(Table(title, ["", "reward", "em"], rows))
    return tables


def sweep_table(title: str, swept: dict) -> Table:
    """Every tenth threshold, and the points."""
    curve = {m["threshold"]: m for m in swept["curve"]}
    shown = {f"P([RETRIEVE]) > {t:g}": curve[t] for t in THRESHOLDS}
    return Table(title, ["", *COLUMNS], rows_of(shown | swept["points"]))


# ---------------------------------------------------------------------------------- episodes


def printed(text: str) -> str:
    """The text, in which nothing but its line ends controls the terminal."""
    return "\n".join(map(printable, text.split("\n")))


def traces(records: Sequence[dict], count: int) -> str:
    """Some episodes, evenly spread."""
    step = max(1, len(records) // max(1, count))
    return "\n".join(f"\n{as_text(record)}" for record in records[::step][:count])


def as_text(record: dict) -> str:
    """An episode's record, over several lines."""
    where = f"[{record['slice']}] " if record["slice"] else ""
    cut = " (longer than the context, and cut)" if record.get("truncated") else ""
    first = "retrieve" if record["turns"] else "answer at once"
    shown = [f"{where}{record['question']}{cut}"]
    shown.append(f"  {first}, P([RETRIEVE]) = {record['p_retrieve']:.3f}")
    for turn in record["turns"]:
        shown.append(f"  query: {turn['query']}")
        for p in turn["passages"]:
            text = " ".join(p["text"].split())
            shown.append(f"  {p['score']:7.3f}  [{p['id']}] {p['title']}: {text}")
    malformed = "(malformed: no text, or no end within the budget)"
    answer = f"  answer: {malformed if record['malformed'] else record['answer']}"
    if record["answers"]:
        accepted = " | ".join(record["answers"][:3])
        answer += f"   accepted: {accepted}   reward {record['reward']:+.2f}"
    if "seconds" in record:
        answer += f"   {record['seconds']:.2f} s"
    return "\n".join(map(printable, [*shown, answer]))


def as_json(record: dict) -> str:
    """An answer to --ask as a line of JSON, in ASCII."""
    names = ("question", "p_retrieve", "turns", "answer", "malformed", "truncated", "seconds")
    return json.dumps(plain({name: record[name] for name in names}))


def answer_all(ask: str, answer: Callable[[Question], dict], show: Callable[[dict], str]) -> None:
    """Print the answers to questions_of(ask), each before the next one is read. A reader that goes
    away (a closed pipe) ends it."""
    try:
        for number, text in questions_of(ask):
            print(show(answer(Question(str(number), text, ()))), flush=True)
    except BrokenPipeError:  # or else Python's last flush would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def questions_of(ask: str) -> Iterator[tuple[int, str]]:
    """(number, question): --ask itself, or "-": standard input's lines that are not blank.

    Raises UsageError.
    """
    if ask != "-" and not ask.strip():
        raise UsageError("--ask: the question is empty")
    if ask == "-":
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(sys.stdin if ask == "-" else [ask], start=1):
        text = nfc(line.strip())
        if text.encode(errors="replace").decode() != text:
            raise UsageError(f"standard input:{number}: not UTF-8 text")
        if text:
            yield number, text
