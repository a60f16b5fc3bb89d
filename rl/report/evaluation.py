"""A policy in an environment, played on question sets; what is on disk and current is read instead.

A result says what it depends on (world, set, split, rows, decoding, environment, weights), so that
it can be told whether it still is what is wanted. Left out: what is compared with what.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from data.world import Question
from model import Policy, Tokenizer, atomic_write, write_json
from rl import Decoding, Episode, RagEnv, ranks, rollout
from rl.report.results import Result, episode_of, episode_record, questions_sha256, read_result
from rl.report.summary import METRICS, by_slice, summarize
from rl.runs.precision import precision
from rl.runs.progress import progress
from rl.runs.run import plain


@dataclass
class Evaluation:
    policy: Policy  # or whatever else rollout plays
    tokenizer: Tokenizer
    env: RagEnv
    about: dict  # what results depend on beside environment, questions and decoding: weights, ...
    device: str
    dtype: str
    batch_size: int = 256
    seed: int = 0  # of sampled decodings

    def answer(
        self,
        questions: Sequence[Question],
        decoding: Decoding,
        update: Callable[[int], None] = lambda finished: None,
    ) -> list[Episode]:
        generator = torch.Generator().manual_seed(self.seed)
        parts = self.policy, self.tokenizer, self.env, questions, decoding, generator
        with precision(self.device, self.dtype):
            return rollout(*parts, self.batch_size, update)

    def records(self, episodes: Sequence[Episode], decoding: Decoding) -> list[dict]:
        return [episode_record(e, self.env.corpus, self.tokenizer) for e in episodes]

    def depends_on(self, asked: tuple[str, str], questions: Sequence[Question]) -> dict:
        """What a result on these questions of asked = (set, split) says of itself."""
        return {
            "world": self.env.world.name,
            "set": asked[0],
            "split": asked[1],
            "rows": len(questions),
            "k": self.env.k,
            "quota": self.env.quota,
            "reward": asdict(self.env.reward),
            "corpus_sha256": self.env.world.corpus_sha256,
            "questions_sha256": questions_sha256(questions),
            **self.about,
        }

    def play(
        self,
        file: Path,
        asked: tuple[str, str],
        questions: Sequence[Question],
        decoding: Decoding,
        reuse: bool,
        name: str = "",
    ) -> tuple[list[Episode], Result]:
        """Play the questions and write the result (rank 0): the .jsonl, then `file`, the .json.

        Where `reuse` and `file` is about the same, it is read instead, and its episodes have no
        tokens. name: before the progress bar. Raises UsageError, OSError.
        """
        about = self.depends_on(asked, questions) | {"decoding": asdict(decoding)}
        result = read_result(file, about) if reuse else None
        if result is not None:
            pairs = zip(result.records, questions, strict=True)
            return [episode_of(record, question) for record, question in pairs], result
        start = time.perf_counter()
        with progress(len(questions), name, "question", leave=False) as bar:
            episodes = self.answer(questions, decoding, bar.update)
        figures = summarize(episodes)
        about |= {
            "metrics": {metric: figures[metric] for metric in METRICS},
            "slices": by_slice(episodes),
            "truncated_questions": sum(e.truncated for e in episodes),
            "seconds": time.perf_counter() - start,
        }
        result = Result(plain(about), plain(self.records(episodes, decoding)))
        if ranks.rank() == 0:
            lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in result.records)
            file.parent.mkdir(parents=True, exist_ok=True)
            jsonl = file.with_suffix(".jsonl")
            atomic_write(jsonl, lambda path: path.write_text(lines, encoding="utf-8"))
            write_json(file, result.about)
        return episodes, result
