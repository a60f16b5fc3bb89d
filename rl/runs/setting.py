"""What a training works in: an environment with its reward, and the questions that it learns from
and is checked on; what there is to say about them before an hour of work.

RunInfo is what a checkpoint's run.json may decide when it is opened again: a short list, every
entry checked, for a checkpoint can come from anyone. An address, a token's way, a path that
something is written to, or a file that is run come from the command line alone.

--reward FILE.py:function is one's own reward of an answer, in place of EM + F1 at its last token:

    def function(question: str, answers: tuple[str, ...], episode: Episode) -> float

episode.answer, .exact_match and .f1 are set. Prices of retrievals and malformed actions stay.
"""

import math
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path

from data.load import FEW
from data.metrics import gold_passage, stated
from data.world import Question, World
from model import CheckpointError, Tokenizer
from rl import ranks
from rl.environment import RagEnv, Reward
from rl.episode import Episode
from rl.runs.flags import UsageError, arg, problem, share
from rl.runs.progress import say
from rl.runs.retrievers import RetrieverInfo, open_world

TOKENS = 100_000
HELD_OUT = 500  # questions at most
FLAGS = ("dataset", "passage_tokens", "query_tokens", "answer_tokens", "k", "quota")


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


@dataclass
class RewardArgs:
    reward: str = arg("", "FILE.py:function, in place of EM + F1", "reward")
    exact_match: float = arg(Reward.exact_match, "weight of exact match")
    f1: float = arg(Reward.f1, "weight of F1")
    retrieval_cost: float = arg(Reward.retrieval_cost, "cost of each retrieval")
    malformed_cost: float = arg(Reward.malformed_cost, "cost of a malformed action")
    price_warmup: float = share(0.0, "share of the iterations in which the retrieval cost rises")


@dataclass
class Setting:
    info: RunInfo
    env: RagEnv
    sets: list[list[Question]]  # training questions, of each question set
    dev: list[Question]

    @property
    def questions(self) -> list[Question]:
        return [question for questions in self.sets for question in questions]

    def record(self) -> dict:
        """For run.json."""
        world = self.env.world
        about = {"world": world.name, "corpus_sha256": world.corpus_sha256}
        return about | asdict(self.info)


