"""Warm-up demonstrations: training questions turned into episodes, with the real index and its
mistakes.

A demonstration answers directly, or asks what the teacher asks (rl/warmup/teacher.py) and copies
the answer from what was found. A multi-hop question is asked about again, as long as the quota
allows, where a gold passage is missing whose title has been read by then. Everything that makes a
reader rely on the passages instead of its memory happens here: swapped answers and renamed bridge
entities, shuffled passages, the gold passage put in where the query missed it, and no answer to
learn where it could only be guessed. Left out: which branch a demonstration takes, and the loss
(train_sft.py).
"""

import re
from dataclasses import dataclass, field

import numpy as np

from data.metrics import answerable, gold_passage, missing_gold, stated
from data.world import MULTI_HOP, Passage, Question, World
from model import Tokenizer
from rl.environment import Action, RagEnv, observation
from rl.episode import Episode, Part, Turn
from rl.warmup.renaming import Names, Renamer, rename
from rl.warmup.teacher import Teacher

NO_SWAP = ("comparison", "bridge_comparison")  # answers that no passage states alone


@dataclass
class Demonstration:
    """An episode in the making."""

    episode: Episode
    label: bool  # whether its first decision carries loss; later ones always do
    known: (
        bool  # whether the policy can answer without passages, and so can learn to where they miss
    )
    rng: np.random.Generator
    names: Names = field(default_factory=dict)  # what its bridge entity is called instead


