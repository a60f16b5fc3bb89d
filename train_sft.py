"""Door 1: warm-up supervised fine-tuning (SmartRAG, section 3.3). World -> demonstrations -> a policy that can play.

Three phases, each visible in the progress bar and in metrics.jsonl:
    read    direct answers are memorised, answers are copied from real top-k passages; the decision token is masked.
            For the first 30 % of the steps the observation grows from one passage to k with the gold one forced in.
    probe   the model answers training questions directly; right -> [ANSWER] is the label of that question, else [RETRIEVE]
    mix     fine-tuning with those labels, and a share of random branches whose decision token is masked
The end of `read` is a checkpoint of its own: OUT/read.

Left out: teacher models and chain of thought. Shapes: N action tokens of a micro-batch.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.metrics import hit
from data.world import Question
from model import Config, Policy, Tokenizer, weights_sha256
from model.pretrained import add_adapters, open_pretrained, trained_modules
from rl import Decoding, Episode, RagEnv, Workers, collate, rollout, score
from rl.environment import report_cut
from rl.report.summary import summarize
from rl.runs import parallel
from rl.runs.flags import DEVICES, UsageError, arg, main, parse, share
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.run import Run, precision
from rl.scoring import by_length
from rl.warmup.demonstrator import Demonstrator
from rl.warmup.sampler import QuestionSampler


@dataclass
class Args(RetrieverArgs):
    world: str = arg("mini", "mini, mini:SEED, tiny, or a directory in the world format")
    dataset: str = arg(
        "popqa", "question set to train on, or the union of several: popqa,ambignq,hotpotqa"
    )
    quota: int = arg(0, "retrievals per question, 0: the world's")
    init: str = arg(
        "",
        "Hugging Face checkpoint directory (Llama, Mistral, Qwen2, Qwen3) to start from; empty: a new policy",
    )
    out: str = arg("runs/sft", "where the checkpoint and the log go")
    seed: int = arg(0, "seed of weights, demonstrations and probes")
    vocab_size: int = arg(
        4096,
        "entries at most of the BPE tokenizer that is trained on the world (mini needs fewer than 2,048)",
        least=1,
    )
    hidden_size: int = arg(128, "width of the policy", least=1)
    layers: int = arg(4, "layers of the policy", least=1)
    heads: int = arg(4, "attention heads; half as many key/value heads", least=1)
    context: int = arg(
        1024, "positions of the policy; with --init at most those of its checkpoint", least=1
    )
    lora_rank: int = arg(
        0,
        "with --init: train LoRA adapters of this rank and the rows of new tokens, 0 = all weights",
    )
    merge: bool = arg(
        False, "with --lora-rank: write plain weights instead of adapters over OUT/base"
    )
    weights_dtype: str = arg(
        "fp32",
        "with --init: fp32 or bf16 weights; bf16 rounds small steps away, LoRA adapters are fp32 always",
        choices=("fp32", "bf16"),
    )
    checkpointing: bool = arg(
        False, "gradient checkpointing: keep only what lies between layers, compute the rest twice"
    )
    passage_tokens: int = arg(64, "longer passages are cut to this many tokens", least=1)
    read_steps: int = arg(1500, "optimiser steps of the read phase")
    mix_steps: int = arg(500, "optimiser steps of the mix phase")
    episodes: int = arg(96, "demonstrations per step", least=1)
    micro_batch: int = arg(32, "demonstrations per forward pass, similar lengths together")
    popular_share: float = share(
        0.5, "share of demonstrations about popular questions, where the world has slices"
    )
    direct_popular: float = share(
        0.55, "read phase: share of popular demonstrations that answer directly"
    )
    direct_other: float = share(
        0.05, "read phase: share of the other demonstrations that answer directly"
    )
    swap: float = share(
        0.7, "probability of swapping the answer inside a gold passage for another of its relation"
    )
    shuffle: float = share(
        0.5,
        "probability of shuffling the passages of a demonstration: a reader must not trust the rank alone",
    )
    curriculum: float = share(
        0.3, "read phase: share of the steps during which the observation grows to k passages"
    )
    query_weight: float = arg(
        0.3, "loss weight of query tokens; the teacher's queries are mostly noise, answers are not"
    )
    reading_weight: float = arg(2.0, "loss weight of answers after an observation")
    gold: float = share(
        0.5, "probability of putting the gold passage among the passages where the query missed it"
    )
    probe: int = arg(12000, "training questions to probe for the decision label", least=1)
    informed: float = share(
        0.7, "mix phase: share of demonstrations whose branch is the probed label"
    )
    smoothing: float = share(0.1, "mix phase: label smoothing of the decision")
    muon_lr: float = arg(0.015, "learning rate of the hidden matrices (Muon), read phase")
    adamw_lr: float = arg(2e-3, "learning rate of embeddings and norms (AdamW), read phase")
    weight_decay: float = arg(0.2, "weight decay of the hidden matrices")
    lr: float = arg(
        0.0,
        "with --init: learning rate of everything (AdamW), read phase; 0: 2e-5, with --lora-rank 2e-4",
    )
    mix_lr_scale: float = arg(0.25, "mix phase: learning rates as a share of the read phase's")
    dtype: str = arg(
        "bf16",
        "bf16 or fp32 multiplications; weights and losses are fp32",
        choices=("bf16", "fp32"),
    )
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    threads: int = arg(0, "CPU threads, 0 = all")
    save_seconds: float = arg(20.0, "seconds between saves of the run's state")
    fresh: bool = arg(False, "discard what --out holds and start over")


def make_optimizers(policy: Policy, args: Args) -> dict[str, torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the rest: learns to copy about twice as fast as AdamW alone. One Muon a
    layer, so that the layers' steps run in parallel. A pretrained policy keeps the AdamW that it was born with."""
    adamw = lambda parameters, lr: torch.optim.AdamW(
        parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0
    )
    if args.init:
        return {"adamw": adamw(policy.trunk_parameters(), pretrained_lr(args))}
    muons = {
        f"muon{i}": torch.optim.Muon(
            [p for p in layer.parameters() if p.ndim == 2],
            lr=args.muon_lr,
            weight_decay=args.weight_decay,
        )
        for i, layer in enumerate(policy.model.layers)
    }
    hidden = {id(p) for muon in muons.values() for p in muon.param_groups[0]["params"]}
    return muons | {
        "adamw": adamw([p for p in policy.trunk_parameters() if id(p) not in hidden], args.adamw_lr)
    }


