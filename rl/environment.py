"""The environment: a retriever over a corpus, a quota of retrievals, and a reward (paper, section
3.2).

`RagEnv.step` is the only place where an action becomes an observation, a reward and an end: for
training, evaluation, demonstrations and every baseline. The retriever is anything that has
`search(queries, k) -> (ids int [Q, k] padded with -1, scores [Q, k])`. A retriever that fails
raises; a failure never becomes an empty observation. All observations of an episode stay in view,
and after `quota` retrievals only [ANSWER] is left.

Left out: how actions are chosen (rl/rollout.py). Budgets and passage lengths count tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from typing import NamedTuple

import numpy as np

from data.metrics import exact_match, f1_score, hit
from data.world import Question, World
from model import Tokenizer
from rl.episode import Episode, Part, Turn

MANY = 8  # queries; when so many find nothing, a lexical retriever is tried on the corpus


class RetrieverError(RuntimeError):
    """The retriever failed, or answered with something that is no search result."""


class ContextError(ValueError):
    """The policy's context cannot hold an episode of this environment."""


@dataclass(frozen=True)
class Reward:
    """Answer quality minus the cost of retrieving (paper, section 3.2). Each action is rewarded at
    its last token, every other token with 0."""

    exact_match: float = 1.0
    f1: float = 1.0
    retrieval_cost: float = 0.2
    malformed_cost: float = 1.0

    def of_answer(self, episode: Episode) -> float:
        return self.exact_match * episode.exact_match + self.f1 * episode.f1


class Action(NamedTuple):
    """What a policy does in a turn: a decision and a text."""

    retrieve: bool
    text: list[int]  # <eos> last, unless the budget cut it
    free: bool = True  # whether the other decision was open, too
    given: str | None = None  # a query that the policy did not write (`text` is then ignored)


