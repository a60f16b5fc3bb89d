"""Charts as SVG, without a library: training curves, the threshold sweep, calibration.

A chart has lines, points with intervals, and a legend below. Colours and strokes are classes, which
page.template.html and docs/figures.py style. Left out: anything interactive, logarithmic axes.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

from rl.report.evaluation import DIRECT, RETRIEVE, Results, own_decisions, read_lines
from rl.report.summary import calibration

# The drawing (user units of the SVG), what is left free around the plot, a line of the legend.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, LINE = 360, 244, 46, 12, 28, 40, 16
COLORS = 6  # classes c0 ... c5


class Line(NamedTuple):
    label: str
    points: Sequence[tuple]  # (x, y) or (x, y, low, high)
    kind: str = "line"  # "line", "faint" (behind, no markers), "dashed" or "dots" (numbered points)


class Scale(NamedTuple):
    """Data from `low` to `high` -> places in the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return float(np.interp(value, (self.low, self.high), (self.start, self.end)))

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> "Scale":
        margin = 0.06 * round(max(values) - min(values), 9) or 0.5
        return cls(min(values) - margin, max(values) + margin, start, end)


def add(parent: Element, tag: str, text: str = "", **attributes) -> Element:
    """A new child; floats get one decimal, `class_` is class, `text_anchor` text-anchor."""
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    shown = {k: f"{v:.1f}" if isinstance(v, float) else str(v) for k, v in given.items()}
    child = SubElement(parent, tag, shown)
    child.text = text
    return child


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) in [low, high]."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def chart(title: str, lines: Sequence[Line], x: str, y: str) -> Element:
    """An <svg> of lines that have points; x, y: labels of the axes."""
    view = f"0 0 {WIDTH} {HEIGHT + LINE * len(lines)}"
    svg = Element(
        "svg", {"viewBox": view, "role": "img", "aria-label": f"{title}: {y} against {x}"}
    )
    points = [p for line in lines for p in line.points]
    at_x = Scale.of([p[0] for p in points], LEFT, WIDTH - RIGHT)
    at_y = Scale.of([v for p in points for v in p[1:]], HEIGHT - BOTTOM, TOP)
    add(svg, "text", title, class_="title", x=0, y=14)
    draw_axes(svg, x, y, at_x, at_y)
    for number, line in sorted(enumerate(lines), key=lambda pair: pair[1].kind != "faint"):
        shade, below = f"c{number % COLORS}", HEIGHT + LINE * number
        path = " ".join(f"{at_x(p[0]):.1f},{at_y(p[1]):.1f}" for p in line.points)
        for drawn in (path, f"{LEFT},{below} {LEFT + 20},{below}"):
            add(svg, "polyline", class_=f"{shade} {line.kind}", points=drawn)
        mark = f"{number} " if line.kind == "dots" else ""
        add(svg, "text", mark + line.label, x=LEFT + 26, y=below + 4)
        if line.kind != "faint" and len(line.points) <= 40:
            for point in line.points:
                draw_point(svg, point, at_x, at_y, shade, line.label, mark)
    return svg


def draw_axes(svg: Element, x: str, y: str, at_x: Scale, at_y: Scale) -> None:
    for value in ticks(at_y.low, at_y.high):
        at = at_y(value)
        add(svg, "line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at)
        add(svg, "text", f"{value:g}", text_anchor="end", x=LEFT - 6, y=at + 3.5)
    for value in ticks(at_x.low, at_x.high):
        below = HEIGHT - BOTTOM + 14
        add(svg, "text", f"{value:g}", text_anchor="middle", x=at_x(value), y=below)
    middle = (LEFT + WIDTH - RIGHT) / 2
    add(svg, "text", x, text_anchor="middle", x=middle, y=HEIGHT - 13)
    turned = f"translate(11 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"
    add(svg, "text", y, text_anchor="middle", transform=turned)


def draw_point(
    svg: Element, point: tuple, at_x: Scale, at_y: Scale, shade: str, label: str, mark: str
) -> None:
    x, y = at_x(point[0]), at_y(point[1])
    told = f"{label}: {point[1]:.3g} at {point[0]:.3g}"
    if len(point) == 4:
        told += f", interval {point[2]:.3g} to {point[3]:.3g}"
        low, high = map(at_y, point[2:])
        add(svg, "line", class_=f"{shade} whisker", x1=x, x2=x, y1=low, y2=high)
    add(add(svg, "circle", class_=shade, r=3, cx=x, cy=y), "title", told)
    if mark:
        add(svg, "text", mark, text_anchor="middle", x=x, y=y - 6)


def figures(charts: Iterable[Element]) -> str:
    """HTML: side by side, as many as fit."""
    drawn = [f"<figure>{tostring(svg, encoding='unicode')}</figure>" for svg in charts]
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""


# -------------------------------------------------------------------------------- what is drawn

TRAINING = (  # title, y axis, figures of metrics.jsonl (docs/metrics.md); "dev x" is greedy on dev
    ("Reward", "per question", ["reward_policy", "dev reward"]),
    ("Exact match", "share", ["dev em"]),
    ("Retrieval", "share, probability", ["p_retrieve", "dev retrieval"]),
    ("Hit", "share of the retrieved", ["hit", "dev hit"]),
    ("KL to the warm-up", "nats per episode", ["kl", "k3"]),
    ("Value head", "explained variance", ["ev_all", "ev_oracle_all"]),
    ("Loss", "nats per learnt token", ["loss"]),
)


def training(checkpoint: Path) -> str:
    """HTML: the curves of the run that made a checkpoint, its best/ or its read/; "" without a
    log. Raises UsageError on a damaged one."""
    folders = [d for d in (checkpoint, checkpoint.parent) if (d / "metrics.jsonl").exists()]
    if not folders:
        return ""
    drawn = training_charts(read_lines(folders[0] / "metrics.jsonl"))
    return f"<h3>{escape(str(folders[0]))}</h3>{figures(drawn.values())}"


def training_charts(log: Sequence[dict]) -> dict[str, Element]:
    """Charts by title, from the lines of a metrics.jsonl; those without a point are left out."""
    points: dict[str, list[tuple]] = {}
    slices: list[str] = []
    for number, line in enumerate(log):
        dev = line.get("dev", {})
        found = line | {f"dev {name}": value for name, value in dev.get("greedy", {}).items()}
        rates = {f"dev {s}": f["retrieval"] for s, f in dev.get("greedy_slices", {}).items()}
        slices += [name for name in rates if name not in slices]
        for name, value in (found | rates).items():
            if isinstance(value, (int, float)):
                points.setdefault(name, []).append((line.get("iteration", number), value))
    charts = {}
    for title, y, names in TRAINING:
        lines = []
        for name in [*names, *(slices if title == "Retrieval" else [])]:
            if name in points:
                label = f"{name}: {points[name][-1][1]:.3f} at the end"
                kind = "line" if title == "Loss" or name.startswith("dev") else "faint"
                kind = "dashed" if name in slices else kind
                lines.append(Line(label, thin(points[name]), kind))
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


def calibration_charts(results: Results) -> list[Element]:
    """How well P([RETRIEVE]) foretells what retrieving is worth, from the rows that hold both
    branches of each question. A good decision crosses 0 at .5."""
    lines = []
    for checkpoint in own_decisions(results):
        both = [results.get((checkpoint, row)) for row in (DIRECT, RETRIEVE)]
        if all(both):
            lines.append(Line(checkpoint, calibration(*(result.episodes for result in both))))
    title = "Reward of retrieving minus answering at once"
    return [chart(title, lines, "P([RETRIEVE])", "mean and 95 % interval")] if lines else []
