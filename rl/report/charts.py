"""Charts and tables of the report as HTML: lines, points with intervals, a legend that prints the numbers, all hand-written SVG.

Colours and strokes are classes of page.template.html. Labels, titles and notes are escaped here; cells of tables are HTML.
Left out on purpose: anything interactive, logarithmic axes, stacked or filled shapes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = (
    360,
    224,
    46,
    12,
    10,
    38,
)  # of the drawing, and the room around the plot


class Line(NamedTuple):
    label: str
    points: list[tuple]  # (x, y) or (x, y, low, high)
    color: int
    kind: str = "line"  # "line", "faint" (behind, no markers), "dashed" or "dots" (no line)
    last: bool = True  # whether the legend prints the last value
    mark: str = ""  # a short text beside each point, and before the label in the legend


class Axis(NamedTuple):
    label: str
    unit: str = ""  # after each printed number
    digits: int = 1
    names: Sequence[str] = ()  # a text for x = 0, 1, 2, ... instead of numbers
    least: float | None = None
    most: float | None = None

    def text(self, value: float) -> str:
        return f"{value:.{self.digits}f}{self.unit}"

    def range(self, values: Sequence[float]) -> tuple[float, float]:
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.5
        return (
            low - room if self.least is None else self.least,
            high + room if self.most is None else self.most,
        )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) in [low, high]."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    return [
        i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def chart(title: str, lines: Sequence[Line], x: Axis, y: Axis, note: str = "") -> str:
    """A figure with its legend. Points with a NaN or missing value are left out."""
    lines = [
        line._replace(
            points=[p for p in line.points if all(v is not None and math.isfinite(v) for v in p)]
        )
        for line in lines
    ]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    (x0, x1), (y0, y1) = (
        x.range([p[0] for line in lines for p in line.points]),
        y.range([v for line in lines for p in line.points for v in p[1:]]),
    )
    at_x = lambda v: LEFT + (v - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
    at_y = lambda v: HEIGHT - BOTTOM - (v - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {y.label} against {x.label}")}">'
    ]
    for v in ticks(y0, y1):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at_y(v):.1f}" y2="{at_y(v):.1f}"/>'
            f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{at_y(v) + 3.5:.1f}">{v:g}</text>'
        )
    for v, name in enumerate(x.names) if x.names else [(v, f"{v:g}") for v in ticks(x0, x1)]:
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{at_x(v):.1f}" y="{HEIGHT - BOTTOM + 15}">{escape(name)}</text>'
        )
    parts.append(
        f'<text class="axis" text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}">{escape(x.label)}</text>'
        f'<text class="axis" text-anchor="middle" transform="translate(11 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">{escape(y.label)}</text>'
    )
    for line in sorted(lines, key=lambda line: line.kind != "faint"):
        if line.kind != "dots":
            path = " ".join(f"{at_x(p[0]):.1f},{at_y(p[1]):.1f}" for p in line.points)
            parts.append(f'<polyline class="c{line.color} {line.kind}" points="{path}"/>')
        for p in line.points if line.kind != "faint" and len(line.points) <= 40 else ():
            if len(p) == 4:
                parts.append(
                    f'<line class="c{line.color} whisker" x1="{at_x(p[0]):.1f}" x2="{at_x(p[0]):.1f}" y1="{at_y(p[2]):.1f}" y2="{at_y(p[3]):.1f}"/>'
                )
            where = x.names[round(p[0])] if x.names else x.text(p[0])
            interval = f" [{y.text(p[2])}, {y.text(p[3])}]" if len(p) == 4 else ""
            parts.append(
                f'<circle class="c{line.color}" r="{4 if line.kind == "dots" else 2.6}" cx="{at_x(p[0]):.1f}" cy="{at_y(p[1]):.1f}">'
                f"<title>{escape(f'{line.label}: {y.text(p[1])}{interval} at {x.label} {where}')}</title></circle>"
            )
    marked = [
        (line.mark, at_x(p[0]), at_y(p[1])) for line in lines if line.mark for p in line.points
    ]
    taken = [point for _, *point in marked]
    for mark, *point in marked:
        taken.append(beside(point, taken))
        parts.append(
            f'<text text-anchor="middle" x="{taken[-1][0]:.1f}" y="{taken[-1][1] + 3.5:.1f}">{escape(mark)}</text>'
        )
    values = [
        f" <b>{escape(y.text(line.points[-1][1]))}</b>" if line.last else "" for line in lines
    ]
    legend = "".join(
        f'<li><span class="swatch c{line.color} {line.kind}"></span>{escape(f"{line.mark} {line.label}".strip())}{value}</li>'
        for line, value in zip(lines, values)
    )
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<figure><figcaption>{escape(title)}</figcaption>{"".join(parts)}</svg><ul class="legend">{legend}</ul>{note}</figure>'


def beside(
    point: Sequence[float], taken: Sequence[Sequence[float]], distance: float = 11
) -> tuple[float, float]:
    """Of eight places around a point, from above it clockwise, the one that is farthest from all that is `taken`, the point itself included."""
    places = [
        (
            point[0] + distance * math.sin(i * math.pi / 4),
            point[1] - distance * math.cos(i * math.pi / 4),
        )
        for i in range(8)
    ]
    return max(places, key=lambda place: round(min(math.dist(place, other) for other in taken), 3))


def grid(charts: Iterable[str], kind: str = "") -> str:
    """Side by side, as many as fit; kind "wide": at most two."""
    return f'<div class="charts {kind}">{"".join(charts)}</div>'


def thin(points: list[tuple], most: int = 150) -> list[tuple]:
    """Means of neighbours, so that at most about `most` points are left."""
    size = -(-len(points) // most)
    return [tuple(np.mean(points[i : i + size], axis=0)) for i in range(0, len(points), size)]


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The cells are HTML; the first of each row is its heading."""
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    top = "".join(f'<th scope="col">{h}</th>' for h in head)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def whisker(
    mean: float, low: float, high: float, reach: float, text: Callable[[float], str]
) -> str:
    """An interval as numbers, and as a bar on a scale from -reach to +reach with a mark at 0."""
    return span(
        mean,
        low,
        high,
        -reach,
        reach,
        text,
        "up" if low > 0 else "down" if high < 0 else "even",
        '<line class="grid" x1="60" x2="60" y1="0" y2="16"/>',
    )


def span(
    mean: float,
    low: float,
    high: float,
    left: float,
    right: float,
    text: Callable[[float], str],
    kind: str = "",
    behind: str = "",
) -> str:
    """A range as numbers, and as a bar on a scale from left to right; `behind`: SVG, 120 wide and 16 high."""
    at = lambda v: 60 + 55 * max(-1.0, min(1.0, (2 * v - left - right) / (right - left)))
    return (
        f'<span class="interval {kind}"><svg viewBox="0 0 120 16" aria-hidden="true">{behind}'
        f'<line class="whisker" x1="{at(low):.1f}" x2="{at(high):.1f}" y1="8" y2="8"/><circle r="3.5" cx="{at(mean):.1f}" cy="8"/></svg>'
        f"<b>{text(mean)}</b> [{text(low)}, {text(high)}]</span>"
    )
