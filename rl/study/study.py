"""Does joint training beat the same modules trained separately? (docs/experiments.md)

    python evaluate.py --compare --seeds 0,1,2 --systems main

Trains and plays what is missing, then writes report.md, study.json and a page; the same command
goes on after a stop. STUDY/seed-S holds a run's checkpoint in NAME/, its output in NAME.log, and
episodes in eval/. Trainings are subprocesses, one after the other, as their ranks fill the cores.
Left out: anything that chooses on test. Dev chooses one number, the confidence threshold.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data import World
from data.world import printable
from model.files import atomic_write, write_json
from rl import ranks
from rl.report.page import figures, sweep_charts, training, write_page
from rl.report.summary import mean
from rl.report.text import Table, interval
from rl.runs.flags import DEVICES, UsageError, arg
from rl.runs.launch import LAUNCHER, launch
from rl.runs.progress import progress
from rl.study.systems import COSTS, JOINT, TOGETHER, TRAINED, commands_of, play, sets_of

ROOT = Path(__file__).resolve().parents[2]
SHOWN = ("reward", "em", "f1", "retrieval", "queries", "calls", "hit", "malformed")
COMPUTE = ("steps", "tokens", "minutes")
MINUS = "joint_minus"


@dataclass
class StudyArgs:
    compare: bool = arg(True, "train and compare whole systems; hours", "study")
    seeds: str = arg("0", "seeds, comma-separated")
    systems: str = arg("all", "main: without ablations and other costs", choices=("all", "main"))
    study: str = arg("runs/study", "folder of its runs and its report")
    scale: float = arg(1.0, "share of all training steps; below 1 for a first look", least=1e-6)
    sft_flags: str = arg("", "more flags for every train_sft.py, as one string")
    ppo_flags: str = arg("", "more flags for every train_ppo.py, as one string")
    module_flags: str = arg("", "more flags for every supervised module, as one string")
    world: str = arg("mini", "mini, mini:SEED, tiny, or a directory")
    rows: int = arg(0, "first questions of each set only, 0 = all")
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    ranks: int = arg(0, "processes of each run; 0: one per core, or per GPU")


def compare(args: StudyArgs) -> None:
    """Train and play what is missing, and show the tables. Raises UsageError."""
    if not re.fullmatch("[0-9]{1,9}(,[0-9]{1,9})*", args.seeds):
        wanted = "whole numbers below 10^9 with commas between them"
        raise UsageError(f"--seeds must be {wanted}, not {args.seeds!r}")
    out = Path(args.study)
    if out.exists() and any(out.iterdir()) and not any(out.glob("seed-*/*.log")):
        raise UsageError(f"{out} is not empty, and no study made it; choose another --study")
    seeds = list(dict.fromkeys(map(int, args.seeds.split(","))))
    sets, _ = sets_of(World.open(args.world))
    if not sets:
        missing = f"world {args.world!r} has train, dev and test questions of none of"
        raise UsageError(f"--compare: {missing} {', '.join(TRAINED)}")
    folders = {seed: Path(args.study) / f"seed-{seed}" for seed in seeds}
    commands: dict[Path, list[str]] = {}
    for seed, folder in folders.items():
        commands |= commands_of(seed, folder, sets, args)
    if LAUNCHER not in os.environ:  # else this is a rank, and everything is trained
        train(commands, args.ranks)
    launch(args.ranks, args.device)
    study = {str(seed): play(folder, args) for seed, folder in folders.items()}
    if ranks.rank() == 0:
        write(study, Path(args.study))


def train(commands: dict[Path, list[str]], count: int) -> None:
    """Run Python with each command, as `count` ranks, to fill its folder OUT, and write OUT.log.
    Raises UsageError with what was said last if one fails; a SIGTERM ends it like Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    options["env"] = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with progress(len(commands), "study", "run") as bar:
        for out, command in commands.items():
            bar.set_postfix_str(f"{out.parent.name}/{out.name}")
            out.parent.mkdir(parents=True, exist_ok=True)
            words = [sys.executable, *command, "--out", str(out), "--ranks", str(count)]
            log = out.with_name(out.name + ".log")
            with open(log, "a") as file:
                code = subprocess.run(words, stdout=file, **options).returncode
            if code:
                said = [line for line in log.read_text(errors="replace").splitlines() if line]
                failed = f"{out.name} failed (exit code {code})"
                raise UsageError(f"{failed}; {log}: {(said or [''])[-1]}")
            bar.update()


