"""The terminal: what a command line of evaluate.py asks for, and what is read of it. Left out:
charts.

What data holds may have been written by anyone: control characters never reach a terminal, markup
never a page. Tables are Markdown on a terminal and in files, HTML on a page.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from data.world import Question, printable
from model.pretrained import open_policy
from model.pretrained.reading import existing, is_checkpoint, weights_sha256
from rl import GREEDY, Decoding
from rl.report.evaluation import Evaluation, Result, Results, own_decisions
from rl.report.summary import COLUMNS, OWN, paired_interval
from rl.runs.flags import UsageError
from rl.runs.launch import precision
from rl.runs.retrievers import open_world
from rl.runs.run import differences, plain
from rl.runs.setting import run_info

ANSWERED = ("question", "p_retrieve", "turns", "answer", "malformed", "truncated", "seconds")
MINUS = ("reward", "em")  # figures of the last policy minus those of each row


def check(args, rows: dict[str, Decoding]) -> tuple[list[str], dict[str, Decoding]]:
    """The checkpoints of a command line, and these rows, or the one that it asks for instead.
    Raises UsageError, CheckpointError."""
    if bool(args.force) + args.sample + (args.threshold != 0.5) > 1:
        raise UsageError("--force, --sample and --threshold exclude each other")
    decoding = Decoding(float(args.sample), args.sample, args.threshold, force=args.force or None)
    if args.json and args.ask is None:
        raise UsageError("--json goes with --ask")
    if args.ask is not None and (args.sweep or args.report):
        raise UsageError("--ask goes with neither --sweep nor --report")
    if args.report and Path(args.report).exists() and not Path(args.report).is_file():
        raise UsageError(f"--report {args.report} is not a regular file")
    if (args.sweep or args.report) and decoding != GREEDY:
        alone = "they go with none of --force, --sample, --threshold"
        raise UsageError(f"--sweep and --report are about all decodings; {alone}")
    default = [name for name in ("runs/sft", "runs/ppo") if is_checkpoint(name)]
    names = args.checkpoint.split(",") if args.checkpoint else default
    if not names:
        missing = "no checkpoint in runs/sft or runs/ppo"
        raise UsageError(f"{missing}; train one (python train_sft.py) or give --checkpoint")
    if decoding != GREEDY:
        rows = {f"force {args.force}" if args.force else OWN: decoding}
    return [str(existing(name)) for name in names], rows


def open_checkpoint(name: str, args) -> Evaluation:
    """A checkpoint in the environment that it was trained in, where no flag says otherwise. Raises
    UsageError, CheckpointError, WorldError."""
    policy, tokenizer, made = open_policy(name, args.device)
    info = run_info(made, name)
    world, index, retriever = open_world(args.world, args, info)
    costs = {"retrieval_cost": args.retrieval_cost, "malformed_cost": args.malformed_cost}
    reward = replace(info.reward, **{cost: value for cost, value in costs.items() if value >= 0})
    shape = {"k": args.k or info.k, "quota": args.quota or info.quota}
    env = replace(info, reward=reward, **shape).environment(world, index)
    asked = args.dataset or info.dataset or "popqa", args.split
    sets = world.union(*asked) if args.ask is None else []
    questions = [q for questions in sets for q in questions][: args.rows or None]
    about = {"retriever": retriever, "checkpoint": name, "weights_sha256": weights_sha256(name)}
    machine = args.device, args.dtype, args.seed
    return Evaluation(name, policy, tokenizer, env, asked, questions, about, *machine)


def header(policies: Sequence[Evaluation], sampled: bool) -> str:
    """What stands above the tables. Policies of different costs get names that say so. Raises
    UsageError where their results cannot stand in one table."""
    first = policies[0].facts
    if not first["rows"]:
        raise UsageError("{set}.{split} of world {world} is empty".format(**first))
    same = {name: first[name] for name in ("world", "questions_sha256", "corpus_sha256")}
    for other in policies[1:]:
        if differences(other.facts, same):
            pair = f"{policies[0].name} and {other.name}"
            advice = "give --world and --dataset"
            raise UsageError(f"{pair} were trained on different worlds or sets; {advice}")
    rewards = [policy.facts["reward"] for policy in policies]
    if different := [name for name in rewards[0] if len({r[name] for r in rewards}) > 1]:
        for policy, reward in zip(policies, rewards, strict=True):
            shown = (f"{name.replace('_', ' ')} {reward[name]:g}" for name in different)
            policy.name += f" ({', '.join(shown)})"
    how = "sampled" if sampled else "greedy"
    text = (
        "evaluate: world {world}, set {set}, split {split}, {rows} questions, "
        "{retriever[retriever]}, k = {k}, quota {quota}; "
        f"{how}; reward "
        "{reward[exact_match]:g} EM + {reward[f1]:g} F1 - {reward[retrieval_cost]:g} per retrieval "
        "- {reward[malformed_cost]:g} if malformed; checkpoints "
    ).format(**first)
    return printable(text + ", ".join(policy.name for policy in policies))


# ------------------------------------------------------------------------------------- tables


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
        return "\n".join(map(printable, [f"## {self.title}", "", *text, ""]))

    def html(self) -> str:
        """The first row and the first cell of each row are headings."""
        text = f'<h3>{escape(self.title)}</h3><div class="scroll" tabindex="0"><table>'
        for number, line in enumerate((self.head, *self.rows)):
            first, *rest = map(escape, line)
            cells = "".join(f"<td>{cell}</td>" if number else f"<th>{cell}</th>" for cell in rest)
            text += f"<tr><th>{first}</th>{cells}</tr>"
        return f"{text}</table></div>"


def cell(value: float | None) -> str:
    """Counts as integers, rates with three digits, "-" for a figure over nothing."""
    if value is None or value != value:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def interval(values: Sequence[float]) -> str:
    """A difference with its interval."""
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*values)


def figures_table(title: str, figures: dict[str, dict]) -> Table:
    """label -> figures, with a column for each of COLUMNS."""
    rows = [[label, *(cell(m[name]) for name in COLUMNS)] for label, m in figures.items()]
    return Table(title, ["", *COLUMNS], rows)


def comparison(results: Results, sweeps: dict[str, dict]) -> list[Table]:
    """All rows; the own decisions per slice; the last policy's own decisions minus each row; the
    sweeps. sweeps: by policy, as `sweep` has it."""
    own = own_decisions(results)
    figures = {f"{name}: {row}": r.about | r.about["metrics"] for (name, row), r in results.items()}
    names = dict.fromkeys(name for r in own.values() for name in r.about["slices"])
    parts = {f"{c}: {name}": r.about["slices"][name] for name in names for c, r in own.items()}
    per_slice = figures_table(f"{OWN.capitalize()}, per slice", parts)
    tables = [figures_table("Comparison", figures), per_slice]
    for last, best in list(own.items())[-1:]:
        minus = Table(f"{last}, {OWN}, minus each (paired bootstrap, 95 %)", ["", *MINUS], [])
        for (name, row), other in results.items():
            pairs = [[[r[f] for r in one.records] for one in (best, other)] for f in MINUS]
            if other is not best:
                cells = [interval(paired_interval([pair])) for pair in pairs]
                minus.rows.append([f"{name}: {row}", *cells])
        tables.append(minus)
    for name, swept in sweeps.items():
        shown = {f"P([RETRIEVE]) > {m['threshold']:g}": m for m in swept["curve"]}
        tables.append(figures_table(f"{name}: threshold sweep", shown | swept["points"]))
    return [table for table in tables if table.rows]


def traces(result: Result, count: int) -> str:
    """Some episodes, evenly spread, after how many of the questions did not fit."""
    step = max(1, len(result.records) // max(1, count))
    shown = [f"\n{as_text(record)}" for record in result.records[::step][:count]]
    if cut := result.about["truncated_questions"]:
        shown.insert(0, f"{cut} questions were longer than the context and were cut")
    return "\n".join(shown)


def as_text(record: dict) -> str:
    """An episode's record, over several lines."""
    where = f"[{record['slice']}] " if record["slice"] else ""
    cut = " (longer than the context, and cut)" if record.get("truncated") else ""
    first = "retrieve" if record["turns"] else "answer at once"
    p = record["p_retrieve"]
    shown = [f"{where}{record['question']}{cut}", f"  {first}, P([RETRIEVE]) = {p:.3f}"]
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


