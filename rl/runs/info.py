"""What a checkpoint's run.json may decide when the checkpoint is opened: a short list, every entry
checked.

A checkpoint can come from anyone. It decides which world is read, how the environment cuts and
counts, and how the retriever searches; it never decides an address, a token's way, or a path that
something is written to: those come from the command line.
"""

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path

from model import CheckpointError
from rl.environment import Reward
from rl.runs.flags import arg, problem

KINDS = ("bm25", "dense", "hybrid", "milvus", "http")
TOKENS = 100_000


@dataclass(frozen=True)
class RetrieverInfo:
    """How the passages are searched; "" where the kind of retriever has no such thing."""

    retriever: str = arg("bm25", "kind", choices=KINDS)
    encoder: str = arg("", "directory of a sentence encoder, which is read")
    encoder_sha256: str = arg("", "hash of its weights", most=64)
    query_prefix: str = arg("", "what the encoder wants before a query", most=1000)
    passage_prefix: str = arg("", "what the encoder wants before a passage", most=1000)
    stemmer: str = arg("", "Snowball stemmer of words", most=40)
    stopwords: str = arg("", "words that are left out", choices=("english",))


@dataclass(frozen=True)
class RunInfo:
    """The environment that a policy was trained in. 0 and "" mean: the world's own, or not said."""

    open_world: str = arg("", "name or directory of the world")
    dataset: str = arg("", "question sets, comma-separated")
    passage_tokens: int = arg(64, "tokens of a passage at most", least=1, most=TOKENS)
    query_tokens: int = arg(32, "tokens of a query at most", least=1, most=TOKENS)
    answer_tokens: int = arg(16, "tokens of an answer at most", least=1, most=TOKENS)
    k: int = arg(0, "passages per retrieval", most=1000)
    quota: int = arg(0, "retrievals per question", most=1000)
    reward: Reward = field(default=Reward())
    open_retriever: RetrieverInfo = field(default=RetrieverInfo())

    def record(self) -> dict:
        """The entries for run.json (the `info` of rl/runs/run.py: Run)."""
        return asdict(self)


def run_info(made: dict, directory: str | Path) -> RunInfo:
    """The checked entries of a run.json (`made`, {} where there is none). Raises CheckpointError
    that names the entry."""
    return checked(RunInfo, made, f"{directory}/run.json")


def checked(cls: type, values, where: str):
    """`cls` from a JSON value: entries that it does not name are left out, absent ones have their
    default."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: not a JSON object")
    chosen = {}
    for f in fields(cls):
        if f.name not in values:
            continue
        value = values[f.name]
        if is_dataclass(f.default):
            chosen[f.name] = checked(type(f.default), value, f"{where}: {f.name}")
        elif reason := problem(f, value):
            raise CheckpointError(f"{where}: {f.name} {reason}")
        else:
            chosen[f.name] = value
    return cls(**chosen)