class Demonstrator:
    def __init__(
        self,
        world: World,
        questions: list[Question],
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
        self.world, self.env, self.tokenizer, self.context = world, env, tokenizer, context
        self.swap, self.shuffle, self.gold = swap, shuffle, gold
        self.rows = {p.id: i for i, p in enumerate(world.corpus)}
        first = [gold_passage(q, self.rows) for q in questions]
        passages = [None if row is None else world.corpus[row] for row in first]
        self.teacher = Teacher(questions, passages)
        hops = [q for q in questions if q.type in MULTI_HOP and q.gold_passages]
        self.follow_up = Teacher(hops, [self.passage(q.gold_passages[-1]) for q in hops])
        self.renamer = Renamer(hops, world.corpus)
        self.answers: dict[str | None, list[str]] = {}  # relation -> answers of its questions
        for question in questions:
            self.answers.setdefault(question.relation, []).append(question.answers[0])

    def demonstrate(
        self,
        questions: list[Question],
        retrieve: list[bool],
        label: list[bool],
        known: list[bool],
        rngs: list[np.random.Generator],
        forced: float = 1.0,
    ) -> list[Episode]:
        """One episode per question, each with a random stream of its own. forced < 1: the
        curriculum, in which the observation holds 1 + forced (k - 1) passages and always the gold
        one."""
        episodes = self.env.reset(questions, self.tokenizer, self.context)
        started = [Demonstration(*x) for x in zip(episodes, label, known, rngs, strict=True)]
        for demonstration, asks in zip(started, retrieve, strict=True):
            if not asks:
                answer = demonstration.episode.question.answers[0]
                self.answer(demonstration.episode, answer, demonstration.label)
        asking = [d for d, asks in zip(started, retrieve, strict=True) if asks]
        queries = [self.teacher.query(d.episode.question, d.rng) for d in asking]
        for left in reversed(range(self.env.quota)):
            turns = self.env.search(queries)
            follow_ups = [
                self.turn(d, turn, left, forced) for d, turn in zip(asking, turns, strict=True)
            ]
            again = [i for i, query in enumerate(follow_ups) if query is not None]
            asking, queries = [asking[i] for i in again], [follow_ups[i] for i in again]
        return episodes

    def answer(self, episode: Episode, answer: str, decision: bool) -> None:
        text = [*self.tokenizer.encode(answer), self.tokenizer.eos]
        self.env.act(episode, Action(False, text, free=decision), self.tokenizer)

    def turn(self, d: Demonstration, turn: Turn, left: int, forced: float) -> str | None:
        """Append a retrieval, after which `left` more are allowed, and what follows: the answer to
        be learnt from it, or nothing where it could only be guessed (the episode then ends with its
        query), or a follow-up query, which is returned. To learn guesses made readers of the same
        700 steps copy worse: tail EM given a hit .71 with 30 % of the guesses, .77 with 10 %, .83
        with none (dev, one seed).
        """
        episode, question = d.episode, d.episode.question
        self.choose_passages(d, turn, forced)
        words = self.tokenizer.encode(rename(turn.query, d.names))[: self.env.query_budget - 1]
        action = Action(True, [*words, self.tokenizer.eos], free=bool(episode.turns) or d.label)
        self.env.act(episode, action, self.tokenizer)
        episode.turns.append(turn)
        read = self.read(episode)
        bridge = self.bridge(question, read) if left > 0 else None
        if bridge is None and not d.known and not answerable(read, question):
            return None
        if (
            bridge
            and not d.names
            and bridge not in question.question
            and d.rng.random() < self.swap
        ):
            d.names = self.bridge_names(bridge, question, d.rng)
        answer = self.show(d, turn)
        if bridge is not None:
            return self.follow_up.query(question, d.rng, bridge)
        self.answer(episode, answer, left > 0)
        return None

    def choose_passages(self, d: Demonstration, turn: Turn, forced: float) -> None:
        """What the retriever found, changed in place: cut by the curriculum, with a gold passage,
        shuffled."""
        missing = missing_gold(self.read(d.episode), d.episode.question)
        gold = self.rows.get(missing[0]) if missing else None
        if forced < 1.0:
            turn.passages = turn.passages[: 1 + int(forced * self.env.k)]
        puts_in = gold is not None and gold not in turn.passages
        if puts_in and (forced < 1.0 or d.rng.random() < self.gold):
            turn.passages = [*turn.passages[:-1], gold]
        if d.rng.random() < self.shuffle:
            d.rng.shuffle(turn.passages)

    def bridge(self, question: Question, read: list[Passage]) -> str | None:
        """The title of a gold passage that is still missing and has been named by now."""
        if question.type not in MULTI_HOP:
            return None
        text = f"{question.question} " + " ".join(p.full_text for p in read)
        titles = (self.passage(id).title for id in missing_gold(read, question))
        return next((title for title in titles if title in text), None)

    def show(self, d: Demonstration, turn: Turn) -> str:
        """Append the observation, some of whose passages state another answer; the answer to
        learn."""
        question = d.episode.question
        passages, answer = [self.world.corpus[row] for row in turn.passages], question.answers[0]
        texts = [rename(p.full_text, d.names) for p in passages]
        if found := stated(passages, question):
            position, answer = found
            if d.rng.random() < self.swap and question.type not in NO_SWAP:
                title = rename(passages[position].title, d.names)
                texts[position], answer = self.swapped(
                    texts[position], len(title), question, answer, d.rng
                )
        tokens = self.env.encode(question, turn.passages, self.tokenizer)
        for i, (passage, text) in enumerate(zip(passages, texts, strict=True)):
            if text != passage.full_text:
                tokens[i] = self.tokenizer.encode(text)[: self.env.passage_tokens]
        d.episode.append(observation(tokens, self.tokenizer), Part.STATE)
        return answer

    def read(self, episode: Episode) -> list[Passage]:
        return [self.world.corpus[row] for turn in episode.turns for row in turn.passages]

    def passage(self, id: str) -> Passage:
        return self.world.corpus[self.rows[id]]

    def bridge_names(self, title: str, question: Question, rng: np.random.Generator) -> Names:
        """Another name for a bridge entity: who wrote the book, too, must be copied, because it
        cannot be remembered, nor its second word be guessed from its first. {} where the answer
        shares a word."""
        names: Names = {}
        self.renamer.exchange(title, names, rng)
        answer = {word for text in question.answers for word in text.split()}
        return {} if answer & names.keys() else names

    def swapped(
        self, text: str, title: int, question: Question, answer: str, rng: np.random.Generator
    ) -> tuple[str, str]:
        """Put another answer of the same relation into the text of a passage that states it, and
        return both: what is read must be copied, because it cannot be remembered (Longpre et al.,
        2021, use such conflicts to test readers). Where the passage does not hold the answer word
        for word behind its title, of `title` characters, nothing changes."""
        answers = self.answers[question.relation]
        other = answers[int(rng.integers(len(answers)))]
        pattern = rf"(?<!\w){re.escape(answer)}(?!\w)"
        changed = text[:title] + re.sub(pattern, lambda _: other, text[title:])
        return (changed, other) if changed != text else (text, answer)
