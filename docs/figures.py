"""The pictures of README and docs, as SVG beside this file.

    python docs/figures.py             loop.svg: what an episode is, and what trains it; sweep.svg:
                                       EM and reward of docs/real-text-two-cores.json
    python docs/figures.py runs/ppo    curves.svg too: a run's metrics.jsonl

Left out: the other charts of a report.
"""

import json
import sys
from pathlib import Path
from statistics import mean
from xml.etree.ElementTree import Element, tostring

from data.records import json_lines
from rl.report.page import WIDTH, Line, add, chart, training_charts
from rl.runs.flags import UsageError, main

HERE = Path(__file__).resolve().parent
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #5b6572; } .title { font-size: 13px; fill: #1b2128; }
.box { fill: #f6f7f9; stroke: #5b6572; } .policy { fill: #dcebf7; stroke: #0b62a8; }
.arrow { fill: none; stroke: #5b6572; stroke-width: 1.5; marker-end: url(#head); }
.learn { stroke: #d55e00; stroke-dasharray: 5 3; } .orange { fill: #d55e00; }
.grid { stroke: #dde1e6; } circle { fill: currentColor; }
polyline { fill: none; stroke: currentColor; stroke-width: 2; }
.faint { stroke-width: 1.2; opacity: .5; } .dashed { stroke-dasharray: 5 3; }
.c0 { color: #0072b2; } .c1 { color: #d55e00; } .c2 { color: #009e73; } .c3 { color: #b0578d; }
.c4 { color: #a87900; } .c5 { color: #6b6f76; }
"""
BOXES = (  # x, y, width, title, what it is, class
    (16, 107, 130, "question", "a person's words", "box"),
    (200, 107, 150, "policy: decide", "one of two tokens", "policy"),
    (390, 20, 130, "policy: query", "what to ask", "policy"),
    (594, 20, 150, "retriever", "top-k passages", "box"),
    (390, 190, 130, "policy: answer", "the final text", "policy"),
    (594, 190, 150, "reward", "exact match, F1, costs", "box"),
)
ARROWS = ("M146 133 H198", "M275 107 V46 H388", "M520 46 H592", "M669 72 V122 H352")
ARROWS += ("M275 159 V216 H388", "M520 216 H592")
TEXTS = (  # x, y, words, class, where x is
    (282, 66, "[RETRIEVE]", "", "start"),
    (282, 202, "[ANSWER]", "", "start"),
    (510, 115, "passages: read, and decide again (at most N times)", "", "middle"),
    (510, 165, "PPO: EM + F1 - .2 per retrieval - 1 if malformed", "orange", "middle"),
    (16, 245, "blue: one policy, which PPO trains as a whole", "", "start"),
)

TRAINED = ("popqa", "hotpotqa")
SYSTEMS = ("warm-up, direct", "warm-up, always, raw question", "warm-up, own decision")
SYSTEMS += ("separate (b), own decision", "joint, always, raw question", "joint, own decision")


def picture(width: int, height: int, title: str) -> Element:
    """A white <svg> with the style and the head of an arrow."""
    name = {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria-label": title}
    svg = Element("svg", {**name, "viewBox": f"0 0 {width} {height}"})
    add(svg, "style", STYLE)
    place = {"viewBox": "0 0 8 8", "refX": 7, "refY": 4, "markerWidth": 7, "markerHeight": 7}
    head = add(add(svg, "defs"), "marker", id="head", orient="auto", **place)
    add(head, "path", d="M0 0 8 4 0 8z", fill="#5b6572")
    add(svg, "rect", width=width, height=height, rx=10, fill="#fff")
    return svg


def loop() -> str:
    """Question, decision, query, passages, answer, reward."""
    svg = picture(760, 266, "The loop: question, decision, query, passages, answer, reward")
    for x, y, width, title, what, kind in BOXES:
        add(svg, "rect", class_=kind, x=x, y=y, width=width, height=52, rx=8)
        middle = {"x": x + width / 2, "text_anchor": "middle"}
        add(svg, "text", title, class_="title", y=y + 22, **middle)
        add(svg, "text", what, y=y + 40, **middle)
    for path in ARROWS:
        add(svg, "path", class_="arrow", d=path)
    add(svg, "path", class_="arrow learn", d="M669 190 V148 H352")
    for x, y, words, kind, anchor in TEXTS:
        add(svg, "text", words, class_=kind, x=x, y=y, text_anchor=anchor)
    return tostring(svg, encoding="unicode") + "\n"


def curves(run: Path) -> str:
    """Reward, retrieval and hit of a PPO run, side by side. Raises UsageError."""
    wanted = ("Reward", "Retrieval", "Hit")
    found = training_charts(json_lines(run / "metrics.jsonl"))
    if missing := [title for title in wanted if title not in found]:
        raise UsageError(f"{run}/metrics.jsonl: no PPO run, nothing to draw of {missing[0]!r}")
    return beside([found[title] for title in wanted], f"Reward, retrieval and hit of {run.name}")


def sweep(results: Path) -> str:
    """EM and reward against retrieval, a row per seed: joint at every threshold, systems as points;
    means of the trained sets."""
    found = json.loads(results.read_text(encoding="utf-8"))
    charts = []
    for seed in sorted({row["seed"] for row in found["sweep"]}):
        curve = [row for row in found["sweep"] if row["seed"] == seed]
        places = {name: [] for name in SYSTEMS}
        for row in found["figures"]:
            if row["seed"] == seed and row["set"] in TRAINED and row["system"] in places:
                places[row["system"]].append(row)
        for figure in ("em", "reward"):
            lines = [Line("joint, every threshold", [(r["retrieves"], r[figure]) for r in curve])]
            for name, rows in places.items():
                point = [mean(row[key] for row in rows) for key in ("retrieves", figure)]
                lines.append(Line(name, [point], "dots"))
            charts.append(chart(f"seed {seed}", lines, "share retrieved for", figure))
    return beside(charts, "EM and reward against retrieval", 2)


def beside(charts: list[Element], title: str, columns: int = 3) -> str:
    """Charts in one picture, so many in a row."""
    height = 10 + max(int(chart.get("viewBox").split()[-1]) for chart in charts)
    rows = -(-len(charts) // columns)
    svg = picture(WIDTH * columns + 20, height * rows + 10, title)
    for number, one in enumerate(charts):
        row, column = divmod(number, columns)
        at = f"translate({10 + WIDTH * column} {10 + height * row})"
        add(svg, "g", transform=at).extend(one)
    return tostring(svg, encoding="unicode") + "\n"


def draw() -> None:
    pictures = {"loop.svg": loop(), "sweep.svg": sweep(HERE / "real-text-two-cores.json")}
    if sys.argv[1:]:
        pictures["curves.svg"] = curves(Path(sys.argv[1]))
    for name, drawn in pictures.items():
        (HERE / name).write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main(draw)
