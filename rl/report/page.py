"""The report of evaluate.py --report: one HTML file, without network or library, from what runs and evaluations left on disk.

    CHECKPOINT/metrics.jsonl              -> training curves
    CHECKPOINT/eval/*.json and .jsonl     -> the comparison with paired intervals, slices, popularity, the episode browser
    CHECKPOINT/eval/*.sweep.json          -> the sweep curve, where there is one

Charts are drawn by charts.py; page.template.html holds the style and the script of the episode browser. Every string
from data is escaped here or set as text there, and the page's policy allows that one script alone.
Left out on purpose: anything that changes a result, sampled decodings and thresholds.
"""

import base64
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import NamedTuple

from model.checkpoint import atomic_write
from rl.report.charts import Axis, Line, chart, grid, html_table, percent, thin, whisker
from rl.report.results import read_lines
from rl.report.summary import paired_interval
from rl.rollout import Decoding
from rl.runs.run import read_json

TEMPLATE = Path(__file__).with_name("page.template.html")
BROWSER_BYTES = 3_000_000  # of episodes, all sets together; above it every second, third, ... question is left out
FACTS = ("world", "set", "split", "rows", "retriever", "k", "quota", "corpus_sha256")


class Result(NamedTuple):
    """One evaluation as evaluate.py wrote it."""

    about: dict  # the .json
    records: list[dict]  # the .jsonl, one episode each

    def values(self, name: str) -> list[float]:
        return [float(r[name]) for r in self.records]


@dataclass
class Group:
    """The results on one question set that are about the very same questions, so that they can be paired."""

    about: dict
    results: dict[tuple[str, str], Result] = field(
        default_factory=dict
    )  # (checkpoint, row of the table)
    sweeps: dict[str, dict] = field(default_factory=dict)  # checkpoint -> its .sweep.json

    @property
    def own(self) -> dict[str, Result]:
        """The policies' own decisions, by checkpoint."""
        return {c: r for (c, name), r in self.results.items() if name == "own decision"}

    @property
    def name(self) -> str:
        return "{world} / {set}, {split}".format(**self.about)


# ---------------------------------------------------------------------------------------------- reading


def play_missing(evaluation, rows: Sequence[tuple[str, Decoding]]) -> None:
    """Play the decodings of an Evaluation (of evaluate.py) that are not on disk as the report needs them."""
    for name, decoding in rows:
        if not is_current(evaluation, decoding):
            evaluation.play(name, decoding)


def write(path: str, checkpoints: Sequence[str], rows: Sequence[tuple[str, Decoding]]) -> None:
    """The report of the checkpoints' whole eval folders."""
    page = render(
        [Path(checkpoint) for checkpoint in checkpoints],
        {name: asdict(decoding) for name, decoding in rows},
    )
    save(Path(path), page)
    print(f"report: {path} ({len(page.encode()) / 1e6:.1f} MB; one file, opens in any browser)")


