"""What the study compares and what has to be trained for it (docs/experiments.md).

    SYSTEMS            who decides, asks, reads and answers at once, and with which quota
    jobs_of(...)       the training runs of a seed: script, flags, and which checkpoints each needs

Left out: how runs are started (jobs.py), how systems are played (play.py).
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

from data import World
from rl.report.results import read_lines
from rl.rollout import Decoding
from rl.study.jobs import ROOT, Job

TRAINED = ("popqa", "ambignq", "hotpotqa")
UNSEEN = ("triviaqa", "2wikimultihopqa", "nq", "openbookqa")
CHOICES = ("all", "main", "ablations", "costs")
# Of the sweep, on P([RETRIEVE]); joint's own is .5.
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
QUOTA = 2  # retrievals at most
# Everything after the warm-up trains on the same questions, the unpopular ones under new names.
QUESTIONS = "--popular-share 0.45 --rename 1.0"
# One policy for three sets and two retrievals wants small steps, with more weight on the decision
# than the default; the retrieval cost rises over half of the iterations.
PPO = "--episodes 384 --lr 0.0004 --decision-weight 4.0 --price-warmup 0.5"


@dataclass(frozen=True)
class Plan:
    """How long everything trains."""

    read_steps: int = 2500  # more than the default of train_sft.py, which is for one set
    mix_steps: int = 500
    iterations: int = 150  # joint, ablations, costs
    rewriter_iterations: int = 50
    module_steps: int = 200  # of each supervised module
    sft_flags: str = ""  # more flags, verbatim
    ppo_flags: str = ""
    module_flags: str = ""

    def scaled(self, scale: float) -> "Plan":
        """A share of all steps, below 1 for a first look."""
        counts = {f.name: getattr(self, f.name) for f in fields(self) if f.type in (int, "int")}
        return replace(self, **{name: max(1, round(scale * n)) for name, n in counts.items()})


class System(NamedTuple):
    name: str
    group: str  # main, ablations, costs, quota, or sweep
    roles: tuple[str, str, str, str]  # jobs whose policies decide, ask, read, answer at once
    decoding: Decoding | None = Decoding()  # None: direct or retrieving, by direct's confidence
    quota: int = QUOTA
    sets: tuple[str, ...] = (*TRAINED, *UNSEEN)

    def file(self, set_name: str, split: str) -> str:
        """Of its figures, in a seed's eval/; the episodes lie beside it in a .jsonl."""
        return f"{self.name.replace(' ', '-')}.{set_name}.{split}.json"


def alone(job: str) -> tuple[str, str, str, str]:
    return job, job, job, job


def swept(threshold: float) -> System:
    name = f"joint, threshold {threshold:g}"
    return System(name, "sweep", alone("joint"), Decoding(threshold=threshold), sets=TRAINED)


WARM_UP, FORCED = alone("warm-up"), Decoding(force="retrieve")
DIRECT, RETRIEVE, JOINT = "direct only", "always retrieve, own query", "joint"
PPO_REWRITER = ("rewriter-ppo", "reader", "warm-up")
RS_REWRITER = ("rewriter-rs", "reader", "warm-up")
COSTS = ("no retrieval cost", "cost .1", JOINT, "cost .4")  # trained at 0, .1, .2, .4
SYSTEMS = (
    System(DIRECT, "main", WARM_UP, Decoding(force="answer")),
    System("always retrieve, raw question", "main", WARM_UP, Decoding(force="question"), 1),
    System(RETRIEVE, "main", WARM_UP, FORCED, 1),
    System("SFT, adaptive", "main", WARM_UP),
    System("separate (a)", "main", ("decision-right", *PPO_REWRITER)),
    System("separate (b)", "main", ("decision-reward", *PPO_REWRITER)),
    System("separate (b), rejection sampling", "main", ("decision-reward-rs", *RS_REWRITER)),
    System("separate, always retrieve", "main", ("warm-up", *PPO_REWRITER), FORCED, 1),
    System("confidence", "main", WARM_UP, None, 1),
    System(JOINT, "main", alone("joint")),
    System("no KL", "ablations", alone("no-kl")),
    System("no retrieval cost", "ablations", alone("no-cost")),
    System("no value head", "ablations", alone("no-value")),
    System("decision frozen", "ablations", ("warm-up", *["decision-frozen"] * 3)),
    System("query frozen", "ablations", ("query-frozen", "warm-up", *["query-frozen"] * 2)),
    System("answer frozen", "ablations", (*["answer-frozen"] * 2, *["warm-up"] * 2)),
    System("no retrieval cost", "costs", alone("no-cost")),
    System("cost .1", "costs", alone("cost-.1")),
    System("cost .4", "costs", alone("cost-.4")),
    System("joint, N = 1", "quota", alone("joint"), quota=1, sets=("hotpotqa",)),
    System("joint, N = 3", "quota", alone("joint"), quota=3, sets=("hotpotqa",)),
    *map(swept, THRESHOLDS),
)


