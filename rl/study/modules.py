"""Separately trained modules, which joint training has to beat. Each starts from the warm-up and
learns one part of an episode, by a supervised step on what the frozen warm-up plays.

    python -m rl.study.modules --kind KIND --init WARMUP --out DIR ...

    reader             the answer after an observation, on what the warm-up's own queries find
    rewriter           the query, by rejection sampling: the warm-up's queries that found enough
    decision-right     retrieve where the direct answer is wrong (SKR; Wang et al., 2023)
    decision-reward    retrieve where that branch earned more, weighted by the difference, with
                       --query and --reader playing it

Later decisions of an episode are learnt, by either decision module, from episodes that ended right.
Left out: the reward as a gradient. That is train_ppo.py, whose --learn query makes the other
rewriter, PPO against a frozen reader (Rewrite-Retrieve-Read; Ma et al., 2023).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from data.metrics import answerable
from data.world import Question
from model.pretrained import open_policy
from rl import Decoding, Episode, Part, RagEnv, collate, ranks, rollout, score
from rl.runs.flags import arg, main
from rl.runs.launch import precision
from rl.runs.run import Run, start
from rl.runs.setting import open_setting, run_info
from rl.runs.training import RunArgs, adamw, check, with_reference
from rl.scoring import by_length
from rl.study.roles import Roles, only, open_role
from rl.warmup.questions import Stream, TrainingQuestions

LEARNS = {
    "reader": Part.ANSWER,
    "rewriter": Part.QUERY,
    "decision-right": Part.DECISION,
    "decision-reward": Part.DECISION,
}
POPULAR_SHARE, RENAME = 0.45, 1.0  # of the questions, as in train_ppo.py


@dataclass
class Args(RunArgs):
    out: str = arg("runs/module", "where the checkpoint and the log go", "run")
    init: str = arg("runs/sft", "warm-up checkpoint: where the module starts", "module")
    kind: str = arg("reader", "what is learnt", choices=tuple(LEARNS))
    query: str = arg("", "checkpoint that writes the queries; empty: --init")
    reader: str = arg("", "checkpoint that answers after an observation; empty: --init")
    dataset: str = arg("popqa", "question set, or the union of several: popqa,ambignq,hotpotqa")
    steps: int = arg(200, "optimiser steps", least=1)
    episodes: int = arg(96, "questions played per step", least=1)
    lr: float = arg(6e-4, "peak learning rate, with linear decay to 10 %", pretrained=5e-5)
    quota: int = arg(0, "retrievals per question, 0: those of --init, or the world's")


class Example(NamedTuple):
    episode: Episode  # whose tokens of the module's part are learnt
    weight: float = 1.0  # in the loss


class Module:
    def __init__(self, args: Args):
        self.args = args
        self.policy, self.tokenizer, made = open_policy(args.init)
        self.setting = open_setting(args, run_info(made, args.init))
        frozen = with_reference(self.policy, args).eval()
        others = (open_role(args, name, self.tokenizer, frozen) for name in ("query", "reader"))
        self.roles = Roles(frozen, *others, frozen, self.tokenizer.retrieve)
        self.questions = TrainingQuestions(self.setting, POPULAR_SHARE, RENAME, args)
        self.trunk = self.policy.trunk_parameters()
        self.optimizer = adamw(self.trunk, args.lr)
        self.optimizers, self.counters, self.buffers = {"adamw": self.optimizer}, {}, {}

    def play(self, env, questions, decoding: Decoding, generator=None) -> list[Episode]:
        with precision(self.args.device, self.args.dtype):
            return rollout(self.roles, self.tokenizer, env, questions, decoding, generator)

    def examples(
        self, env: RagEnv, questions: list[Question], generator: torch.Generator
    ) -> list[Example]:
        """What one step learns from these questions."""
        kind = self.args.kind
        if kind in ("reader", "rewriter"):
            played = self.play(env, questions, Decoding(1.0, True, force="retrieve"), generator)
            if kind == "rewriter":
                return [Example(e) for e in played if e.hit]
            return [Example(self.to_read(env, e)) for e in played if is_readable(env, e)]
        direct = self.play(env, questions, Decoding(force="answer"))
        retrieved = self.play(env, questions, Decoding(force="retrieve"))
        if kind == "decision-right":
            gains = [1.0 if e.exact_match < 1.0 else -1.0 for e in direct]
        else:
            gains = [r.reward - d.reward for d, r in zip(direct, retrieved, strict=True)]
        scale = sum(map(abs, gains)) / len(gains)
        pairs = zip(direct, gains, strict=True)
        first = [self.to_decide(e, gain > 0, abs(gain) / scale) for e, gain in pairs if gain]
        later = [e for e in retrieved if e.exact_match == 1.0 and Part.DECISION in e.parts]
        return first + [Example(e) for e in later]

    def to_read(self, env: RagEnv, episode: Episode) -> Episode:
        """The episode with the right answer for its own."""
        start = episode.parts.index(Part.ANSWER)
        right = env.translate(episode.question, episode.question.answers[0])
        columns = (x[:start] for x in (episode.tokens, episode.parts, episode.rewards))
        copied = Episode(episode.question, *columns)
        copied.append([*self.tokenizer.encode(right), self.tokenizer.eos], Part.ANSWER)
        return copied

    def to_decide(self, episode: Episode, retrieve: bool, weight: float) -> Example:
        """The question and the right first decision."""
        decided = Episode(episode.question)
        decided.append(episode.tokens[: episode.tokens.index(self.tokenizer.answer)], Part.STATE)
        token = self.tokenizer.retrieve if retrieve else self.tokenizer.answer
        decided.append([token], Part.DECISION)
        return Example(decided, weight)

    def step(self, number: int) -> dict:
        """A pure function of (arguments, weights and optimizer, number)."""
        args = self.args
        generator = torch.Generator().manual_seed(1_000_003 * args.seed + number)
        questions, env = self.questions.draw(args.episodes, number, Stream.MODULES_QUESTIONS)
        examples = self.examples(env, questions, generator)
        if not examples:
            return {"examples": 0, "tokens": 0}
        episodes = [only(e.episode, [LEARNS[args.kind]]) for e in examples]
        count = sum(sum(e.mask()) for e in episodes)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for group in by_length(episodes, self.policy.micro_tokens, range(len(episodes))):
            batch = collate([episodes[i] for i in group], self.tokenizer.pad, args.device)
            weight = torch.tensor([examples[i].weight for i in group], device=args.device)
            with precision(args.device, args.dtype):
                log_probs = score(self.policy, batch, self.tokenizer).log_probs
                loss = -(weight[batch.rows] * log_probs).sum() / count
            loss.backward()
            total += float(loss.detach())
        ranks.reduce([total])
        ranks.clip_gradients(self.trunk, 1.0)
        decay = 0.1 + 0.9 * (args.steps - number) / args.steps
        for group in self.optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, (number + 1) / 10, decay)
        self.optimizer.step()
        tokens = sum(len(e.tokens) for e in episodes)
        return {"loss": float(total), "examples": len(examples), "tokens": tokens}


def is_readable(env: RagEnv, episode: Episode) -> bool:
    """Whether its passages state the answer."""
    passages = [env.corpus[row] for row in episode.found]
    return Part.ANSWER in episode.parts and answerable(passages, episode.question)


def train() -> None:
    args = start(Args, __doc__, check)
    module = Module(args)
    run = Run("rl.study.modules", args, module.setting.record())
    if run.status == "finished":
        print(f"{run.out} already holds the finished run")
        return
    run.begin(module, f"{args.steps} steps of {args.episodes} questions")
    run.loop(args.kind, "step", args.steps, module.step)
    run.finish()
    print(f"checkpoint: {run.out}")


if __name__ == "__main__":
    main(train)
