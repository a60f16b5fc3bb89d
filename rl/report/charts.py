"""Charts and tables as hand-written SVG and HTML: lines, points with intervals, a legend.

Colours and strokes are classes of page.template.html. Labels, titles and notes are escaped here;
cells of tables are HTML. Left out: anything interactive, logarithmic axes, filled shapes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

# Of the drawing, and what is left free around the plot (user units of the SVG).
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 224, 46, 12, 10, 38
COLORS = 6  # classes c0 ... c5


class Line(NamedTuple):
    label: str
    points: list[tuple]  # (x, y) or (x, y, low, high)
    color: int
    kind: str = "line"  # "line", "faint" (behind, no markers), "dashed" or "dots" (no line)
    last: bool = True  # whether the legend prints the last value
    mark: str = ""  # a short text above each point, and before the label in the legend

    @property
    def shade(self) -> str:
        return f"c{self.color % COLORS}"


class Axis(NamedTuple):
    label: str
    unit: str = ""  # after each printed number
    digits: int = 1
    least: float | None = None
    most: float | None = None

    def text(self, value: float) -> str:
        return f"{value:.{self.digits}f}{self.unit}"

    def range(self, values: Sequence[float]) -> tuple[float, float]:
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 0.5
        least = low - margin if self.least is None else self.least
        return least, high + margin if self.most is None else self.most


class Frame(NamedTuple):
    """Two axes and what they show: data -> places in the drawing."""

    x: Axis
    y: Axis
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def at_x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def at_y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) in [low, high]."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def chart(title: str, lines: Sequence[Line], x: Axis, y: Axis, note: str = "") -> str:
    """A figure with its legend; "" without a point to draw."""
    lines = known(lines)
    if not lines:
        return ""
    legend = "".join(legend_entry(line, y) for line in lines)
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{drawing(title, lines, x, y)}"
        f'<ul class="legend">{legend}</ul>{note}</figure>'
    )


def known(lines: Sequence[Line]) -> list[Line]:
    """The lines without points that hold a NaN or None; lines without other points are left out."""
    kept = []
    for line in lines:
        points = [p for p in line.points if all(v is not None and math.isfinite(v) for v in p)]
        kept += [line._replace(points=points)] if points else []
    return kept


def drawing(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """The <svg> alone."""
    xs = [p[0] for line in lines for p in line.points]
    ys = [v for line in lines for p in line.points for v in p[1:]]
    frame = Frame(x, y, x.range(xs), y.range(ys))
    behind_first = sorted(lines, key=lambda line: line.kind != "faint")
    label = escape(f"{title}: {y.label} against {x.label}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        + axes(frame)
        + "".join(stroke(line, frame) + markers(line, frame) for line in behind_first)
        + "</svg>"
    )


def axes(frame: Frame) -> str:
    x, y, parts = frame.x, frame.y, []
    for value in ticks(*frame.y_range):
        at = frame.at_y(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text text-anchor="end" x="{LEFT - 6}" y="{at + 3.5:.1f}">{value:g}</text>'
        )
    below = HEIGHT - BOTTOM + 15
    parts += [
        f'<text text-anchor="middle" x="{frame.at_x(value):.1f}" y="{below}">{value:g}</text>'
        for value in ticks(*frame.x_range)
    ]
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text text-anchor="middle" x="{middle_x}" y="{HEIGHT - 6}">{escape(x.label)}</text>'
        f'<text text-anchor="middle" transform="translate(11 {middle_y}) rotate(-90)">'
        f"{escape(y.label)}</text>"
    )
    return "".join(parts)


def stroke(line: Line, frame: Frame) -> str:
    if line.kind == "dots":
        return ""
    path = " ".join(f"{frame.at_x(p[0]):.1f},{frame.at_y(p[1]):.1f}" for p in line.points)
    return f'<polyline class="{line.shade} {line.kind}" points="{path}"/>'


def markers(line: Line, frame: Frame) -> str:
    """A circle for each point, with its value as its title; none where they would run together."""
    if line.kind == "faint" or len(line.points) > 40:
        return ""
    x, y, parts = frame.x, frame.y, []
    radius = 4 if line.kind == "dots" else 2.6
    for point in line.points:
        at, height, interval = frame.at_x(point[0]), frame.at_y(point[1]), ""
        if len(point) == 4:
            low, high = point[2:]
            interval = f" [{y.text(low)}, {y.text(high)}]"
            parts.append(
                f'<line class="{line.shade} whisker" x1="{at:.1f}" x2="{at:.1f}"'
                f' y1="{frame.at_y(low):.1f}" y2="{frame.at_y(high):.1f}"/>'
            )
        where = f"{x.label} {x.text(point[0])}"
        title = escape(f"{line.label}: {y.text(point[1])}{interval} at {where}")
        parts.append(
            f'<circle class="{line.shade}" r="{radius}" cx="{at:.1f}" cy="{height:.1f}">'
            f"<title>{title}</title></circle>"
        )
        if line.mark:
            parts.append(
                f'<text text-anchor="middle" x="{at:.1f}" y="{height - 7:.1f}">'
                f"{escape(line.mark)}</text>"
            )
    return "".join(parts)


def legend_entry(line: Line, y: Axis) -> str:
    value = f" <b>{escape(y.text(line.points[-1][1]))}</b>" if line.last else ""
    label = escape(f"{line.mark} {line.label}".strip())
    return f'<li><span class="swatch {line.shade} {line.kind}"></span>{label}{value}</li>'


def grid(charts: Iterable[str], kind: str = "") -> str:
    """Side by side, as many as fit; kind "wide": at most two."""
    return f'<div class="charts {kind}">{"".join(charts)}</div>'


def thin(points: list[tuple], most: int = 150) -> list[tuple]:
    """Means of neighbours, so that at most about `most` points are left."""
    size = max(1, -(-len(points) // most))
    return [tuple(np.mean(points[i : i + size], axis=0)) for i in range(0, len(points), size)]


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The cells are HTML; the first of each row is its heading."""
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    top = "".join(f'<th scope="col">{h}</th>' for h in head)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def interval(mean: float, low: float, high: float, text: Callable[[float], str]) -> str:
    """A difference with its interval, coloured where 0 lies outside."""
    kind = "even"
    if low > 0 or high < 0:
        kind = "up" if low > 0 else "down"
    return f'<span class="{kind}"><b>{text(mean)}</b> [{text(low)}, {text(high)}]</span>'
