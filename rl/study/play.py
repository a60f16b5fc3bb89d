"""Plays the systems of one seed and writes its figures; what is there and current is read instead.

    python -m rl.study.play --out STUDY/seed-S/eval --systems main

The episodes go to NAME.<set>.<split>.json and .jsonl, the figures to ../figures.json.
Left out: anything over several seeds (study.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch

from data.metrics import answerable
from data.world import Question
from model.files import weights_sha256, write_json
from model.pretrained import open_policy
from rl import Episode, Reward, collate, ranks, score
from rl.report.evaluation import DIRECT, RETRIEVE, Evaluation, read_lines
from rl.report.summary import mean, stratified_interval, summarize
from rl.runs.flags import DEVICES, arg, main, parse
from rl.runs.info import run_info
from rl.runs.launch import launch
from rl.runs.precision import DTYPES, choose_dtype, precision
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.run import plain
from rl.scoring import by_length
from rl.study.roles import Roles
from rl.study.systems import JOINT, SYSTEMS, System, needed, sets_of, systems_of

TOGETHER = "together"
COSTS = (0.0, 0.1, 0.2, 0.4, 0.5)  # of a retrieval, for the same episodes
Episodes = dict[str, list[Episode]]  # by question set
BATCH = 256


def figures_of(
    played: dict[System, Episodes], compute: dict[System, dict], trained: Sequence[str]
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
            row |= {"joint_minus": stratified_interval(list(zip(*rewards, strict=True)))}
            rows.append(row | (compute[system] if part == TOGETHER else {}))
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


@dataclass
class Args(RetrieverArgs):
    out: str = arg("runs/study/seed-0/eval", "a seed's eval/, beside its checkpoints", "playing")
    systems: str = arg("all", "which systems", choices=("all", "main"))
    rows: int = arg(0, "first questions of each set only, 0 = all")
    dtype: str = arg("auto", "of multiplications", choices=DTYPES)
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    ranks: int = arg(0, "processes that share the work, 0: one per core")


class Player:
    def __init__(self, folder: Path, args: Args):
        """folder: of a seed; its warm-up says which world it is."""
        self.folder, self.args = folder, args
        args.dtype = choose_dtype(args.dtype, args.device)
        _, self.tokenizer, made = open_policy(folder / "warm-up", args.device)
        self.info = run_info(made, folder / "warm-up")
        self.world, self.index, _ = open_world("", args, self.info)
        self.passages = {passage.id: passage for passage in self.world.corpus}
        self.policy = cache(lambda run: open_policy(folder / run, args.device)[0])
        self.weights = cache(lambda run: weights_sha256(folder / run))
        self.questions = cache(self.labelled)

    def labelled(self, set_name: str, split: str) -> list[Question]:
        """Where the world has no slices, they are the questions whose gold passages state the
        answer, and those whose do not."""
        labelled = []
        for q in self.world.questions(set_name, split)[: self.args.rows or None]:
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
        played = replace(self.info, k=0, quota=system.quota, reward=Reward())
        env = played.environment(self.world, self.index)
        weights = [self.weights(role) for role in system.roles]
        about = {"system": system.name, "weights_sha256": weights}
        evaluation = Evaluation(
            roles, self.tokenizer, env, about, self.args.device, self.args.dtype
        )
        file = f"{system.name.replace(' ', '-')}.{set_name}.{split}.json"
        asked = set_name, split
        what = self.folder / "eval" / file, asked, self.questions(*asked), system.decoding
        return evaluation.play(*what, reuse, system.name).episodes

    def branches(self, set_name: str, split: str) -> tuple[np.ndarray, list, list]:
        """How sure the warm-up is of the answers that it gives at once (mean probability of their
        tokens), the episodes with these, and those that always retrieve, with its own queries."""
        systems = {system.name: system for system in SYSTEMS}
        direct = self.play(systems[DIRECT], set_name, split, reuse=False)  # with their tokens
        policy, pad, sure = self.policy("warm-up"), self.tokenizer.pad, np.zeros(len(direct))
        for group in by_length([e.tokens for e in direct], BATCH):
            batch = collate([direct[i] for i in group], pad, policy.device)
            with torch.no_grad(), precision(self.args.device, self.args.dtype):
                p = score(policy, batch, self.tokenizer).log_probs.float().exp().cpu()
            rows, size = batch.rows.cpu(), len(group)
            sure[group] = np.bincount(rows, p, size) / np.bincount(rows, None, size).clip(1)
        return sure, direct, self.play(systems[RETRIEVE], set_name, split)

    @cached_property
    def threshold(self) -> float:
        """Of the confidence baseline: what earns most on the dev splits of the training sets, each
        with the same weight. 2, more than any confidence, is always."""
        dev = []
        for name in sets_of(self.world)[0]:
            sure, *both = self.branches(name, "dev")
            dev.append((sure, *([e.reward for e in episodes] for episodes in both)))

        def earned(t: float) -> float:
            return mean([np.where(sure < t, after, before).mean() for sure, before, after in dev])

        return max([*np.unique(np.concatenate([sure for sure, *_ in dev])), 2.0], key=earned)

    def by_confidence(self, set_name: str) -> list[Episode]:
        """The confidence baseline: retrieve where the direct answer's confidence is below the
        threshold."""
        branches = zip(*self.branches(set_name, "test"), strict=True)
        return [after if sure < self.threshold else before for sure, before, after in branches]

    def compute(self, system: System) -> dict[str, float]:
        """Optimiser steps (of policies, not value heads), millions of tokens, and minutes of a
        system's own runs, from their logs; the warm-up is everybody's."""
        runs = [run for run in needed(system.roles) if run != "warm-up"]
        logs = [line for run in runs for line in read_lines(self.folder / run / "metrics.jsonl")]
        lines = [line for line in logs if "tokens" in line]
        steps = [line.get("optimizer_steps", 0 if "iteration" in line else 1) for line in lines]
        tokens, seconds = (sum(line[name] for line in lines) for name in ("tokens", "seconds"))
        return {"steps": sum(steps), "tokens": tokens / 1e6, "minutes": seconds / 60}


def play(args: Args) -> None:
    """Play what is missing, and write the seed's figures (rank 0)."""
    player = Player(Path(args.out).parent, args)
    trained, unseen = sets_of(player.world)
    sets = [*trained, *unseen]
    played = {
        system: {name: player.play(system, name) for name in sets if name in system.sets}
        for system in systems_of(args.systems)
    }
    compute = {system: player.compute(system) for system in played}
    if ranks.rank() == 0:
        figures = {
            "world": player.world.name,
            "questions": {name: len(player.questions(name, "test")) for name in sets},
            "trained": trained,
            "unseen": unseen,
            "figures": figures_of(played, compute, trained),
        }
        write_json(player.folder / "figures.json", plain(figures))


def start() -> None:
    args = parse(Args, __doc__)
    launch(args.ranks, args.device)
    play(args)


if __name__ == "__main__":
    main(start)
