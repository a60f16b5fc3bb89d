"""Episodes as a person, or another program, reads them on the terminal.

What data holds may have been written by anyone: control characters never reach a terminal.
"""

import json
import os
import re
import sys
from collections.abc import Iterator

from rl.runs.flags import UsageError

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


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
    return CONTROL.sub("\ufffd", "\n".join([*lines, answer]))


def as_json(record: dict) -> str:
    """An answer to --ask, as one line."""
    names = ("question", "p_retrieve", "turns", "answer", "malformed", "truncated", "seconds")
    text = json.dumps({name: record[name] for name in names}, ensure_ascii=False)
    return CONTROL.sub(lambda c: f"\\u{ord(c[0]):04x}", text)


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
