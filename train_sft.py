"""Warm-up supervised fine-tuning (SmartRAG, section 3.3): demonstrations -> a policy that plays.

Three phases, each visible in the progress bar and in metrics.jsonl:
    read    direct answers are memorised, answers are copied from real top-k passages, decisions
            carry no loss. The observation grows from the gold passage alone to k passages
    probe   the policy answers training questions directly; right -> [ANSWER] is the label,
            else [RETRIEVE]
    mix     fine-tuning with those labels, and a share of random branches without label
The end of `read` is a checkpoint of its own: OUT/read.

Left out: teacher models and chain of thought. Shapes: N learnt tokens of a micro-batch.
"""

import os
import signal
from dataclasses import dataclass

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until main: imports take seconds

import torch
from torch import Tensor

from data.world import Question
from model import Policy
from rl import Decoding, Episode, collate, ranks, rollout
from rl.episode import Batch, Part
from rl.runs.flags import arg, main, share
from rl.runs.launch import precision
from rl.runs.progress import say
from rl.runs.run import Run, start
from rl.runs.setting import open_setting
from rl.runs.training import PolicyArgs, RunArgs, adamw, check_sft, next_training, open_start
from rl.scoring import by_length, score
from rl.warmup.demonstrator import Curriculum, Demonstrator, dev_figures

SMOOTHING = 0.1  # label smoothing of decisions


@dataclass
class Args(RunArgs, PolicyArgs):
    out: str = arg("runs/sft", "where the checkpoint and the log go", "run")
    world: str = arg("mini", "mini, mini:SEED, tiny, or a directory", "world")
    dataset: str = arg("popqa", "question set, or the union of several: popqa,hotpotqa")
    quota: int = arg(0, "retrievals per question, 0: the world's")
    passage_tokens: int = arg(64, "longer passages are cut", least=1, pretrained=96)
    query_tokens: int = arg(32, "longest query", least=2)
    answer_tokens: int = arg(0, "longest answer; 0: what the training answers need", most=1000)
    muon_lr: float = arg(0.015, "learning rate of a new policy's matrices (Muon)", "optimiser")
    weight_decay: float = arg(0.2, "weight decay of these")
    lr: float = arg(2e-3, "learning rate of the rest (AdamW), with --init of all", pretrained=1e-4)
    query_weight: float = arg(0.3, "loss weight of queries, which are mostly noise")
    reading_weight: float = arg(2.0, "loss weight of answers after an observation")
    read_steps: int = arg(900, "steps of the read phase", "demonstrations", pretrained=160)
    mix_steps: int = arg(300, "steps of the mix phase", pretrained=60)
    episodes: int = arg(96, "demonstrations per step", least=1, pretrained=48)
    micro_tokens: int = arg(0, "tokens per forward pass, padding included; 0: by device")
    mix_lr: float = share(0.25, "learning rates of the mix phase, as a share")
    probe: int = arg(12000, "training questions to probe", least=1, pretrained=600)
    popular_share: float = share(0.5, "share of popular questions, where the world has slices")
    direct_popular: float = share(0.55, "read: share of popular ones that are answered directly")
    direct_other: float = share(0.05, "read: share of the others that are answered directly")
    swap: float = share(0.7, "probability of another answer inside a gold passage")
    shuffle: float = share(0.5, "probability of shuffling passages: rank is not to be trusted")


def sft_loss(log_probs: Tensor, batch: Batch, args: Args) -> Tensor:
    """Summed, weighted negative log-likelihood of log_probs [N]; decisions with label smoothing."""
    part = batch.learnt(batch.parts)
    after_query = batch.learnt((batch.parts == Part.QUERY).cumsum(1)) > 0
    decision, query = part == Part.DECISION, part == Part.QUERY
    weight = torch.where(after_query & ~query, args.reading_weight, 1.0)
    weight = torch.where(query, args.query_weight, weight)
    other = torch.log1p(-log_probs.exp().clamp(max=1 - 1e-6))  # the other of the two action tokens
    smoothed = (1 - SMOOTHING / 2) * log_probs + SMOOTHING / 2 * other
    return -torch.where(decision, smoothed, weight * log_probs).sum()


