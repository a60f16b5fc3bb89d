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

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until main: imports take seconds

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from data.world import Question
from model import Config, Policy, Tokenizer
from model.files import weights_sha256
from model.pretrained import open_pretrained
from model.pretrained.lora import add_adapters, trained_modules
from rl import Decoding, Episode, collate, ranks, rollout
from rl.episode import Batch, Part
from rl.report.summary import mean
from rl.runs.checks import check_sft, describe, next_training
from rl.runs.flags import DEVICES, UsageError, arg, main, parse, share
from rl.runs.info import RetrieverInfo, RunInfo
from rl.runs.launch import launch
from rl.runs.precision import DTYPES, precision
from rl.runs.progress import say
from rl.runs.questions import answer_budget, train_and_dev
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.run import Run, settle_dtype
from rl.scoring import by_length, score
from rl.warmup.curriculum import Curriculum, dev_figures, known_by_heart
from rl.warmup.demonstrator import Demonstrator

SMOOTHING = 0.1  # label smoothing of decisions
MIX_LR = 0.25  # learning rates of the mix phase, as a share of the read phase's


@dataclass
class Args(RetrieverArgs):
    world: str = arg("mini", "mini, mini:SEED, tiny, or a directory", "world and run")
    dataset: str = arg("popqa", "question set, or the union of several: popqa,hotpotqa")
    quota: int = arg(0, "retrievals per question, 0: the world's")
    passage_tokens: int = arg(64, "longer passages are cut to this many tokens", least=1)
    query_tokens: int = arg(32, "longest query", least=2)
    answer_tokens: int = arg(0, "longest answer; 0: what the training answers need", most=1000)
    out: str = arg("runs/sft", "where the checkpoint and the log go")
    seed: int = arg(0, "seed of weights, demonstrations and probes")
    fresh: bool = arg(False, "discard what --out holds and start over")
    save_seconds: float = arg(20.0, "seconds between saves of the run's state")
    vocab_size: int = arg(4096, "entries of the tokenizer at most", "new policy", least=300)
    hidden_size: int = arg(128, "width", least=1, most=8192)
    layers: int = arg(4, "layers", least=1, most=1000)
    heads: int = arg(4, "attention heads; half as many key/value heads", least=1)
    context: int = arg(1024, "positions; with --init at most its own", least=1, most=1 << 20)
    muon_lr: float = arg(0.015, "learning rate of hidden matrices (Muon)")
    weight_decay: float = arg(0.2, "weight decay of hidden matrices")
    init: str = arg("", "start from this Llama, Mistral, Qwen2 or Qwen3", "pretrained policy")
    lr: float = arg(0.0, "learning rate; 0: 2e-5, with --lora-rank 2e-4")
    lora_rank: int = arg(0, "train LoRA adapters of this rank; 0: all weights", most=4096)
    merge: bool = arg(False, "with --lora-rank: write plain weights, no adapters over OUT/base")
    weights_dtype: str = arg("fp32", "of the weights in memory", choices=("fp32", "bf16"))
    checkpointing: bool = arg(False, "keep only what lies between layers, compute the rest twice")
    read_steps: int = arg(900, "optimiser steps of the read phase", "demonstrations")
    mix_steps: int = arg(300, "optimiser steps of the mix phase")
    episodes: int = arg(96, "demonstrations per step", least=1)
    micro_batch: int = arg(24, "demonstrations per forward pass", least=1)
    probe: int = arg(12000, "training questions to probe", least=1)
    popular_share: float = share(0.5, "share of popular questions, where the world has slices")
    direct_popular: float = share(0.55, "read: share of popular ones that are answered directly")
    direct_other: float = share(0.05, "read: share of the others that are answered directly")
    lower_case: float = share(0.0, "share of the questions in lower case, as people type them")
    swap: float = share(0.7, "probability of another answer inside a gold passage")
    shuffle: float = share(0.5, "probability of shuffling passages: rank is not to be trusted")
    query_weight: float = arg(0.3, "loss weight of queries, which are mostly noise")
    reading_weight: float = arg(2.0, "loss weight of answers after an observation")
    dtype: str = arg("auto", "of multiplications; auto: the faster one", "machine", choices=DTYPES)
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    ranks: int = arg(0, "processes; 0: one per core, or per GPU")


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
    trunk = policy.trunk_parameters()
    hidden = [p for p in policy.model.layers.parameters() if p.ndim == 2 and not args.init]
    rest = [p for p in trunk if not any(p is h for h in hidden)]
    lr = (args.lr or (2e-4 if args.lora_rank else 2e-5)) if args.init else 2e-3
    options = {"betas": (0.9, 0.95), "weight_decay": 0.0, "fused": bool(args.init)}
    adamw = torch.optim.AdamW(rest, lr=lr, **options)
    if not hidden:
        return {"adamw": adamw}
    muon = torch.optim.Muon(hidden, lr=args.muon_lr, weight_decay=args.weight_decay)
    return {"muon": muon, "adamw": adamw}


