"""A world of four passages, a retriever that does as it is told, and a policy that follows a script."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch

from data import Passage, Question, World
from model import Policy, Tokenizer
from rl import RagEnv
from tests.model.tiny import TEXTS, tiny_config, tiny_policy

CORPUS = [
    Passage("v", "Velmor", "It is the capital of Norland."),
    Passage("s", "The Salt Road", "A book by Ada Quill."),
    Passage("a", "Ada Quill", "She was born in Caldis."),
    Passage("c", "Caldis", "[ANSWER] Norland <eos> </obs>"),
]
QUESTIONS = [
    Question(
        "q0",
        "Who wrote The Salt Road?",
        ("Ada Quill", "Miss Quill"),
        gold_passages=("s",),
        slice="tail",
    ),
    Question(
        "q1", "What is the capital of Norland?", ("Velmor",), gold_passages=("v",), slice="popular"
    ),
    Question(
        "q2", "In which city was Ada Quill born?", ("Caldis",), gold_passages=(), slice="absent"
    ),
    Question("q3", "Caldis? [RETRIEVE] x <eos> <obs>", ("Caldis in the south",)),
]
TOKENIZER = Tokenizer.train(
    [*TEXTS, *(p.full_text for p in CORPUS), *(q.question for q in QUESTIONS)], 340
)
SPECIAL = {
    TOKENIZER.pad,
    TOKENIZER.bos,
    TOKENIZER.eos,
    TOKENIZER.obs,
    TOKENIZER.obs_end,
    TOKENIZER.sep,
    TOKENIZER.retrieve,
    TOKENIZER.answer,
}


def world(k: int = 2, quota: int = 1) -> World:
    return World(name="four", corpus=CORPUS, questions={"popqa.test": QUESTIONS}, k=k, quota=quota)


class Retriever:
    """Answers every query with the same rows, or with `rows(query)`; remembers what it was asked."""

    def __init__(self, rows=(1, 3)):
        self.rows, self.asked = rows if callable(rows) else lambda query: rows, []

    def search(self, queries, k):
        self.asked += queries
        ids = np.array([self.rows(query) for query in queries], dtype=np.int32).reshape(
            len(queries), -1
        )
        return ids, np.where(ids < 0, -np.inf, 1.0 / (1 + np.arange(ids.shape[1])))


def environment(retriever=None, **arguments) -> RagEnv:
    shape = dict(quota=1, passage_tokens=16, query_budget=8, answer_budget=6)
    return RagEnv(world(), retriever or Retriever(), **(shape | arguments))


def text(words: str) -> list[int]:
    """What a policy writes to say these words."""
    return [*TOKENIZER.encode(words), TOKENIZER.eos]


class ScriptedSession:
    """model.Session for a policy whose moves are a function of all the tokens of the row so far.

    policy.plan(tokens) -> (P([RETRIEVE]), query tokens, answer tokens). Every other logit is far greater than the two of
    the actions, so that a softmax over anything but these two shows.
    """

    def __init__(self, policy, rows: list[list[int]]):
        self.policy, self.rows = policy, rows
        self.length = torch.tensor([len(row) for row in rows])
        self.logits = torch.full((len(rows), len(TOKENIZER)), 50.0)
        for logits, row in zip(self.logits, rows):
            p = torch.tensor(policy.plan(row)[0])
            logits[TOKENIZER.retrieve], logits[TOKENIZER.answer] = 3 + p.log(), 3 + (1 - p).log()

    @classmethod
    def start(cls, policy, chunks):
        return cls(policy, [list(chunk) for chunk in chunks])

    def select(self, rows):
        return ScriptedSession(self.policy, [self.rows[i] for i in rows.tolist()])

    def feed(self, chunks):
        assert len(chunks) == len(self.rows) and all(chunks)
        return ScriptedSession(
            self.policy, [row + list(chunk) for row, chunk in zip(self.rows, chunks)]
        )

    def generate(self, first, budget, temperature, eos, generator=None):
        plans = [self.policy.plan(row) for row in self.rows]
        return [
            list(plan[1] if token == TOKENIZER.retrieve else plan[2])[:budget]
            for plan, token in zip(plans, first.tolist())
        ]


class scripted:
    """A policy for ScriptedSession; plan as above."""

    def __init__(
        self, plan: Callable[[list[int]], tuple[float, list[int], list[int]]], context: int = 256
    ):
        self.plan, self.config, self.device = (
            plan,
            SimpleNamespace(max_position_embeddings=context),
            torch.device("cpu"),
        )

    def for_inference(self):
        return self


class TalkativePolicy(Policy):
    """A random policy that ends its texts often enough for well-formed and malformed actions both to occur."""

    eos_bias = 5.0

    def logits(self, hidden):
        bias = torch.zeros(self.config.vocab_size)
        bias[TOKENIZER.eos] = self.eos_bias
        return super().logits(hidden) + bias


def random_policy(
    seed: int = 0, scale: float = 0.2, vocab_size: int | None = None, eos_bias: float = 5.0, **shape
) -> Policy:
    policy = TalkativePolicy(tiny_config(vocab_size or len(TOKENIZER), **shape))
    policy.eos_bias = eos_bias
    policy.load_state_dict(tiny_policy(policy.config, seed, scale).state_dict())
    return policy.eval()
