"""Does joint training beat the same modules trained separately? (docs/EXPERIMENTS.md)

    run_study(...)     trains and plays what is missing, then writes report.md, study.json (study_table.py) and a page (study_page.py)

Everything lies under OUT/seed-S: a run's checkpoint in NAME/, its output in NAME.log, the episodes in eval/.
Left out: anything that chooses on test. Dev chooses one number, the confidence threshold.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from data.world import Question, World
from model import Policy, Tokenizer, load_policy, write_json
from model.checkpoint import atomic_write
from rl.environment import RagEnv
from rl.episode import Episode, collate
from rl.report import page as report
from rl.report.results import episode_record, none_for_nan, read_lines, write_result
from rl.rollout import Roles, rollout
from rl.runs.flags import UsageError
from rl.runs.parallel import Workers
from rl.runs.run import precision, read_json
from rl.scoring import by_length, score
from rl.study import page as study_page
from rl.study.jobs import run_jobs
from rl.study.systems import (
    DIRECT,
    RETRIEVE,
    SYSTEMS,
    TRAINED,
    UNSEEN,
    Plan,
    System,
    compute,
    jobs_of,
    needed,
    systems_of,
)
from rl.study.table import Study


class Row(NamedTuple):
    """One episode as read back: what rl.summary needs of it, and its confidence where it is known."""

    question: Question
    exact_match: float
    f1: float
    retrievals: int
    hit: bool
    malformed: bool
    reward: float
    p_retrieve: float
    confidence: float


class Result(NamedTuple):
    rows: list[Row]
    seconds: float  # per question


class Player:
    """Plays the systems of one seed and keeps what they played: NAME.<set>.<split>.json and .jsonl in the seed's eval/."""

    def __init__(
        self, folder: Path, world: World, index, workers: Workers, device: str, rows: int = 0
    ):
        self.folder, self.world, self.index, self.workers = folder, world, index, workers
        self.device, self.limit = device, rows
        self._policies: dict[str, Policy] = {}

    @cached_property
    def _warm_up(self) -> tuple[Policy, Tokenizer, dict]:
        return load_policy(self.folder / "warm-up", self.device)

    def policy(self, name: str) -> Policy:
        if name == "warm-up":
            return self._warm_up[0]
        if name not in self._policies:
            self._policies[name] = load_policy(self.folder / name, self.device)[0]
        return self._policies[name]

    def result(self, system: System, set_name: str, split: str) -> Result:
        """From disk when weights, questions and settings are the same as then, else played now."""
        questions = self.world.questions(set_name, split)[: self.limit or None]
        file = self.folder / "eval" / system.file(set_name, split)
        about = {
            "system": system.name,
            "roles": list(system.roles),
            "decoding": asdict(system.decoding),
            "world": self.world.name,
            "set": set_name,
            "split": split,
            "rows": len(questions),
            "k": self.world.k,
            "quota": system.quota,
            "corpus_sha256": self.world.corpus_sha256,
        }
        newest = max(
            (self.folder / role / "model.safetensors").stat().st_mtime for role in system.roles
        )
        current = (
            file.exists()
            and file.stat().st_mtime >= newest
            and about.items() <= read_json(file).items()
        )
        records = read_lines(file.with_suffix(".jsonl")) if current else []
        if [r["id"] for r in records] != [q.id for q in questions]:
            records = self._play(system, questions, file, about)
        rows = [
            Row(
                q,
                r["em"],
                r["f1"],
                len(r["turns"]),
                r["hit"],
                r["malformed"],
                r["reward"],
                r["p_retrieve"],
                r.get("confidence", math.nan),
            )
            for q, r in zip(questions, records, strict=True)
        ]
        return Result(rows, read_json(file)["seconds"] / max(1, len(rows)))

    def _play(
        self, system: System, questions: list[Question], file: Path, about: dict
    ) -> list[dict]:
        _, tokenizer, made = self._warm_up
        env = RagEnv(
            self.world,
            self.index,
            quota=system.quota,
            passage_tokens=made.get("passage_tokens", 64),
        )
        start = time.perf_counter()
        with precision(self.device, "bf16"):
            episodes = rollout(
                Roles(*map(self.policy, system.roles)),
                tokenizer,
                env,
                questions,
                system.decoding,
                spread=self.workers.map,
            )
        seconds = time.perf_counter() - start
        records = [episode_record(e, self.world.corpus, tokenizer) for e in episodes]
        if system.decoding.force == "answer":
            with precision(self.device, "bf16"):
                for record, value in zip(
                    records,
                    confidences(self.policy(system.roles[3]), episodes, tokenizer),
                    strict=True,
                ):
                    record["confidence"] = round(value, 6)
        write_result(file, about, episodes, records, seconds)
        return records

    def confidence(
        self, set_names: Sequence[str], dev_sets: Sequence[str]
    ) -> tuple[dict[str, Result], float]:
        """The confidence baseline on the test splits, from its two branches, and its threshold, from the dev splits."""
        branches = [next(s for s in SYSTEMS if s.name == name) for name in (DIRECT, RETRIEVE)]
        play = lambda name, split: [self.result(s, name, split) for s in branches]
        threshold = best_threshold([tuple(r.rows for r in play(name, "dev")) for name in dev_sets])
        results = {}
        for name in set_names:
            direct, retrieved = play(name, "test")
            rows = [
                b if a.confidence < threshold else a for a, b in zip(direct.rows, retrieved.rows)
            ]
            results[name] = Result(
                rows,
                direct.seconds
                + retrieved.seconds * sum(r.retrievals > 0 for r in rows) / max(1, len(rows)),
            )
        return results, threshold


