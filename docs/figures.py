"""The pictures of README and docs, as SVG beside this file.

    python docs/figures.py loop                   loop.svg: what an episode is, and what trains it
    python docs/figures.py curves runs/ppo        curves.svg: a run's metrics.jsonl

Left out: everything that evaluate.py --report draws.
"""

import sys
from html import escape
from pathlib import Path

from rl.report.charts import HEIGHT, WIDTH, drawing, known
from rl.report.curves import ppo_charts
from rl.report.results import read_lines
from rl.runs.flags import UsageError, main

HERE = Path(__file__).resolve().parent
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1b2128; } .small { font-size: 11px; fill: #5b6572; }
.box { fill: #f6f7f9; stroke: #5b6572; } .policy { fill: #dcebf7; stroke: #0b62a8; }
.arrow { fill: none; stroke: #5b6572; stroke-width: 1.5; marker-end: url(#head); }
.learn { stroke: #d55e00; stroke-dasharray: 5 3; } .orange { fill: #d55e00; }
.plot text { font-size: 11px; fill: #5b6572; } .grid { stroke: #dde1e6; }
polyline { fill: none; stroke: currentColor; stroke-width: 2; } circle { fill: currentColor; }
.faint { stroke-width: 1.2; opacity: .5; } .dashed { stroke-dasharray: 5 3; }
.c0 { color: #0072b2; } .c1 { color: #d55e00; } .c2 { color: #009e73; } .c3 { color: #b0578d; }
"""
HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0 0 8 4 0 8z" fill="#5b6572"/></marker>'
)


def svg(width: int, height: int, title: str, *parts: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}"><style>{STYLE}</style><defs>{HEAD}</defs>'
        f'<rect width="{width}" height="{height}" rx="10" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def box(x: float, y: float, width: float, title: str, below: str, kind: str = "box") -> str:
    """52 high; a title and a smaller line."""
    middle = x + width / 2
    return (
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="52" rx="8"/>'
        + text(middle, y + 22, title)
        + text(middle, y + 40, below, "small")
    )


def arrow(path: str, kind: str = "") -> str:
    return f'<path class="arrow {kind}" d="{path}"/>'


def loop() -> str:
    """Question, decision, query, passages, answer, reward."""
    reward = "EM + F1 - .2 per retrieval - 1 if malformed"
    return svg(
        760,
        266,
        "The loop: question, decision, query, passages, answer, reward",
        box(16, 107, 130, "question", "a person's words"),
        arrow("M146 133 H198"),
        box(200, 107, 150, "policy: decide", "one of two tokens", "policy"),
        arrow("M275 107 V46 H388"),
        text(282, 66, "[RETRIEVE]", "small", "start"),
        box(390, 20, 130, "policy: query", "what to ask", "policy"),
        arrow("M520 46 H592"),
        box(594, 20, 150, "retriever", "top-k passages"),
        arrow("M669 72 V122 H352"),
        text(510, 115, "passages: read, and decide again (at most N times)", "small"),
        arrow("M275 159 V216 H388"),
        text(282, 202, "[ANSWER]", "small", "start"),
        box(390, 190, 130, "policy: answer", "the final text", "policy"),
        arrow("M520 216 H592"),
        box(594, 190, 150, "reward", "exact match, F1, costs"),
        arrow("M669 190 V148 H352", "learn"),
        text(510, 165, f"PPO: {reward}", "small orange"),
        text(16, 245, "blue: one policy, which PPO trains as a whole", "small", "start"),
    )


def curves(run: Path) -> str:
    """Reward, retrieval and hit of a PPO run, side by side."""
    wanted = ("Reward", "Retrieval", "Hit: passages hold what is needed")
    charts = {title: rest for title, *rest in ppo_charts(read_lines(run / "metrics.jsonl"))}
    step, parts, rows = WIDTH + 12, [], 0
    for column, title in enumerate(wanted):
        lines, x, y = charts[title]
        lines, left = known(lines), column * step
        if not lines:
            raise UsageError(f"{run}/metrics.jsonl: no PPO run, nothing to draw of {title!r}")
        parts.append(text(left + WIDTH / 2, 22, title))
        place = f'<svg class="plot" x="{left}" y="30" width="{WIDTH}" height="{HEIGHT}" '
        parts.append(drawing(title, lines, x, y).replace("<svg ", place, 1))
        for row, line in enumerate(lines):
            at, top = left + 56, HEIGHT + 46 + 17 * row
            ends = f'points="{at - 26},{top - 4} {at - 6},{top - 4}"'
            parts.append(f'<polyline class="{line.shade} {line.kind}" {ends}/>')
            last = y.text(line.points[-1][1])
            parts.append(text(at, top, f"{line.label}: {last} at the end", "small", "start"))
        rows = max(rows, len(lines))
    title = f"Reward, retrieval and hit of {run.name} over its iterations"
    return svg(len(wanted) * step, HEIGHT + 46 + 17 * rows, title, *parts)


def draw() -> None:
    words = sys.argv[1:]
    if words == ["loop"]:
        name, picture = "loop.svg", loop()
    elif len(words) == 2 and words[0] == "curves":
        name, picture = "curves.svg", curves(Path(words[1]))
    else:
        raise UsageError("python docs/figures.py loop, or: curves RUN")
    (HERE / name).write_text(picture, encoding="utf-8")
    print(f"written: {HERE / name}")


if __name__ == "__main__":
    main(draw)