def schedule(step: int, steps: int, warmup: int = 20, decay: float = 0.4) -> float:
    """Linear warm-up, a plateau, and a linear decay to 5 % over the last `decay` of the steps."""
    return min(1.0, (step + 1) / warmup, 0.05 + 0.95 * (steps - step) / (decay * steps))


class WarmUp:
    """One run. A step is a pure function of (arguments, weights and optimizers, phase, step)."""

    def __init__(self, args: Args):
        self.args = args
        self.world, index, retriever = open_world(args.world, args)
        sets, dev = train_and_dev(self.world, args.dataset)
        self.curriculum = Curriculum(sets, args)
        self.questions = self.curriculum.questions
        answer_tokens = args.answer_tokens or answer_budget(self.questions)
        budgets = (args.passage_tokens, args.query_tokens, answer_tokens)
        given = {"quota": args.quota, "open_retriever": RetrieverInfo(**retriever)}
        self.info = RunInfo(args.world, args.dataset, *budgets, **given)
        self.env = self.info.environment(self.world, index)
        self.dev = [q for questions in dev for q in questions]
        self.phase, self.first = "read", 0  # the phase, and its first step that is still to do

    def build(self) -> None:
        """Tokenizer, policy, optimizers: seconds of work, for a run that is not finished."""
        args = self.args
        torch.manual_seed(args.seed)  # here: an encoder for the retriever draws, where it is new
        self.policy, self.tokenizer = self.open_init() if args.init else self.new_policy()
        self.policy.to(args.device).model.gradient_checkpointing = args.checkpointing
        self.optimizers = make_optimizers(self.policy, args)
        context = self.policy.config.max_position_embeddings
        self.demonstrator = Demonstrator(
            self.world, self.questions, self.env, self.tokenizer, context, args.swap, args.shuffle
        )

    def open_init(self) -> tuple[Policy, Tokenizer]:
        args = self.args
        dtype = torch.bfloat16 if args.weights_dtype == "bf16" else torch.float32
        policy, tokenizer, new = open_pretrained(args.init, dtype, args.context)
        positions = policy.config.max_position_embeddings
        if args.context != Args.context and positions < args.context:
            raise UsageError(f"--context {args.context}: {args.init} has {positions} positions")
        if args.lora_rank:
            add_adapters(policy, args.lora_rank, new)
        return policy, tokenizer

    def new_policy(self) -> tuple[Policy, Tokenizer]:
        args = self.args
        texts = [p.full_text for p in self.world.corpus]
        texts += [text for q in self.questions for text in (q.question, q.answers[0])]
        tokenizer = Tokenizer.train(texts, args.vocab_size)
        try:
            config = Config(
                vocab_size=len(tokenizer),
                hidden_size=args.hidden_size,
                intermediate_size=3 * args.hidden_size,
                num_hidden_layers=args.layers,
                num_attention_heads=args.heads,
                num_key_value_heads=max(1, args.heads // 2),
                max_position_embeddings=args.context,
            )
        except ValueError as error:
            raise UsageError(error) from None
        return Policy(config), tokenizer

    def step(self, step: int) -> dict:
        """One optimiser step over direct answers and retrievals. Raises FloatingPointError."""
        args, policy = self.args, self.policy
        episodes = self.curriculum.demonstrations(self.demonstrator, self.phase, step)
        totals = torch.zeros(3, device=args.device)  # loss, learnt tokens, tokens
        totals[1] = sum(sum(e.mask()) for e in episodes)
        totals[2] = sum(len(e.tokens) for e in episodes)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        for group in by_length([e.tokens for e in episodes], args.micro_batch):
            batch = collate([episodes[i] for i in group], self.tokenizer.pad, args.device)
            with precision(args.device, args.dtype):
                log_probs = score(policy, batch, self.tokenizer).log_probs
            loss = sft_loss(log_probs, batch, args)
            loss.backward()
            totals[0] += loss.detach()
        parameters = policy.trunk_parameters()
        ranks.reduce([totals])
        ranks.reduce_gradients(parameters)
        loss, learnt, tokens = totals.tolist()
        for parameter in parameters:
            parameter.grad /= learnt
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if not math.isfinite(loss) or not torch.isfinite(norm):
            raise FloatingPointError("the loss or its gradient is NaN or infinite")
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {"loss": loss / learnt, "tokens": int(tokens)}

    # ---------------------------------------------------------------------------- phases

    def play(self, questions: list[Question], force: str, update=lambda n: None) -> list[Episode]:
        """Greedy episodes whose first decision is `force`."""
        self.policy.eval()
        decoding = Decoding(force=force)
        with precision(self.args.device, self.args.dtype):
            return rollout(
                self.policy, self.tokenizer, self.env, questions, decoding, progress=update
            )

    def probe(self, run: Run) -> None:
        """Which questions need no retrieval: the decision labels of the mix phase."""
        self.curriculum.knows = known_by_heart(self.play, self.curriculum.probed)
        run.log({"phase": "probe", "knows": mean(list(self.curriculum.knows.values()))})

    def train(self, run: Run, steps: int, lr_scale: float) -> None:
        """The steps of the current phase that are still to do, and its figures on dev."""
        peak = {o: o.param_groups[0]["lr"] for o in self.optimizers.values()}

        def step(i: int) -> dict:
            for optimizer, lr in peak.items():
                optimizer.param_groups[0]["lr"] = lr * lr_scale * schedule(i, steps)
            return self.step(i)

        self.policy.train()
        save = partial(self.save, run)
        run.loop(self.phase, "step", self.first, steps, step, save, ("loss", "tokens"))
        figures = dev_figures(self.play, self.dev)
        run.log({"phase": self.phase, "dev": figures})
        say(f"after {self.phase}, dev: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))

    def save(self, run: Run, step: int) -> None:
        labels = [self.curriculum.knows.get(q, False) for q in self.curriculum.probed]
        tensors = {"knows": torch.tensor(labels, dtype=torch.uint8)}
        info = {"phase": self.phase, "step": step}
        run.save(trained_modules(self.policy), self.optimizers, tensors, info)

    def load(self, run: Run) -> None:
        tensors, info = run.load(trained_modules(self.policy), self.optimizers)
        self.phase, self.first = info["phase"], info["step"]
        known = tensors["knows"].bool().tolist()
        self.curriculum.knows = dict(zip(self.curriculum.probed, known, strict=True))


def train() -> None:
    args = parse(Args, __doc__)
    check_sft(args)
    launch(args.ranks, args.device)
    settle_dtype(args)
    warm_up = WarmUp(args)
    init = weights_sha256(args.init) if args.init else ""
    corpus = {"world": warm_up.world.name, "corpus_sha256": warm_up.world.corpus_sha256}
    run = Run("train_sft", args, corpus | warm_up.info.record() | {"init_sha256": init})
    if run.status != "finished":
        warm_up.build()
        if run.status == "resume":
            warm_up.load(run)
            say(f"resuming {run.out} in phase {warm_up.phase}, step {warm_up.first}")
        plan = f"{args.read_steps} + {args.mix_steps} steps of {args.episodes} demonstrations"
        describe("train_sft", warm_up, plan)
        if args.lora_rank and not args.merge:
            run.save_adapters_only(warm_up.policy, warm_up.tokenizer)
        if warm_up.phase == "read":
            warm_up.train(run, args.read_steps, 1.0)
            run.export(run.out / "read", warm_up.policy, warm_up.tokenizer)
            warm_up.probe(run)
            warm_up.phase, warm_up.first = "mix", 0
            warm_up.optimizers = make_optimizers(warm_up.policy, args)
            warm_up.save(run, 0)
        warm_up.train(run, args.mix_steps, MIX_LR)
        run.finish(warm_up.policy.eval(), warm_up.tokenizer)
    say(f"finished: {run.out}   next: {next_training(args)}")


if __name__ == "__main__":
    main(train)