def write(study: dict, out: Path) -> None:
    """study.json, report.md, report.html, and a few tables on standard output."""
    first, rows = next(iter(study.values())), [r for one in study.values() for r in one["figures"]]
    shown, pages = tables(rows, first["unseen"])
    questions = ", ".join(f"{name} {count:,}" for name, count in first["questions"].items())
    head = (
        f"World {first['world']}, test questions: {questions}; greedy; seeds {', '.join(study)}: "
        f"mean [least, most]. Together: {', '.join(first['trained'])}, each with the same weight. "
        "What is tested, and what holds: docs/experiments.md."
    )
    write_json(out / "study.json", study)
    report = "\n".join([f"# The study\n\n{head}\n", *(t.markdown() for t in (*shown, *pages))])
    atomic_write(out / "report.md", lambda file: file.write_text(report, encoding="utf-8"))
    print("\n".join([printable(head), "", *(table.markdown() for table in shown)]))
    print(f"per set and slice, and every figure: {out}/report.md, {out}/study.json")
    sections = {
        "Retrieval and what it buys, together": trade_off(rows),
        "Figures": "".join(table.html() for table in shown),
        "Training of joint": "".join(training(out / f"seed-{seed}" / JOINT) for seed in study),
        "Per set and slice": "".join(table.html() for table in pages),
    }
    write_page(out / "report.html", "does joint training win?", head, sections)


def values(rows: list[dict], system: str, part: str, figure: str) -> list:
    """One value per seed that has it."""
    found = [row.get(figure) for row in rows if (row["system"], row["part"]) == (system, part)]
    return [value for value in found if value is not None]


def over_seeds(values: Sequence) -> str:
    """Mean [least, most]; the differences of each seed; "-" for a figure that does not exist."""
    if values and isinstance(values[0], list):
        return "; ".join(map(interval, values))
    ends = f" [{min(values):.4g}, {max(values):.4g}]" if len(values) > 1 else ""
    return f"{mean(values):.4g}{ends}" if values else "-"


def pivot(
    title: str, rows: list[dict], systems: Sequence[str], parts: Sequence[str], names: Sequence[str]
) -> Table:
    """Systems x parts x figures; the heading of a column is what the others do not share."""
    columns = [(part, name) for part in parts for name in names]
    head = ["system", *(part if len(parts) > 1 else name for part, name in columns)]
    lines = [[s, *(over_seeds(values(rows, s, *column)) for column in columns)] for s in systems]
    return Table(title, head, lines)


def systems_in(rows: list[dict], *groups: str) -> list[str]:
    return list(dict.fromkeys(row["system"] for row in rows if row["group"] in groups))


def tables(rows: list[dict], unseen: Sequence[str]) -> tuple[list[Table], list[Table]]:
    """What is printed, and what takes pages: every set and slice."""
    parts = list(dict.fromkeys(row["part"] for row in rows))
    systems = systems_in(rows, "main", "ablations")
    every = systems_in(rows, "main", "ablations", "quota")
    swept = [*systems_in(rows, "sweep"), JOINT]
    costs = ["retrieval", *(f"reward at {cost:g}" for cost in COSTS)]
    shown = [
        pivot("Systems, together", rows, systems, [TOGETHER], [*SHOWN, *COMPUTE]),
        pivot("Reward of joint minus each, by seed", rows, systems, [TOGETHER, *unseen], [MINUS]),
        pivot("Cost of a retrieval, together", rows, systems, [TOGETHER], costs),
        pivot("Threshold on P([RETRIEVE]), joint's .5", rows, swept, [TOGETHER], SHOWN),
    ]
    return shown, [pivot(f"Per part: {f}", rows, every, parts, [f]) for f in (*SHOWN, MINUS)]


def trade_off(rows: list[dict]) -> str:
    """EM and reward against retrieval: joint at every threshold, each system's point."""
    points = {}
    for name in systems_in(rows, "main", "ablations", "sweep"):
        shown = ("retrieval", "em", "reward")
        points[name] = {figure: mean(values(rows, name, TOGETHER, figure)) for figure in shown}
    curve = [points.pop(name) for name in systems_in(rows, "sweep")]
    curve = sorted([*curve, points[JOINT]], key=lambda m: m["retrieval"])
    return figures(sweep_charts(TOGETHER, {"curve": curve, "points": points}))
