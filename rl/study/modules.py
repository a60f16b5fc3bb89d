"""Separately trained modules: what joint training has to beat. Each starts from the warm-up and learns one part of an episode.

    python -m rl.study.modules KIND --init WARMUP --out DIR ...

    reader             the answer after an observation, on the passages that the warm-up's own queries find
    rewriter           the query, by rejection sampling: queries of the warm-up that found what the question needs
    decision-right     retrieve where the direct answer is wrong (SKR; Wang et al., 2023)
    decision-reward    retrieve where that branch earned more, with --query and --reader playing it; weighted by the difference
The other rewriter, PPO against a frozen reader (Rewrite-Retrieve-Read; Ma et al., 2023), is train_ppo.py --learn query.

Every step plays the frozen warm-up on fresh questions and makes one supervised step on the part in question, with the
optimiser of PPO. Later decisions of an episode are learnt, by either decision module, from episodes that ended right.
Left out: the environment's reward as a gradient; that is train_ppo.py.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from data.metrics import answerable
from data.world import Question
from model import load_policy, weights_sha256
from rl.environment import RagEnv
from rl.episode import Episode, collate
from rl.rollout import Decoding, Roles, rollout
from rl.runs.flags import DEVICES, UsageError, arg, main, parse, share
from rl.runs.parallel import Workers, backward
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.run import Run, precision
from rl.scoring import by_length, score
from rl.warmup.renaming import Renamer, rename
from rl.warmup.sampler import QuestionSampler

KINDS = ("reader", "rewriter", "decision-right", "decision-reward")


@dataclass
class Args(RetrieverArgs):
    init: str = arg(
        "runs/sft",
        "warm-up checkpoint: where the module starts, and who plays the parts that no other flag names",
    )
    query: str = arg("", "decision-reward: checkpoint that writes the queries")
    reader: str = arg("", "decision-reward: checkpoint that answers after an observation")
    out: str = arg("runs/module", "where the checkpoint and the log go")
    world: str = arg("", "mini, mini:SEED, tiny, or a directory; empty: the world of --init")
    dataset: str = arg(
        "popqa", "question set to train on, or the union of several: popqa,ambignq,hotpotqa"
    )
    seed: int = arg(0, "seed of questions and sampling")
    steps: int = arg(200, "optimiser steps", least=1)
    episodes: int = arg(96, "questions played per step", least=1)
    popular_share: float = share(0.45, "share of popular questions, where the world has slices")
    rename: float = share(
        1.0, "share of the other questions that are played under new names (rl/renaming.py)"
    )
    lr: float = arg(6e-4, "peak learning rate (AdamW), with linear decay to 10 %")
    k: int = arg(0, "passages per retrieval, 0: the world's")
    quota: int = arg(0, "retrievals per question, 0: the world's")
    dtype: str = arg(
        "bf16",
        "bf16 or fp32 multiplications; weights and losses are fp32",
        choices=("bf16", "fp32"),
    )
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    threads: int = arg(0, "CPU threads, 0 = all")
    save_seconds: float = arg(20.0, "seconds between saves of the run's state")
    fresh: bool = arg(False, "discard what --out holds and start over")


class Example(NamedTuple):
    """An episode whose action mask marks what is learnt, and its weight in the loss."""

    episode: Episode
    weight: float = 1.0


class Module:
    def __init__(self, kind: str, args: Args):
        self.kind, self.args, self.workers = kind, args, Workers(args.threads, args.device)
        self.policy, self.tokenizer, made = load_policy(args.init, args.device)
        self.frozen = load_policy(args.init, args.device)[0].requires_grad_(False).eval()
        others = [
            load_policy(path, args.device) if path else (self.frozen, self.tokenizer)
            for path in (args.query, args.reader)
        ]
        if any(
            tokenizer.backend.get_vocab() != self.tokenizer.backend.get_vocab()
            for _, tokenizer, *_ in others
        ):
            raise UsageError(f"--query and --reader need the tokenizer of --init {args.init}")
        self.roles = Roles(
            self.frozen,
            others[0][0].eval(),
            others[1][0].eval(),
            self.frozen,
            ("query",) if kind == "rewriter" else (),
        )
        name = args.world or made.get("open_world", "mini")
        self.world, index, retriever = open_world(name, args, made)
        self.env = RagEnv(
            self.world,
            index,
            args.k or None,
            args.quota or None,
            passage_tokens=made.get("passage_tokens", 64),
        )
        self.sampler = QuestionSampler(
            self.world.union(args.dataset, "train"), args.popular_share, args.seed
        )
        self.renamer = Renamer(self.sampler.questions, self.world.corpus)
        self.optimizer = torch.optim.AdamW(
            self.policy.trunk_parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0
        )
        hashes = {
            flag: weights_sha256(getattr(args, flag))
            for flag in ("init", "query", "reader")
            if getattr(args, flag)
        }
        self.facts = {
            "kind": kind,
            "world": self.world.name,
            "open_world": name,
            "corpus_sha256": self.world.corpus_sha256,
            "open_retriever": retriever,
            "passage_tokens": self.env.passage_tokens,
            **{f"{flag}_sha256": value for flag, value in hashes.items()},
        }

    def play(
        self,
        questions: list[Question],
        names: list[dict[str, str]],
        decoding: Decoding,
        generator: torch.Generator | None = None,
    ) -> list[Episode]:
        with precision(self.args.device, self.args.dtype):
            return rollout(
                self.roles,
                self.tokenizer,
                self.env,
                questions,
                decoding,
                generator,
                spread=self.workers.map,
                names=names,
            )

    def examples(
        self, questions: list[Question], names: list[dict[str, str]], generator: torch.Generator
    ) -> list[Example]:
        """What one step learns from these questions, each under its `names`."""
        if self.kind == "reader":
            return [
                e
                for episode in self.play(
                    questions, names, Decoding(1.0, True, force="retrieve"), generator
                )
                if (e := self.to_read(episode))
            ]
        if self.kind == "rewriter":
            return [
                Example(e)
                for e in self.play(
                    questions, names, Decoding(1.0, True, force="retrieve"), generator
                )
                if e.hit
            ]
        direct, asked = (
            self.play(questions, names, Decoding(force=branch)) for branch in ("answer", "retrieve")
        )
        if self.kind == "decision-right":
            first = [self.to_decide(d, d.exact_match < 1.0) for d in direct]
        else:
            difference = [a.reward - d.reward for d, a in zip(direct, asked)]
            mean = sum(map(abs, difference)) / len(difference) or 1.0
            first = [
                self.to_decide(d, gain > 0, abs(gain) / mean)
                for d, gain in zip(direct, difference)
                if gain
            ]
        return first + [
            e
            for episode in asked
            if episode.exact_match == 1.0 and (e := self.later_decisions(episode))
        ]

    def to_read(self, episode: Episode) -> Example | None:
        """The episode up to its answer, and then the right one; None where the passages do not hold it."""
        question, answer = episode.question, self.tokenizer.answer
        if answer not in episode.tokens or not answerable(
            [self.world.corpus[row] for turn in episode.turns for row in turn.passages], question
        ):
            return None
        copy = Episode(question)
        copy.state(episode.tokens[: len(episode.tokens) - 1 - episode.tokens[::-1].index(answer)])
        copy.action(
            [
                answer,
                *self.tokenizer.encode(rename(question.answers[0], episode.names)),
                self.tokenizer.eos,
            ],
            0.0,
            decision=False,
        )
        return Example(copy)

    def to_decide(self, episode: Episode, retrieve: bool, weight: float = 1.0) -> Example:
        """The question, and the right first decision."""
        copy = Episode(episode.question)
        copy.state(episode.tokens[: episode.tokens.index(self.tokenizer.answer)])
        copy.action([self.tokenizer.retrieve if retrieve else self.tokenizer.answer], 0.0)
        return Example(copy, weight)

    def later_decisions(self, episode: Episode) -> Example | None:
        """The free decisions after the first observation, as they were taken."""
        open_turns = range(
            1, min(len(episode.turns), self.env.quota - 1) + 1
        )  # number of retrievals before each
        at = [i + 1 for i, token in enumerate(episode.tokens) if token == self.tokenizer.obs_end][
            : len(open_turns)
        ]
        if not at:
            return None
        copy = Episode(
            episode.question,
            episode.tokens,
            *([False] * len(episode.tokens) for _ in range(2)),
            episode.rewards,
        )
        for i in at:
            copy.action_mask[i] = copy.decision_mask[i] = True
        return Example(copy)

    def step(self, number: int) -> dict:
        """A pure function of (arguments, weights and optimizer, number)."""
        args, trunk = self.args, self.policy.trunk_parameters()
        generator = torch.Generator().manual_seed(1_000_003 * args.seed + number)
        questions = self.sampler.draw(args.episodes, number, stream=7)
        examples = self.examples(
            questions, self.renamer.names(questions, args.rename, [args.seed, 8, number]), generator
        )
        tokens = sum(len(e.tokens) for e, _ in examples)
        if not examples:
            return {"examples": 0, "tokens": 0}
        count = sum(sum(e.action_mask) for e, _ in examples)

        def differentiate(group: list[int]) -> tuple[float, tuple]:
            batch = collate([examples[i].episode for i in group], self.tokenizer.pad, args.device)
            weight = torch.tensor([examples[i].weight for i in group], device=args.device)[
                batch.rows
            ]
            with precision(args.device, args.dtype):
                loss = -(weight * score(self.policy, batch, self.tokenizer).log_probs).sum() / count
            return float(loss.detach()), torch.autograd.grad(loss, trunk)

        losses = backward(
            trunk, differentiate, by_length([e for e, _ in examples], 32)[::-1], self.workers.map
        )
        if not torch.isfinite(torch.nn.utils.clip_grad_norm_(trunk, 1.0)):
            raise FloatingPointError("the gradient is NaN or infinite")
        for group in self.optimizer.param_groups:
            group["lr"] = args.lr * min(
                1.0, (number + 1) / 10, 0.1 + 0.9 * (args.steps - number) / args.steps
            )
        self.optimizer.step()
        return {"loss": sum(losses), "examples": len(examples), "tokens": tokens}


def train() -> None:
    kind, argv = (
        (sys.argv[1], sys.argv[2:])
        if len(sys.argv) > 1 and not sys.argv[1].startswith("-")
        else ("", sys.argv[1:])
    )
    args = parse(Args, __doc__, argv)
    if kind not in KINDS:
        raise UsageError(
            f"python -m rl.study.modules {kind or 'KIND'}: the kinds are {', '.join(KINDS)}"
        )
    if (args.query or args.reader) and kind != "decision-reward":
        raise UsageError("--query and --reader are for decision-reward")
    if Path(args.out).resolve() == Path(args.init).resolve():
        raise UsageError(f"--out {args.out} is --init: the warm-up checkpoint would be overwritten")
    module = Module(kind, args)
    run, first = Run("rl.study.modules", args, module.facts), 0
    if run.status == "finished":
        print(f"{run.out} already holds the finished run")
        return
    if run.status == "resume":
        first = run.load({"policy": module.policy}, {"adamw": module.optimizer})[1]["step"]
    print(
        f"rl.study.modules: {kind} from {args.init}, world {module.world.name}, {args.dataset}.train, quota {module.env.quota}; {args.steps} steps of {args.episodes} "
        f"questions on {module.workers.count} threads; out {run.out}"
    )
    for number in tqdm(
        range(first, args.steps),
        desc=kind,
        initial=first,
        total=args.steps,
        unit="step",
        dynamic_ncols=True,
    ):
        start = time.perf_counter()
        try:
            figures = module.step(number)
        except FloatingPointError as error:
            raise FloatingPointError(f"step {number}: {error}; {run.kept}") from None
        run.log({"step": number, **figures, "seconds": time.perf_counter() - start})
        if run.due():
            run.save(
                {"policy": module.policy}, {"adamw": module.optimizer}, {}, {"step": number + 1}
            )
    run.finish(module.policy.eval(), module.tokenizer)
    print(f"checkpoint: {run.out}")


if __name__ == "__main__":
    main(train)
