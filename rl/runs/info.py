"""What a checkpoint's run.json may decide when the checkpoint is opened: a short list, every entry
checked, for a checkpoint can come from anyone. It decides which world is read, how the environment
cuts and counts, and how the retriever searches; an address, a token's way, or a path that something
is written to come from the command line alone.
"""

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path

from data.world import World
from model import CheckpointError
from rl.environment import RagEnv, Reward
from rl.runs.flags import UsageError, arg, flag, problem

WORDS = ("stemmer", "stopwords")
PREFIXES = ("query_prefix", "passage_prefix")
KINDS = {  # of retrievers: the flag that each needs, and those that it takes
    "bm25": ("", WORDS),
    "dense": ("encoder", PREFIXES),
    "hybrid": ("encoder", WORDS + PREFIXES),
    "milvus": ("milvus_uri", ("encoder", *PREFIXES)),
    "http": ("retriever_url", ()),
}
ADDRESSES = ("milvus_uri", "retriever_url")
TOKENS = 100_000


@dataclass
class RetrieverInfo:
    """How the passages are searched; "" where the kind of retriever has no such thing."""

    retriever: str = arg("", "empty: the checkpoint's, or bm25", "retriever", choices=tuple(KINDS))
    encoder: str = arg("", "directory of a sentence encoder: MiniLM, E5, BGE, GTE")
    query_prefix: str = arg("", "what the encoder wants before a query; for E5 'query: '")
    passage_prefix: str = arg("", "what the encoder wants before a passage; for E5 'passage: '")
    stemmer: str = arg("", "bm25, hybrid: search for stems; english, german, ... (PyStemmer)")
    stopwords: str = arg("", "bm25, hybrid: english leaves common words out", choices=("english",))
    encoder_sha256: str = ""  # of its weights; no flag


@dataclass
class RetrieverArgs(RetrieverInfo):
    """The flags that the scripts share."""

    milvus_uri: str = arg("", "http://HOST:19530 (login: $MILVUS_TOKEN), or an embedded FILE.db")
    retriever_url: str = arg("", "with --retriever http: http://HOST:8000/retrieve, this world's")


def choose(args: RetrieverArgs, recorded: RetrieverInfo) -> RetrieverInfo:
    """The checkpoint's retriever where the command line does not say otherwise. Raises UsageError
    for flags that do not go together."""
    given = {f.name: getattr(args, f.name) for f in fields(RetrieverArgs)}
    given = {name: value for name, value in given.items() if value}
    before = recorded.retriever or "bm25"
    kind = given.setdefault("retriever", before)
    needed, taken = KINDS[kind]
    for name in given:
        if name not in ("retriever", needed, *taken):
            raise UsageError(f"{flag(name)} does not go with --retriever {kind}")
    settings = asdict(recorded) if kind == before else {}
    if given.keys() & {"encoder", *PREFIXES}:
        settings.pop("encoder_sha256", None)  # another encoder on purpose
    settings |= given
    if needed and not settings.get(needed):
        raise UsageError(f"--retriever {kind} needs {flag(needed)}")
    return checked(RetrieverInfo, settings, "")


@dataclass(frozen=True)
class RunInfo:
    """The environment that a policy was trained in. 0 and "" mean: the world's own, or not said."""

    open_world: str = arg("", "name or directory of the world")
    dataset: str = arg("", "question sets, comma-separated")
    passage_tokens: int = arg(64, "tokens of a passage at most", least=1, most=TOKENS)
    query_tokens: int = arg(32, "tokens of a query at most", least=2, most=TOKENS)
    answer_tokens: int = arg(16, "tokens of an answer at most", least=2, most=TOKENS)
    k: int = arg(0, "passages per retrieval", most=1000)
    quota: int = arg(0, "retrievals per question", most=1000)
    reward: Reward = field(default_factory=Reward)
    open_retriever: RetrieverInfo = field(default_factory=RetrieverInfo)

    def environment(self, world: World, index) -> RagEnv:
        budgets = self.passage_tokens, self.query_tokens, self.answer_tokens
        return RagEnv(world, index, self.k, self.quota or None, self.reward, *budgets)


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
        chosen[f.name] = values[f.name]
        if is_dataclass(f.type):
            chosen[f.name] = checked(f.type, values[f.name], f"{where}: {f.name}")
        elif reason := problem(f, values[f.name]):
            raise CheckpointError(f"{where}: {f.name} {reason}")
    return cls(**chosen)
