"""Plays the systems of one seed and writes its figures; what is there and current is read instead.

    python -m rl.study play --out STUDY/seed-S/eval --systems main

The episodes go to NAME.<set>.<split>.json and .jsonl, the figures to ../figures.json.
Left out: anything over several seeds (table.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from data.world import Question
from model import Policy, Tokenizer, weights_sha256, write_json
from model.pretrained import open_policy
from rl import Decoding, Episode, RagEnv, Reward, collate, ranks, score
from rl.report.evaluation import Evaluation
from rl.report.results import Result
from rl.report.summary import mean
from rl.runs.flags import DEVICES, arg
from rl.runs.info import run_info
from rl.runs.precision import DTYPES, choose_dtype, precision
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.run import plain
from rl.scoring import by_length
from rl.study import systems
from rl.study.roles import Roles
from rl.study.systems import CHOICES, System
from rl.study.table import Played, seed_json


@dataclass
class PlayArgs(RetrieverArgs):
    out: str = arg("runs/study/seed-0/eval", "a seed's eval/, beside its checkpoints", "playing")
    systems: str = arg("all", "which systems", choices=CHOICES)
    rows: int = arg(0, "first questions of each set only, 0 = all")
    dtype: str = arg("auto", "of multiplications", choices=DTYPES)
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    ranks: int = arg(0, "processes that share the work, 0: one per core")


def play(args: PlayArgs) -> None:
    """Play what is missing, and write the seed's figures (rank 0)."""
    player = Player(Path(args.out).parent, args)
    trained, unseen = systems.sets_of(player.world)
    played, threshold = {}, None
    for system in systems.systems_of(args.systems):
        sets = [name for name in (*trained, *unseen) if name in system.sets]
        if system.decoding is None:
            played[system], threshold = player.confidence(sets, trained)
        else:
            played[system] = player.played(system, sets)
    if ranks.rank() == 0:
        figures = {
            "world": player.world.name,
            "split": "test",
            "rows": {name: len(player.questions(name, "test")) for name in (*trained, *unseen)},
            "trained": trained,
            "unseen": unseen,
            "confidence_threshold": threshold,
            "systems": seed_json(played, trained),
        }
        write_json(player.folder / "figures.json", plain(figures))


class Confident(Evaluation):
    """Records how sure the policy was of the answers that it gave at once."""

    def records(self, episodes: Sequence[Episode], decoding: Decoding) -> list[dict]:
        records = super().records(episodes, decoding)
        if decoding.force == "answer":
            with precision(self.device, self.dtype):
                values = confidences(self.policy.direct, episodes, self.tokenizer)
            for record, value in zip(records, values, strict=True):
                record["confidence"] = round(value, 6)
        return records


class Player:
    def __init__(self, folder: Path, args: PlayArgs):
        """folder: of a seed; its warm-up says which world it is."""
        self.folder, self.args = folder, args
        args.dtype = choose_dtype(args.dtype, args.device)
        _, self.tokenizer, made = open_policy(folder / "warm-up", args.device)
        self.info = run_info(made, folder / "warm-up")
        self.world, self.index, _ = open_world("", args, self.info)
        self.jobs = systems.jobs_of(0, folder, "", (), systems.Plan())
        self.policy = cache(lambda job: open_policy(folder / job, args.device)[0])
        self.weights = cache(lambda job: weights_sha256(folder / job))

    def questions(self, set_name: str, split: str) -> list[Question]:
        return self.world.questions(set_name, split)[: self.args.rows or None]

    def result(self, system: System, set_name: str, split: str) -> tuple[list[Episode], Result]:
        """From disk when it is about these weights, questions and settings, else played now."""
        roles = Roles(*map(self.policy, system.roles), self.tokenizer.retrieve)
        budgets = self.info.passage_tokens, self.info.query_tokens, self.info.answer_tokens
        env = RagEnv(self.world, self.index, 0, system.quota, Reward(), *budgets)
        weights = [self.weights(role) for role in system.roles]
        about = {"system": system.name, "weights_sha256": weights}
        evaluation = Confident(roles, self.tokenizer, env, about, self.args.device, self.args.dtype)
        file = self.folder / "eval" / system.file(set_name, split)
        questions, asked = self.questions(set_name, split), (set_name, split)
        return evaluation.play(file, asked, questions, system.decoding, True, system.name)

    def played(self, system: System, sets: Sequence[str]) -> Played:
        results = {name: self.result(system, name, "test") for name in sets}
        episodes = {name: episodes for name, (episodes, _) in results.items()}
        seconds = {name: per_question(result) for name, (_, result) in results.items()}
        own = [job for job in systems.needed(self.jobs, system.roles) if job.out.name != "warm-up"]
        return Played(episodes, seconds, systems.compute(own))

    def confidence(self, sets: Sequence[str], trained: Sequence[str]) -> tuple[Played, float]:
        """The confidence baseline: retrieve where the direct answer's confidence is below a
        threshold, which is chosen on the dev splits. From the episodes of its two branches."""
        names = systems.DIRECT, systems.RETRIEVE
        branches = [next(s for s in systems.SYSTEMS if s.name == name) for name in names]
        dev = []
        for name in trained:
            (direct, result), (retrieved, _) = (self.result(s, name, "dev") for s in branches)
            gains = [b.reward - a.reward for a, b in zip(direct, retrieved, strict=True)]
            dev.append((result.values("confidence"), gains))
        threshold = best_threshold(dev)
        episodes, seconds = {}, {}
        for name in sets:
            (direct, first), (retrieved, second) = (self.result(s, name, "test") for s in branches)
            unsure = [value < threshold for value in first.values("confidence")]
            triples = zip(direct, retrieved, unsure, strict=True)
            episodes[name] = [b if retrieve else a for a, b, retrieve in triples]
            seconds[name] = per_question(first) + mean(unsure) * per_question(second)
        return Played(episodes, seconds, systems.compute([])), threshold


def per_question(result: Result) -> float:
    return result.about["seconds"] / max(1, len(result.records))


def best_threshold(sets: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """The confidence below which retrieving earns most; of equally good ones the lowest.

    sets: of each question set the confidences, and what retrieving would earn more than answering
    at once; all sets have the same weight.
    """
    confidence = np.concatenate([c for c, _ in sets])
    gain = np.concatenate([np.asarray(g) / len(g) for _, g in sets])
    steps, step_of = np.unique(confidence, return_inverse=True)
    # gains[i]: of retrieving below the i-th distinct confidence
    gains = np.concatenate([[0.0], np.cumsum(np.bincount(step_of, weights=gain))])
    always = 2.0  # no probability is that high
    return float([*steps, always][int(gains.argmax())])


@torch.no_grad()
def confidences(
    policy: Policy, episodes: Sequence[Episode], tokenizer: Tokenizer, batch_size: int = 256
) -> list[float]:
    """Mean probability of the tokens that the policy wrote in each episode, 0 for none."""
    values = [0.0] * len(episodes)
    for group in by_length([e.tokens for e in episodes], batch_size):
        batch = collate([episodes[i] for i in group], tokenizer.pad, policy.device)
        p = score(policy, batch, tokenizer).log_probs.float().exp()
        total = torch.bincount(batch.rows, p, len(group))
        count = torch.bincount(batch.rows, minlength=len(group)).clamp(min=1)
        for i, value in zip(group, (total / count).tolist(), strict=True):
            values[i] = value
    return values
