"""What the study compares and what has to be trained for it, as data (docs/experiments.md).

    SYSTEMS    who decides, asks, reads and answers at once, how, and with which quota
    RECIPES    the runs whose policies play these roles; each needs checkpoints of earlier ones

Left out: how runs are started (study.py), how systems are played (play.py).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from data import World
from rl.report.evaluation import DIRECT, RETRIEVE
from rl.rollout import Decoding

ROOT = Path(__file__).resolve().parents[2]
TRAINED = ("popqa", "ambignq", "hotpotqa")
UNSEEN = ("triviaqa", "2wikimultihopqa", "nq", "openbookqa")
# Of the sweep, on P([RETRIEVE]); joint's own is .5.
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
QUOTA = 2  # retrievals at most


class System(NamedTuple):
    name: str
    group: str  # main, ablations, quota, or sweep
    roles: tuple[str, str, str, str]  # runs whose policies decide, ask, read, answer at once
    decoding: Decoding | None = Decoding()  # None: direct or retrieving, by direct's confidence
    quota: int = QUOTA
    sets: tuple[str, ...] = (*TRAINED, *UNSEEN)


def alone(run: str) -> tuple[str, str, str, str]:
    return run, run, run, run


def swept(threshold: float) -> System:
    name = f"joint, threshold {threshold:g}"
    return System(name, "sweep", alone("joint"), Decoding(threshold=threshold), sets=TRAINED)


WARM_UP, FORCED, JOINT = alone("warm-up"), Decoding(force="retrieve"), "joint"
PPO_REWRITER = ("rewriter-ppo", "reader", "warm-up")
RS_REWRITER = ("rewriter-rs", "reader", "warm-up")
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
    System("no value head", "ablations", alone("no-value")),
    System("decision frozen", "ablations", ("warm-up", *["decision-frozen"] * 3)),
    System("query frozen", "ablations", ("query-frozen", "warm-up", *["query-frozen"] * 2)),
    System("answer frozen", "ablations", (*["answer-frozen"] * 2, *["warm-up"] * 2)),
    System("no retrieval cost", "ablations", alone("no-cost")),
    System("cost .1", "ablations", alone("cost-.1")),
    System("cost .4", "ablations", alone("cost-.4")),
    System("joint, N = 1", "quota", alone("joint"), quota=1, sets=("hotpotqa",)),
    System("joint, N = 3", "quota", alone("joint"), quota=3, sets=("hotpotqa",)),
    *map(swept, THRESHOLDS),
)


class Recipe(NamedTuple):
    command: str  # a script or module, and flags
    steps: dict[str, int]  # flags that say how long it trains
    needs: dict[str, str]  # flags and the runs whose checkpoints they name


def module(kind: str, **needs: str) -> Recipe:
    return Recipe(f"-m rl.study.modules {kind}", {"steps": 200}, {"init": "warm-up", **needs})


def ppo(flags: str = "", iterations: int = 150, **needs: str) -> Recipe:
    """One policy for three sets and two retrievals wants more weight on the decision than the
    default; the retrieval cost rises over half of the iterations."""
    command = f"train_ppo.py --episodes 384 --decision-weight 4.0 --price-warmup 0.5 {flags}"
    return Recipe(command, {"iterations": iterations}, {"init": "warm-up", **needs})


RECIPES = {
    # More read steps than the default of train_sft.py, which is for one set.
    "warm-up": Recipe("train_sft.py", {"read-steps": 2500, "mix-steps": 500}, {}),
    "reader": module("reader"),
    "joint": ppo(),
    "rewriter-ppo": ppo("--learn query --force retrieve", 50, reader="reader"),
    "rewriter-rs": module("rewriter"),
    "decision-right": module("decision-right"),
    "decision-reward": module("decision-reward", query="rewriter-ppo", reader="reader"),
    "decision-reward-rs": module("decision-reward", query="rewriter-rs", reader="reader"),
    "no-kl": ppo("--kl 0"),
    "no-cost": ppo("--retrieval-cost 0"),
    "no-value": ppo("--no-value"),
    "decision-frozen": ppo("--learn query,answer"),
    "query-frozen": ppo("--learn decision,answer"),
    "answer-frozen": ppo("--learn decision,query"),
    "cost-.1": ppo("--retrieval-cost 0.1"),
    "cost-.4": ppo("--retrieval-cost 0.4"),
}


def sets_of(world: World) -> tuple[list[str], list[str]]:
    """The training sets and the unseen sets that a world has."""
    there, needed = set(world.splits), ("train", "dev", "test")
    trained = [name for name in TRAINED if {f"{name}.{split}" for split in needed} <= there]
    return trained, [name for name in UNSEEN if f"{name}.test" in there]


def systems_of(choice: str) -> list[System]:
    """What --systems names: "all", or "main", which leaves out the ablations."""
    return [s for s in SYSTEMS if choice == "all" or s.group != "ablations"]


def needed(runs: Iterable[str]) -> list[str]:
    """These runs and all whose checkpoints they need, in order."""
    wanted = set(runs)
    for name in reversed(RECIPES):
        if name in wanted:
            wanted |= set(RECIPES[name].needs.values())
    return [name for name in RECIPES if name in wanted]


def commands_of(
    seed: int, folder: Path, world: str, datasets: Sequence[str], args
) -> dict[Path, list[str]]:
    """The training runs of a seed in order: folder -> command. args: StudyArgs."""
    commands = {}
    own = {"train_sft.py": args.sft_flags, "train_ppo.py": args.ppo_flags, "-m": args.module_flags}
    for name in needed(role for system in systems_of(args.systems) for role in system.roles):
        command, steps, needs = RECIPES[name]
        start, *flags = command.split()
        given = {"seed": seed, "dataset": ",".join(datasets), "quota": QUOTA, "device": args.device}
        given |= {flag: max(1, round(args.scale * count)) for flag, count in steps.items()}
        given |= {flag: folder / run for flag, run in needs.items()} or {"world": world}
        flags += [str(word) for flag, value in given.items() for word in (f"--{flag}", value)]
        flags += own[start].split()  # they come last, so that they count
        commands[folder / name] = [start if start == "-m" else str(ROOT / start), *flags]
    return commands
