"""Episodes as a person, or another program, reads them on the terminal.

What data holds may have been written by anyone: control characters never reach a terminal.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence

from data.world import Question
from rl.episode import Episode
from rl.report.results import OWN
from rl.report.summary import COLUMNS, by_slice, paired_interval, summarize, table
from rl.runs.flags import UsageError

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def comparison(episodes: dict[tuple[str, str], Sequence[Episode]]) -> str:
    """Tables of (checkpoint, row) -> episodes: all rows, the own decisions per slice, and the
    last checkpoint's reward minus the others'."""
    text = table([(f"{c}: {row}", summarize(e)) for (c, row), e in episodes.items()], COLUMNS)
    own = {c: e for (c, row), e in episodes.items() if row == OWN}
    slices = {c: by_slice(e) for c, e in own.items()}
    names = dict.fromkeys(name for parts in slices.values() for name in parts)
    rows = [(f"{c}: {name}", parts[name]) for name in names for c, parts in slices.items()]
    if rows:
        text += f"\n\n{OWN}, per slice\n{table(rows, COLUMNS)}"
    if len(own) < 2:
        return printable(text)
    last = list(own)[-1]
    rewards = [e.reward for e in own[last]]
    others = {
        f"{c}: {row}": [e.reward for e in played]
        for (c, row), played in episodes.items()
        if row.startswith("always") or (row == OWN and c != last)
    }
    width = max(map(len, others))
    text += f"\n\nmean reward of {last}, {OWN}, minus that of ... (paired bootstrap, 95 %)"
    for name, theirs in others.items():
        difference = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*paired_interval(rewards, theirs))
        text += f"\n  {name:<{width}}  {difference}"
    return printable(text)


def traces(records: Sequence[dict], count: int) -> str:
    """Episodes of each slice in turn."""
    slices: dict[str | None, list[dict]] = {}
    for record in records:
        slices.setdefault(record["slice"], []).append(record)
    shown, groups = [], list(slices.values())
    for i in range(min(count, len(records))):
        group = groups[i % len(groups)]
        shown.append("\n" + as_text(group[i // len(groups) % len(group)]))
    return "\n".join(shown)


def as_text(record: dict) -> str:
    """An episode's record, over several lines."""
    p, turns = record["p_retrieve"], record["turns"]
    where = f"[{record['slice']}] " if record["slice"] else ""
    cut = " (longer than the context, and cut)" if record.get("truncated") else ""
    lines = [f"{where}{record['question']}{cut}"]
    lines.append(f"  {'retrieve' if turns else 'answer at once'}, P([RETRIEVE]) = {p:.3f}")
    for turn in turns:
        lines.append(f"  query: {turn['query']}")
        for passage in turn["passages"]:
            text = " ".join(passage["text"].split())
            shown = f"[{passage['id']}] {passage['title']}: {text}"
            lines.append(f"  {passage['score']:7.3f}  {shown}")
    malformed = "(malformed: no text, or no end within the budget)"
    answer = f"  answer: {malformed if record['malformed'] else record['answer']}"
    if record["answers"]:
        accepted = " | ".join(record["answers"][:3])
        answer += f"   accepted: {accepted}   reward {record['reward']:+.2f}"
    if "seconds" in record:
        answer += f"   {record['seconds']:.2f} s"
    return printable("\n".join([*lines, answer]))


def printable(text: str) -> str:
    return CONTROL.sub("\ufffd", text)


def as_json(record: dict) -> str:
    """An answer to --ask, as one line."""
    names = ("question", "p_retrieve", "turns", "answer", "malformed", "truncated", "seconds")
    text = json.dumps({name: record[name] for name in names}, ensure_ascii=False)
    return CONTROL.sub(lambda c: f"\\u{ord(c[0]):04x}", text)


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
    lines = sys.stdin.buffer if ask == "-" else [os.fsencode(ask)]
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            where = f"standard input:{number}" if ask == "-" else "--ask"
            raise UsageError(f"{where}: not UTF-8 text") from None
        if text:
            yield number, text
        elif ask != "-":
            raise UsageError("--ask: the question is empty")
