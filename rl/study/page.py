"""The study as one page to look at, made of the report's template, charts and episode browser (report.py, charts.py).

    render(study, report, out)      the page: figures of `study`, the tables of its `report`, and what its runs left in `out`

The training curves are those of OUT/seed-S/joint/metrics.jsonl, the episodes those of OUT/seed-S/eval of the first seed.
Left out: figures of its own; what the page draws, study.json holds.
"""

import re
from html import escape
from pathlib import Path

from rl.report.charts import Axis, Line, chart, grid, html_table, span, whisker
from rl.report.page import Group, Result, browsed, fill, training
from rl.report.results import read_lines
from rl.runs.run import read_json
from rl.study.systems import JOINT, SEPARATE, SFT
from rl.study.table import TOGETHER, Study

BESIDE = (
    SFT,
    "separate (b)",
    JOINT,
)  # in the chart of slices and in the browser; the last one is judged first
AGAINST = (
    ("reward", "Reward", 1, Axis("reward per question", digits=3)),
    ("em", "Exact match", 100, Axis("EM, %", " %")),
)


def over_seeds(values: list[float], factor: float = 1) -> tuple[float, float, float]:
    """Mean, least and most."""
    return factor * sum(values) / len(values), factor * min(values), factor * max(values)


# ---------------------------------------------------------------------------------------------- comparison and charts


def comparison(study: Study) -> str:
    """Every system's reward together, and joint minus it in each seed, beside how it came about."""
    names = study.group("main", "ablations", "costs")
    reward = {name: over_seeds(study.values(name, TOGETHER, "reward")) for name in names}
    ends = min(low for _, low, _ in reward.values()), max(high for *_, high in reward.values())
    ends = ends if ends[0] < ends[1] else (ends[0] - 1, ends[0] + 1)
    minus = {
        name: [study.difference(seed, JOINT, name, TOGETHER) for seed in study.seeds]
        for name in names
        if name != JOINT
    }
    reach = (
        max(
            (max(-low, high) for intervals in minus.values() for _, low, high in intervals),
            default=1.0,
        )
        or 1.0
    )
    rows = [
        [
            f"<b>{escape(name)}</b>" if name == JOINT else escape(name),
            span(*reward[name], *ends, "{:.3f}".format),
            *(
                [whisker(*cell, reach, "{:+.3f}".format) for cell in minus[name]]
                if name in minus
                else ["–"] * len(study.seeds)
            ),
            *(
                f"{100 * study.mean(name, TOGETHER, figure):.1f} %"
                for figure in ("em", "retrieval")
            ),
        ]
        for name in names
    ]
    return html_table(
        [
            "system",
            "reward, mean [least, most] of the seeds",
            *(f"joint minus it, seed {seed}" for seed in study.seeds),
            "EM",
            "retrieval",
        ],
        rows,
    )


def curves(study: Study) -> list[str]:
    """EM and reward against retrieval: joint at every threshold, and each system's point."""
    names = [JOINT, *(name for name in study.group("main", "ablations", "costs") if name != JOINT)]
    family = lambda name: (
        0
        if name == JOINT
        else 1
        if name in SEPARATE
        else {"main": 2, "ablations": 3, "costs": 4}[study.systems[name].group]
    )
    charts = []
    for figure, title, factor, axis in AGAINST:
        swept = [
            (over_seeds(at["retrieval"], 100)[0], over_seeds(at[figure], factor)[0])
            for at in study.sweep().values()
        ]
        lines = [Line("joint at every threshold on P([RETRIEVE])", swept, 0, last=False)]
        lines += [
            Line(
                name,
                [
                    (
                        100 * study.mean(name, TOGETHER, "retrieval"),
                        *over_seeds(study.values(name, TOGETHER, figure), factor),
                    )
                ],
                family(name),
                "dots",
                mark=str(number),
            )
            for number, name in enumerate(names, start=1)
        ]
        charts.append(chart(f"{title} against retrieval", lines, Axis("retrieval, %", " %"), axis))
    return charts