def pretrained_lr(args: Args) -> float:
    return args.lr or (2e-4 if args.lora_rank else 2e-5)


def set_learning_rate(optimizers: dict, args: Args, scale: float) -> None:
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = scale * (
                pretrained_lr(args)
                if args.init
                else args.adamw_lr
                if name == "adamw"
                else args.muon_lr
            )


def schedule(step: int, steps: int, warmup: int = 20, decay: float = 0.4) -> float:
    """Linear warm-up, a plateau, and a linear decay to 5 % over the last `decay` of the steps."""
    return min(1.0, (step + 1) / warmup, 0.05 + 0.95 * (steps - step) / (decay * steps))


def loss_of(policy: Policy, episodes: list[Episode], tokenizer: Tokenizer, args: Args) -> Tensor:
    """Summed, weighted negative log-likelihood of the action tokens; decisions with label smoothing."""
    batch = collate(episodes, tokenizer.pad, args.device)
    with precision(args.device, args.dtype):
        log_probs = score(policy, batch, tokenizer).log_probs
    asked, observed = (
        (batch.tokens == token).cumsum(1)[batch.rows, batch.columns]
        for token in (tokenizer.retrieve, tokenizer.obs)
    )
    decisions = log_probs[batch.decision]
    other = torch.log1p(-decisions.exp().clamp(max=1 - 1e-6))  # the other of the two action tokens
    smoothed = (1 - args.smoothing / 2) * decisions + args.smoothing / 2 * other
    weight = torch.where(
        asked > observed, args.query_weight, torch.where(observed > 0, args.reading_weight, 1.0)
    )
    return -((weight * log_probs)[~batch.decision].sum() + smoothed.sum())


def backward(
    policy: Policy, episodes: list[Episode], tokenizer: Tokenizer, args: Args, workers: Workers
) -> float:
    """The loss of one step and its gradient, in micro-batches of similar length; the longest first, so that no thread waits."""
    count, trunk = sum(sum(e.action_mask) for e in episodes), policy.trunk_parameters()

    def differentiate(group: list[int]) -> tuple[float, tuple[Tensor, ...]]:
        loss = loss_of(policy, [episodes[i] for i in group], tokenizer, args) / count
        return float(loss.detach()), torch.autograd.grad(loss, trunk)

    return sum(
        parallel.backward(
            trunk, differentiate, by_length(episodes, args.micro_batch)[::-1], workers.map
        )
    )