def save(path: Path, page: str) -> None:
    """Write a page, all of it or nothing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def is_current(evaluation, decoding: Decoding) -> bool:
    """Whether this decoding has been played with these weights, on these questions, and recorded as the report needs it."""
    file = evaluation.path(".json", decoding)
    if not file.exists() or (result := read_result(file)) is None:
        return False
    facts = evaluation.facts()
    return {name: result.about.get(name) for name in facts} == facts and [
        r["question"] for r in result.records
    ] == [q.question for q in evaluation.questions]


def is_old(file: Path) -> bool:
    """Whether a file of CHECKPOINT/eval is older than the weights."""
    return file.stat().st_mtime < (file.parent.parent / "model.safetensors").stat().st_mtime


def read_result(file: Path) -> Result | None:
    """None: older than the weights, or written before records held their tokens. Raises UsageError on damaged files."""
    if is_old(file):
        return None
    about, records = read_json(file), read_lines(file.with_suffix(".jsonl"))
    return (
        Result(about, records)
        if all("tokens" in r for r in records) and len(records) == about.get("rows")
        else None
    )


def read_groups(
    checkpoints: Sequence[Path], decodings: dict[str, dict]
) -> tuple[list[Group], list[str]]:
    """The groups in order of first appearance, and the files that were left out."""
    groups, left_out = {}, []
    for checkpoint in checkpoints:
        for file in sorted(checkpoint.glob("eval/*.json")):
            about = read_json(file)
            name = next((n for n, d in decodings.items() if d == about.get("decoding")), None)
            if name is None:
                continue
            if (result := read_result(file)) is None:
                left_out.append(str(file))
                continue
            key = (
                *(str(about.get(f)) for f in FACTS),
                tuple(r["question"] for r in result.records),
            )
            groups.setdefault(key, Group(about)).results[str(checkpoint), name] = result
    for group in groups.values():
        order = [(str(c), name) for c in checkpoints for name in decodings]
        group.results = {key: group.results[key] for key in order if key in group.results}
        for checkpoint in checkpoints:
            file = checkpoint / "eval" / "{world}.{set}.{split}.sweep.json".format(**group.about)
            if (
                file.exists()
                and not is_old(file)
                and all(read_json(file).get(f) == group.about[f] for f in FACTS)
            ):
                group.sweeps[str(checkpoint)] = read_json(file)
    return [g for g in groups.values() if g.own], left_out


# ---------------------------------------------------------------------------------------------- training curves


def training(checkpoint: Path) -> str:
    """The curves of the run that made a checkpoint (of the run above it for its best/ and read/), "" without a log."""
    directory = next(
        (d for d in (checkpoint, checkpoint.parent) if (d / "metrics.jsonl").exists()), None
    )
    if directory is None:
        return ""
    lines = read_lines(directory / "metrics.jsonl")
    made = read_json(directory / "run.json") if (directory / "run.json").exists() else {}
    arguments, ppo = made.get("arguments", {}), any("iteration" in line for line in lines)
    told = [f"world {made['world']}"] if "world" in made else []
    shown = ("dataset", "seed", "iterations", "episodes", "read_steps", "mix_steps", "lr")
    told += [f"{name.replace('_', ' ')} {arguments[name]}" for name in shown if name in arguments]
    kind = "joint PPO" if ppo else "warm-up"
    return (
        f'<h3>{escape(str(directory))}: {kind}</h3><p class="note">{escape(", ".join(told))}</p>'
        + (ppo_curves(lines) if ppo else sft_curves(lines))
    )


def ppo_curves(lines: list[dict]) -> str:
    steps, dev = [x for x in lines if "reward_policy" in x], [x for x in lines if "dev" in x]
    slices = list(dict.fromkeys(name for x in dev for name in x["dev"]["greedy_slices"]))
    iteration = Axis("iteration", digits=0)
    train = lambda name, factor=1.0: thin([(x["iteration"], x[name] * factor) for x in steps])
    on_dev = lambda name, factor=1.0: [
        (x["iteration"], figure * factor)
        for x in dev
        if (figure := x["dev"]["greedy"][name]) is not None
    ]
    in_slice = lambda part: [
        (x["iteration"], 100 * x["dev"]["greedy_slices"][part]["retrieval"]) for x in dev
    ]
    percent = lambda label, **bounds: Axis(f"{label}, %", " %", **bounds)
    return grid(
        [
            chart(
                "Reward",
                [
                    Line("training, sampled", train("reward_policy"), 0, "faint"),
                    Line("dev, greedy", on_dev("reward"), 0),
                ],
                iteration,
                Axis("reward per question", digits=3),
            ),
            chart(
                "Exact match", [Line("dev, greedy", on_dev("em", 100), 0)], iteration, percent("EM")
            ),
            chart(
                "Retrieval",
                [
                    Line("training, mean P([RETRIEVE])", train("p_retrieve", 100), 0, "faint"),
                    Line("dev, greedy", on_dev("retrieval", 100), 0),
                ]
                + [
                    Line(f"dev, {name}", in_slice(name), i, "dashed")
                    for i, name in enumerate(slices, start=1)
                ],
                iteration,
                percent("retrieval", least=0, most=100),
            ),
            chart(
                "KL to the warm-up policy",
                [Line("training", train("kl"), 0)],
                iteration,
                Axis("KL (k1), nats per episode", " nats", 2),
                "An estimate from the episodes played; where both branches are played instead of sampled, it can fall below 0.",
            ),
            chart(
                "Hit: passages hold what is needed",
                [
                    Line("training, when retrieved", train("hit", 100), 0, "faint"),
                    Line("dev, greedy, when retrieved", on_dev("hit", 100), 0),
                ],
                iteration,
                percent("hit@k"),
            ),
            chart(
                "Value head",
                [
                    Line("value head, all tokens", train("ev_all"), 0),
                    Line("class oracle, all tokens", train("ev_oracle_all"), 1, "dashed"),
                ],
                iteration,
                Axis("explained variance", digits=2, most=1),
            ),
        ]
    )


def sft_curves(lines: list[dict]) -> str:
    losses = defaultdict(list)
    for i, line in enumerate(x for x in lines if "loss" in x):
        losses[line["phase"]].append((i, line["loss"]))
    dev = [
        Line(
            name,
            [
                (i, 100 * x["dev"][key])
                for i, x in enumerate(x for x in lines if "dev" in x)
                if x["dev"].get(key) is not None
            ],
            color,
        )
        for color, (name, key) in enumerate(
            (
                ("EM, answers at once", "direct_em"),
                ("EM, after retrieving", "retrieve_em"),
                ("hit@k of its queries", "hit"),
                ("EM where the passages hold the answer", "em_given_hit"),
            )
        )
    ]
    phases = [f"after {x['phase']}" for x in lines if "dev" in x]
    return grid(
        [
            chart(
                "Loss",
                [Line(phase, thin(points), i) for i, (phase, points) in enumerate(losses.items())],
                Axis("step", digits=0),
                Axis("loss, nats per action token", " nats", 3),
            ),
            chart(
                "Skills on dev",
                [line._replace(kind="dots") for line in dev],
                Axis("", names=phases, least=-0.5, most=len(phases) - 0.5),
                Axis("%", " %"),
            ),
        ]
    )


# ---------------------------------------------------------------------------------------------- tables


def comparison(group: Group) -> str:
    """Every row's figures, and the last checkpoint's own decisions minus it, with the paired bootstrap interval."""
    *_, (last, best) = group.own.items()
    intervals = {
        key: [paired_interval(best.values(name), r.values(name)) for name in ("reward", "em")]
        for key, r in group.results.items()
        if r is not best
    }
    reach = [
        max(
            (max(abs(low), abs(high)) for pair in intervals.values() for _, low, high in [pair[i]]),
            default=1.0,
        )
        or 1.0
        for i in (0, 1)
    ]
    rows = []
    for (checkpoint, name), r in group.results.items():
        m = r.about["metrics"]
        cells = [
            f"<code>{escape(checkpoint)}</code> {escape(name)}",
            f"{m['reward']:.3f}",
            *(percent(m[figure]) for figure in ("em", "f1", "retrieval", "hit", "malformed")),
            f"{1000 * r.about['seconds'] / r.about['rows']:.1f} ms",
        ]
        if pair := intervals.get((checkpoint, name)):
            cells += [
                whisker(*pair[0], reach[0], lambda v: f"{v:+.3f}"),
                whisker(*pair[1], reach[1], lambda v: f"{100 * v:+.1f}"),
            ]
        else:
            cells += ["–"] * 2
        rows.append(cells)
    return html_table(
        (
            "policy and decision",
            "reward",
            "EM",
            "F1",
            "retrieval",
            "hit@k if retrieved",
            "malformed",
            "time per question",
            f"reward of <code>{escape(last)}</code>, own decision, minus this",
            "EM of the same minus this, points",
        ),
        rows,
    )


def slices(group: Group) -> str:
    names = list(dict.fromkeys(name for r in group.own.values() for name in r.about["slices"]))
    rows = [
        [
            f"<code>{escape(c)}</code> {escape(name)}",
            f"{s['rows']:,}",
            f"{s['reward']:.3f}",
            *(percent(s[figure]) for figure in ("em", "retrieval", "hit", "malformed")),
        ]
        for name in names
        for c, r in group.own.items()
        if (s := r.about["slices"].get(name))
    ]
    head = ("slice", "questions", "reward", "EM", "retrieval", "hit@k if retrieved", "malformed")
    return f"<h3>Own decision, per slice</h3>{html_table(head, rows)}" if rows else ""


def tiles(group: Group) -> str:
    """The last checkpoint's own figures, large, and how they changed from the first's."""
    own = list(group.own.items())
    first, last = own[0][1].about["metrics"], own[-1][1].about["metrics"]
    shown = (
        ("reward per question", "reward", 1, "{:.3f}", "{:+.3f}"),
        ("exact match", "em", 100, "{:.1f} %", "{:+.1f} points"),
        ("questions it retrieved for", "retrieval", 100, "{:.1f} %", "{:+.1f} points"),
        ("hit@k when it did", "hit", 100, "{:.1f} %", "{:+.1f} points"),
    )
    parts = []
    for label, name, factor, form, change in shown:
        if last[name] is not None:
            changed = len(own) > 1 and first[name] is not None
            since = (
                f"<small>{change.format(factor * (last[name] - first[name]))} from {escape(own[0][0])}</small>"
                if changed
                else ""
            )
            parts.append(
                f"<div><b>{form.format(factor * last[name])}</b><span>{label}</span>{since}</div>"
            )
    return f'<p class="note"><code>{escape(own[-1][0])}</code>, own decision</p><div class="tiles">{"".join(parts)}</div>'


# ---------------------------------------------------------------------------------------------- curves of evaluations


def share_interval(count: int, rows: int, z: float = 1.96) -> tuple[float, float, float]:
    """A share with its Wilson 95 % interval."""
    p, n = count / rows, rows + z * z
    middle, half = (count + z * z / 2) / n, z / n * math.sqrt(count * (1 - p) + z * z / 4)
    return p, max(0.0, middle - half), min(1.0, middle + half)


def popularity(group: Group) -> str:
    """Retrieval against popularity in half decades, of all questions and without those whose fact no passage states."""
    charts = []
    for label, wanted in (
        ("all questions", lambda r: True),
        ("without absent facts", lambda r: r["slice"] != "absent"),
    ):
        lines, found = [], {}
        for color, (checkpoint, result) in enumerate(group.own.items()):
            counts = defaultdict(list)
            for r in result.records:
                if r["popularity"] is not None and wanted(r):
                    counts[int(2 * math.log10(max(r["popularity"], 1)))].append(bool(r["turns"]))
            found |= dict.fromkeys(counts)
            lines.append((checkpoint, color, counts))
        order = sorted(found)
        points = lambda counts: [
            (i, *(100 * v for v in share_interval(sum(counts[b]), len(counts[b]))))
            for i, b in enumerate(order)
        ]
        names = [f"{10 ** (b / 2):.0f}" for b in order]
        charts.append(
            chart(
                f"Retrieval, {label}",
                [Line(c, points(counts), color, last=False) for c, color, counts in lines],
                Axis("popularity, at least", names=names, least=-0.4, most=len(names) - 0.6),
                Axis("retrieval, %", " %", least=0, most=100),
                "Bars: Wilson 95 % interval.",
            )
            if order
            else ""
        )
        if not any(r["slice"] == "absent" for r in result.records):
            break
    return "<h3>Retrieval against popularity</h3>" + grid(charts, "wide") if any(charts) else ""


def sweeps(group: Group) -> str:
    charts = []
    for checkpoint, sweep in group.sweeps.items():
        for name, label, factor, axis in (
            ("em", "Exact match", 100, Axis("EM, %", " %")),
            ("reward", "Reward", 1, Axis("reward per question", digits=3)),
        ):
            at = lambda m: [(100 * m["retrieval"], factor * m[name])]
            lines = [
                Line(
                    "every threshold on P([RETRIEVE])",
                    [at(m)[0] for m in sweep["curve"]],
                    0,
                    last=False,
                )
            ]
            lines += [
                Line(point, at(m), i, "dots")
                for i, (point, m) in enumerate(sweep["points"].items(), start=1)
            ]
            charts.append(chart(f"{label}: {checkpoint}", lines, Axis("retrieval, %", " %"), axis))
    return "<h3>Threshold sweep</h3>" + grid(charts, "wide") if charts else ""


# ---------------------------------------------------------------------------------------------- the episode browser


def browsed(groups: Sequence[Group], checkpoints: Sequence[str]) -> dict:
    """Questions with one episode per checkpoint (null where it has none); passages are stored once and named by number."""
    passages: dict[tuple[str, str], int] = {}
    budget, sets = BROWSER_BYTES // max(1, len(groups)), []
    for group in groups:
        step = max(
            1,
            math.ceil(
                sum(len(json.dumps(r)) for result in group.own.values() for r in result.records)
                / 2
                / budget
            ),
        )  # halved: passages repeat
        questions = []
        for same in zip(*(result.records[::step] for result in group.own.values())):
            episodes = dict(zip(group.own, same))
            questions.append(
                {
                    **{
                        name: same[0][name]
                        for name in ("id", "question", "answers", "slice", "relation", "popularity")
                    },
                    "episodes": [
                        episodes[c] and browsed_episode(episodes[c], passages)
                        if c in episodes
                        else None
                        for c in checkpoints
                    ],
                }
            )
        sets.append(
            {"name": group.name, "rows": group.about["rows"], "step": step, "questions": questions}
        )
    return {"checkpoints": list(checkpoints), "sets": sets, "passages": [list(p) for p in passages]}


def browsed_episode(record: dict, passages: dict[tuple[str, str], int]) -> dict:
    turns = [
        {
            "query": t["query"],
            "passages": [
                [passages.setdefault((p["title"], p["text"]), len(passages)), round(p["score"], 2)]
                for p in t["passages"]
            ],
        }
        for t in record["turns"]
    ]
    rounded = {
        "p": round(record["p_retrieve"], 4),
        "tokens": [
            [token, round(reward, 3)] if reward else token for token, reward in record["tokens"]
        ],
    }
    return {
        **rounded,
        "turns": turns,
        **{name: record[name] for name in ("answer", "em", "f1", "hit", "malformed", "reward")},
    }


def embedded(value) -> str:
    """JSON for a <script> element: no character that HTML could read as markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda m: f"\\u{ord(m[0]):04x}", text)


