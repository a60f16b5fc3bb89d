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
from typing import NamedTuple
from weakref import WeakKeyDictionary

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

    def answer(self, exact_match: float, f1: float) -> float:
        return self.exact_match * exact_match + self.f1 * f1


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
    _passages: WeakKeyDictionary = field(default_factory=WeakKeyDictionary, repr=False)

    def __post_init__(self):
        self.k = self.k or self.world.k
        self.quota = self.world.quota if self.quota is None else self.quota

    @property
    def corpus(self):
        return self.world.corpus

    def translate(self, question: Question, text: str) -> str:
        """What the policy reads where the world says `text`, and the other way round: the same
        (rl/warmup/renaming.py exchanges names)."""
        return text

    def question_limit(self, context: int) -> int:
        """Tokens of a question that fit into the context. Raises ContextError when there are
        none."""
        retrieval = 1 + self.query_budget + 2 + self.k * (self.passage_tokens + 1)
        limit = context - 1 - self.quota * retrieval - 1 - self.answer_budget
        if limit < 1:
            raise ContextError(
                f"the context of {context} tokens has no room for a question beside k = {self.k}"
                f" passages of {self.passage_tokens} tokens, {self.quota} times; lower k, the quota"
                " or the passage length"
            )
        return limit

    def reset(
        self, questions: Sequence[Question], tokenizer: Tokenizer, context: int
    ) -> list[Episode]:
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
        queries = {}
        for i, (episode, action) in enumerate(zip(episodes, actions, strict=True)):
            query = self.act(episode, action, tokenizer)
            if query is not None:
                queries[i] = query
        for i, turn in zip(queries, self.search(list(queries.values())), strict=True):
            self.observe(episodes[i], turn, tokenizer)
        return list(queries)

    def act(self, episode: Episode, action: Action, tokenizer: Tokenizer) -> str | None:
        """Append an action with its reward: the query to search for, None if the episode has
        ended."""
        decision = tokenizer.retrieve if action.retrieve else tokenizer.answer
        episode.append([decision], Part.DECISION if action.free else Part.STATE)
        if action.given is not None:
            read = self.translate(episode.question, action.given)
            text = [*tokenizer.encode(read)[: self.query_budget - 1], tokenizer.eos]
            episode.append(text, Part.STATE)
            episode.rewards[-1] = -self.reward.retrieval_cost
            return action.given
        episode.append(action.text, Part.QUERY if action.retrieve else Part.ANSWER)
        words = tokenizer.decode(action.text)
        if not words or action.text[-1] != tokenizer.eos:
            episode.malformed = True
            episode.rewards[-1] = -self.reward.malformed_cost
            return None
        words = self.translate(episode.question, words)
        if action.retrieve:
            episode.rewards[-1] = -self.reward.retrieval_cost
            return words
        episode.rewards[-1] = self.judge(episode, words)
        return None

    def judge(self, episode: Episode, answer: str) -> float:
        """Record an answer with its figures in the episode, and return its reward."""
        accepted = episode.question.answers
        episode.answer = answer
        episode.exact_match = exact_match(answer, accepted)
        episode.f1 = f1_score(answer, accepted)
        if self.own_reward:
            return self.own_reward(episode)
        return self.reward.answer(episode.exact_match, episode.f1)

    def observe(self, episode: Episode, turn: Turn, tokenizer: Tokenizer) -> None:
        """Append what a retrieval found: <obs> title text <sep> title text ... </obs>."""
        episode.turns.append(turn)
        found = [self.corpus[row] for turn in episode.turns for row in turn.passages]
        episode.hit = hit(found, episode.question)
        passages = self.encode(episode.question, turn.passages, tokenizer)
        episode.append(observation(passages, tokenizer), Part.STATE)

    def encode(
        self, question: Question, rows: Sequence[int], tokenizer: Tokenizer
    ) -> list[list[int]]:
        """Tokens of "title text" of these rows of the corpus as the policy reads them, cut to
        `passage_tokens`. A passage that reads as it is written is tokenised once."""
        known = self._passages.setdefault(tokenizer, {})
        encoded = []
        for row in rows:
            text = self.corpus[row].full_text
            read = self.translate(question, text)
            if read != text:
                encoded.append(tokenizer.encode(read)[: self.passage_tokens])
                continue
            if row not in known:
                known[row] = tokenizer.encode(text)[: self.passage_tokens]
            encoded.append(known[row])
        return encoded

    def search(self, queries: Sequence[str]) -> list[Turn]:
        """One turn per query: rows of the corpus, best first, at most k. Raises RetrieverError."""
        if not queries:
            return []
        ids, scores = self._ask(list(queries))
        self._check(queries, ids, scores)
        turns = []
        for query, row, row_scores in zip(queries, ids.tolist(), scores.tolist(), strict=True):
            found = [(i, s) for i, s in zip(row, row_scores, strict=True) if i >= 0]
            turns.append(Turn(query, [i for i, _ in found], [s for _, s in found]))
        return turns

    def _ask(self, queries: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Whatever fails raises RetrieverError: training on without observations would be worse."""
        try:
            ids, scores = map(np.atleast_1d, self.index.search(queries, k=self.k))
        except RetrieverError:
            raise
        except Exception as error:
            problem = f"{len(queries)} queries: {type(error).__name__}: {error}"
            raise RetrieverError(f"the retriever failed on {problem}") from error
        return ids, scores

    def _check(self, queries: Sequence[str], ids: np.ndarray, scores: np.ndarray) -> None:
        """Raises RetrieverError unless ids and scores are k hits for every query. A lexical index
        (`lexical = True`) may find fewer: a query of unknown words has none."""
        if len(ids) != len(queries):
            raise RetrieverError(
                f"the retriever returned {len(ids)} results for {len(queries)} queries"
            )
        shaped = ids.ndim == 2 and ids.shape == scores.shape and ids.shape[1] <= self.k
        if not shaped or ids.dtype.kind not in "iu" or scores.dtype.kind not in "fiu":
            raise RetrieverError(
                f"the retriever returned ids {ids.dtype} {list(ids.shape)} and scores"
                f" {scores.dtype} {list(scores.shape)}, expected two of [{len(queries)}, at most"
                f" {self.k}]"
            )
        if ids.max(initial=-1) >= len(self.corpus) or ids.min(initial=-1) < -1:
            wrong = ids.max() if ids.max() >= len(self.corpus) else ids.min()
            raise RetrieverError(
                f"the retriever returned passage {wrong} of a corpus of {len(self.corpus)}:"
                " it indexes another corpus"
            )
        if not np.isfinite(scores[ids >= 0]).all():
            raise RetrieverError("the retriever returned scores that are no numbers")
        ordered = np.sort(ids)
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            raise RetrieverError("the retriever returned a passage twice for one query")
        hits = (ids >= 0).sum(1)
        if getattr(self.index, "lexical", False):
            if len(queries) >= MANY and not hits.any() and not self._finds_passages():
                raise RetrieverError(
                    f"the retriever found nothing for any of {len(queries)} queries"
                )
        elif hits.min() < min(self.k, len(self.corpus)):
            query = queries[int(hits.argmin())]
            raise RetrieverError(
                f"the retriever returned {hits.min()} of {self.k} passages for the query {query!r}"
            )

    def _finds_passages(self) -> bool:
        """Whether an index has a hit for any of the first passages' own words: a policy that has
        learnt little may write queries of which no passage has a word, many times over."""
        first = [self.corpus[i].full_text[:200] for i in range(min(MANY, len(self.corpus)))]
        return bool((self._ask(first)[0] >= 0).any())


def observation(passages: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[int]:
    """<obs> passage <sep> passage ... </obs>; each passage is the tokens of "title text"."""
    tokens = [tokenizer.obs]
    for i, passage in enumerate(passages):
        if i:
            tokens.append(tokenizer.sep)
        tokens += passage
    return [*tokens, tokenizer.obs_end]