def answer(policy: Evaluation, decoding: Decoding, args) -> None:
    """Print the answers to --ask, each before the next question is read. A reader that goes away (a
    closed pipe) ends it. Raises UsageError."""
    with precision(args.device, args.dtype):
        policy.policy = policy.policy.for_inference()  # once, not for every question
    try:
        for number, text in questions_of(args.ask):
            start = time.perf_counter()
            asked = replace(policy, questions=[Question(str(number), text, ())])
            [episode] = asked.answer(decoding)
            record = asked.record(episode) | {"truncated": episode.truncated}
            record["seconds"] = round(time.perf_counter() - start, 4)
            line = json.dumps(plain({name: record[name] for name in ANSWERED}))  # in ASCII
            print(line if args.json else as_text(record), flush=True)
    except BrokenPipeError:  # or else Python's last flush would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def questions_of(ask: str) -> Iterator[tuple[int, str]]:
    """(number, question): --ask itself, or "-": standard input's lines that are not blank."""
    if ask != "-" and not ask.strip():
        raise UsageError("--ask: the question is empty")
    if ask == "-":
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(sys.stdin if ask == "-" else [ask], start=1):
        text = normalize("NFC", line.strip())
        if text.encode(errors="replace").decode() != text:
            raise UsageError(f"standard input:{number}: not UTF-8 text")
        if text:
            yield number, text