def open_setting(args, made: RunInfo | None = None) -> Setting:
    """What the flags say, and where they say nothing, what a checkpoint was `made` in, but for the
    reward. args: RunArgs, and those of world, reward, eval_rows, FLAGS and Reward that a script
    has. Raises as open_world."""
    made = made or RunInfo(answer_tokens=0)
    given = {name: getattr(args, name, None) for name in FLAGS}
    given = {name: value for name, value in given.items() if value}
    weights = {f.name: getattr(args, f.name, f.default) for f in fields(Reward)}
    name = getattr(args, "world", "") or made.open_world
    world, index, retriever = open_world(name, args, made)
    info = replace(made, open_world=name, reward=Reward(**weights), **given)
    args.dataset = info.dataset or "popqa"
    sets, dev = train_and_dev(world, args.dataset)
    budget = info.answer_tokens or answer_budget([q for questions in sets for q in questions])
    found = {"answer_tokens": budget, "open_retriever": RetrieverInfo(**retriever)}
    info = replace(info, dataset=args.dataset, **found)
    env = info.environment(world, index)
    env.own_reward = load_reward(getattr(args, "reward", ""))
    rows = -(-getattr(args, "eval_rows", sys.maxsize) // len(dev))
    return Setting(info, env, sets, [q for questions in dev for q in questions[:rows]])


def train_and_dev(world: World, dataset: str) -> tuple[list[list[Question]], list[list[Question]]]:
    """The training and the dev questions of each set of "popqa,hotpotqa". Where a set has no dev
    questions, a tenth of the training ones takes their place and is not trained on: the same ones
    in every run. Raises WorldError, UsageError."""
    train, dev = [], []
    names = [name.strip() for name in dataset.split(",")]
    for name, questions in zip(names, world.union(dataset, "train"), strict=True):
        checked = world.questions(name, "dev") if f"{name}.dev" in world.splits else []
        if not questions:
            raise UsageError(f"world {world.name!r}: {name}.train has no questions")
        if not checked:
            ordered = sorted(
                questions, key=lambda q: sha256(f"{q.id}\n{q.question}".encode()).digest()
            )
            checked = ordered[: min(HELD_OUT, -(-len(ordered) // 10))]
            kept = set(ordered[len(checked) :]) or set(ordered)  # a single one is learnt as well
            questions = [q for q in questions if q in kept]
            say(f"{name} has no dev questions: {len(checked)} of {len(ordered)} are held out")
        train.append(list(questions))
        dev.append(list(checked))
    return train, dev


def answer_budget(questions: Sequence[Question]) -> int:
    """Tokens for 99 of 100 training answers, a token per three bytes and <eos>; 16 to 64. Counted
    before there is a tokenizer; `describe` says how many do not fit in the end."""
    lengths = sorted(len(q.answers[0].encode()) for q in questions)
    return max(16, min(64, -(-lengths[99 * (len(lengths) - 1) // 100] // 3) + 1))


def load_reward(spec: str) -> Callable[[Episode], float] | None:
    """The function of "FILE.py:function"; None of "". UsageError; when called, too."""
    if not spec:
        return None
    file, _, name = spec.rpartition(":")
    with blamed(spec):
        function = runpy.run_path(file)[name]

    def reward(episode: Episode) -> float:
        question = episode.question
        with blamed(spec):
            value = float(function(question.question, question.answers, episode))
            if not math.isfinite(value):
                raise ValueError(f"{value} for the answer {episode.answer!r:.80}")
        return value

    return reward


@contextmanager
def blamed(spec: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UsageError(f"--reward {spec}: {type(error).__name__}: {error}") from None


def retrieval_cost_at(iteration: int, args) -> float:
    """The cost of a retrieval rises linearly: at the full price, a policy whose queries are still
    poor would stop to retrieve before it has learnt what a retrieval can be worth."""
    rise = args.price_warmup * args.iterations
    return args.retrieval_cost * (min(1.0, iteration / rise) if rise else 1.0)


def describe(script: str, trainer, plan: str) -> None:
    """Say what is about to happen, and what to expect of it. trainer: has args, setting, policy and
    tokenizer. Raises ContextError, UsageError."""
    args, setting, policy = trainer.args, trainer.setting, trainer.policy
    env, questions = setting.env, setting.questions
    if env.quota < 1 and getattr(args, "both", True):  # the warm-up always learns both
        none = f"world {env.world.name!r} allows no retrieval (quota 0), so there are no two"
        raise UsageError(f"{none} branches to play; give --quota 1, or to train_ppo.py --no-both")
    parameters = sum(p.numel() for p in policy.parameters())
    say(
        f"{script}: world {env.world.name}, {len(env.corpus):,} passages, k = {env.k}, quota"
        f" {env.quota}; {args.dataset}.train, {len(questions):,} questions;"
        f" {parameters:,} parameters, vocabulary {len(trainer.tokenizer):,};"
        f" {args.dtype}, {ranks.size()} ranks; {plan}; out {args.out}"
    )
    say_misfits(questions, trainer.tokenizer, env, policy.config.max_position_embeddings)
    generated = setting.info.open_world.partition(":")[0] in ("mini", "tiny")
    if len(questions) < FEW and not args.pretrained and not generated:
        say(
            f"warning: a new policy learns {len(questions):,} training questions by heart"
            " and answers no others; start from a pretrained one (--init), see docs/own-data.md"
        )


def say_misfits(
    questions: Sequence[Question], tokenizer: Tokenizer, env: RagEnv, context: int
) -> None:
    """Say how many questions are cut, how many answers do not fit, and how many are not stated by
    their gold passages. Raises ContextError."""
    limit, total = env.question_limit(context), len(questions)
    encoded = tokenizer.encode_batch([q.question for q in questions])
    answers = tokenizer.encode_batch([q.answers[0] for q in questions])
    if cut := sum(len(ids) > limit for ids in encoded):
        say(f"{cut} of {total} training questions are longer than {limit} tokens, and are cut")
    if long := sum(len(ids) >= env.answer_budget for ids in answers):
        say(
            f"{long} of {total} training answers are longer than {env.answer_budget - 1} tokens:"
            " never demonstrated as a whole, never right; train_sft.py --answer-tokens allows more"
        )
    rows = {passage.id: row for row, passage in enumerate(env.corpus)}
    gold = [(gold_passage(q, rows), q) for q in questions if not q.type]
    if silent := sum(i is not None and not stated([env.corpus[i]], q) for i, q in gold):
        say(f"{silent} of {total} training answers are not stated by their gold passage")
