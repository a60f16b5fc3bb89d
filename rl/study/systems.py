"""What the study compares, what has to be trained for it, and its figures (docs/experiments.md).

    SYSTEMS    who decides, asks, reads and answers at once, how, and with which quota
    RECIPES    the runs whose policies play these roles; each needs checkpoints of earlier ones
    play       plays the systems of one seed on all ranks; what is on disk and current, in
               STUDY/seed-S/eval, is read instead

Left out: how runs are started, anything over several seeds (study.py).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

from data import World
from data.metrics import answerable
from data.records import json_lines
from data.world import Question
from model.pretrained import open_policy
from model.pretrained.reading import weights_sha256
from rl import Decoding, Episode, Reward, collate, score
from rl.report.evaluation import Evaluation
from rl.report.summary import DIRECT, RETRIEVE, THRESHOLDS, mean, paired_interval, summarize
from rl.runs.launch import choose_dtype, precision
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.run import plain
from rl.runs.setting import run_info
from rl.scoring import by_length
from rl.study.roles import Roles

TRAINED = ("popqa", "ambignq", "hotpotqa")
UNSEEN = ("triviaqa", "2wikimultihopqa", "nq", "openbookqa")
TOGETHER = "together"
COSTS = (0.0, 0.1, 0.2, 0.4, 0.5)  # of a retrieval, for the same episodes
Episodes = dict[str, list[Episode]]  # by question set
QUOTA = 2  # retrievals at most


class System(NamedTuple):
    name: str
    group: str  # main, ablations, quota, or sweep
    roles: tuple[str, str, str, str]  # runs whose policies decide, ask, read, answer at once
    decoding: Decoding | None = Decoding()  # None: direct or retrieving, by direct's confidence
    quota: int = QUOTA
    sets: tuple[str, ...] = (*TRAINED, *UNSEEN)


JOINT, WARM_UP, FORCED = "joint", 4 * ("warm-up",), Decoding(force="retrieve")
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
    System(JOINT, "main", 4 * (JOINT,)),
    System("no KL", "ablations", 4 * ("no-kl",)),
    System("no value head", "ablations", 4 * ("no-value",)),
    System("decision frozen", "ablations", ("warm-up", *["decision-frozen"] * 3)),
    System("query frozen", "ablations", ("query-frozen", "warm-up", *["query-frozen"] * 2)),
    System("answer frozen", "ablations", (*["answer-frozen"] * 2, *["warm-up"] * 2)),
    System("no retrieval cost", "ablations", 4 * ("no-cost",)),
    System("cost .1", "ablations", 4 * ("cost-.1",)),
    System("cost .4", "ablations", 4 * ("cost-.4",)),
    System("joint, N = 1", "quota", 4 * (JOINT,), quota=1, sets=("hotpotqa",)),
    System("joint, N = 3", "quota", 4 * (JOINT,), quota=3, sets=("hotpotqa",)),
    *(
        System(f"joint, threshold {t:g}", "sweep", 4 * (JOINT,), Decoding(threshold=t), 2, TRAINED)
        for t in THRESHOLDS
        if t != 0.5  # joint's own
    ),
)
PPO = "train_ppo --iterations 150/40* --episodes 384/512 --decision-weight 4/16 --price-warmup .5/0"
MODULE = "rl.study.modules --steps 200/40* --episodes 96/128 --kind"
# Run -> module, and flags that three sets and two retrievals want. @RUN: the folder of another.
# N/M: N, or M for a pretrained policy (--sft-flags "--init ..."); *: steps, times --scale.
RECIPES = {
    "warm-up": "train_sft --read-steps 2500/160* --mix-steps 500/60*",
    "reader": f"{MODULE} reader",
    "joint": PPO,
    "rewriter-ppo": f"{PPO} --learn query --force retrieve --iterations 50/10* --reader @reader",
    "rewriter-rs": f"{MODULE} rewriter",
    "decision-right": f"{MODULE} decision-right",
    "decision-reward": f"{MODULE} decision-reward --query @rewriter-ppo --reader @reader",
    "decision-reward-rs": f"{MODULE} decision-reward --query @rewriter-rs --reader @reader",
    "no-kl": f"{PPO} --kl 0",
    "no-cost": f"{PPO} --retrieval-cost 0",
    "no-value": f"{PPO} --no-value",
    "decision-frozen": f"{PPO} --learn query,answer",
    "query-frozen": f"{PPO} --learn decision,answer",
    "answer-frozen": f"{PPO} --learn decision,query",
    "cost-.1": f"{PPO} --retrieval-cost 0.1",
    "cost-.4": f"{PPO} --retrieval-cost 0.4",
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
    """These runs and all whose checkpoints they need, in order; --init is always the warm-up."""
    wanted = {"warm-up", *runs}
    for name in reversed(RECIPES):
        if name in wanted:
            wanted |= set(re.findall(r"@(\S+)", RECIPES[name]))
    return [name for name in RECIPES if name in wanted]


def commands_of(seed: int, folder: Path, sets: Sequence[str], args) -> dict[Path, list[str]]:
    """The training runs of a seed in order: folder -> command. args: StudyArgs."""

    def number(of: re.Match) -> str:
        value = of[2] if "--init" in args.sft_flags else of[1]
        return str(max(1, round(args.scale * int(value)))) if of[3] else value

    commands, own = {}, {"train_sft": args.sft_flags, "train_ppo": args.ppo_flags}
    for name in needed(role for system in systems_of(args.systems) for role in system.roles):
        module, *words = re.sub(r"([\d.]+)/([\d.]+)(\*?)", number, RECIPES[name]).split()
        words = [word.replace("@", f"{folder}/") for word in words]
        words += ["--seed", str(seed), "--dataset", ",".join(sets), "--quota", str(QUOTA)]
        words += ["--device", args.device]
        warm_up = ["--init", str(folder / "warm-up")]
        words += ["--world", args.world] if name == "warm-up" else warm_up
        words += own.get(module, args.module_flags).split()  # the last one of a flag counts
        commands[folder / name] = ["-m", module, *words]
    return commands


def figures_of(
    played: dict[System, Episodes], compute: Callable[[System], dict], trained: Sequence[str]
) -> list[dict]:
    """A dict of figures for every system and part. A part is a question set, a slice of one
    ("popqa: tail"), or "together": the training sets, each with the same weight. joint_minus: its
    reward minus the system's, with the paired interval."""
    parts = {system: parts_of(mine, trained) for system, mine in played.items()}
    joint = next(mine for system, mine in parts.items() if system.name == JOINT)
    rows = []
    for system, mine in parts.items():
        for part, sets in mine.items():
            row = {"system": system.name, "group": system.group, "part": part}
            row |= together([summarize(episodes) for episodes in sets])
            answers = row["em"] + row["f1"] - row["malformed"]
            row |= {f"reward at {cost:g}": answers - cost * row["queries"] for cost in COSTS}
            rewards = [[[e.reward for e in one] for one in both] for both in (joint[part], sets)]
            row |= {"joint_minus": paired_interval(list(zip(*rewards, strict=True)))}
            rows.append(row | (compute(system) if part == TOGETHER else {}))
    return rows


