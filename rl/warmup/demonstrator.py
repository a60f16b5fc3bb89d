"""Warm-up demonstrations: training questions turned into episodes, with the real index and its
mistakes.

A demonstration answers directly, or asks what the teacher asks (teacher.py) and copies the answer
from what was found. A multi-hop question is asked about again, as long as the quota allows, where a
gold passage is missing whose title has been read by then. Everything that makes a reader rely on
the passages instead of its memory happens here: swapped answers and renamed bridge entities,
shuffled passages, the gold passage put in where the query missed it, and no answer to learn where
it could only be guessed. Left out: which branch a demonstration takes (curriculum.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from data.metrics import answerable, gold_passage, missing_gold, stated
from data.world import MULTI_HOP, Passage, Question, World
from model import Tokenizer
from rl.environment import Action, RagEnv, observation
from rl.episode import Episode, Part, Turn
from rl.warmup.renaming import Names, Renamer, rename
from rl.warmup.teacher import Teacher

NO_SWAP = ("comparison", "bridge_comparison")  # answers that no passage states alone


class Branch(NamedTuple):
    """What is to be demonstrated."""

    question: Question
    retrieve: bool
    label: bool = False  # whether its first decision carries loss; later ones always do
    known: bool = False  # whether the policy can answer without passages, so also where they miss


@dataclass
class Demonstration:
    """An episode in the making."""

    branch: Branch
    episode: Episode
    rng: np.random.Generator
    query: str | None = None  # to be searched for next
    names: Names = field(default_factory=dict)  # what its bridge entity is called instead


class Demonstrator:
    def __init__(
        self,
        world: World,
        questions: Sequence[Question],
        env: RagEnv,
        tokenizer: Tokenizer,
        context: int,
        swap: float = 0.7,
        shuffle: float = 0.5,
        gold: float = 0.5,
    ):
        """Probabilities: swap, of another answer inside a gold passage; shuffle, of the passages;
        gold, of the gold passage being put in where the query missed it. context: tokens of an
        episode."""
        self.corpus, self.env, self.tokenizer, self.context = world.corpus, env, tokenizer, context
        self.swap, self.shuffle, self.gold = swap, shuffle, gold
        self.rows = {p.id: i for i, p in enumerate(world.corpus)}
        first = [gold_passage(q, self.rows) for q in questions]
        passages = [None if row is None else world.corpus[row] for row in first]
        self.teacher = Teacher(questions, passages)
        hops = [q for q in questions if q.type in MULTI_HOP and q.gold_passages]
        last = [world.corpus[self.rows[q.gold_passages[-1]]] for q in hops]
        self.follow_up = Teacher(hops, last)
        self.renamer = Renamer(hops, world.corpus)
        self.answers: dict[str | None, list[str]] = {}  # relation -> answers of its questions
        for question in questions:
            self.answers.setdefault(question.relation, []).append(question.answers[0])

    def demonstrate(
        self, branches: Sequence[Branch], rngs: Sequence[np.random.Generator], forced: float = 1.0
    ) -> list[Episode]:
        """One episode per branch, each with a random stream of its own. forced < 1: the curriculum,
        in which the observation holds 1 + forced (k - 1) passages and always the gold one."""
        episodes = self.env.reset([b.question for b in branches], self.tokenizer, self.context)
        made = [Demonstration(*x) for x in zip(branches, episodes, rngs, strict=True)]
        for d in made:
            if d.branch.retrieve:
                d.query = self.teacher.query(d.branch.question, d.rng)
            else:
                self.answer(d.episode, d.branch.question.answers[0], d.branch.label)
        for left in reversed(range(self.env.quota)):
            asking = [d for d in made if d.query is not None]
            turns = self.env.search([d.query for d in asking])
            for d, turn in zip(asking, turns, strict=True):
                d.query = self.turn(d, turn, left, forced)
        return episodes

    def answer(self, episode: Episode, answer: str, decision: bool) -> None:
        text = [*self.tokenizer.encode(answer), self.tokenizer.eos]
        self.env.act(episode, Action(False, text, free=decision), self.tokenizer)

    def turn(self, d: Demonstration, turn: Turn, left: int, forced: float) -> str | None:
        """Append a retrieval, after which `left` more are allowed, and what follows: the answer to
        be learnt from it, or nothing where it could only be guessed (to learn 30 % of the guesses
        cost .12 tail EM given a hit; dev, one seed), or a follow-up query, which is returned."""
        episode, question = d.episode, d.branch.question
        self.choose_passages(d, turn, forced)
        words = self.tokenizer.encode(rename(turn.query, d.names))[: self.env.query_budget - 1]
        free = bool(episode.turns) or d.branch.label
        self.env.act(episode, Action(True, [*words, self.tokenizer.eos], free), self.tokenizer)
        episode.turns.append(turn)
        read = self.read(episode)
        bridge = self.bridge(question, read) if left else None
        if bridge is None and not d.branch.known and not answerable(read, question):
            return None
        unnamed = bridge and not d.names and bridge not in question.question
        if unnamed and d.rng.random() < self.swap:
            self.rename_bridge(d, bridge)
        answer = self.show(d, turn)
        if bridge is not None:
            return self.follow_up.query(question, d.rng, bridge)
        self.answer(episode, answer, left > 0)
        return None

    def choose_passages(self, d: Demonstration, turn: Turn, forced: float) -> None:
        """Change in place what was found: cut by the curriculum, with a gold passage, shuffled."""
        missing = missing_gold(self.read(d.episode), d.branch.question)
        gold = self.rows.get(missing[0]) if missing else None
        if forced < 1.0:
            turn.passages = turn.passages[: 1 + int(forced * self.env.k)]
        puts_in = gold is not None and gold not in turn.passages
        if puts_in and (forced < 1.0 or d.rng.random() < self.gold):
            turn.passages = [*turn.passages[:-1], gold]
        if d.rng.random() < self.shuffle:
            d.rng.shuffle(turn.passages)

    def read(self, episode: Episode) -> list[Passage]:
        return [self.corpus[row] for turn in episode.turns for row in turn.passages]

    def bridge(self, question: Question, read: Sequence[Passage]) -> str | None:
        """The title of a gold passage that is still missing and has been named by now."""
        if question.type not in MULTI_HOP:
            return None
        text = f"{question.question} " + " ".join(p.full_text for p in read)
        titles = (self.corpus[self.rows[id]].title for id in missing_gold(read, question))
        return next((title for title in titles if title in text), None)

    def rename_bridge(self, d: Demonstration, title: str) -> None:
        """Another name, that must be copied as well, except where the answer shares a word."""
        names: Names = {}
        self.renamer.exchange(title, names, d.rng)
        if not names.keys() & set(" ".join(d.branch.question.answers).split()):
            d.names = names

    def show(self, d: Demonstration, turn: Turn) -> str:
        """Append the observation; the answer to learn from it. Where a passage states an answer, it
        may be made to state another one of the same relation behind its title: what is read must
        be copied, because it cannot be remembered (Longpre et al., 2021)."""
        question = d.branch.question
        passages, answer = [self.corpus[row] for row in turn.passages], question.answers[0]
        texts = [rename(p.full_text, d.names) for p in passages]
        if found := stated(passages, question):
            position, answer = found
            if d.rng.random() < self.swap and question.type not in NO_SWAP:
                others = self.answers[question.relation]
                other = others[int(d.rng.integers(len(others)))]
                text, title = texts[position], len(rename(passages[position].title, d.names))
                word = rf"(?<!\w){re.escape(answer)}(?!\w)"
                texts[position] = text[:title] + re.sub(word, lambda _: other, text[title:])
                answer = other if texts[position] != text else answer
        tokens = self.env.encode(question, turn.passages, self.tokenizer)
        for i, (passage, text) in enumerate(zip(passages, texts, strict=True)):
            if text != passage.full_text:
                tokens[i] = self.tokenizer.encode(text)[: self.env.passage_tokens]
        d.episode.append(observation(tokens, self.tokenizer), Part.STATE)
        return answer
