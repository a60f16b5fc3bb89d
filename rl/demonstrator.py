"""Warm-up demonstrations: training questions turned into episodes, with the real index and its real mistakes.

A demonstration answers directly, or asks what the teacher asks (data/demonstrations.py) and copies the answer from what was
found. Everything that makes a reader rely on the passages instead of its memory happens here: swapped answers, shuffled
passages, the gold passage put in where the query missed it, and no answer to learn where it could only be guessed.
Left out: which branch a demonstration takes, and the loss (train_sft.py).
"""
import re

import numpy as np

from data.demonstrations import Teacher, answerable, gold_passage
from data.world import Question, World
from model import Tokenizer

from .environment import RagEnv
from .episode import Episode, Turn, observation


class Demonstrator:
    def __init__(self, world: World, questions: list[Question], env: RagEnv, tokenizer: Tokenizer, args):
        """args: those of train_sft.py, of which context, swap, shuffle and gold are used."""
        self.world, self.env, self.tokenizer, self.args = world, env, tokenizer, args
        self.rows = {p.id: i for i, p in enumerate(world.corpus)}
        self.room = env.question_room(args.context)
        gold = [gold_passage(q, self.rows) for q in questions]
        self.teacher = Teacher(questions, [world.corpus[row] if row is not None else None for row in gold])
        self.others: dict[str | None, list[str]] = {}  # relation -> answers of its training questions
        for question in questions:
            self.others.setdefault(question.relation, []).append(question.answers[0])

    def demonstrate(self, questions: list[Question], retrieve: list[bool], label: list[bool], known: list[bool], rng: np.random.Generator,
                    forced: float = 1.0) -> list[Episode]:
        """One episode per question. label: whether its decision token carries loss. known: whether the policy can answer
        without passages, and so can learn to when the passages miss. forced < 1: the curriculum, in which the
        observation holds 1 + forced * (k - 1) passages and always the gold one."""
        gold = [gold_passage(q, self.rows) for q in questions]
        asking = [i for i, r in enumerate(retrieve) if r]
        queries = [self.teacher.query(questions[i], rng) for i in asking]
        turns = dict(zip(asking, self.env.search(queries)))
        prompts = self.tokenizer.encode_batch([q.question for q in questions])
        episodes = []
        for i, (question, prompt) in enumerate(zip(questions, prompts)):
            episode = Episode(question)
            episode.state([self.tokenizer.bos, *prompt[:self.room]])
            answer = self._retrieve(episode, turns[i], gold[i], label[i], known[i], rng, forced) if retrieve[i] else question.answers[0]
            if answer is not None:
                ids = [self.tokenizer.answer, *self.tokenizer.encode(answer), self.tokenizer.eos]
                episode.action(ids, 0.0, decision=label[i] and not retrieve[i])
            episodes.append(episode)
        return episodes

    def _retrieve(self, episode: Episode, turn: Turn, gold: int | None, label: bool, known: bool, rng: np.random.Generator, forced: float) -> str | None:
        """Append a retrieval; the answer to learn from it, or None where it could only be guessed: the episode then ends
        with its query. To learn guesses made readers of the same 700 steps copy worse: tail EM given a hit .71 with 30 %
        of the guesses, .77 with 10 %, .83 with none (dev, one seed)."""
        if forced < 1.0:
            turn.passages = turn.passages[:1 + int(forced * self.env.k)]
        if gold is not None and gold not in turn.passages and (forced < 1.0 or rng.random() < self.args.gold):
            turn.passages = [*turn.passages[:-1], gold]
        if rng.random() < self.args.shuffle:
            rng.shuffle(turn.passages)
        words = self.tokenizer.encode(turn.query)[:self.env.query_budget - 1]
        episode.action([self.tokenizer.retrieve, *words, self.tokenizer.eos], 0.0, decision=label)
        episode.turns.append(turn)
        if not known and not answerable([self.world.corpus[p] for p in turn.passages], episode.question):
            return None
        passages, answer = list(self.env.passage_ids(turn.passages, self.tokenizer)), episode.question.answers[0]
        if gold in turn.passages and rng.random() < self.args.swap:
            answer = self._swap(passages, turn.passages.index(gold), gold, episode.question, rng)
        episode.state(observation(passages, self.tokenizer))
        return answer

    def _swap(self, passages: list[list[int]], position: int, gold: int, question: Question, rng: np.random.Generator) -> str:
        """Put another answer of the same relation into the gold passage, and return it: what is read must be copied,
        because it cannot be remembered (Longpre et al., 2021, use such conflicts to test readers). Where the passage
        does not hold the answer word for word, nothing changes."""
        passage, answer = self.world.corpus[gold], question.answers[0]
        other = str(rng.choice(self.others[question.relation]))
        text = re.sub(rf"(?<!\w){re.escape(answer)}(?!\w)", lambda _: other, passage.text)
        if text == passage.text:
            return answer
        passages[position] = self.tokenizer.encode(f"{passage.title} {text}")[:self.env.passage_tokens]
        return other