def train_step(
    policy: Policy,
    optimizers: dict,
    episodes: list[Episode],
    tokenizer: Tokenizer,
    args: Args,
    workers: Workers,
) -> float:
    """One optimiser step over direct and retrieve episodes together. Raises FloatingPointError on NaN."""
    total = backward(policy, episodes, tokenizer, args, workers)
    if not np.isfinite(total):
        raise FloatingPointError("the loss is NaN or infinite")
    if not torch.isfinite(torch.nn.utils.clip_grad_norm_(policy.trunk_parameters(), 1.0)):
        raise FloatingPointError("the gradient is NaN or infinite")
    list(workers.map(lambda optimizer: optimizer.step(), optimizers.values()))
    return total


def read_batch(
    demonstrator: Demonstrator, sampler: QuestionSampler, step: int, args: Args
) -> list[Episode]:
    """Demonstrations of one read step: fixed shares of direct and retrieve, no decision labels."""
    questions = sampler.draw(args.episodes, step)
    rng = np.random.default_rng([args.seed, 1, step])
    popular = np.array([q.slice == "popular" for q in questions])
    position = np.empty(
        len(questions)
    )  # rank within its kind, so that the shares are exact at every step
    for kind in (popular, ~popular):
        position[kind] = (rng.permutation(kind.sum()) + 0.5) / max(kind.sum(), 1)
    direct = position < np.where(popular, args.direct_popular, args.direct_other)
    forced = min(1.0, step / max(1.0, args.curriculum * args.read_steps))
    nothing = [False] * len(questions)
    return demonstrator.demonstrate(questions, (~direct).tolist(), nothing, nothing, rng, forced)


def mix_batch(
    demonstrator: Demonstrator,
    sampler: QuestionSampler,
    knows: dict[Question, bool],
    step: int,
    args: Args,
) -> list[Episode]:
    """Demonstrations of one mix step: the probed label on an informed share, a random branch without label on the rest."""
    questions = sampler.draw(args.episodes, step, stream=2)
    rng = np.random.default_rng([args.seed, 3, step])
    informed = rng.random(len(questions)) < args.informed
    known = [knows[q] for q in questions]
    retrieve = [not k if i else bool(rng.random() < 0.5) for k, i in zip(known, informed)]
    return demonstrator.demonstrate(questions, retrieve, informed.tolist(), known, rng)


def check(
    policy: Policy,
    tokenizer: Tokenizer,
    env: RagEnv,
    questions: list[Question],
    args: Args,
    workers: Workers,
) -> dict[str, float]:
    """What the warm-up must have taught, on dev: direct EM of popular questions; EM given a hit; malformed actions."""
    policy.eval()
    with precision(args.device, args.dtype):
        direct, asked = (
            rollout(policy, tokenizer, env, questions, Decoding(force=branch), spread=workers.map)
            for branch in ("answer", "retrieve")
        )
    popular = [e for e in direct if e.question.slice in ("popular", None)]
    return {
        "direct_em": summarize(popular)["em"],
        "retrieve_em": summarize(asked)["em"],
        "hit": summarize(asked)["hit"],
        "em_given_hit": summarize([e for e in asked if e.hit])["em"],
        "malformed": summarize(direct + asked)["malformed"],
    }


def probe(
    policy: Policy,
    tokenizer: Tokenizer,
    env: RagEnv,
    questions: list[Question],
    args: Args,
    workers: Workers,
) -> dict[Question, bool]:
    """Question -> whether the policy's own direct answer is right (greedy)."""
    policy.eval()
    with (
        precision(args.device, args.dtype),
        tqdm(total=len(questions), desc="probe", unit="question", dynamic_ncols=True) as bar,
    ):
        episodes = rollout(
            policy,
            tokenizer,
            env,
            questions,
            Decoding(force="answer"),
            progress=bar.update,
            spread=workers.map,
        )
    return {e.question: e.exact_match == 1.0 for e in episodes}


