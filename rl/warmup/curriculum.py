"""What each warm-up step demonstrates: which questions, on which branch, with which labels.

    read    fixed shares of direct answers and retrievals, no decision labels. For the first 30 %
            of the steps the observation grows from one passage, the gold one, to k
    probe   the policy answers training questions directly: the label is [ANSWER] where it is right
    mix     the probed label on an informed share, a random branch without label on the rest

A step is a pure function of (seed, phase, step), the same on any number of ranks. `play(questions,
force, update)` gives the policy's greedy episodes whose first decision is `force`.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from data.world import Question
from rl import ranks
from rl.episode import Episode
from rl.report.summary import mean, summarize
from rl.runs.progress import progress
from rl.warmup.demonstrator import Branch, Demonstrator
from rl.warmup.questions import QuestionSampler, Stream, typed

GROWTH = 0.3  # share of the read steps during which the observation grows
INFORMED = 0.7  # share of the mix phase's demonstrations whose branch is the probed label

Play = Callable[..., list[Episode]]


class Curriculum:
    def __init__(self, sets: Sequence[Sequence[Question]], args):
        """args: of train_sft.py; popular_share, direct_popular, direct_other, episodes, read_steps,
        lower_case, probe and seed are used."""
        self.args = args
        self.read_sampler = QuestionSampler(sets, args.popular_share, args.seed)
        self.questions = self.read_sampler.questions
        rng = np.random.default_rng([args.seed, Stream.PROBE])
        order = rng.permutation(len(self.questions))[: args.probe]
        self.probed = [self.questions[i] for i in order]
        probed = set(self.probed)
        kept = [[q for q in questions if q in probed] for questions in sets]
        self.mix_sampler = QuestionSampler(kept, args.popular_share, args.seed)
        self.counters = {"knows": []}  # of the run: whether each probed question needs no retrieval

    @cached_property
    def knows(self) -> dict[Question, bool]:
        return dict(zip(self.probed, self.counters["knows"], strict=True))

    def read_branches(self, step: int) -> list[Branch]:
        args = self.args
        questions = self.read_sampler.draw(args.episodes, step, Stream.READ_QUESTIONS)
        rng = np.random.default_rng([args.seed, Stream.READ, step])
        popular = np.array([q.slice == "popular" for q in questions])
        place = np.empty(len(questions))  # in (0, 1) within a kind: shares are exact at every step
        for kind in (popular, ~popular):
            place[kind] = (rng.permutation(kind.sum()) + 0.5) / max(kind.sum(), 1)
        retrieve = place >= np.where(popular, args.direct_popular, args.direct_other)
        return [Branch(q, r) for q, r in zip(questions, retrieve.tolist(), strict=True)]

    def probe(self, play: Play) -> float:
        """Whether the direct answer of each question is right, word for word: the labels of mix.
        Returns the share that is."""
        with progress(len(self.probed), "probe", "question") as bar:
            episodes = play(self.probed, "answer", bar.update)
        self.counters["knows"] = [e.exact_match == 1.0 for e in episodes]
        return mean(self.counters["knows"])

    def mix_branches(self, step: int) -> list[Branch]:
        questions = self.mix_sampler.draw(self.args.episodes, step, Stream.MIX_QUESTIONS)
        rng = np.random.default_rng([self.args.seed, Stream.MIX, step])
        labels = (rng.random(len(questions)) < INFORMED).tolist()
        coins = (rng.random(len(questions)) < 0.5).tolist()
        branches = []
        for question, label, coin in zip(questions, labels, coins, strict=True):
            known = self.knows[question]
            branches.append(Branch(question, not known if label else coin, label, known))
        return branches

    def demonstrations(self, demonstrator: Demonstrator, phase: str, step: int) -> list[Episode]:
        """This rank's share of a step, dealt out by branch: retrievals, which are long, first."""
        forced, stream = 1.0, Stream.MIX
        if phase == "read":
            forced = min(1.0, step / max(1.0, GROWTH * self.args.read_steps))
            stream = Stream.READ
        branches = self.read_branches(step) if phase == "read" else self.mix_branches(step)
        questions = [branch.question for branch in branches]
        questions = typed(questions, self.args.lower_case, self.args.seed, step)
        pairs = zip(branches, questions, strict=True)
        branches = [branch._replace(question=question) for branch, question in pairs]
        share = ranks.share(sorted(enumerate(branches), key=lambda x: not x[1].retrieve))
        rngs = [np.random.default_rng([self.args.seed, stream, step, i]) for i, _ in share]
        return demonstrator.demonstrate([branch for _, branch in share], rngs, forced)


def dev_figures(play: Play, questions: Sequence[Question]) -> dict[str, float]:
    """What the warm-up must have taught: EM of popular questions answered at once; EM after a
    retrieval, and given a hit; hit@k; the share of malformed episodes."""
    direct, retrieved = play(questions, "answer"), play(questions, "retrieve")
    return {
        "direct_em": mean([e.exact_match for e in direct if e.question.slice in ("popular", None)]),
        "retrieve_em": mean([e.exact_match for e in retrieved]),
        "hit": summarize(retrieved)["hit"],
        "em_given_hit": mean([e.exact_match for e in retrieved if e.hit]),
        "malformed": mean([e.malformed for e in (*direct, *retrieved)]),
    }
