"""A policy in an environment, played on questions; what is on disk and current is read instead.

An evaluation leaves a .json of figures, with all that they depend on, and, beside it, a .jsonl of
every episode. Left out: what is compared with what.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from data.records import json_lines
from data.world import Question
from model import Policy, Tokenizer
from model.files import atomic_write, write_json
from model.pretrained.reading import read_json
from rl import Decoding, Episode, Part, RagEnv, Turn, ranks, rollout
from rl.report.summary import METRICS, OWN, by_slice, policy_calls, summarize
from rl.runs.launch import precision
from rl.runs.progress import progress
from rl.runs.run import differences, plain

FIGURES = ("p_retrieve", "answer", "f1", "hit", "malformed")  # of an episode, in its record


class Result(NamedTuple):
    """One evaluation."""

    about: dict  # the .json
    records: list[dict]  # the .jsonl, one episode each
    episodes: list[Episode]  # without tokens where they were read from it


Results = dict[tuple[str, str], Result]  # by (policy, row), all on the very same questions


def own_decisions(results: Results) -> dict[str, Result]:
    return {name: r for (name, row), r in results.items() if row == OWN}


@dataclass
class Evaluation:
    name: str  # in tables
    policy: Policy  # or whatever else rollout plays
    tokenizer: Tokenizer
    env: RagEnv
    asked: tuple[str, str]  # question set and split of
    questions: Sequence[Question]
    about: dict  # what else results depend on, beside their decoding: checkpoint, weights, ...
    device: str
    dtype: str
    seed: int = 0  # of sampled decodings

    @cached_property
    def facts(self) -> dict:
        """What a result says of itself, whatever its decoding."""
        texts = json.dumps([(q.id, q.question, q.answers) for q in self.questions])
        return {
            "world": self.env.world.name,
            "set": self.asked[0],
            "split": self.asked[1],
            "rows": len(self.questions),
            "k": self.env.k,
            "quota": self.env.quota,
            "reward": asdict(self.env.reward),
            "corpus_sha256": self.env.world.corpus_sha256,
            "questions_sha256": hashlib.sha256(texts.encode()).hexdigest(),
            **self.about,
        }

    def file(self, decoding: Decoding) -> Path:
        """CHECKPOINT/eval/<world>.<set>.<split>.json, with a name of decodings but greedy."""
        name = ".".join([self.env.world.name, *self.asked])
        if decoding.force:
            name += f".force-{decoding.force}"
        elif decoding.sample_decision:
            name += ".sample"
        elif decoding.threshold != 0.5:
            name += f".threshold-{decoding.threshold:g}"
        return Path(self.about["checkpoint"]) / "eval" / f"{name}.json"

    def answer(self, decoding: Decoding, update=lambda finished: None) -> list[Episode]:
        generator = torch.Generator().manual_seed(self.seed)
        parts = self.policy, self.tokenizer, self.env, self.questions, decoding, generator
        with precision(self.device, self.dtype):
            return rollout(*parts, 0, update)

    def play(
        self, row: str, decoding: Decoding, reuse: bool = False, file: Path | None = None
    ) -> Result:
        """Play the questions and write the result (rank 0): the .jsonl, then `file`, the .json.
        Where `reuse` and the file is about the same, it is read instead. row: for the progress bar.
        Raises WorldError for a damaged .jsonl, CheckpointError, OSError."""
        about, file = self.facts | {"decoding": asdict(decoding)}, file or self.file(decoding)
        old = read_json(file, optional=True) if reuse else {}
        jsonl = file.with_suffix(".jsonl")
        sha256 = hashlib.sha256(jsonl.read_bytes() if jsonl.exists() else b"").hexdigest()
        # Beside its own episodes: two processes may have written here at once.
        if not differences(old, about | {"episodes_sha256": sha256}):
            records = list(json_lines(jsonl))
            return Result(old, records, list(map(episode_of, records, self.questions)))
        start, name = time.perf_counter(), f"{self.name}: {row}"
        with progress(len(self.questions), name, "question", leave=False) as bar:
            episodes = self.answer(decoding, bar.update)
        figures, records = summarize(episodes), plain([*map(self.record, episodes)])
        lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        about |= {
            "episodes_sha256": hashlib.sha256(lines.encode()).hexdigest(),
            "metrics": {metric: figures[metric] for metric in METRICS},
            "slices": by_slice(episodes),
            "truncated_questions": sum(e.truncated for e in episodes),
            "seconds": time.perf_counter() - start,
        }
        result = Result(plain(about), records, episodes)
        if ranks.rank() == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(jsonl, lambda path: path.write_text(lines, encoding="utf-8"))
            write_json(file, result.about)
        return result

    def record(self, e: Episode) -> dict:
        """An episode as JSON; `tokens` are those of the actions, each with its reward."""
        turns = []
        for turn in e.turns:
            found = [self.env.corpus[row]._asdict() for row in turn.passages]
            scores = [{"score": round(score, 4)} for score in turn.scores]
            passages = [one | score for one, score in zip(found, scores, strict=True)]
            turns.append({"query": turn.query, "passages": passages})
        # Forced decisions and given queries are shown, too; text never holds these tokens.
        decisions = (self.tokenizer.retrieve, self.tokenizer.answer)
        tokens = [
            [self.tokenizer.show([token]), reward]
            for token, reward, part in zip(e.tokens, e.rewards, e.parts, strict=True)
            if part != Part.STATE or reward or token in decisions
        ]
        figures = {name: getattr(e, name) for name in FIGURES}
        figures |= {"em": e.exact_match, "reward": e.reward, "calls": policy_calls(e)}
        return asdict(e.question) | figures | {"turns": turns, "tokens": tokens}


def episode_of(record: dict, question: Question) -> Episode:
    """What the figures (rl/report/summary.py) need of a recorded episode; it has no tokens."""
    return Episode(
        question,
        parts=[Part.STATE, Part.ANSWER] * record["calls"],
        rewards=[record["reward"]],
        turns=[Turn(turn["query"], [], []) for turn in record["turns"]],
        exact_match=record["em"],
        **{name: record[name] for name in FIGURES},
    )
