"""The reward's weights and prices, and one's own reward of an answer: --reward FILE.py:function.

    def function(question: str, answers: tuple[str, ...], episode: Episode) -> float

It replaces EM + F1 at the last token of an answer; episode.answer, .exact_match and .f1 are set.
Prices of retrievals and malformed actions stay. The file is run: never take one from a checkpoint.
"""

import math
import runpy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rl.environment import Reward
from rl.episode import Episode
from rl.runs.flags import UsageError, arg, share


@dataclass
class RewardArgs:
    reward: str = arg("", "FILE.py:function, in place of EM + F1", "reward")
    exact_match: float = arg(Reward.exact_match, "weight of exact match")
    f1: float = arg(Reward.f1, "weight of F1")
    retrieval_cost: float = arg(Reward.retrieval_cost, "cost of each retrieval")
    malformed_cost: float = arg(Reward.malformed_cost, "cost of a malformed action")
    price_warmup: float = share(0.0, "share of the iterations in which the retrieval cost rises")


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
