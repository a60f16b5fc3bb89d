"""Does joint training beat the same modules trained separately? (docs/experiments.md)

    compare(args)     trains and plays what is missing, then writes report.md, study.json, a page

Everything lies under STUDY/seed-S: a run's checkpoint in NAME/, its output in NAME.log, episodes
in eval/. Training and playing are subprocesses (jobs.py, play.py); here their figures meet.
Left out: anything that chooses on test. Dev chooses one number, the confidence threshold.
"""

import os
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from data import World
from model import atomic_write, read_json, write_json
from rl.report import page
from rl.report.charts import grid, html_table
from rl.report.curves import sweep_charts, training
from rl.report.summary import mean
from rl.runs.flags import DEVICES, UsageError, arg
from rl.study.jobs import Job, run_jobs
from rl.study.systems import CHOICES, JOINT, TRAINED, Plan, jobs_of, needed, sets_of, systems_of
from rl.study.table import TOGETHER, Table, entries, tables, values


@dataclass
class StudyArgs:
    seeds: str = arg("0", "seeds, comma-separated", "study (--compare)")
    systems: str = arg("all", "which systems", choices=CHOICES)
    study: str = arg("runs/study", "folder of its runs and its report")
    scale: float = arg(1.0, "share of all training steps; below 1 for a first look", least=1e-6)
    sft_flags: str = arg("", "more flags for every train_sft.py, as one string")
    ppo_flags: str = arg("", "more flags for every train_ppo.py, as one string")
    module_flags: str = arg("", "more flags for every supervised module, as one string")
    report: str = arg("", "the page; empty: STUDY/report.html")
    world: str = arg("", "mini, mini:SEED, tiny, or a directory; empty: mini")
    rows: int = arg(0, "first questions of each set only, 0 = all")
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    ranks: int = arg(0, "cores that all runs together use, 0 = all")


def compare(args: StudyArgs) -> None:
    """Print the study's tables; those of each slice are in --study. Raises UsageError."""
    if not re.fullmatch("[0-9]+(,[0-9]+)*", args.seeds):
        wanted = "whole numbers with commas between them"
        raise UsageError(f"--seeds must be {wanted}, not {args.seeds!r}")
    seeds = list(dict.fromkeys(map(int, args.seeds.split(","))))
    name, out = args.world or "mini", Path(args.study)
    trained, _ = sets_of(World.open(name))
    if not trained:
        raise UsageError(
            f"--compare: world {name!r} has train, dev and test questions of none of "
            f"{', '.join(TRAINED)}"
        )
    flags = {name: getattr(args, name) for name in ("sft_flags", "ppo_flags", "module_flags")}
    plan = Plan(**flags).scaled(args.scale)
    wanted = [role for system in systems_of(args.systems) for role in system.roles]
    play = f"-m rl.study play --systems {args.systems} --rows {args.rows} --device {args.device}"
    jobs: list[Job] = []
    for seed in seeds:
        folder = out / f"seed-{seed}"
        mine = needed(jobs_of(seed, folder, name, trained, plan, args.device), wanted)
        played = Job(folder / "eval", tuple(play.split()), tuple(job.out for job in mine))
        jobs += [*mine, played]
    run_jobs(jobs, args.ranks or os.cpu_count() or 1)
    study = {"seeds": {str(s): read_json(out / f"seed-{s}" / "figures.json") for s in seeds}}
    write(study, out, Path(args.report or out / "report.html"))


def write(study: dict, out: Path, path: Path) -> None:
    """study.json, report.md and the page at `path`; the tables also on standard output."""
    shown, pages = tables(study)
    head = heading(study)
    write_json(out / "study.json", study)
    report = "\n".join([f"# The study\n\n{head}\n", *(t.markdown() for t in (*shown, *pages))])
    atomic_write(out / "report.md", lambda file: file.write_text(report, encoding="utf-8"))
    print("\n".join([head, "", *(table.markdown() for table in shown)]))
    print(f"per set and slice, and every figure: {out}/report.md, {out}/study.json")
    joint = {seed: training(out / f"seed-{seed}" / JOINT) for seed in study["seeds"]}
    sections = [
        page.section("Retrieval and what it buys, together", trade_off(study)),
        *map(table_section, shown),
        page.section("Training of joint", "".join(joint.values())),
        *map(table_section, pages),
    ]
    page.write(path, page.fill("does joint training win?", head, "".join(sections)))


def heading(study: dict) -> str:
    first = next(iter(study["seeds"].values()))
    rows = ", ".join(f"{name} {count:,}" for name, count in first["rows"].items())
    return (
        f"World {first['world']}, split {first['split']}, greedy, rows: {rows}; seeds "
        f"{', '.join(study['seeds'])}: mean [least, most]. Together: "
        f"{', '.join(first['trained'])}, each with the same weight. "
        "What is tested, and what holds: docs/experiments.md."
    )


def table_section(table: Table) -> str:
    head, *rows = [[escape(cell) for cell in line] for line in (table.head, *table.rows)]
    return page.section(table.title, html_table(head, rows))


def trade_off(study: dict) -> str:
    """EM and reward against retrieval: joint at every threshold, each system's point."""
    groups: dict[str, list[str]] = {}
    for name in next(iter(study["seeds"].values()))["systems"]:
        group = next(iter(entries(study, name).values()))["group"]
        groups.setdefault(group, []).append(name)

    def point(name: str) -> dict:
        figures = ("retrieval", "em", "reward")
        return {f: mean(values(study, name, TOGETHER, f)) for f in figures}

    curve = sorted(map(point, [JOINT, *groups.pop("sweep", [])]), key=lambda m: m["retrieval"])
    groups.pop("quota", None)
    points = {name: point(name) for names in groups.values() for name in names}
    return grid(sweep_charts(TOGETHER, {"curve": curve, "points": points}), "wide")
