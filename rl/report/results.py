"""What an evaluation leaves on disk: a .json of figures and, beside it, a .jsonl of every episode.

Left out: which evaluation is still current; its owner knows what it depends on.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from data.world import Passage
from model import Tokenizer, write_json
from model.checkpoint import atomic_write
from rl.episode import Episode
from rl.report.summary import METRICS, by_slice, summarize
from rl.runs.flags import UsageError


def episode_record(e: Episode, corpus: Sequence[Passage], tokenizer: Tokenizer) -> dict:
    turns = [
        {
            "query": t.query,
            "passages": [
                {
                    "id": corpus[i].id,
                    "title": corpus[i].title,
                    "text": corpus[i].text,
                    "score": round(s, 4),
                }
                for i, s in zip(t.passages, t.scores)
            ],
        }
        for t in e.turns
    ]
    special = (
        tokenizer.retrieve,
        tokenizer.answer,
    )  # forced decisions are shown, too; text never holds these tokens
    paid = [
        [tokenizer.show([token]), round(reward, 6)]
        for token, reward, own in zip(e.tokens, e.rewards, e.action_mask)
        if own or reward or token in special
    ]
    return {
        "id": e.question.id,
        "question": e.question.question,
        "answers": e.question.answers,
        "slice": e.question.slice,
        "relation": e.question.relation,
        "popularity": e.question.popularity,
        "p_retrieve": round(e.p_retrieve, 6),
        "turns": turns,
        "answer": e.answer,
        "em": e.exact_match,
        "f1": round(e.f1, 6),
        "hit": e.hit,
        "malformed": e.malformed,
        "reward": round(e.reward, 6),
        "tokens": paid,
    }


def write_result(
    file: Path, about: dict, episodes: Sequence[Episode], records: Sequence[dict], seconds: float
) -> None:
    """`file` (.json): `about`, the figures and those of each slice; the records go to the .jsonl beside it, first. Raises OSError."""
    pick = lambda figures: {name: figures[name] for name in METRICS}
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file.with_suffix(".jsonl"), lambda path: path.write_text(lines, encoding="utf-8"))
    write_json(
        file,
        none_for_nan(
            {
                **about,
                "metrics": pick(summarize(episodes)),
                "slices": {
                    name: {"rows": s["rows"], **pick(s)} for name, s in by_slice(episodes).items()
                },
                "truncated_questions": sum(e.truncated for e in episodes),
                "seconds": seconds,
            }
        ),
    )


def none_for_nan(value):
    """JSON has no NaN: a figure over nothing (hit without any retrieval) is null."""
    if isinstance(value, dict):
        return {k: none_for_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [none_for_nan(v) for v in value]
    return None if isinstance(value, float) and value != value else value


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
