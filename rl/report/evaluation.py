"""A policy in an environment, played on question sets; what is on disk and current is read instead.

An evaluation leaves a .json of figures, with all that they depend on, and, beside it, a .jsonl of
every episode. Left out: what is compared with what.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from data.world import Passage, Question
from model import Policy, Tokenizer
from model.files import atomic_write, read_json, write_json
from rl import Decoding, Episode, Part, RagEnv, Turn, ranks, rollout
from rl.report.summary import METRICS, by_slice, policy_calls, summarize
from rl.runs.flags import UsageError
from rl.runs.precision import precision
from rl.runs.progress import progress
from rl.runs.run import differences, plain

DIRECT, RETRIEVE = "direct only", "always retrieve, own query"  # rows of the two forced branches
OWN = "own decision"  # the row of a table that is the policy as it decides, greedy
FIGURES = ("p_retrieve", "answer", "f1", "hit", "malformed")  # of an episode, in its record


class Result(NamedTuple):
    """One evaluation."""

    about: dict  # the .json
    records: list[dict]  # the .jsonl, one episode each
    episodes: list[Episode]  # without tokens where they were read from it

    def values(self, name: str) -> list[float]:
        return [float(r[name]) for r in self.records]


Results = dict[tuple[str, str], Result]  # by (checkpoint, row), all on the very same questions


def own_decisions(results: Results) -> dict[str, Result]:
    return {c: r for (c, row), r in results.items() if row == OWN}


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

    def answer(self, questions, decoding: Decoding, update=lambda finished: None) -> list[Episode]:
        generator = torch.Generator().manual_seed(self.seed)
        parts = self.policy, self.tokenizer, self.env, questions, decoding, generator
        with precision(self.device, self.dtype):
            return rollout(*parts, self.batch_size, update)

    def records(self, episodes: Sequence[Episode]) -> list[dict]:
        return [episode_record(e, self.env.corpus, self.tokenizer) for e in episodes]

    def depends_on(self, asked: tuple[str, str], questions: Sequence[Question]) -> dict:
        """What a result on these questions of asked = (set, split) says of itself."""
        texts = json.dumps([(q.id, q.question, q.answers) for q in questions])
        return {
            "world": self.env.world.name,
            "set": asked[0],
            "split": asked[1],
            "rows": len(questions),
            "k": self.env.k,
            "quota": self.env.quota,
            "reward": asdict(self.env.reward),
            "corpus_sha256": self.env.world.corpus_sha256,
            "questions_sha256": hashlib.sha256(texts.encode()).hexdigest(),
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
    ) -> Result:
        """Play the questions and write the result (rank 0): the .jsonl, then `file`, the .json.

        Where `reuse` and `file` is about the same, it is read instead. name: before the progress
        bar. Raises UsageError, OSError.
        """
        about = self.depends_on(asked, questions) | {"decoding": asdict(decoding)}
        if reuse and (result := read_result(file, about, questions)):
            return result
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
        result = Result(plain(about), plain(self.records(episodes)), episodes)
        if ranks.rank() == 0:
            lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in result.records)
            file.parent.mkdir(parents=True, exist_ok=True)
            jsonl = file.with_suffix(".jsonl")
            atomic_write(jsonl, lambda path: path.write_text(lines, encoding="utf-8"))
            write_json(file, result.about)
        return result


def read_result(file: Path, wanted: dict, questions: Sequence[Question]) -> Result | None:
    """The result in `file` if it is whole and about what is `wanted`. Raises UsageError."""
    if not file.exists():
        return None
    about = read_json(file)
    if differences(about, wanted):
        return None
    records = read_lines(file.with_suffix(".jsonl"))
    if len(records) != len(questions):
        return None
    return Result(about, records, list(map(episode_of, records, questions)))


def read_lines(file: Path) -> list[dict]:
    """The objects of a .jsonl file. Raises UsageError, OSError."""
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line else []
        except ValueError:
            raise UsageError(f"{file}:{number}: not JSON") from None
        if rows and not isinstance(rows[-1], dict):
            raise UsageError(f"{file}:{number}: not a JSON object")
    return rows


def episode_record(e: Episode, corpus: Sequence[Passage], tokenizer: Tokenizer) -> dict:
    """An episode as JSON; `tokens` are those of the actions, each with its reward."""

    def passages(turn: Turn) -> list[dict]:
        scored = zip(turn.passages, turn.scores, strict=True)
        return [{**corpus[row]._asdict(), "score": round(score, 4)} for row, score in scored]

    # Forced decisions and given queries are shown, too; text never holds these tokens.
    decisions = (tokenizer.retrieve, tokenizer.answer)
    tokens = zip(e.tokens, e.rewards, e.parts, strict=True)
    asked = ("id", "question", "answers", "slice", "relation", "popularity")
    return {
        **{name: getattr(e.question, name) for name in asked},
        **{name: getattr(e, name) for name in FIGURES},
        "em": e.exact_match,
        "reward": e.reward,
        "calls": policy_calls(e),
        "turns": [{"query": turn.query, "passages": passages(turn)} for turn in e.turns],
        "tokens": [
            [tokenizer.show([token]), reward]
            for token, reward, part in tokens
            if part != Part.STATE or reward or token in decisions
        ],
    }


def episode_of(record: dict, question: Question) -> Episode:
    """What the figures (rl/report/summary.py) need of a recorded episode; it has no tokens."""
    return Episode(
        question,
        parts=[Part.ANSWER, Part.STATE] * record["calls"],
        rewards=[record["reward"]],
        turns=[Turn(turn["query"], [], []) for turn in record["turns"]],
        exact_match=record["em"],
        **{name: record[name] for name in FIGURES},
    )