def parts_of(played: Episodes, trained: Sequence[str]) -> dict[str, list[list[Episode]]]:
    """part -> its episodes, a list for each of its sets."""
    parts = {}
    for name, episodes in played.items():
        parts[name] = [episodes]
        for s in dict.fromkeys(e.question.slice for e in episodes if e.question.slice is not None):
            parts[f"{name}: {s}"] = [[e for e in episodes if e.question.slice == s]]
    if set(trained) <= played.keys():
        parts[TOGETHER] = [played[name] for name in trained]
    return parts


def together(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over sets of equal weight; a set without a figure (NaN) does not count for it."""
    known = {name: [f[name] for f in figures if f[name] == f[name]] for name in figures[0]}
    return {name: mean(values) for name, values in known.items()}


# ------------------------------------------------------------------------------------- playing


class Player:
    def __init__(self, folder: Path, args):
        """folder: of a seed; its warm-up says which world it is. args: of study.py."""
        self.folder, self.rows = folder, args.rows
        self.device, self.dtype = args.device, choose_dtype("auto", args.device)
        _, self.tokenizer, made = open_policy(folder / "warm-up", args.device)
        self.info = run_info(made, folder / "warm-up")
        flags = vars(RetrieverArgs()) | {"device": self.device, "dtype": self.dtype}
        self.world, self.index, _ = open_world("", SimpleNamespace(**flags), self.info)
        self.passages = {passage.id: passage for passage in self.world.corpus}
        self.policy = cache(lambda run: open_policy(folder / run, args.device)[0])
        self.weights = cache(lambda run: weights_sha256(folder / run))
        self.questions = cache(self.labelled)

    def labelled(self, set_name: str, split: str) -> list[Question]:
        """In a world without slices these are: the gold passages state the answer, or do not."""
        labelled = []
        for q in self.world.questions(set_name, split)[: self.rows or None]:
            if q.slice is None and q.gold_passages is not None:
                gold = [self.passages[id] for id in q.gold_passages]
                q = replace(q, slice="answerable" if answerable(gold, q) else "unanswerable")
            labelled.append(q)
        return labelled

    def play(self, system: System, set_name: str, split="test", reuse=True) -> list[Episode]:
        """From disk when it is about these weights, questions and settings, else played now."""
        if system.decoding is None:
            return self.by_confidence(set_name)
        roles = Roles(*map(self.policy, system.roles), self.tokenizer.retrieve)
        info = replace(self.info, k=0, quota=system.quota, reward=Reward())
        env = info.environment(self.world, self.index)
        asked = set_name, split
        about = {"system": system.name, "weights_sha256": [*map(self.weights, system.roles)]}
        parts = system.name, roles, self.tokenizer, env, asked, self.questions(*asked), about
        file = f"{system.name.replace(' ', '-')}.{set_name}.{split}.json"
        how = system.decoding, reuse, self.folder / "eval" / file
        return Evaluation(*parts, self.device, self.dtype).play(set_name, *how).episodes

    def branches(self, set_name: str, split: str) -> tuple[np.ndarray, list, list]:
        """The warm-up's confidence in its direct answers (mean probability of their tokens), their
        episodes, and those that always retrieve."""
        systems = {system.name: system for system in SYSTEMS}
        direct = self.play(systems[DIRECT], set_name, split, reuse=False)  # with their tokens
        policy, sure = self.policy("warm-up"), np.zeros(len(direct))
        for group in by_length(direct, 1 << 14):
            batch = collate([direct[i] for i in group], self.tokenizer.pad, self.device)
            with torch.no_grad(), precision(self.device, self.dtype):
                p = score(policy, batch, self.tokenizer).log_probs.float().exp().cpu()
            rows, size = batch.rows.cpu(), len(group)
            sure[group] = np.bincount(rows, p, size) / np.bincount(rows, None, size).clip(1)
        return sure, direct, self.play(systems[RETRIEVE], set_name, split)

    @cached_property
    def threshold(self) -> float:
        """Of confidence: what earns most on dev, training sets weighing the same; 2 is always."""
        dev = []
        for name in sets_of(self.world)[0]:
            sure, *both = self.branches(name, "dev")
            dev.append((sure, *([e.reward for e in episodes] for episodes in both)))

        def earned(t: float) -> float:
            return mean([np.where(sure < t, after, before).mean() for sure, before, after in dev])

        return max([*np.unique(np.concatenate([sure for sure, *_ in dev])), 2.0], key=earned)

    def by_confidence(self, set_name: str) -> list[Episode]:
        """Retrieve where the confidence of the direct answer is below the threshold."""
        branches = zip(*self.branches(set_name, "test"), strict=True)
        return [after if sure < self.threshold else before for sure, before, after in branches]

    def compute(self, system: System) -> dict[str, float]:
        """Of a system's own runs, from their logs; steps of value heads do not count."""
        runs = [self.folder / run for run in needed(system.roles) if run != "warm-up"]
        logs = [line for run in runs for line in json_lines(run / "metrics.jsonl")]
        lines = [line for line in logs if "tokens" in line]
        steps = [line.get("optimizer_steps", 0 if "iteration" in line else 1) for line in lines]
        tokens, seconds = (sum(line[name] for line in lines) for name in ("tokens", "seconds"))
        return {"steps": sum(steps), "tokens": tokens / 1e6, "minutes": seconds / 60}


def play(folder: Path, args) -> dict:
    """Play what is missing of a seed; its figures, as study.json has them."""
    player = Player(folder, args)
    trained, unseen = sets_of(player.world)
    sets = [*trained, *unseen]
    played = {
        system: {name: player.play(system, name) for name in sets if name in system.sets}
        for system in systems_of(args.systems)
    }
    about = {"world": player.world.name, "trained": trained, "unseen": unseen}
    about["questions"] = {name: len(player.questions(name, "test")) for name in sets}
    return plain(about | {"figures": figures_of(played, player.compute, trained)})
