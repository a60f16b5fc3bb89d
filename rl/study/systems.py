"""What the study compares and what has to be trained for it (docs/EXPERIMENTS.md).

    SYSTEMS            who decides, asks, reads and answers at once, and with which quota
    jobs_of(...)       the training runs of a seed: script, flags, and which checkpoints each needs

Left out: how runs are started (jobs.py), how systems are played (study.py).
"""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from rl.report.results import read_lines
from rl.rollout import Decoding
from rl.study.jobs import ROOT, Job

TRAINED, UNSEEN = (
    ("popqa", "ambignq", "hotpotqa"),
    ("triviaqa", "2wikimultihopqa", "nq", "openbookqa"),
)
CHOICES = ("all", "main", "ablations", "costs")
THRESHOLDS = (
    0.0,
    0.02,
    0.05,
    0.1,
    0.2,
    0.3,
    0.4,
    0.6,
    0.7,
    0.8,
    0.9,
    0.95,
    0.98,
    1.0,
)  # of the sweep, on P([RETRIEVE]); joint's own is .5
QUOTA, EPISODES, STEP = (
    2,
    384,
    96,
)  # retrievals at most; episodes of a PPO iteration; demonstrations of a supervised step
POPULAR_SHARE = 0.45  # of the questions that anything after the warm-up trains on
RENAME = 1.0  # share of the others among them that are asked under new names
# Of every PPO run: one policy for three sets and two retrievals wants small steps, with more weight on the decision than the default;
# the price of a retrieval rises over that share of the iterations.
LR, DECISION_WEIGHT, PRICE_WARMUP = 4e-4, 4.0, 0.5


@dataclass(frozen=True)
class Plan:
    """How long everything trains; with `scale` below 1 for a first look."""

    read_steps: int = 2500  # more than the default of train_sft.py, which is for one set
    mix_steps: int = 500
    iterations: int = 150  # joint, ablations, costs
    rewriter_iterations: int = 50
    module_steps: int = 200  # of each supervised module
    sft_flags: str = ""  # more flags, verbatim
    ppo_flags: str = ""

    def scaled(self, scale: float) -> "Plan":
        return Plan(
            *(max(1, round(scale * v)) if isinstance(v, int) else v for v in asdict(self).values())
        )


class System(NamedTuple):
    name: str
    group: str  # main, ablations, costs, quota, or sweep
    roles: tuple[
        str, str, str, str
    ]  # the jobs that decide, write queries, answer after an observation, answer at once
    decoding: Decoding | None = (
        Decoding()
    )  # None: one of two other systems' episodes, by the confidence of the first
    quota: int = QUOTA
    sets: tuple[str, ...] = (*TRAINED, *UNSEEN)

    def file(self, set_name: str, split: str) -> str:
        """Of its figures, in a seed's eval/; the episodes lie beside it in a .jsonl."""
        return f"{self.name.replace(' ', '-')}.{set_name}.{split}.json"


def _alone(job: str) -> tuple[str, str, str, str]:
    return job, job, job, job


DIRECT, RETRIEVE, SFT, JOINT = "direct only", "always retrieve, own query", "SFT, adaptive", "joint"
SEPARATE = (
    "separate (a)",
    "separate (b)",
    "separate (b), rejection sampling",
    "separate, always retrieve",
    "confidence",
)
PRICES = {
    0.0: "no retrieval cost",
    0.1: "cost .1",
    0.2: JOINT,
    0.4: "cost .4",
}  # price in training -> system
SYSTEMS = (
    System(DIRECT, "main", _alone("warm-up"), Decoding(force="answer")),
    System(
        "always retrieve, raw question", "main", _alone("warm-up"), Decoding(force="question"), 1
    ),
    System(RETRIEVE, "main", _alone("warm-up"), Decoding(force="retrieve"), 1),
    System(SFT, "main", _alone("warm-up")),
    System("separate (a)", "main", ("decision-right", "rewriter-ppo", "reader", "warm-up")),
    System("separate (b)", "main", ("decision-reward", "rewriter-ppo", "reader", "warm-up")),
    System(
        "separate (b), rejection sampling",
        "main",
        ("decision-reward-rs", "rewriter-rs", "reader", "warm-up"),
    ),
    System(
        "separate, always retrieve",
        "main",
        ("warm-up", "rewriter-ppo", "reader", "warm-up"),
        Decoding(force="retrieve"),
        1,
    ),
    System("confidence", "main", _alone("warm-up"), None, 1),
    System(JOINT, "main", _alone("joint")),
    System("no KL", "ablations", _alone("no-kl")),
    System("no retrieval cost", "ablations", _alone("no-cost")),
    System("no value head", "ablations", _alone("no-value")),
    System("decision frozen", "ablations", ("warm-up", *["decision-frozen"] * 3)),
    System(
        "query frozen", "ablations", ("query-frozen", "warm-up", "query-frozen", "query-frozen")
    ),
    System("answer frozen", "ablations", ("answer-frozen", "answer-frozen", "warm-up", "warm-up")),
    System("no retrieval cost", "costs", _alone("no-cost")),
    System("cost .1", "costs", _alone("cost-.1")),
    System("cost .4", "costs", _alone("cost-.4")),
    System("joint, N = 1", "quota", _alone("joint"), quota=1, sets=("hotpotqa",)),
    System("joint, N = 3", "quota", _alone("joint"), quota=3, sets=("hotpotqa",)),
    *(
        System(
            f"joint, threshold {t:g}", "sweep", _alone("joint"), Decoding(threshold=t), sets=TRAINED
        )
        for t in THRESHOLDS
    ),
)