class WarmUp:
    """The three phases of one run. A step is a pure function of (arguments, weights and optimizers, phase, step)."""

    def __init__(self, args: Args):
        self.args, self.workers = args, Workers(args.threads, args.device)
        torch.manual_seed(args.seed)
        self.world, self.index, self.retriever = open_world(args.world, args)
        sets = self.world.union(args.dataset, "train")
        self.questions, self.dev = (
            [q for questions in x for q in questions]
            for x in (sets, self.world.union(args.dataset, "dev"))
        )
        self.env = RagEnv(
            self.world, self.index, quota=args.quota or None, passage_tokens=args.passage_tokens
        )
        self.phase, self.first = (
            "read",
            0,
        )  # where the run stands: phase and first step that is still to do
        self.knows: dict[Question, bool] = {}  # whether the probe answered it directly
        self.probed = [
            self.questions[i]
            for i in np.random.default_rng([args.seed, 4]).permutation(len(self.questions))[
                : args.probe
            ]
        ]
        probed = set(self.probed)
        self.samplers = {
            "read": QuestionSampler(sets, args.popular_share, args.seed),
            "mix": QuestionSampler(
                [[q for q in questions if q in probed] for questions in sets],
                args.popular_share,
                args.seed,
            ),
        }

    def build(self) -> None:
        """Tokenizer, policy and optimizers; seconds of work, so only for a run that is not finished."""
        args = self.args
        self.policy, self.tokenizer = self.open_init() if args.init else self.new_policy()
        self.policy.to(args.device).model.gradient_checkpointing = args.checkpointing
        self.optimizers = make_optimizers(self.policy, args)
        self.demonstrator = Demonstrator(
            self.world,
            self.questions,
            self.env,
            self.tokenizer,
            replace(args, context=self.policy.config.max_position_embeddings),
        )

    def open_init(self) -> tuple[Policy, Tokenizer]:
        args = self.args
        policy, tokenizer, new = open_pretrained(
            args.init,
            torch.bfloat16 if args.weights_dtype == "bf16" else torch.float32,
            args.context,
        )
        if args.context != Args.context and policy.config.max_position_embeddings < args.context:
            raise UsageError(
                f"--context {args.context}: {args.init} has {policy.config.max_position_embeddings} positions"
            )
        if args.lora_rank:
            add_adapters(policy, args.lora_rank, new)
        return policy, tokenizer

    def new_policy(self) -> tuple[Policy, Tokenizer]:
        args, texts = self.args, [p.full_text for p in self.world.corpus]
        tokenizer = Tokenizer.train(
            texts + [t for q in self.questions for t in (q.question, q.answers[0])], args.vocab_size
        )
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

    def save(self, run: Run, step: int) -> None:
        labels = torch.tensor([self.knows.get(q, False) for q in self.probed], dtype=torch.uint8)
        run.save(
            trained_modules(self.policy),
            self.optimizers,
            {"knows": labels},
            {"phase": self.phase, "step": step},
        )

    def load(self, run: Run) -> None:
        tensors, facts = run.load(trained_modules(self.policy), self.optimizers)
        self.phase, self.first = facts["phase"], facts["step"]
        self.knows = {q: bool(known) for q, known in zip(self.probed, tensors["knows"].tolist())}

    def batch(self, step: int) -> list[Episode]:
        if self.phase == "read":
            return read_batch(self.demonstrator, self.samplers["read"], step, self.args)
        return mix_batch(self.demonstrator, self.samplers["mix"], self.knows, step, self.args)

    def run_phase(self, run: Run, steps: int, scale: float) -> None:
        """The steps of the current phase that are still to do, with progress bar, log and saves, and its dev figures."""
        self.policy.train()
        bar = tqdm(
            range(self.first, steps),
            desc=self.phase,
            initial=self.first,
            total=steps,
            unit="step",
            dynamic_ncols=True,
        )
        for step in bar:
            start = time.perf_counter()
            set_learning_rate(self.optimizers, self.args, scale * schedule(step, steps))
            episodes = self.batch(step)
            try:
                loss = train_step(
                    self.policy, self.optimizers, episodes, self.tokenizer, self.args, self.workers
                )
            except FloatingPointError as error:
                raise FloatingPointError(f"{self.phase} step {step}: {error}; {run.kept}") from None
            tokens, seconds = sum(len(e.tokens) for e in episodes), time.perf_counter() - start
            bar.set_postfix(loss=f"{loss:.3f}", tok_s=f"{tokens / seconds:.0f}", refresh=False)
            run.log(
                {
                    "phase": self.phase,
                    "step": step,
                    "loss": loss,
                    "tokens": tokens,
                    "seconds": seconds,
                }
            )
            if run.due():
                self.save(run, step + 1)
        figures = check(self.policy, self.tokenizer, self.env, self.dev, self.args, self.workers)
        run.log({"phase": self.phase, "dev": figures})
        print(f"after {self.phase}, dev:", {k: round(v, 3) for k, v in figures.items()})

    def describe(self) -> None:
        """What is going to happen, with the time of one throwaway step as the yardstick of the expected minutes."""
        args, world = self.args, self.world
        episodes = read_batch(self.demonstrator, self.samplers["read"], args.read_steps, args)
        for _ in range(2):  # the first is slower: memory and kernels are set up
            start = time.perf_counter()
            backward(self.policy, episodes, self.tokenizer, args, self.workers)
            self.policy.zero_grad(set_to_none=True)
        minutes = (time.perf_counter() - start) * (args.read_steps + args.mix_steps) / 60
        print(
            f"train_sft: world {world.name} ({len(world.corpus)} passages, {self.retriever['retriever']}, k = {self.env.k}), "
            f"{args.dataset}.train: {len(self.questions)} questions; "
            f"policy {self.policy.parameter_count():,} parameters, vocabulary {len(self.tokenizer)}; about {sum(len(e.tokens) for e in episodes)} tokens "
            f"per step, {args.read_steps} + {args.mix_steps} steps on {self.workers.count} threads: about {minutes:.0f} minutes"
        )
        report_cut(self.questions, self.tokenizer, self.demonstrator.room)
        known = [q for q in self.questions if q.gold_passages][:2000]
        turns = self.env.search(
            [
                self.demonstrator.teacher.query(q, np.random.default_rng([args.seed, 6, i]))
                for i, q in enumerate(known)
            ]
        )
        hits = [hit([world.corpus[p] for p in turn.passages], q) for q, turn in zip(known, turns)]
        if hits:
            print(
                f"the teacher's queries find the gold passage of {np.mean(hits):.1%} of {len(hits)} training questions that have one"
            )