@torch.no_grad()
def confidences(
    policy: Policy, episodes: Sequence[Episode], tokenizer: Tokenizer, batch_size: int = 256
) -> list[float]:
    """Mean probability of the tokens that the policy wrote in each episode, 0 where it wrote none."""
    values = [0.0] * len(episodes)
    for group in by_length(episodes, batch_size):
        batch = collate([episodes[i] for i in group], tokenizer.pad, policy.device)
        p = score(policy, batch, tokenizer).log_probs.float().exp()
        total, count = (
            torch.zeros(len(group), device=p.device).index_add(0, batch.rows, x)
            for x in (p, torch.ones_like(p))
        )
        for i, value in zip(group, (total / count.clamp(min=1)).tolist()):
            values[i] = value
    return values


def best_threshold(sets: Sequence[tuple[Sequence[Row], Sequence[Row]]]) -> float:
    """The confidence below which retrieving earns most: (direct, retrieved) episodes of the same questions, set by set, all
    sets with the same weight. Of equally good thresholds the lowest, which retrieves least."""
    confidence = np.array([d.confidence for direct, _ in sets for d in direct])
    gain = np.array(
        [
            (r.reward - d.reward) / len(direct)
            for direct, retrieved in sets
            for d, r in zip(direct, retrieved, strict=True)
        ]
    )
    steps, step_of = np.unique(confidence, return_inverse=True)
    gains = np.concatenate(
        [[0.0], np.cumsum(np.bincount(step_of, weights=gain))]
    )  # [i]: retrieving below the i-th distinct confidence
    return float([*steps, 2.0][int(gains.argmax())])  # 2: always; no probability is that high


# ---------------------------------------------------------------------------------------------- the whole of it


def run_study(
    out: Path,
    seeds: Sequence[int],
    choice: str,
    plan: Plan,
    world_name: str,
    open_world: Callable,
    cores: int,
    device: str,
    rows: int,
    page: Path,
) -> str:
    """Train and play what is missing; writes report.md and study.json into `out`, the `page`, and returns the report. `open_world`:
    (training sets, run.json of a warm-up) -> as rl.retrievers.open_world. Raises UsageError, OSError."""
    splits = World.open(world_name).splits
    trained = [
        name for name in TRAINED if {f"{name}.train", f"{name}.dev", f"{name}.test"} <= set(splits)
    ]
    unseen = [name for name in UNSEEN if f"{name}.test" in splits]
    if not trained:
        raise UsageError(
            f"--compare: world {world_name!r} has train, dev and test questions of none of {', '.join(TRAINED)}"
        )
    systems = systems_of(choice)
    jobs = {
        seed: jobs_of(seed, out / f"seed-{seed}", world_name, trained, plan, device)
        for seed in seeds
    }
    run_jobs(
        [
            job
            for seed in seeds
            for job in needed(jobs[seed], [role for s in systems for role in s.roles])
        ],
        cores,
    )
    world, index, _ = open_world(
        ",".join(trained), read_json(out / f"seed-{seeds[0]}" / "warm-up" / "run.json")
    )
    workers = Workers(cores, device)
    study = Study(world.name, trained, unseen, systems)
    with tqdm(
        total=len(seeds) * len(systems), desc="playing", unit="system", dynamic_ncols=True
    ) as bar:
        for seed in seeds:
            player = Player(out / f"seed-{seed}", world, index, workers, device, rows)
            for system in systems:
                sets = [name for name in (*trained, *unseen) if name in system.sets]
                if system.decoding is None:
                    played, study.thresholds[seed] = player.confidence(sets, trained)
                else:
                    played = {name: player.result(system, name, "test") for name in sets}
                study.add(
                    seed,
                    system,
                    played,
                    compute(
                        [
                            job
                            for job in needed(jobs[seed], system.roles)
                            if job.out.name != "warm-up"
                        ]
                    ),
                )
                bar.update()
    text = study.report()
    atomic_write(out / "report.md", lambda path: path.write_text(text, encoding="utf-8"))
    write_json(out / "study.json", none_for_nan(study.as_json()))
    report.save(page, study_page.render(study, text, out))
    return text
