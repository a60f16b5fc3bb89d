"""What each warm-up step demonstrates: which questions, on which branch, with which labels.

    read    fixed shares of direct answers and retrievals, no decision labels. For the first 30 %
            of the steps the observation grows from one passage, the gold one, to k
    mix     the probed label on an informed share, a random branch without label on the rest

A pure function of (seed, phase, step), the same on any number of ranks.
"""

from collections.abc import Sequence

import numpy as np

from data.world import Question
from rl import ranks
from rl.episode import Episode
from rl.runs.streams import Stream
from rl.warmup.demonstrator import Demonstrator
from rl.warmup.sampler import QuestionSampler, typed

GROWTH = 0.3  # share of the read steps during which the observation grows
INFORMED = 0.7  # share of the mix phase's demonstrations whose branch is the probed label

Branch = tuple[Question, bool, bool, bool]  # retrieve, label, known: as Demonstrator has them


class Curriculum:
    def __init__(self, sets: Sequence[Sequence[Question]], args):
        """args: of train_sft.py; popular_share, direct_popular, direct_other, episodes, read_steps,
        lower_case, probe and seed are used."""
        self.args = args
        self.questions = [q for questions in sets for q in questions]
        rng = np.random.default_rng([args.seed, Stream.PROBE])
        order = rng.permutation(len(self.questions))[: args.probe]
        self.probed = [self.questions[i] for i in order]
        probed = set(self.probed)
        kept = [[q for q in questions if q in probed] for questions in sets]
        self.read_sampler = QuestionSampler(sets, args.popular_share, args.seed)
        self.mix_sampler = QuestionSampler(kept, args.popular_share, args.seed)
        self.knows: dict[Question, bool] = {}  # probed question -> whether it was answered directly

    def read_branches(self, step: int) -> list[Branch]:
        args = self.args
        questions = self.read_sampler.draw(args.episodes, step, Stream.READ_QUESTIONS)
        rng = np.random.default_rng([args.seed, Stream.READ, step])
        popular = np.array([q.slice == "popular" for q in questions])
        place = np.empty(len(questions))  # in (0, 1) within a kind: shares are exact at every step
        for kind in (popular, ~popular):
            place[kind] = (rng.permutation(kind.sum()) + 0.5) / max(kind.sum(), 1)
        direct = place < np.where(popular, args.direct_popular, args.direct_other)
        return [(q, not d, False, False) for q, d in zip(questions, direct, strict=True)]

    def mix_branches(self, step: int) -> list[Branch]:
        questions = self.mix_sampler.draw(self.args.episodes, step, Stream.MIX_QUESTIONS)
        rng = np.random.default_rng([self.args.seed, Stream.MIX, step])
        labels = (rng.random(len(questions)) < INFORMED).tolist()
        coins = (rng.random(len(questions)) < 0.5).tolist()
        branches = []
        for question, label, coin in zip(questions, labels, coins, strict=True):
            known = self.knows[question]
            branches.append((question, not known if label else coin, label, known))
        return branches

    def demonstrations(self, demonstrator: Demonstrator, phase: str, step: int) -> list[Episode]:
        """This rank's share of a step, dealt out by branch: retrievals, which are long, first."""
        read = phase == "read"
        branches = self.read_branches(step) if read else self.mix_branches(step)
        questions, *rest = zip(*branches, strict=True)
        questions = typed(questions, self.args.lower_case, self.args.seed, step)
        branches = list(zip(questions, *rest, strict=True))
        stream = Stream.READ if read else Stream.MIX
        forced = min(1.0, step / max(1.0, GROWTH * self.args.read_steps)) if read else 1.0
        share = ranks.share(sorted(enumerate(branches), key=lambda x: not x[1][1]))
        if not share:
            return []
        rngs = [np.random.default_rng([self.args.seed, stream, step, i]) for i, _ in share]
        columns = [list(x) for x in zip(*(branch for _, branch in share), strict=True)]
        return demonstrator.demonstrate(*columns, rngs, forced)