def systems_of(choice: str) -> list[System]:
    """What --systems names, each system once; joint and its quotas belong to every choice, its sweep to main."""
    groups = {choice, "quota", *(["sweep"] if choice == "main" else [])}
    kept: dict[str, System] = {}
    for system in SYSTEMS:
        if choice == "all" or system.group in groups or system.name == JOINT:
            kept.setdefault(system.name, system)
    return list(kept.values())


def jobs_of(
    seed: int, folder: Path, world: str, datasets: Sequence[str], plan: Plan, device: str = "cpu"
) -> dict[str, Job]:
    """Every run of a seed by name; a run comes after those whose checkpoints it needs."""
    jobs: dict[str, Job] = {}
    common = [
        "--seed",
        str(seed),
        "--dataset",
        ",".join(datasets),
        "--quota",
        str(QUOTA),
        "--device",
        device,
    ]
    asked = ["--popular-share", str(POPULAR_SHARE), "--rename", str(RENAME)]

    def add(
        name: str,
        script: list[str],
        flags: list[str],
        needs: dict[str, str],
        lines: int,
        episodes: int,
    ) -> None:
        paths = {flag: str(jobs[need].out) for flag, need in needs.items()}
        command = (*script, *common, *(word for pair in paths.items() for word in pair), *flags)
        jobs[name] = Job(folder / name, command, tuple(map(Path, paths.values())), lines, episodes)

    def ppo(name: str, *flags: str, iterations: int = plan.iterations, **needs: str) -> None:
        flags = [
            "--iterations",
            str(iterations),
            "--episodes",
            str(EPISODES),
            *asked,
            "--lr",
            str(LR),
            "--decision-weight",
            str(DECISION_WEIGHT),
            "--price-warmup",
            str(PRICE_WARMUP),
            *flags,
            *shlex.split(plan.ppo_flags),
        ]
        add(
            name,
            [str(ROOT / "train_ppo.py")],
            flags,
            {"--init": "warm-up"} | {f"--{k}": v for k, v in needs.items()},
            iterations,
            EPISODES,
        )

    def module(name: str, kind: str, **needs: str) -> None:
        add(
            name,
            ["-m", "rl.study.modules", kind],
            ["--steps", str(plan.module_steps), "--episodes", str(STEP), *asked],
            {"--init": "warm-up"} | {f"--{k}": v for k, v in needs.items()},
            plan.module_steps,
            STEP,
        )

    add(
        "warm-up",
        [str(ROOT / "train_sft.py")],
        [
            "--world",
            world,
            "--read-steps",
            str(plan.read_steps),
            "--mix-steps",
            str(plan.mix_steps),
            *shlex.split(plan.sft_flags),
        ],
        {},
        plan.read_steps + plan.mix_steps,
        STEP,
    )
    module("reader", "reader")
    ppo("joint")
    ppo(
        "rewriter-ppo",
        "--learn",
        "query",
        "--force",
        "retrieve",
        iterations=plan.rewriter_iterations,
        reader="reader",
    )
    module("rewriter-rs", "rewriter")
    module("decision-right", "decision-right")
    module("decision-reward", "decision-reward", query="rewriter-ppo", reader="reader")
    module("decision-reward-rs", "decision-reward", query="rewriter-rs", reader="reader")
    ppo("no-kl", "--kl", "0")
    ppo("no-cost", "--retrieval", "0")
    ppo("no-value", "--no-value")
    ppo("decision-frozen", "--learn", "query,answer")
    ppo("query-frozen", "--learn", "decision,answer")
    ppo("answer-frozen", "--learn", "decision,query")
    ppo("cost-.1", "--retrieval", "-0.1")
    ppo("cost-.4", "--retrieval", "-0.4")
    return jobs


def needed(jobs: dict[str, Job], names: Sequence[str]) -> list[Job]:
    """The jobs of these names and all that they need, in order."""
    wanted = {jobs[name].out for name in names}
    for job in reversed(jobs.values()):
        if job.out in wanted:
            wanted |= set(job.needs)
    return [job for job in jobs.values() if job.out in wanted]


def compute(jobs: Sequence[Job]) -> dict[str, int]:
    """Optimiser steps and tokens of these runs, from their logs. A PPO iteration counts the steps of the policy, not of its value head."""
    lines = [
        line for job in jobs for line in read_lines(job.out / "metrics.jsonl") if "tokens" in line
    ]
    return {
        "steps": sum(
            line.get("optimizer_steps", 0 if "iteration" in line else 1) for line in lines
        ),
        "tokens": sum(line["tokens"] for line in lines),
    }
