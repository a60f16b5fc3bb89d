"""What an evaluation leaves on disk: a .json of figures and, beside it, a .jsonl of every episode.

Results on the very same questions form a `Group`, in which policies can be compared in pairs.
Left out: how results come about (evaluation.py).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data.world import Passage, Question
from model import Tokenizer, read_json
from rl.episode import Episode, Part, Turn
from rl.report.summary import policy_calls
from rl.runs.flags import UsageError
from rl.runs.run import differences

DIRECT, RETRIEVE = "direct only", "always retrieve, own query"  # rows of the two forced branches
OWN = "own decision"  # the row of a table that is the policy as it decides, greedy


class Result(NamedTuple):
    """One evaluation as it was written."""

    about: dict  # the .json
    records: list[dict]  # the .jsonl, one episode each

    def values(self, name: str) -> list[float]:
        return [float(r[name]) for r in self.records]


@dataclass
class Group:
    """The results on the very same questions of one set."""

    about: dict
    results: dict[tuple[str, str], Result] = field(default_factory=dict)  # by (checkpoint, row)
    sweeps: dict[str, dict] = field(default_factory=dict)  # checkpoint -> its .sweep.json

    @property
    def own(self) -> dict[str, Result]:
        """The policies' own decisions, by checkpoint."""
        return {c: r for (c, row), r in self.results.items() if row == OWN}

    @property
    def name(self) -> str:
        return "{world} / {set}, {split}".format(**self.about)


# ------------------------------------------------------------------------------------------ writing


def episode_record(e: Episode, corpus: Sequence[Passage], tokenizer: Tokenizer) -> dict:
    """An episode as JSON; `tokens` are those of the actions, each with its reward."""

    def passages(turn):
        scored = zip(turn.passages, turn.scores, strict=True)
        return [{**corpus[row]._asdict(), "score": round(score, 4)} for row, score in scored]

    # Forced decisions and given queries are shown, too; text never holds these tokens.
    decisions = (tokenizer.retrieve, tokenizer.answer)
    tokens = zip(e.tokens, e.rewards, e.parts, strict=True)
    return {
        "id": e.question.id,
        "question": e.question.question,
        "answers": e.question.answers,
        "slice": e.question.slice,
        "relation": e.question.relation,
        "popularity": e.question.popularity,
        "p_retrieve": round(e.p_retrieve, 6),
        "calls": policy_calls(e),
        "turns": [{"query": turn.query, "passages": passages(turn)} for turn in e.turns],
        "answer": e.answer,
        "em": e.exact_match,
        "f1": round(e.f1, 6),
        "hit": e.hit,
        "malformed": e.malformed,
        "reward": round(e.reward, 6),
        "tokens": [
            [tokenizer.show([token]), round(reward, 6)]
            for token, reward, part in tokens
            if part != Part.STATE or reward or token in decisions
        ],
    }


def episode_of(record: dict, question: Question) -> Episode:
    """What the figures (rl/report/summary.py) need of a recorded episode; it has no tokens."""
    parts = [Part.ANSWER, Part.STATE] * record["calls"]
    turns = [Turn(turn["query"], [], []) for turn in record["turns"]]
    figures = {name: record[name] for name in ("answer", "f1", "hit", "malformed", "p_retrieve")}
    reward = [record["reward"]]
    return Episode(
        question, parts=parts, rewards=reward, turns=turns, exact_match=record["em"], **figures
    )


def questions_sha256(questions: Sequence[Question]) -> str:
    texts = json.dumps([(q.id, q.question, q.answers) for q in questions])
    return hashlib.sha256(texts.encode()).hexdigest()


# ------------------------------------------------------------------------------------------ reading


def read_lines(file: Path) -> list[dict]:
    """The objects of a .jsonl file. Raises UsageError, OSError."""
    rows = []
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(json.loads(line))
            except ValueError:
                raise UsageError(f"{file}:{number}: not JSON") from None
            if not isinstance(rows[-1], dict):
                raise UsageError(f"{file}:{number}: not a JSON object")
    return rows


def read_result(file: Path, wanted: dict) -> Result | None:
    """The result in `file` if it is about what is `wanted`, else None. Raises UsageError."""
    if not file.exists():
        return None
    about = read_json(file)
    if differences(about, wanted):
        return None
    records = read_lines(file.with_suffix(".jsonl"))
    return Result(about, records) if len(records) == about["rows"] else None