def render(checkpoints: Sequence[Path], decodings: dict[str, dict]) -> str:
    """The whole page. Raises UsageError on damaged files."""
    groups, left_out = read_groups(checkpoints, decodings)
    names = [str(c) for c in checkpoints]
    sections = []
    for group in groups:
        about = "world {world}, set {set}, split {split}: {rows:,} questions, k = {k} passages, quota {quota}, greedy".format(
            **group.about
        )
        sections.append(
            f'<section><h2>{escape(group.name)}</h2><p class="note">{escape(about)}. Intervals: paired bootstrap over the questions, 95 %.</p>'
            f"{tiles(group)}<h3>Comparison</h3>{comparison(group)}{slices(group)}{sweeps(group)}{popularity(group)}</section>"
        )
    curves = "".join(training(c) for c in dict.fromkeys(checkpoints))
    sections.append(f"<section><h2>Training</h2>{curves}</section>" if curves else "")
    skipped = (
        (
            f'<details class="note"><summary>{len(left_out)} results are left out: older than the weights, or than what this page needs</summary>'
            f"{escape(', '.join(left_out))}</details>"
        )
        if left_out
        else ""
    )
    return fill(
        "what the policies do",
        escape(", ".join(names)),
        skipped + "".join(sections),
        browsed(groups, names),
    )


def fill(title: str, about: str, sections: str, data: dict) -> str:
    """The template with its browser's `data` (of browsed) and HTML for the rest."""
    template = TEMPLATE.read_text(encoding="utf-8")
    script = re.search("<script>(.*?)</script>", template, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values = {
        "script_sha256": digest,
        "title": title,
        "about": about,
        "sections": sections,
        "data": embedded(data),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda m: values[m[1]], template)
