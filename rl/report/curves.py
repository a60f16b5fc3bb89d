"""The report's charts: what training logged, the threshold sweep, calibration of the decision."""

import math
from collections import defaultdict
from html import escape
from pathlib import Path

from model import read_json
from rl.report.charts import Axis, Line, chart, grid, thin
from rl.report.results import DIRECT, RETRIEVE, Group, episode_of, read_lines
from rl.report.summary import calibration

SHARE = {"least": 0, "most": 100}
SHOWN = ("dataset", "seed", "iterations", "episodes", "read_steps", "mix_steps", "lr")


def training(checkpoint: Path) -> str:
    """The curves of the run that made a checkpoint, its best/ or its read/; "" without a log."""
    directory = next(
        (d for d in (checkpoint, checkpoint.parent) if (d / "metrics.jsonl").exists()), None
    )
    if directory is None:
        return ""
    lines, file = read_lines(directory / "metrics.jsonl"), directory / "run.json"
    run = read_json(file) if file.exists() else {}
    arguments = run.get("arguments", {})
    told = [f"world {run['world']}"] if "world" in run else []
    told += [f"{name.replace('_', ' ')} {arguments[name]}" for name in SHOWN if name in arguments]
    is_ppo = any("iteration" in line for line in lines)
    kind = "joint PPO" if is_ppo else "warm-up"
    return (
        f"<h3>{escape(str(directory))}: {kind}</h3>"
        f'<p class="note">{escape(", ".join(told))}</p>'
        + grid(chart(*spec) for spec in (ppo_charts(lines) if is_ppo else sft_charts(lines)))
    )


def ppo_charts(lines: list[dict]) -> list[tuple]:
    """Arguments of `chart` for each, from the lines of a metrics.jsonl."""
    steps = [line for line in lines if "reward_policy" in line]
    dev = [(line["iteration"], line["dev"]) for line in lines if "dev" in line]
    slices = list(dict.fromkeys(name for _, figures in dev for name in figures["greedy_slices"]))
    iteration = Axis("iteration", digits=0)

    def train(label: str, name: str, factor: float = 1.0, kind: str = "faint") -> Line:
        points = [(x["iteration"], x[name] * factor) for x in steps if x.get(name) is not None]
        return Line(label, thin(points), 0, kind)

    def on_dev(label: str, name: str, factor: float = 1.0) -> Line:
        points = [(i, figures["greedy"][name]) for i, figures in dev]
        return Line(label, [(i, v * factor) for i, v in points if v is not None], 0)

    def in_slice(color: int, name: str) -> Line:
        points = [(i, 100 * figures["greedy_slices"][name]["retrieval"]) for i, figures in dev]
        return Line(f"dev, {name}", points, color, "dashed")

    reward = [train("training, sampled", "reward_policy"), on_dev("dev, greedy", "reward")]
    retrieval = [
        train("training, mean P([RETRIEVE])", "p_retrieve", 100),
        on_dev("dev, greedy", "retrieval", 100),
        *(in_slice(color, name) for color, name in enumerate(slices, start=1)),
    ]
    hit = [
        train("training, when retrieved", "hit", 100),
        on_dev("dev, greedy, when retrieved", "hit", 100),
    ]
    value = [
        train("value head, all tokens", "ev_all", kind="line"),
        train("class oracle, all tokens", "ev_oracle_all", kind="dashed")._replace(color=1),
    ]
    kl = [
        train("k1 = log pi - log pi_ref", "kl", kind="line"),
        train("k3, never below 0", "k3", kind="dashed")._replace(color=1),
    ]
    return [
        ("Reward", reward, iteration, Axis("reward per question", digits=3)),
        ("Exact match", [on_dev("dev, greedy", "em", 100)], iteration, Axis("EM, %", " %")),
        ("Retrieval", retrieval, iteration, Axis("retrieval, %", " %", **SHARE)),
        ("KL to the warm-up", kl, iteration, Axis("KL, nats per episode", " nats", 2)),
        ("Hit: passages hold what is needed", hit, iteration, Axis("hit@k, %", " %")),
        ("Value head", value, iteration, Axis("explained variance", digits=2, most=1)),
    ]


def sft_charts(lines: list[dict]) -> list[tuple]:
    losses = defaultdict(list)
    for step, line in enumerate(line for line in lines if "loss" in line):
        losses[line["phase"]].append((step, line["loss"]))
    curves = [Line(phase, thin(losses[phase]), i) for i, phase in enumerate(losses)]
    return [("Loss", curves, Axis("step", digits=0), Axis("nats per learnt token", " nats", 3))]


def sweep_charts(name: str, sweep: dict) -> list[str]:
    """EM and reward against retrieval: every threshold as a line, each row of the table a point."""
    charts = []
    for figure, title, factor, axis in (
        ("em", "Exact match", 100, Axis("EM, %", " %")),
        ("reward", "Reward", 1, Axis("reward per question", digits=3)),
    ):
        at = {row: (100 * m["retrieval"], factor * m[figure]) for row, m in sweep["points"].items()}
        curve = [(100 * m["retrieval"], factor * m[figure]) for m in sweep["curve"]]
        lines = [Line("every threshold on P([RETRIEVE])", curve, 0, last=False)]
        for number, (row, point) in enumerate(at.items(), start=1):
            lines.append(Line(row, [point], number, "dots", mark=str(number)))
        charts.append(chart(f"{title}: {name}", lines, Axis("retrieval, %", " %"), axis))
    return charts


def calibration_charts(group: Group) -> list[str]:
    """How well P([RETRIEVE]) foretells what retrieving is worth, from the rows that hold both
    branches of each question."""
    shares = [Line("perfectly calibrated", [(0, 0), (1, 100)], 5, "dashed", last=False)]
    gains = []
    for color, checkpoint in enumerate(group.own):
        rows = [group.results.get((checkpoint, row)) for row in (DIRECT, RETRIEVE)]
        if not all(rows):
            continue
        branches = [[episode_of(r, None) for r in result.records] for result in rows]
        bins = calibration(*branches)
        points = [(p, *(100 * v for v in share_interval(won, n))) for p, n, won, _ in bins]
        shares.append(Line(checkpoint, points, color, last=False))
        gains.append(Line(checkpoint, [(p, gain) for p, *_, gain in bins], color, last=False))
    if not gains:
        return []
    x = Axis("P([RETRIEVE])", digits=2, least=0, most=1)
    y = Axis("questions, %", " %", **SHARE)
    title, note = "Questions for which retrieving earned more", "Bars: Wilson 95 % interval."
    return [
        chart(title, shares, x, y, note),
        chart("Reward of retrieving minus that of answering", gains, x, Axis("reward", digits=2)),
    ]


def share_interval(count: int, rows: int, z: float = 1.96) -> tuple[float, float, float]:
    """A share with its Wilson 95 % interval."""
    p, n = count / rows, rows + z * z
    middle, half = (count + z * z / 2) / n, z / n * math.sqrt(count * (1 - p) + z * z / 4)
    return p, max(0.0, middle - half), min(1.0, middle + half)
