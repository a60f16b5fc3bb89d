"""The environment: a retriever over a corpus, the quota, and what is paid. One class for training, evaluation and
every baseline.

It takes any retriever that has `search(queries, k) -> (ids int [Q, k] padded with -1, scores [Q, k])`. A retriever
that fails raises; a failure never becomes an empty observation. All observations of an episode stay in view, and
after `quota` retrievals only [ANSWER] is left.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from data.metrics import exact_match, f1_score
from data.world import Question, World
from model import Tokenizer
from rl.episode import Episode, Turn, observation
from rl.reward import Reward
from rl.warmup.renaming import rename


class RetrieverError(RuntimeError):
    """The retriever failed, or answered with something that is no search result."""


class ContextError(ValueError):
    """The policy's context cannot hold an episode of this environment."""


class RagEnv:
    def __init__(
        self,
        world: World,
        index,
        k: int | None = None,
        quota: int | None = None,
        reward: Reward = Reward(),
        passage_tokens: int = 64,
        query_budget: int = 32,
        answer_budget: int = 16,
    ):
        """k passages per retrieval and at most `quota` retrievals (default: the world's own); budgets count tokens."""
        self.corpus, self.index = world.corpus, index
        self.k, self.quota = k or world.k, world.quota if quota is None else quota
        self.reward, self.passage_tokens = reward, passage_tokens
        self.query_budget, self.answer_budget = query_budget, answer_budget
        self._passages: WeakKeyDictionary[Tokenizer, dict[int, list[int]]] = WeakKeyDictionary()

    def longest_after_question(self) -> int:
        """The most tokens that can follow the question: what has to fit into the context."""
        retrieval = 1 + self.query_budget + 2 + self.k * (self.passage_tokens + 1)
        return self.quota * retrieval + 1 + self.answer_budget

    def question_room(self, context: int) -> int:
        """Tokens of the question that fit; longer ones are cut and counted. Raises ContextError when there is no room."""
        room = context - self.longest_after_question() - 1
        if room < 1:
            raise ContextError(
                f"the context of {context} tokens has no room for a question beside k = {self.k} passages of "
                f"{self.passage_tokens} tokens, {self.quota} times; lower k, the quota or the passage length"
            )
        return room

    def search(self, queries: Sequence[str]) -> list[Turn]:
        """One turn per query: rows of the corpus, best first, at most k. Raises RetrieverError."""
        if not queries:
            return []
        try:
            ids, scores = self.index.search(list(queries), k=self.k)
        except RetrieverError:
            raise
        except (
            Exception
        ) as error:  # whatever it is, training on without observations would be worse
            raise RetrieverError(
                f"the retriever failed on {len(queries)} queries: {type(error).__name__}: {error}"
            ) from error
        if len(ids) != len(queries):
            raise RetrieverError(
                f"the retriever returned {len(ids)} results for {len(queries)} queries"
            )
        ids, scores = np.asarray(ids), np.asarray(scores)
        if (
            ids.ndim != 2
            or ids.shape != scores.shape
            or ids.shape[1] > self.k
            or ids.dtype.kind not in "iu"
        ):
            raise RetrieverError(
                f"the retriever returned ids {ids.dtype} {list(ids.shape)} and scores {list(scores.shape)}, expected two of "
                f"[{len(queries)}, at most {self.k}]"
            )
        if ids.max(initial=-1) >= len(self.corpus):
            raise RetrieverError(
                f"the retriever returned passage {ids.max()} of a corpus of {len(self.corpus)}: it indexes another corpus"
            )
        turns = []
        for query, row, row_scores in zip(queries, ids.tolist(), scores.tolist()):
            found = [(i, s) for i, s in zip(row, row_scores) if i >= 0]
            turns.append(Turn(query, [i for i, _ in found], [s for _, s in found]))
        return turns

    def passage_ids(self, passages: Sequence[int], tokenizer: Tokenizer) -> list[list[int]]:
        """Tokens of "title text" for rows of the corpus, cut to `passage_tokens`; each passage is tokenised once."""
        known = self._passages.setdefault(tokenizer, {})
        new = [i for i in passages if i not in known]
        known.update(zip(new, self.encode([self.corpus[i].full_text for i in new], tokenizer)))
        return [known[i] for i in passages]

    def encode(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        """Tokens of passages' texts, cut to `passage_tokens`."""
        return [ids[: self.passage_tokens] for ids in tokenizer.encode_batch(texts)]

    def observe(
        self, turn: Turn, tokenizer: Tokenizer, names: dict[str, str] | None = None
    ) -> list[int]:
        """The observation tokens of a retrieval, under other `names` where there are some (rl/renaming.py)."""
        if not names:
            return observation(self.passage_ids(turn.passages, tokenizer), tokenizer)
        return observation(
            self.encode(
                [rename(self.corpus[i].full_text, names) for i in turn.passages], tokenizer
            ),
            tokenizer,
        )

    def judge(self, episode: Episode, answer: str) -> float:
        """Record the answer's figures in the episode and return what it is paid; hits are recorded as they are retrieved."""
        question: Question = episode.question
        episode.answer = answer = rename(answer, episode.names)
        episode.exact_match, episode.f1 = (
            exact_match(answer, question.answers),
            f1_score(answer, question.answers),
        )
        return self.reward.answer(episode.exact_match, episode.f1)


def report_cut(questions: list[Question], tokenizer: Tokenizer, room: int) -> None:
    """Say how many questions are longer than what the context leaves for them."""
    if cut := sum(
        len(ids) > room for ids in tokenizer.encode_batch([q.question for q in questions])
    ):
        print(
            f"{cut} of {len(questions)} training questions are longer than the {room} tokens that the context leaves for them, and are cut"
        )
