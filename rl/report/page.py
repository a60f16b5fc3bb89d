"""The report of evaluate.py --report: one HTML file without network or library; charts are SVG.

page.template.html holds the style (colours and strokes are classes, which docs/figures.py styles as
well) and the script of the episode browser. Every string from data is escaped or set as text there,
and the page's policy allows that one script alone. Left out on purpose: anything that changes a
result; interactive charts, logarithmic axes.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

from data.records import json_lines
from model.files import atomic_write
from rl.report.evaluation import Results, own_decisions
from rl.report.summary import DIRECT, RETRIEVE, calibration
from rl.report.text import Table

TEMPLATE = Path(__file__).with_name("page.template.html")
BROWSER_BYTES = 3_000_000  # of episodes; above it questions are left out evenly

# The drawing (user units of the SVG), what is left free around the plot, a line of the legend.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, LINE = 360, 244, 46, 12, 28, 40, 16
COLORS = 6  # classes c0 ... c5


class Line(NamedTuple):
    label: str
    points: Sequence[tuple]  # (x, y) or (x, y, low, high)
    kind: str = "line"  # "line", "faint" (behind, no markers), "dashed" or "dots" (numbered points)


def add(parent: Element, tag: str, text: str = "", **attributes) -> Element:
    """A new child; floats get one decimal, `class_` is class, `text_anchor` text-anchor."""
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    shown = {k: f"{v:.1f}" if isinstance(v, float) else str(v) for k, v in given.items()}
    child = SubElement(parent, tag, shown)
    child.text = text
    return child


def axis(values: Sequence[float], start: float, end: float) -> tuple[Callable, list[float]]:
    """Value -> its place between start and end; about five round ticks."""
    margin = 0.06 * round(max(values) - min(values), 9) or 0.5
    low, high = min(values) - margin, max(values) + margin
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    ticks = step * np.arange(math.ceil(low / step), high / step)
    return lambda value: float(np.interp(value, (low, high), (start, end))), ticks.tolist()


def chart(title: str, lines: Sequence[Line], x: str, y: str) -> Element:
    """An <svg> of lines that have points; x, y: labels of the axes."""
    view, about = f"0 0 {WIDTH} {HEIGHT + LINE * len(lines)}", f"{title}: {y} against {x}"
    svg = Element("svg", {"viewBox": view, "role": "img", "aria-label": about})
    points = [p for line in lines for p in line.points]
    at_x, x_ticks = axis([p[0] for p in points], LEFT, WIDTH - RIGHT)
    at_y, y_ticks = axis([v for p in points for v in p[1:]], HEIGHT - BOTTOM, TOP)
    add(svg, "text", title, class_="title", x=0, y=14)
    for value in y_ticks:
        at = at_y(value)
        add(svg, "line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at)
        add(svg, "text", f"{value:g}", text_anchor="end", x=LEFT - 6, y=at + 3.5)
    middle = {"text_anchor": "middle"}
    for value in x_ticks:
        add(svg, "text", f"{value:g}", x=at_x(value), y=HEIGHT - BOTTOM + 14, **middle)
    add(svg, "text", x, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 13, **middle)
    turned = f"translate(11 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"
    add(svg, "text", y, transform=turned, **middle)
    for number, line in sorted(enumerate(lines), key=lambda pair: pair[1].kind != "faint"):
        draw(svg, number, line, at_x, at_y)
    return svg


def draw(svg: Element, number: int, line: Line, at_x: Callable, at_y: Callable) -> None:
    """The line, its legend below the plot, and its points where they are few."""
    shade, below = f"c{number % COLORS}", HEIGHT + LINE * number
    path = " ".join(f"{at_x(p[0]):.1f},{at_y(p[1]):.1f}" for p in line.points)
    for drawn in (path, f"{LEFT},{below} {LEFT + 20},{below}"):
        add(svg, "polyline", class_=f"{shade} {line.kind}", points=drawn)
    mark = f"{number} " if line.kind == "dots" else ""
    add(svg, "text", mark + line.label, x=LEFT + 26, y=below + 4)
    if line.kind == "faint" or len(line.points) > 40:
        return
    for x, y, *interval in line.points:
        told = f"{line.label}: {y:.3g} at {x:.3g}"
        if interval:
            low, high = interval
            told += f", interval {low:.3g} to {high:.3g}"
            ends = {"x1": at_x(x), "x2": at_x(x), "y1": at_y(low), "y2": at_y(high)}
            add(svg, "line", class_=f"{shade} whisker", **ends)
        add(add(svg, "circle", class_=shade, r=3, cx=at_x(x), cy=at_y(y)), "title", told)
        if mark:
            add(svg, "text", mark, text_anchor="middle", x=at_x(x), y=at_y(y) - 6)


def figures(charts: Iterable[Element]) -> str:
    """HTML: side by side, as many as fit."""
    drawn = [f"<figure>{tostring(svg, encoding='unicode')}</figure>" for svg in charts]
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""


TRAINING = (  # title, y axis, figures of metrics.jsonl (docs/metrics.md); "dev x" is greedy on dev
    ("Reward", "per question", "reward_policy", "dev reward"),
    ("Exact match", "share", "dev em"),
    ("Retrieval", "share, probability", "p_retrieve", "dev retrieval"),
    ("Hit", "share of the retrieved", "hit", "dev hit"),
    ("KL to the warm-up", "nats per episode", "kl", "k3"),
    ("Value head", "explained variance", "ev_all", "ev_oracle_all"),
    ("Loss", "nats per learnt token", "loss"),
)


def training(checkpoint: Path) -> str:
    """HTML: the curves of the run that made a checkpoint, its best/ or its read/, if it has any."""
    folders = [d for d in (checkpoint, checkpoint.parent) if (d / "metrics.jsonl").exists()]
    if not folders:
        return ""
    drawn = training_charts(json_lines(folders[0] / "metrics.jsonl"))
    return f"<h3>{escape(str(folders[0]))}</h3>{figures(drawn.values())}"


def training_charts(log: Iterable[dict]) -> dict[str, Element]:
    """Charts by title, from the lines of a metrics.jsonl; those without a point are left out."""
    points: dict[str, list[tuple]] = {}
    for number, line in enumerate(log):
        dev = line.get("dev", {})
        found = line | {f"dev {name}": value for name, value in dev.get("greedy", {}).items()}
        for name, figures in dev.get("greedy_slices", {}).items():
            found[f"dev retrieval, {name}"] = figures["retrieval"]
        for name, value in found.items():
            if isinstance(value, (int, float)):
                points.setdefault(name, []).append((line.get("iteration", number), value))
    charts = {}
    for title, y, *names in TRAINING:
        lines = []
        for name, found in points.items():
            whole, _, part = name.partition(", ")
            if whole in names:
                label = f"{name}: {found[-1][1]:.3f} at the end"
                kind = "line" if name.startswith(("dev", "loss")) else "faint"
                lines.append(Line(label, thin(found), "dashed" if part else kind))
        if lines:
            charts[title] = chart(title, lines, "iteration or step", y)
    return charts


def thin(points: list[tuple], most: int = 150) -> list[tuple]:
    """Means of neighbours, so that at most about `most` points are left."""
    size = max(1, -(-len(points) // most))
    return [tuple(np.mean(points[i : i + size], axis=0)) for i in range(0, len(points), size)]


def sweep_charts(name: str, sweep: dict) -> list[Element]:
    """EM and reward against retrieval: every threshold as a line, each row of the table a point."""
    charts = []
    for figure in ("em", "reward"):
        curve = [(m["retrieval"], m[figure]) for m in sweep["curve"]]
        lines = [Line("every threshold on P([RETRIEVE])", curve)]
        for row, m in sweep["points"].items():
            lines.append(Line(row, [(m["retrieval"], m[figure])], "dots"))
        charts.append(chart(name, lines, "retrieval", figure))
    return charts


def calibration_chart(results: Results) -> Element:
    """How well P([RETRIEVE]) foretells what retrieving is worth: a good one crosses 0 at .5."""
    lines = []
    for name in own_decisions(results):
        both = (results[name, row].episodes for row in (DIRECT, RETRIEVE))
        lines.append(Line(name, calibration(*both)))
    title = "Reward of retrieving minus answering at once"
    return chart(title, lines, "P([RETRIEVE])", "mean and 95 % interval")


def write_report(
    path: str, about: str, results: Results, tables: Sequence[Table], sweeps: dict[str, dict]
) -> None:
    """Write the page of an evaluation. Raises WorldError on a damaged training log, OSError."""
    runs = dict.fromkeys(result.about["checkpoint"] for result in results.values())
    swept = [svg for name, sweep in sweeps.items() for svg in sweep_charts(name, sweep)]
    sections = {
        "Figures": "".join(table.html() for table in tables),
        "Threshold sweep": figures(swept),
        "Calibration": figures([calibration_chart(results)]),
        "Training": "".join(training(Path(run)) for run in runs),
    }
    write_page(Path(path), "what the policies do", about, sections, browsed(results))


def write_page(
    path: Path, title: str, about: str, sections: dict[str, str], data: dict | None = None
) -> None:
    """Write a page, all of it or nothing, and say so. sections: title -> HTML, "" for none; data:
    of the episode browser. Raises OSError."""
    template = TEMPLATE.read_text(encoding="utf-8")
    script = re.search("<script>(.*?)</script>", template, re.DOTALL)[1]
    shown = ""
    for name, html in sections.items():
        shown += f"<section><h2>{escape(name)}</h2>{html}</section>" if html else ""
    values = {
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "title": escape(title),
        "about": escape(about),
        "sections": shown,
        "data": embedded(data),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda m: values[m[1]], template)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    print(f"report: {path} ({len(page.encode()) / 1e6:.1f} MB; one file, opens in any browser)")


def browsed(results: Results) -> dict:
    """Every question, or as many as fit, with one record per checkpoint."""
    own = own_decisions(results)
    size = sum(len(json.dumps(r)) for result in own.values() for r in result.records)
    step = max(1, math.ceil(size / BROWSER_BYTES))
    same = zip(*(result.records[::step] for result in own.values()), strict=True)
    rows = max(len(result.records) for result in own.values())
    return {"checkpoints": list(own), "rows": rows, "step": step, "questions": [*map(list, same)]}


def embedded(value) -> str:
    """JSON for a <script> element: no character that HTML could read as markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda m: f"\\u{ord(m[0]):04x}", text)
