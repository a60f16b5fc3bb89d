"""Warm-up demonstrations: training questions as episodes, with the real index and its mistakes.

A demonstration answers directly, or asks what the teacher asks (teacher.py) and copies the answer
from what was found. A multi-hop question is asked about again, as long as the quota allows, where a
gold passage is missing whose title has been read by then. Everything that makes a reader rely on
the passages instead of its memory happens here: swapped answers and renamed bridge entities,
shuffled passages, the gold passage put in where the query missed it, and no answer to learn where
it could only be guessed. A step is a pure function of (seed, phase, step), on any number of ranks.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, default_rng

from data.metrics import answerable, gold_passage, missing_gold, stated
from data.world import MULTI_HOP, Passage, Question
from model import Tokenizer
from rl import ranks
from rl.environment import Action, RagEnv, observation
from rl.episode import Episode, Part, Turn
from rl.report.summary import mean, summarize
from rl.runs.progress import progress
from rl.warmup.questions import Names, QuestionSampler, Renamer, Stream, rename, typed
from rl.warmup.teacher import Teacher

GROWTH = 0.3  # share of the read steps: the observation grows from the gold passage to k
INFORMED = 0.7  # share of the mix phase's demonstrations whose branch is the probed label
NO_SWAP = ("comparison", "bridge_comparison")  # answers that no passage states alone


class Branch(NamedTuple):
    """What is to be demonstrated."""

    question: Question
    retrieve: bool
    label: bool = False  # whether its first decision carries loss; later ones always do
    known: bool = False  # whether the policy can answer without passages, so also where they miss


@dataclass
class Demonstrator:
    env: RagEnv
    questions: Sequence[Question]  # all that may be demonstrated
    tokenizer: Tokenizer
    context: int  # tokens of an episode at most
    swap: float = 0.7  # probability of another answer inside a gold passage
    shuffle: float = 0.5  # of shuffled passages
    gold: float = 0.5  # of the gold passage being put in where the query missed it

    def __post_init__(self):
        questions, self.corpus = self.questions, self.env.corpus
        self.rows = {p.id: i for i, p in enumerate(self.corpus)}
        first = [(q, gold_passage(q, self.rows)) for q in questions]
        self.teacher = Teacher([(q, self.corpus[row]) for q, row in first if row is not None])
        hops = [q for q in questions if q.type in MULTI_HOP and q.gold_passages]
        self.follow_up = Teacher([(q, self.corpus[self.rows[q.gold_passages[-1]]]) for q in hops])
        self.renamer = Renamer(hops, self.corpus)
        self.answers: dict[str | None, list[str]] = {}  # relation -> answers of its questions
        for question in questions:
            self.answers.setdefault(question.relation, []).append(question.answers[0])

    def demonstrate(
        self, branches: Sequence[Branch], rngs: Sequence[Generator], forced: float = 1.0
    ) -> list[Episode]:
        """One episode per branch, each with a random stream of its own. forced < 1: the curriculum,
        in which the observation holds 1 + forced (k - 1) passages and always the gold one."""
        episodes = self.env.reset([b.question for b in branches], self.tokenizer, self.context)
        queries = [self.write(*x, forced) for x in zip(episodes, branches, rngs, strict=True)]
        written = list(zip(episodes, queries, strict=True))
        while asking := [(e, q) for e, its in written if (q := next(its, None)) is not None]:
            turns = self.env.search([query for _, query in asking])
            for (episode, _), turn in zip(asking, turns, strict=True):
                episode.turns.append(turn)
        return episodes

    def write(
        self, episode: Episode, branch: Branch, rng: Generator, forced: float
    ) -> Iterator[str]:
        """Write a demonstration. Each query is yielded; what was found is then the last turn."""
        question, env = branch.question, self.env
        if not branch.retrieve:
            self.act(episode, False, question.answers[0], branch.label)
            return
        query, names = self.teacher.query(question, rng), {}
        missing = missing_gold([], question)
        for left in reversed(range(env.quota)):
            yield query
            self.choose_passages(episode.turns[-1], missing, rng, forced)
            self.act(episode, True, rename(query, names), branch.label or len(episode.turns) > 1)
            read = [self.corpus[row] for row in episode.found]
            missing = missing_gold(read, question)
            bridge = self.bridge(question, read, missing) if left else None
            if bridge is None and not branch.known and not answerable(read, question):
                return  # to learn 30 % of such guesses cost .12 tail EM given a hit (dev)
            is_named = bridge is None or names or bridge in question.question
            if not is_named and rng.random() < self.swap:
                names = self.other_names(bridge, question, rng)
            texts, answer = self.shown(question, episode.turns[-1], names, rng)
            episode.append(observation(texts, self.tokenizer, env.passage_tokens), Part.STATE)
            if bridge is None:
                self.act(episode, False, answer, left > 0)
                return
            query = self.follow_up.query(question, rng, bridge)

    def act(self, episode: Episode, retrieve: bool, text: str, free: bool) -> None:
        most = self.env.query_budget - 1 if retrieve else None  # an answer is never cut
        tokens = [*self.tokenizer.encode(text)[:most], self.tokenizer.eos]
        self.env.act(episode, Action(retrieve, tokens, free), self.tokenizer)

    def choose_passages(
        self, turn: Turn, missing: list[str], rng: Generator, forced: float
    ) -> None:
        """Change in place what was found: cut by the curriculum, with a gold passage, shuffled."""
        gold = self.rows.get(missing[0]) if missing else None
        if forced < 1.0:
            turn.passages = turn.passages[: 1 + int(forced * self.env.k)]
        puts_in = gold is not None and gold not in turn.passages
        if puts_in and (forced < 1.0 or rng.random() < self.gold):
            turn.passages = [*turn.passages[:-1], gold]
        if rng.random() < self.shuffle:
            rng.shuffle(turn.passages)

    def bridge(self, question: Question, read: list[Passage], missing: list[str]) -> str | None:
        """The title of a gold passage that is still missing and has been named by now."""
        if question.type not in MULTI_HOP:
            return None
        text = f"{question.question} " + " ".join(p.full_text for p in read)
        titles = (self.corpus[self.rows[id]].title for id in missing)
        return next((title for title in titles if title in text), None)

    def other_names(self, title: str, question: Question, rng: Generator) -> Names:
        """Another name, that must be copied as well; none where the answer shares a word of it."""
        names: Names = {}
        self.renamer.exchange(title, names, rng)
        return {} if names.keys() & set(" ".join(question.answers).split()) else names

    def shown(self, question: Question, turn: Turn, names: Names, rng: Generator):
        """The texts that are read, and the answer to learn from them. Where a passage states an
        answer, it may be made to state another one of the same relation behind its title: what is
        read must be copied, because it cannot be remembered (Longpre et al., 2021)."""
        passages, answer = [self.corpus[row] for row in turn.passages], question.answers[0]
        texts = [rename(p.full_text, names) for p in passages]
        if found := stated(passages, question):
            position, answer = found
            if rng.random() < self.swap and question.type not in NO_SWAP:
                others = self.answers[question.relation]
                other = others[int(rng.integers(len(others)))]
                text, title = texts[position], len(rename(passages[position].title, names))
                word = rf"(?<!\w){re.escape(answer)}(?!\w)"
                texts[position] = text[:title] + re.sub(word, lambda _: other, text[title:])
                answer = other if texts[position] != text else answer
        return texts, answer


class Curriculum:
    def __init__(self, sets: Sequence[Sequence[Question]], args):
        """args: of train_sft.py."""
        self.args = args
        self.read_sampler = QuestionSampler(sets, args.popular_share, args.seed)
        self.questions = self.read_sampler.questions
        rng = default_rng([args.seed, Stream.PROBE])
        order = rng.permutation(len(self.questions))[: args.probe]
        self.probed = [self.questions[i] for i in order]
        probed = set(self.probed)
        kept = [[q for q in questions if q in probed] for questions in sets]
        self.mix_sampler = QuestionSampler(kept, args.popular_share, args.seed)
        self.counters = {"knows": []}  # of the run: whether each probed question needs no retrieval

    @cached_property
    def knows(self) -> dict[Question, bool]:
        return dict(zip(self.probed, self.counters["knows"], strict=True))

    def probe(self, play: Callable) -> float:
        """Whether the direct answer of each question is right, word for word: the labels of mix.
        Returns the share that is. play(questions, force, update): greedy episodes."""
        with progress(len(self.probed), "probe", "question") as bar:
            episodes = play(self.probed, "answer", bar.update)
        self.counters["knows"] = [e.exact_match == 1.0 for e in episodes]
        return mean(self.counters["knows"])

    def read_branches(self, step: int) -> list[Branch]:
        args = self.args
        questions = self.read_sampler.draw(args.episodes, step, Stream.READ_QUESTIONS)
        rng = default_rng([args.seed, Stream.READ, step])
        popular = np.array([q.slice == "popular" for q in questions])
        place = np.empty(len(questions))  # in (0, 1) within a kind: shares are exact at every step
        for kind in (popular, ~popular):
            place[kind] = (rng.permutation(kind.sum()) + 0.5) / max(kind.sum(), 1)
        retrieve = place >= np.where(popular, args.direct_popular, args.direct_other)
        return list(map(Branch, questions, retrieve.tolist()))

    def mix_branches(self, step: int) -> list[Branch]:
        questions = self.mix_sampler.draw(self.args.episodes, step, Stream.MIX_QUESTIONS)
        rng = default_rng([self.args.seed, Stream.MIX, step])
        known = [self.knows[question] for question in questions]
        labels = rng.random(len(questions)) < INFORMED
        coins = rng.random(len(questions)) < 0.5
        retrieve = np.where(labels, np.logical_not(known), coins)
        return list(map(Branch, questions, retrieve.tolist(), labels.tolist(), known))

    def demonstrations(self, demonstrator: Demonstrator, phase: str, step: int) -> list[Episode]:
        """This rank's share of a step, dealt out by branch: retrievals, which are long, first."""
        args = self.args
        if phase == "read":
            branches, stream = self.read_branches(step), Stream.READ
            forced = min(1.0, step / max(1.0, GROWTH * args.read_steps))
        else:
            branches, stream, forced = self.mix_branches(step), Stream.MIX, 1.0
        questions = typed([b.question for b in branches], args.lower_case, args.seed, step)
        branches = [b._replace(question=q) for b, q in zip(branches, questions, strict=True)]
        share = ranks.share(sorted(enumerate(branches), key=lambda x: not x[1].retrieve))
        rngs = [default_rng([args.seed, stream, step, i]) for i, _ in share]
        return demonstrator.demonstrate([branch for _, branch in share], rngs, forced)


def dev_figures(play: Callable, questions: Sequence[Question]) -> dict[str, float]:
    """What the warm-up must have taught. play(questions, force): greedy episodes whose first
    decision is `force`."""
    direct, retrieved = play(questions, "answer"), play(questions, "retrieve")
    return {
        "direct_em": mean([e.exact_match for e in direct if e.question.slice in ("popular", None)]),
        "retrieve_em": mean([e.exact_match for e in retrieved]),
        "hit": summarize(retrieved)["hit"],
        "em_given_hit": mean([e.exact_match for e in retrieved if e.hit]),
        "malformed": mean([e.malformed for e in (*direct, *retrieved)]),
    }