def slices(study: Study) -> str:
    """Retrieval in every slice of the training sets, the systems side by side."""
    parts, names = study.leaves, [name for name in BESIDE if name in study.systems]
    lines = [
        Line(
            name,
            [
                (
                    i + 0.18 * (color - (len(names) - 1) / 2),
                    *over_seeds(study.values(name, part, "retrieval"), 100),
                )
                for i, part in enumerate(parts)
            ],
            color,
            "dots",
            last=False,
        )
        for color, name in enumerate(names)
    ]
    shown = [part.rpartition(": ")[2] for part in parts]
    return chart(
        "Retrieval per slice",
        lines,
        Axis("", names=shown, least=-0.4, most=len(parts) - 0.6),
        Axis("retrieval, %", " %", least=0, most=100),
    )


def prices(study: Study) -> str:
    """Reward against the price of a retrieval, one line per price in training."""
    if len(table := study.prices()) < 2:
        return ""
    lines = [
        Line(
            f"trained at {trained:g}",
            [(price, *over_seeds(values)) for price, values in at.items()],
            color,
            last=False,
        )
        for color, (trained, at) in enumerate(table.items())
    ]
    return chart(
        "Reward against the price of a retrieval",
        lines,
        Axis("price of a retrieval", digits=2),
        Axis("reward per question", digits=3),
    )


# ---------------------------------------------------------------------------------------------- the report's text


def sections_of(report: str) -> dict[str, list]:
    """Title -> blocks of a report by study_table.py: a paragraph is a str, a table its rows of cells, the head first; all of it HTML."""
    html, sections = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(report)), {}
    for part in re.split("^#+ ", html, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        blocks = [block.strip() for block in body.split("\n\n") if block.strip()]
        sections[title] = [
            [line[2:-2].split(" | ") for i, line in enumerate(b.splitlines()) if i != 1]
            if b.startswith("|")
            else b
            for b in blocks
        ]
    return sections


def blocks_html(blocks: list) -> str:
    return "".join(
        f'<p class="note">{b}</p>' if isinstance(b, str) else html_table(b[0], b[1:])
        for b in blocks
    )


def verdicts(blocks: list) -> str:
    """The section of the hypotheses as tiles, and what else it says."""
    (_, *rows), *rest = blocks
    tiles = "".join(
        f'<div><b class="{"up" if outcome == "holds" else "down"}">{name} {outcome}</b><span>{claim}</span><small>{why}</small></div>'
        for name, claim, outcome, why in rows
    )
    return f'<div class="tiles">{tiles}</div>{blocks_html(rest)}'


# ---------------------------------------------------------------------------------------------- the page


def episodes(study: Study, folder: Path) -> dict:
    """What the browser shows: the systems of BESIDE on the same questions; a sample, where that is too much for one file."""
    names, groups = [name for name in BESIDE if name in study.systems], []
    for set_name in (*study.trained, *study.unseen):
        files = {name: folder / study.systems[name].file(set_name, "test") for name in names}
        results = {
            (name, "own decision"): Result(read_json(file), read_lines(file.with_suffix(".jsonl")))
            for name, file in files.items()
        }
        groups.append(Group(results[JOINT, "own decision"].about, results))
    return browsed(groups, names)


def render(study: Study, report: str, out: Path) -> str:
    """The whole page. `report`: of study.report(); `out`: the study's folder. Raises UsageError on damaged files, OSError."""
    sections = sections_of(report)
    (_, about), *tables = sections.items()
    seed = study.seeds[0]
    section = lambda title, body: f"<section><h2>{title}</h2>{body}</section>" if body else ""
    note = '<p class="note">Points: means over the seeds; bars: least and most. Intervals: paired bootstrap over the questions of one seed, 95 %.</p>'
    body = [
        section("Hypotheses", verdicts(sections["Hypotheses"])),
        section("Comparison, together", note + comparison(study)),
        section(
            "Retrieval and what it buys, together",
            grid([*curves(study), slices(study), prices(study)], "wide"),
        ),
        section(
            "Training of joint", "".join(training(out / f"seed-{s}" / "joint") for s in study.seeds)
        ),
        section(
            "Tables",
            "".join(
                f"<details><summary>{title}</summary>{blocks_html(blocks)}</details>"
                for title, blocks in tables
                if title != "Hypotheses"
            ),
        ),
    ]
    return fill(
        "does joint training win?",
        f"{''.join(about)} Episodes below: seed {seed}.",
        "".join(body),
        episodes(study, out / f"seed-{seed}" / "eval"),
    )