def check_init_flags(args: Args) -> None:
    """Raises UsageError for flags of a new policy beside --init, and the other way round."""
    new, pretrained = (
        ("vocab_size", "hidden_size", "layers", "heads", "muon_lr", "adamw_lr", "weight_decay"),
        ("lora_rank", "merge", "weights_dtype", "lr"),
    )
    for name in new if args.init else pretrained:
        if getattr(args, name) != getattr(Args, name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag} is for a new policy; --init brings its own"
                if args.init
                else f"{flag} needs --init"
            )
    if args.merge and not args.lora_rank:
        raise UsageError("--merge needs --lora-rank")
    if args.init and Path(args.out).resolve() == Path(args.init).resolve():
        raise UsageError(f"--out {args.out} is --init: the checkpoint would be overwritten")


def train() -> None:
    args = parse(Args, __doc__)
    check_init_flags(args)
    warm_up = WarmUp(args)
    run = Run(
        "train_sft",
        args,
        {
            "world": warm_up.world.name,
            "open_world": args.world,
            "corpus_sha256": warm_up.world.corpus_sha256,
            "passage_tokens": args.passage_tokens,
            "open_retriever": warm_up.retriever,
            "init_sha256": weights_sha256(args.init) if args.init else "",
        },
    )
    if run.status == "finished":
        print(
            f"{run.out} already holds the finished run; next: python train_ppo.py --init {run.out}"
        )
        return
    warm_up.build()
    if run.status == "resume":
        warm_up.load(run)
        print(f"resuming {run.out} in phase {warm_up.phase}, step {warm_up.first}")
    warm_up.describe()
    if args.lora_rank and not args.merge:
        run.save_adapters_only(warm_up.policy, warm_up.tokenizer)
    if warm_up.phase == "read":
        warm_up.run_phase(run, args.read_steps, 1.0)
        run.export(run.out / "read", warm_up.policy, warm_up.tokenizer)
        warm_up.knows = probe(
            warm_up.policy, warm_up.tokenizer, warm_up.env, warm_up.probed, args, warm_up.workers
        )
        run.log({"phase": "probe", "knows": float(np.mean(list(warm_up.knows.values())))})
        warm_up.phase, warm_up.first, warm_up.optimizers = (
            "mix",
            0,
            make_optimizers(warm_up.policy, args),
        )
        warm_up.save(run, 0)
    warm_up.run_phase(run, args.mix_steps, args.mix_lr_scale)
    run.finish(warm_up.policy.eval(), warm_up.tokenizer)
    print(f"checkpoint: {run.out}   next: python train_ppo.py --init {run.out}")


if __name__ == "__main__":
    main(train)