@dataclass
class RagEnv:
    world: World
    index: object  # a retriever, as above
    k: int = 0  # passages per retrieval; 0: the world's
    quota: int | None = None  # retrievals per question at most; None: the world's
    reward: Reward = field(default_factory=Reward)
    passage_tokens: int = 64  # longer passages are cut
    query_budget: int = 32
    answer_budget: int = 16
    own_reward: Callable[[Episode], float] | None = None  # of an answer, in place of EM + F1

    def __post_init__(self):
        self.k = self.k or self.world.k
        self.quota = self.world.quota if self.quota is None else self.quota

    @property
    def corpus(self):
        return self.world.corpus

    def translate(self, question: Question, text: str) -> str:
        """What the policy reads where the world says `text`, and the other way round: the same
        (rl/warmup/questions.py exchanges names)."""
        return text

    def question_limit(self, context: int) -> int:
        """Tokens of a question that fit into the context. Raises ContextError: there are none."""
        retrieval = 1 + self.query_budget + 2 + self.k * (self.passage_tokens + 1)
        limit = context - 1 - self.quota * retrieval - 1 - self.answer_budget
        if limit < 1:
            raise ContextError(
                f"the context of {context} tokens has no room for a question beside k = {self.k}"
                f" passages of {self.passage_tokens} tokens, {self.quota} times; lower k, the quota"
                " or the passage length"
            )
        return limit

    def reset(self, questions: list[Question], tokenizer: Tokenizer, context: int) -> list[Episode]:
        """New episodes: <bos> question, cut to what the context leaves for it."""
        limit = self.question_limit(context)
        episodes = [Episode(question) for question in questions]
        prompts = tokenizer.encode_batch([self.translate(q, q.question) for q in questions])
        for episode, prompt in zip(episodes, prompts, strict=True):
            episode.truncated = len(prompt) > limit
            episode.append([tokenizer.bos, *prompt[:limit]], Part.STATE)
        return episodes

    def step(
        self, episodes: Sequence[Episode], actions: Sequence[Action], tokenizer: Tokenizer
    ) -> list[int]:
        """Take one action in every episode, in place. Returns the indices of those that go on:
        well-formed retrievals, now with their observation. Raises RetrieverError."""
        asked = [self.act(e, a, tokenizer) for e, a in zip(episodes, actions, strict=True)]
        going = [i for i, query in enumerate(asked) if query is not None]
        for i, turn in zip(going, self.search([asked[i] for i in going]), strict=True):
            self.observe(episodes[i], turn, tokenizer)
        return going

    def act(self, episode: Episode, action: Action, tokenizer: Tokenizer) -> str | None:
        """Append an action and its reward. Returns the query, None if the episode has ended."""
        decision = tokenizer.retrieve if action.retrieve else tokenizer.answer
        episode.append([decision], Part.DECISION if action.free else Part.STATE)
        if action.given is None:
            words = self.translate(episode.question, tokenizer.decode(action.text))
            episode.append(action.text, Part.QUERY if action.retrieve else Part.ANSWER)
        else:
            words, read = action.given, self.translate(episode.question, action.given)
            cut = tokenizer.encode(read)[: self.query_budget - 1]
            episode.append([*cut, tokenizer.eos], Part.STATE)
        if not words or episode.tokens[-1] != tokenizer.eos:
            episode.malformed = True
            episode.rewards[-1] = -self.reward.malformed_cost
            return None
        if action.retrieve:
            episode.rewards[-1] = -self.reward.retrieval_cost
            return words
        episode.answer = words
        episode.exact_match = exact_match(words, episode.question.answers)
        episode.f1 = f1_score(words, episode.question.answers)
        episode.rewards[-1] = (self.own_reward or self.reward.of_answer)(episode)
        return None

    def observe(self, episode: Episode, turn: Turn, tokenizer: Tokenizer) -> None:
        """Append what a retrieval found."""
        episode.turns.append(turn)
        episode.hit = hit([self.corpus[row] for row in episode.found], episode.question)
        texts = [self.translate(episode.question, self.corpus[i].full_text) for i in turn.passages]
        episode.append(observation(texts, tokenizer, self.passage_tokens), Part.STATE)

    def search(self, queries: Sequence[str]) -> list[Turn]:
        """One turn per query: rows of the corpus, best first. Raises RetrieverError where they are
        not k; a lexical index (`lexical = True`) has fewer for a query of unknown words."""
        if not queries:
            return []
        turns, lexical, size = [], getattr(self.index, "lexical", False), len(self.corpus)
        least = 0 if lexical else min(self.k, size)
        for query, row, scores in self._ask(queries):
            found = [(i, s) for i, s in zip(row, scores, strict=True) if i != -1]
            sound = all(0 <= i < size and isfinite(s) for i, s in found)
            distinct = len(dict(found)) == len(found)
            if not (sound and distinct and least <= len(found) <= self.k):
                wanted = f"no {self.k} passages of a corpus of {size}, with scores"
                raise RetrieverError(f"the retriever returned {found} for {query!r}: {wanted}")
            turns.append(Turn(query, [i for i, _ in found], [s for _, s in found]))
        if len(turns) >= MANY and not any(turn.passages for turn in turns):
            own_words = [passage.full_text[:200] for passage in self.corpus[:MANY]]
            if all(i < 0 for _, row, _ in self._ask(own_words) for i in row):
                raise RetrieverError(f"the retriever returned nothing for {len(turns)} queries")
        return turns

    def _ask(self, queries: Sequence[str]) -> list[tuple[str, list[int], list[float]]]:
        """(query, ids, scores) of each. Whatever fails raises RetrieverError."""
        try:
            ids, scores = self.index.search(list(queries), k=self.k)
            ids, scores = np.asarray(ids), np.asarray(scores)
        except RetrieverError:
            raise
        except Exception as error:
            problem = f"{len(queries)} queries: {type(error).__name__}: {error}"
            raise RetrieverError(f"the retriever failed on {problem}") from error
        shaped = ids.ndim == 2 and ids.shape == scores.shape and len(ids) == len(queries)
        if not shaped or ids.dtype.kind not in "iu" or scores.dtype.kind not in "iuf":
            found = f"ids {ids.dtype} {list(ids.shape)} and scores {list(scores.shape)}"
            raise RetrieverError(f"the retriever returned {found} for {len(queries)} queries")
        return list(zip(queries, ids.tolist(), scores.tolist(), strict=True))


def observation(passages: Sequence[str], tokenizer: Tokenizer, length: int) -> list[int]:
    """<obs> passage <sep> passage ... </obs>, each "title text" cut to `length` tokens."""
    tokens = [tokenizer.obs]
    for i, text in enumerate(passages):
        if i:
            tokens.append(tokenizer.sep)
        tokens += encoded(text, tokenizer, length)
    return [*tokens, tokenizer.obs_end]


@lru_cache(1 << 14)  # some ten MB: the same passages are found again and again
def encoded(text: str, tokenizer: Tokenizer, length: int) -> list[int]:
    return tokenizer.encode(text)[:length]
