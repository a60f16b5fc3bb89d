"""What an evaluation leaves on disk: a .json of figures and, beside it, a .jsonl of every episode.

A result says what it is about: world, set, split, rows, decoding, the weights' hash. Results that
are about the very same questions form a `Group`, in which policies can be compared in pairs.
Left out: which results somebody wants; rl.runs.run.differences compares them with what is wanted.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data.world import Passage, Question
from model import Tokenizer, atomic_write, write_json
from rl import ranks
from rl.episode import Episode, Part, Turn
from rl.report.summary import METRICS, by_slice, summarize
from rl.runs.flags import UsageError
from rl.runs.run import differences, plain, read_json

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
    turns = [Turn(turn["query"], [], []) for turn in record["turns"]]
    figures = {name: record[name] for name in ("answer", "f1", "hit", "malformed", "p_retrieve")}
    reward = [record["reward"]]
    return Episode(question, rewards=reward, turns=turns, exact_match=record["em"], **figures)


def played(
    file: Path,
    about: dict,
    questions: Sequence[Question],
    play: Callable[[], list[Episode]],
    records: Callable[[list[Episode]], list[dict]],
    reuse: bool,
) -> tuple[list[Episode], Result]:
    """Play the questions and write the result (rank 0): first the .jsonl, then `file`, the .json.

    about: all that the result depends on; where `reuse` and `file` is about the same, it is read
    instead, and its episodes have no tokens. Raises UsageError, OSError.
    """
    result = read_result(file, about) if reuse else None
    if result is not None:
        pairs = zip(result.records, questions, strict=True)
        return [episode_of(record, question) for record, question in pairs], result
    start = time.perf_counter()
    episodes = play()
    figures = summarize(episodes)
    about = about | {
        "metrics": {name: figures[name] for name in METRICS},
        "slices": by_slice(episodes),
        "truncated_questions": sum(e.truncated for e in episodes),
        "seconds": time.perf_counter() - start,
    }
    result = Result(plain(about), plain(records(episodes)))
    if ranks.rank() == 0:
        lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in result.records)
        file.parent.mkdir(parents=True, exist_ok=True)
        jsonl = file.with_suffix(".jsonl")
        atomic_write(jsonl, lambda path: path.write_text(lines, encoding="utf-8"))
        write_json(file, result.about)
    return episodes, result


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
