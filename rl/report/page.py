"""The report of evaluate.py --report: one HTML file without network or library.

    CHECKPOINT/metrics.jsonl           -> training curves
    CHECKPOINT/eval/*.json and .jsonl  -> comparison with paired intervals, slices, episode browser
    CHECKPOINT/eval/*.sweep.json       -> the sweep curve, where there is one

page.template.html holds the style and the script of the episode browser. Every string from data is
escaped here or set as text there, and the page's policy allows that one script alone.
Left out on purpose: anything that changes a result, sampled decodings and thresholds.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from model import atomic_write
from rl.report.charts import grid, html_table, interval, percent
from rl.report.curves import calibration_charts, sweep_charts, training
from rl.report.results import Group
from rl.report.summary import paired_interval

TEMPLATE = Path(__file__).with_name("page.template.html")
BROWSER_BYTES = 3_000_000  # of episodes; above it questions are left out evenly


def write(path: Path, page: str) -> None:
    """Write a page, all of it or nothing, and say so. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    print(f"report: {path} ({len(page.encode()) / 1e6:.1f} MB; one file, opens in any browser)")


def render(group: Group, runs: Sequence[Path]) -> str:
    """The page of an evaluation of checkpoints. Raises UsageError on a damaged training log."""
    sections = section(group.name, group_html(group))
    sections += section("Training", "".join(map(training, runs)))
    return fill("what the policies do", ", ".join(group.own), sections, browsed(group))


def section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def fill(title: str, about: str, sections: str, data: dict | None = None) -> str:
    """The template with HTML `sections` and the browser's `data` (None: no episodes)."""
    template = TEMPLATE.read_text(encoding="utf-8")
    script = re.search("<script>(.*?)</script>", template, re.DOTALL)[1]
    values = {
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "title": escape(title),
        "about": escape(about),
        "sections": sections,
        "data": embedded(data or {"sets": []}),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda m: values[m[1]], template)


# ------------------------------------------------------------------------------------------- tables


def group_html(group: Group) -> str:
    about = (
        "world {world}, set {set}, split {split}: {rows:,} questions, k = {k} passages, "
        "quota {quota}, greedy. Reward: {reward[exact_match]:g} EM + {reward[f1]:g} F1 - "
        "{reward[retrieval_cost]:g} per retrieval - {reward[malformed_cost]:g} if malformed, if no "
        "other costs are named. Intervals: paired bootstrap over the questions, 95 %."
    ).format(**group.about)
    charts = [figure for c, sweep in group.sweeps.items() for figure in sweep_charts(c, sweep)]
    swept = f"<h3>Threshold sweep</h3>{grid(charts, 'wide')}" if charts else ""
    charts = calibration_charts(group)
    calibrated = f"<h3>Calibration</h3>{grid(charts, 'wide')}" if charts else ""
    return (
        f'<p class="note">{escape(about)}</p><h3>Comparison</h3>'
        f"{comparison(group)}{slices(group)}{swept}{calibrated}"
    )


def comparison(group: Group) -> str:
    """Every row's figures, and the last checkpoint's own decisions minus it, with the interval."""
    last, best = list(group.own.items())[-1]
    forms = {"reward": "{:+.3f}".format, "em": lambda value: f"{100 * value:+.1f}"}
    rows = []
    for (checkpoint, name), r in group.results.items():
        compared = ["-"] * len(forms)
        if r is not best:
            pairs = {f: paired_interval(best.values(f), r.values(f)) for f in forms}
            compared = [interval(*pairs[f], form) for f, form in forms.items()]
        label = f"<code>{escape(checkpoint)}</code> {escape(name)}"
        seconds = r.about["seconds"] / max(1, r.about["rows"])
        rows.append([label, *figures(r.about["metrics"]), f"{1000 * seconds:.1f} ms", *compared])
    policy = f"<code>{escape(last)}</code>, own decision,"
    head = ("time per question", f"reward of {policy} minus this", "EM of the same, points")
    return html_table(("policy and decision", *FIGURES, *head), rows)


FIGURES = ("reward", "EM", "F1", "retrieval", "retriever calls", "policy calls")
FIGURES += ("hit@k if retrieved", "malformed")


def figures(m: dict) -> list[str]:
    shares = [percent(m[name]) for name in ("em", "f1", "retrieval", "hit", "malformed")]
    calls = [f"{m[name]:.2f}" for name in ("queries", "calls")]
    return [f"{m['reward']:.3f}", *shares[:3], *calls, *shares[3:]]


def slices(group: Group) -> str:
    names = dict.fromkeys(name for r in group.own.values() for name in r.about["slices"])
    rows = [
        [f"<code>{escape(c)}</code> {escape(name)}", f"{m['rows']:,}", *figures(m)]
        for name in names
        for c, r in group.own.items()
        if (m := r.about["slices"].get(name))
    ]
    table = html_table(("slice", "questions", *FIGURES), rows)
    return f"<h3>Own decision, per slice</h3>{table}" if rows else ""


# ------------------------------------------------------------------------------ the episode browser


def browsed(group: Group) -> dict:
    """Questions with one episode per checkpoint; passages are stored once."""
    passages: dict[tuple[str, str], int] = {}
    own = group.own
    size = sum(len(json.dumps(r)) for result in own.values() for r in result.records)
    step = max(1, math.ceil(size / 2 / BROWSER_BYTES))  # halved: passages repeat
    questions = []
    for same in zip(*(result.records[::step] for result in own.values()), strict=True):
        shown = ("id", "question", "answers", "slice", "relation", "popularity")
        episodes = [browsed_episode(record, passages) for record in same]
        questions.append({name: same[0][name] for name in shown} | {"episodes": episodes})
    shown = {"name": group.name, "rows": group.about["rows"], "step": step, "questions": questions}
    return {"checkpoints": list(own), "sets": [shown], "passages": list(map(list, passages))}


def browsed_episode(record: dict, passages: dict[tuple[str, str], int]) -> dict:
    """A record as the browser reads it; `passages`: (title, text) -> number, filled here."""

    def numbered(passage: dict) -> list:
        number = passages.setdefault((passage["title"], passage["text"]), len(passages))
        return [number, round(passage["score"], 2)]

    shown = ("answer", "em", "f1", "hit", "malformed", "reward")
    return {
        "p": round(record["p_retrieve"], 4),
        "tokens": [[t, round(reward, 3)] if reward else t for t, reward in record["tokens"]],
        "turns": [
            {"query": turn["query"], "passages": [numbered(p) for p in turn["passages"]]}
            for turn in record["turns"]
        ],
        **{name: record[name] for name in shown},
    }


def embedded(value) -> str:
    """JSON for a <script> element: no character that HTML could read as markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda m: f"\\u{ord(m[0]):04x}", text)
