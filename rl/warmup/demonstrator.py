"""Warm-up demonstrations: training questions turned into episodes, with the real index and its real mistakes.

A demonstration answers directly, or asks what the teacher asks (data/demonstrations.py) and copies the answer from what was
found. A multi-hop question is asked about again, as long as the quota allows, where a gold passage is missing whose title
has been read by then. Everything that makes a reader rely on the passages instead of its memory happens here: swapped answers
and renamed bridge entities, shuffled passages, the gold passage put in where the query missed it, and no answer to learn where
it could only be guessed.
Left out: which branch a demonstration takes, and the loss (train_sft.py).
"""

import re

import numpy as np

from data.metrics import answerable, gold_passage, missing_gold, stated
from data.world import MULTI_HOP, Passage, Question, World
from model import Tokenizer
from rl.environment import RagEnv
from rl.episode import Episode, Turn, observation
from rl.warmup.renaming import rename
from rl.warmup.teacher import Teacher


class Demonstrator:
    def __init__(
        self, world: World, questions: list[Question], env: RagEnv, tokenizer: Tokenizer, args
    ):
        """args: those of train_sft.py, of which context, swap, shuffle and gold are used."""
        self.world, self.env, self.tokenizer, self.args = world, env, tokenizer, args
        self.rows = {p.id: i for i, p in enumerate(world.corpus)}
        self.room = env.question_room(args.context)
        first = [gold_passage(q, self.rows) for q in questions]
        self.teacher = Teacher(
            questions, [world.corpus[row] if row is not None else None for row in first]
        )
        hops = [q for q in questions if q.type in MULTI_HOP and q.gold_passages]
        self.follow_up = Teacher(hops, [self._passage(q.gold_passages[-1]) for q in hops])
        self.bridges = sorted(
            {
                title
                for q in hops
                for title in (self._passage(i).title for i in q.gold_passages)
                if title not in q.question
            }
        )
        self.others: dict[
            str | None, list[str]
        ] = {}  # relation -> answers of its training questions
        for question in questions:
            self.others.setdefault(question.relation, []).append(question.answers[0])

    def demonstrate(
        self,
        questions: list[Question],
        retrieve: list[bool],
        label: list[bool],
        known: list[bool],
        rng: np.random.Generator,
        forced: float = 1.0,
    ) -> list[Episode]:
        """One episode per question. label: whether its first decision carries loss (later ones always do). known: whether the
        policy can answer without passages, and so can learn to when the passages miss. forced < 1: the curriculum, in which the
        observation holds 1 + forced * (k - 1) passages and always the gold one."""
        episodes = [Episode(question) for question in questions]
        for episode, prompt in zip(
            episodes, self.tokenizer.encode_batch([q.question for q in questions])
        ):
            episode.state([self.tokenizer.bos, *prompt[: self.room]])
        for i, episode in enumerate(episodes):
            if not retrieve[i]:
                self._answer(episode, episode.question.answers[0], label[i])
        names: list[dict[str, str]] = [
            {} for _ in questions
        ]  # what the bridge entity of each episode is called instead, word by word
        asking = {i: self.teacher.query(questions[i], rng) for i, r in enumerate(retrieve) if r}
        for left in reversed(range(self.env.quota)):
            again = {}
            for i, turn in zip(asking, self.env.search(list(asking.values()))):
                query = self._turn(
                    episodes[i],
                    turn,
                    left,
                    bool(episodes[i].turns) or label[i],
                    known[i],
                    names[i],
                    rng,
                    forced,
                )
                if query is not None:
                    again[i] = query
            asking = again
        return episodes

    def _answer(self, episode: Episode, answer: str, decision: bool) -> None:
        episode.action(
            [self.tokenizer.answer, *self.tokenizer.encode(answer), self.tokenizer.eos],
            0.0,
            decision,
        )

    def _turn(
        self,
        episode: Episode,
        turn: Turn,
        left: int,
        decision: bool,
        known: bool,
        names: dict[str, str],
        rng: np.random.Generator,
        forced: float,
    ) -> str | None:
        """Append a retrieval, after which `left` more are allowed, and what follows: the answer to be learnt from it, or
        nothing where it could only be guessed (the episode then ends with its query), or a follow-up query, which is
        returned. To learn guesses made readers of the same 700 steps copy worse: tail EM given a hit .71 with 30 % of the
        guesses, .77 with 10 %, .83 with none (dev, one seed)."""
        question = episode.question
        gold = self.rows.get(next(iter(missing_gold(self._seen(episode), question)), ""))
        if forced < 1.0:
            turn.passages = turn.passages[: 1 + int(forced * self.env.k)]
        if (
            gold is not None
            and gold not in turn.passages
            and (forced < 1.0 or rng.random() < self.args.gold)
        ):
            turn.passages = [*turn.passages[:-1], gold]
        if rng.random() < self.args.shuffle:
            rng.shuffle(turn.passages)
        words = self.tokenizer.encode(rename(turn.query, names))[: self.env.query_budget - 1]
        episode.action([self.tokenizer.retrieve, *words, self.tokenizer.eos], 0.0, decision)
        episode.turns.append(turn)

        seen = self._seen(episode)
        read = f"{question.question} " + " ".join(p.full_text for p in seen)
        title = (
            next(
                (
                    p.title
                    for p in map(self._passage, missing_gold(seen, question))
                    if p.title in read
                ),
                None,
            )
            if question.type in MULTI_HOP
            else None
        )
        asks = left > 0 and title is not None
        if not (asks or known or answerable(seen, question)):
            return None
        if asks and not names and title not in question.question and rng.random() < self.args.swap:
            names.update(self._other_name(title, question, rng))
        passages, answer = [self.world.corpus[p] for p in turn.passages], question.answers[0]
        texts = [rename(p.full_text, names) for p in passages]
        if found := stated(passages, question):
            position, answer = found
            if rng.random() < self.args.swap and question.type not in (
                "comparison",
                "bridge_comparison",
            ):  # whose answer no passage states alone
                texts[position], answer = self._swap(
                    texts[position],
                    len(rename(passages[position].title, names)),
                    question,
                    answer,
                    rng,
                )
        episode.state(observation(self._encode(turn.passages, passages, texts), self.tokenizer))
        if asks:
            return self.follow_up.query(question, rng, title)
        self._answer(episode, answer, left > 0)
        return None

    def _seen(self, episode: Episode) -> list[Passage]:
        return [self.world.corpus[row] for turn in episode.turns for row in turn.passages]

    def _passage(self, id: str) -> Passage:
        return self.world.corpus[self.rows[id]]

    def _encode(
        self, rows: list[int], passages: list[Passage], texts: list[str]
    ) -> list[list[int]]:
        """Tokens of passages, anew of those whose text was changed."""
        tokens = list(self.env.passage_ids(rows, self.tokenizer))
        for i, (passage, text) in enumerate(zip(passages, texts)):
            if text != passage.full_text:
                tokens[i] = self.env.encode([text], self.tokenizer)[0]
        return tokens

    def _other_name(
        self, title: str, question: Question, rng: np.random.Generator
    ) -> dict[str, str]:
        """Word by word another name for a bridge entity, put together from two bridge entities of the training questions: who
        wrote the book, too, must be copied, because it cannot be remembered, nor its second word be guessed from its
        first. {} where the answer shares a word with the name, or the names differ in length."""
        first, last = (str(rng.choice(self.bridges)).split() for _ in range(2))
        words, other = title.split(), [*first[:-1], last[-1]]
        known = {word for answer in question.answers for word in answer.split()}
        return (
            dict(zip(words, other)) if len(words) == len(other) and known.isdisjoint(words) else {}
        )

    def _swap(
        self, text: str, title: int, question: Question, answer: str, rng: np.random.Generator
    ) -> tuple[str, str]:
        """Put another answer of the same relation into the text of a passage that states it, and return both: what is read must
        be copied, because it cannot be remembered (Longpre et al., 2021, use such conflicts to test readers). Where the
        passage does not hold the answer word for word behind its title, of `title` characters, nothing changes."""
        other = str(rng.choice(self.others[question.relation]))
        changed = text[:title] + re.sub(
            rf"(?<!\w){re.escape(answer)}(?!\w)", lambda _: other, text[title:]
        )
        return (changed, other) if changed != text else (text, answer)