def make_optimizers(policy: Policy, args: Args) -> dict[str, torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the rest: learns to copy about twice as fast as AdamW
    alone. A pretrained policy keeps the AdamW that it was born with."""
    hidden = [p for p in policy.model.layers.parameters() if p.ndim == 2 and not args.init]
    rest = [p for p in policy.trunk_parameters() if not any(p is h for h in hidden)]
    optimizers = {"adamw": adamw(rest, args.lr)}
    if hidden:
        muon = torch.optim.Muon(hidden, lr=args.muon_lr, weight_decay=args.weight_decay)
        optimizers["muon"] = muon
    return optimizers


def schedule(step: int, steps: int, decay: float = 0.4) -> float:
    """Linear warm-up (20 steps, a tenth of a short phase), a plateau, and a linear decay to 5 %
    over the last `decay` of the steps."""
    warmup = min(20, steps / 10)
    return min(1.0, (step + 1) / warmup, 0.05 + 0.95 * (steps - step) / (decay * steps))


class WarmUp:
    """One run. A step is a pure function of (arguments, weights and optimizers, phase, step)."""

    def __init__(self, args: Args):
        self.args, self.phase = args, "read"
        self.setting = open_setting(args)
        self.curriculum = Curriculum(self.setting.sets, args)
        self.counters, self.buffers = self.curriculum.counters, {}  # that a run goes on with

    def build(self) -> None:
        """Tokenizer, policy, optimizers: seconds of work, for a run that is not finished."""
        args, env, questions = self.args, self.setting.env, self.setting.questions
        self.policy, self.tokenizer = open_start(args, self.setting)
        self.optimizers = make_optimizers(self.policy, args)
        context = self.policy.config.max_position_embeddings
        self.demonstrator = Demonstrator(
            env, questions, self.tokenizer, context, args.swap, args.shuffle
        )

    def step(self, step: int) -> dict:
        """One optimiser step over direct answers and retrievals. Raises FloatingPointError."""
        args, policy = self.args, self.policy
        episodes = self.curriculum.demonstrations(self.demonstrator, self.phase, step)
        counts = sum(sum(e.mask()) for e in episodes), sum(len(e.tokens) for e in episodes)
        counts = torch.tensor(counts, device=args.device)
        ranks.reduce([counts])
        learnt, tokens = counts.tolist()
        total = torch.zeros((), device=args.device)
        policy.zero_grad()
        for group in by_length(episodes, args.micro_tokens or policy.micro_tokens):
            batch = collate([episodes[i] for i in group], self.tokenizer.pad, args.device)
            with precision(args.device, args.dtype):
                log_probs = score(policy, batch, self.tokenizer).log_probs
            loss = sft_loss(log_probs, batch, args) / learnt
            loss.backward()
            total += loss.detach()
        ranks.reduce([total])
        ranks.clip_gradients(policy.trunk_parameters(), 1.0)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {"loss": float(total), "tokens": tokens}

    def play(self, questions: list[Question], force: str, update=lambda n: None) -> list[Episode]:
        """Greedy episodes whose first decision is `force`."""
        how = questions, Decoding(force=force)
        with precision(self.args.device, self.args.dtype):
            return rollout(self.policy, self.tokenizer, self.setting.env, *how, progress=update)

    def train(self, run: Run, phase: str, steps: int, lr_scale: float) -> None:
        """The steps of a phase that are still to do, and its figures on dev."""
        self.phase = phase

        def step(i: int) -> dict:
            for optimizer in self.optimizers.values():
                lr = optimizer.defaults["lr"]
                optimizer.param_groups[0]["lr"] = lr * lr_scale * schedule(i, steps)
            return self.step(i)

        run.loop(phase, "step", steps, step, ("loss", "tokens"))
        figures = dev_figures(self.play, self.setting.dev)
        run.log({"phase": phase, "dev": figures})
        say(f"after {phase}, dev: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))


def train() -> None:
    args = start(Args, __doc__, check_sft)
    warm_up = WarmUp(args)
    run = Run("train_sft", args, warm_up.setting.record())
    if run.status != "finished":
        warm_up.build()
        run.begin(
            warm_up, f"{args.read_steps} + {args.mix_steps} steps of {args.episodes} episodes"
        )
        if run.phase != "mix":
            warm_up.train(run, "read", args.read_steps, 1.0)
            run.export(run.out / "read")
            run.log({"phase": "probe", "knows": warm_up.curriculum.probe(warm_up.play)})
            warm_up.optimizers = make_optimizers(warm_up.policy, args)
            run.save("mix", 0)
        warm_up.train(run, "mix", args.mix_steps, args.mix_lr)
        run.finish()
    say(f"finished: {run.out}   next: {next_training(args)}")


if __name__ == "__main__":
    main(train)