def sets_of(world: World) -> tuple[list[str], list[str]]:
    """The training sets and the unseen sets that a world has."""
    there, needed = set(world.splits), ("train", "dev", "test")
    trained = [name for name in TRAINED if {f"{name}.{split}" for split in needed} <= there]
    return trained, [name for name in UNSEEN if f"{name}.test" in there]


def systems_of(choice: str) -> list[System]:
    """What --systems names; joint and its quotas belong to every choice, its sweep to main."""
    groups = {choice, "quota", *(["sweep"] if choice == "main" else [])}
    kept: dict[str, System] = {}
    for system in SYSTEMS:
        if choice == "all" or system.group in groups or system.name == JOINT:
            kept.setdefault(system.name, system)
    return list(kept.values())


class Recipe(NamedTuple):
    script: str  # sft, ppo, or a kind of modules.py
    flags: str = ""
    needs: tuple[tuple[str, str], ...] = ()  # flags and jobs whose checkpoints they name
    iterations: str = "iterations"  # the field of Plan


READER = ("reader", "reader")
RECIPES = {
    "warm-up": Recipe("sft"),
    "reader": Recipe("reader"),
    "joint": Recipe("ppo"),
    "rewriter-ppo": Recipe(
        "ppo", "--learn query --force retrieve", (READER,), "rewriter_iterations"
    ),
    "rewriter-rs": Recipe("rewriter"),
    "decision-right": Recipe("decision-right"),
    "decision-reward": Recipe("decision-reward", "", (("query", "rewriter-ppo"), READER)),
    "decision-reward-rs": Recipe("decision-reward", "", (("query", "rewriter-rs"), READER)),
    "no-kl": Recipe("ppo", "--kl 0"),
    "no-cost": Recipe("ppo", "--retrieval-cost 0"),
    "no-value": Recipe("ppo", "--no-value"),
    "decision-frozen": Recipe("ppo", "--learn query,answer"),
    "query-frozen": Recipe("ppo", "--learn decision,answer"),
    "answer-frozen": Recipe("ppo", "--learn decision,query"),
    "cost-.1": Recipe("ppo", "--retrieval-cost 0.1"),
    "cost-.4": Recipe("ppo", "--retrieval-cost 0.4"),
}


def jobs_of(
    seed: int, folder: Path, world: str, datasets: Sequence[str], plan: Plan, device: str = "cpu"
) -> dict[str, Job]:
    """Every training run of a seed by name; one comes after those whose checkpoints it needs."""
    common = f"--seed {seed} --dataset {','.join(datasets)} --quota {QUOTA} --device {device}"
    jobs: dict[str, Job] = {}
    for name, (script, flags, more_needs, iterations) in RECIPES.items():
        needs = [("init", "warm-up"), *more_needs]
        if script == "sft":
            needs, start = [], [str(ROOT / "train_sft.py"), "--world", world]
            flags = f"--read-steps {plan.read_steps} --mix-steps {plan.mix_steps} {plan.sft_flags}"
        elif script == "ppo":
            start = [str(ROOT / "train_ppo.py"), "--iterations", str(getattr(plan, iterations))]
            flags = f"{PPO} {QUESTIONS} {flags} {plan.ppo_flags}"
        else:
            start = ["-m", "rl.study.modules", script, "--steps", str(plan.module_steps)]
            flags = f"{QUESTIONS} {plan.module_flags}"
        paths = [(f"--{flag}", str(jobs[need].out)) for flag, need in needs]
        words = [word for pair in paths for word in pair]
        command = (*start, *common.split(), *words, *shlex.split(flags))
        jobs[name] = Job(folder / name, command, tuple(jobs[need].out for _, need in needs))
    return jobs


def needed(jobs: dict[str, Job], names: Sequence[str]) -> list[Job]:
    """The jobs of these names and all that they need, in order."""
    wanted = {jobs[name].out for name in names}
    for job in reversed(jobs.values()):
        if job.out in wanted:
            wanted |= set(job.needs)
    return [job for job in jobs.values() if job.out in wanted]


def compute(jobs: Sequence[Job]) -> dict[str, int]:
    """Optimiser steps (of policies, not value heads) and tokens of these runs, from their logs."""
    logs = [line for job in jobs for line in read_lines(job.out / "metrics.jsonl")]
    lines = [line for line in logs if "tokens" in line]
    steps = [line.get("optimizer_steps", 0 if "iteration" in line else 1) for line in lines]
    return {"steps": sum(steps), "tokens": sum(line["tokens"] for line in lines)}
