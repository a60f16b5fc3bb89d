"""Door 2: joint PPO (SmartRAG, section 3.2 and Algorithm 1). Warm-up policy + environment -> one policy that has learnt
when to retrieve, what to ask and how to answer, all from the environment's reward.

Every iteration: draw questions, play both branches of each (retrieve first, answer at once), score, update the value
head, then take clipped policy steps on every action token at once. Playing both branches makes the decision's gradient
the exact expectation over its two actions, R_a - E_pi[R], instead of a sample of it; `--no-both` samples the decision
from (1 - explore) pi + explore / 2 instead, with that exact probability as the denominator of its weight.

The figures to watch are in metrics.jsonl: P([RETRIEVE]) per slice, KL per episode, clip fraction, explained variance
beside that of a class oracle, malformed rate, reward, EM, F1, hit. OUT is the mean of the policies of the
last quarter of the iterations, OUT/best the best on dev.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data.world import Question
from model import weights_sha256
from model.pretrained import add_adapters, open_policy, trained_modules, without_adapters
from rl import (
    Decoding,
    Episode,
    PPOConfig,
    RagEnv,
    Reward,
    Roles,
    Workers,
    collect,
    ppo_update,
    rollout,
)
from rl.diagnostics import policy_reward, value_figures
from rl.environment import report_cut
from rl.ppo import adapt_beta, minibatch_backward, update_value_head
from rl.report.summary import by_slice, collapsed, summarize
from rl.rollout import PARTS
from rl.runs.flags import DEVICES, UsageError, arg, main, parse, share
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.run import Run, precision
from rl.warmup.renaming import Renamer
from rl.warmup.sampler import QuestionSampler


@dataclass
class Args(RetrieverArgs):
    init: str = arg("runs/sft", "warm-up checkpoint; also the reference of the KL penalty")
    lora_rank: int = arg(
        0,
        "train LoRA adapters of this rank; the KL reference is then the policy without them, 0 = all weights",
    )
    merge: bool = arg(
        False, "with --lora-rank: write plain weights instead of adapters over OUT/base"
    )
    checkpointing: bool = arg(
        False, "gradient checkpointing: keep only what lies between layers, compute the rest twice"
    )
    world: str = arg("", "mini, mini:SEED, tiny, or a directory; empty: the world of --init")
    dataset: str = arg(
        "popqa", "question set to train on, or the union of several: popqa,ambignq,hotpotqa"
    )
    out: str = arg("runs/ppo", "where the checkpoints and the log go")
    seed: int = arg(0, "seed of questions, sampling and minibatches")
    iterations: int = arg(150, "rollouts, each followed by an update", least=1)
    episodes: int = arg(
        512, "episodes per rollout (two per question when both branches are played)", least=2
    )
    popular_share: float = share(0.45, "share of popular questions, where the world has slices")
    rename: float = share(
        1.0, "share of the other questions that are played under new names (rl/renaming.py)"
    )
    both: bool = arg(True, "play both branches of every question; else sample the decision")
    learn: str = arg(
        ",".join(PARTS),
        "the parts of an episode that learn; the frozen --init plays the others, whose tokens are not trained on",
    )
    reader: str = arg(
        "", "checkpoint that answers after an observation, frozen; answer must not be among --learn"
    )
    force: str = arg(
        "",
        "retrieve: every episode begins with a retrieval; decision must not be among --learn",
        choices=("", "retrieve"),
    )
    explore: float = share(0.1, "share of uniform exploration when the decision is sampled")
    value: bool = arg(
        True,
        "use the value head; --no-value is REINFORCE with the mean of the batch as its baseline",
    )
    value_warmup: int = arg(4, "first iterations that train the value head alone")
    lr: float = arg(4e-4, "peak learning rate of the policy (AdamW)")
    average: float = share(
        0.25,
        "share of the iterations, the last ones, over whose policies OUT is the mean; 0: the last policy alone",
    )
    lr_warmup: int = arg(
        4, "iterations of linear warm-up of the learning rate, then linear decay to 10 %", least=1
    )
    value_lr: float = arg(2e-3, "learning rate of the value head")
    replay: int = arg(10, "iterations whose value features are kept for the value head", least=1)
    epochs: int = arg(1, "passes over each rollout", least=1)
    minibatch: int = arg(64, "episodes per optimiser step", least=1)
    clip: float = arg(0.2, "clip range of the ratio")
    gamma: float = share(1.0, "discount")
    lam: float = share(1.0, "GAE lambda; 1 is Monte Carlo against the value head")
    temperature: float = arg(1.0, "temperature of text; the decision's is 1")
    decision_weight: float = arg(2.0, "loss weight of decision tokens")
    decision_entropy: float = arg(0.1, "entropy bonus of decisions")
    text_entropy: float = arg(0.0, "entropy bonus of text")
    kl: float = arg(0.01, "initial coefficient beta of the KL penalty")
    kl_target: float = arg(
        0.0, "adapt beta towards this KL per episode in nats; 0 keeps beta fixed"
    )
    kl_horizon: int = arg(10000, "episodes over which beta adapts", least=1)
    target_kl: float = arg(
        0.1, "end an update early when the mean KL to the rollout's policy exceeds this"
    )
    exact_match: float = arg(1.0, "reward of an exact match")
    f1: float = arg(1.0, "reward of F1")
    retrieval: float = arg(-0.2, "reward of each retrieval")
    price_warmup: float = share(
        0.0,
        "share of the iterations over which the price of a retrieval rises from 0 to that of --retrieval",
    )
    malformed: float = arg(-1.0, "reward of a malformed action")
    k: int = arg(0, "passages per retrieval, 0: the world's")
    quota: int = arg(0, "retrievals per question, 0: the world's")
    eval_every: int = arg(20, "iterations between dev evaluations", least=1)
    eval_rows: int = arg(900, "dev questions per evaluation at most", least=1)
    dtype: str = arg(
        "bf16",
        "bf16 or fp32 multiplications; weights and losses are fp32",
        choices=("bf16", "fp32"),
    )
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    threads: int = arg(0, "CPU threads, 0 = all")
    save_seconds: float = arg(20.0, "seconds between saves of the run's state")
    fresh: bool = arg(False, "discard what --out holds and start over")


def learning_rate(iteration: int, args: Args) -> float:
    """Linear warm-up after the value head's own iterations, then linear decay to 10 % of the peak."""
    done = iteration - args.value_warmup
    left = (args.iterations - iteration) / max(1, args.iterations - args.value_warmup)
    return args.lr * min(1.0, (done + 1) / args.lr_warmup, 0.1 + 0.9 * left)


def retrieval_reward(iteration: int, args: Args) -> float:
    """The price rises linearly: while queries are poor, a retrieval is worth less than it will be, and the full price would
    drive the policy away from what it could have learnt there."""
    rise = args.price_warmup * args.iterations
    return args.retrieval * (min(1.0, iteration / rise) if rise else 1.0)


class Trainer:
    def __init__(self, args: Args):
        self.args, self.workers = args, Workers(args.threads, args.device)
        self.policy, self.tokenizer, made = open_policy(args.init, args.device)
        self.facts = {
            "open_world": args.world or made.get("open_world", "mini"),
            "passage_tokens": made.get("passage_tokens", 64),
            "init_sha256": weights_sha256(args.init),
            "reader_sha256": weights_sha256(args.reader) if args.reader else "",
        }
        self.world, index, self.facts["open_retriever"] = open_world(
            self.facts["open_world"], args, made
        )
        self.reward = Reward(args.exact_match, args.f1, args.retrieval, args.malformed)
        self.env = RagEnv(
            self.world,
            index,
            args.k or None,
            args.quota or None,
            self.reward,
            passage_tokens=self.facts["passage_tokens"],
        )
        if args.both and self.env.quota < 1:
            raise UsageError(
                f"world {self.world.name!r} allows no retrieval (quota 0), so there are no two branches to play; give --quota 1 or --no-both"
            )
        self.policy.model.gradient_checkpointing = args.checkpointing
        self.reference = (
            None if args.lora_rank else copy.deepcopy(self.policy).requires_grad_(False)
        )
        self.roles = self.cast()
        self.both = args.both and "decision" in self.roles.learn
        if args.lora_rank:
            torch.manual_seed(args.seed)
            add_adapters(
                self.policy, args.lora_rank, []
            )  # the rows of new tokens were trained by the warm-up
            self.reference = without_adapters(self.policy)
        self.config = PPOConfig(
            value=args.value,
            clip=args.clip,
            gamma=args.gamma,
            lam=args.lam,
            epochs=args.epochs,
            minibatch=args.minibatch,
            temperature=args.temperature,
            decision_weight=args.decision_weight,
            decision_entropy=args.decision_entropy,
            text_entropy=args.text_entropy,
            target_kl=args.target_kl,
        )
        self.optimizer = torch.optim.AdamW(
            self.policy.trunk_parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.value_optimizer = torch.optim.AdamW(
            self.policy.value_head.parameters(), lr=args.value_lr, weight_decay=0.0
        )
        sets = self.world.union(args.dataset, "train")
        self.dev = [
            q
            for questions in self.world.union(args.dataset, "dev")
            for q in questions[: -(-args.eval_rows // len(sets))]
        ]
        self.sampler = QuestionSampler(sets, args.popular_share, args.seed)
        self.renamer = Renamer(self.sampler.questions, self.world.corpus)
        self.beta, self.best, self.iteration = args.kl, float("-inf"), 0
        self.replay: list[
            tuple[Tensor, Tensor]
        ] = []  # (features bf16 [M, 3 D], returns [M]) of the last iterations
        self.mean: list[Tensor] = []  # of the policy's parameters over the last iterations

    def cast(self) -> Roles:
        """Who plays which part: the policy what it learns, frozen ones the rest. Raises UsageError."""
        args, learn, frozen = self.args, tuple(self.args.learn.split(",")), self.reference
        if len(set(learn)) < len(learn) or not set(learn) <= set(PARTS):
            raise UsageError(f"--learn {args.learn}: some of {','.join(PARTS)}, each once")
        if args.lora_rank and set(learn) < set(PARTS):
            raise UsageError("--learn with fewer parts does not go with --lora-rank")
        for flag, part in (("reader", "answer"), ("force", "decision")):
            if getattr(args, flag) and part in learn:
                raise UsageError(
                    f"--{flag} {getattr(args, flag)} goes with a --learn without {part}"
                )
        reader = frozen
        if args.reader:
            reader, tokenizer, _ = open_policy(args.reader, args.device)
            if tokenizer.backend.get_vocab() != self.tokenizer.backend.get_vocab():
                raise UsageError(
                    f"--reader {args.reader} has another tokenizer than --init {args.init}"
                )
        part = lambda name, other: self.policy if name in learn else other
        return Roles(
            part("decision", frozen),
            part("query", frozen),
            part("answer", reader),
            part("answer", frozen),
            learn,
        )

    def play(
        self,
        questions: list[Question],
        decoding: Decoding,
        generator: torch.Generator | None = None,
        reward: Reward | None = None,
        names: Sequence[dict[str, str]] = (),
    ) -> list[Episode]:
        self.policy.eval()
        self.env.reward = reward or self.reward
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

    def iterate(self) -> dict:
        """One rollout and its update; a pure function of the state and the iteration number."""
        args = self.args
        generator = torch.Generator().manual_seed(1_000_003 * args.seed + self.iteration)
        torch.manual_seed(generator.initial_seed())  # dropout of the value head
        count = args.episodes // 2 if self.both else args.episodes
        questions = self.sampler.draw(count, self.iteration, stream=5)
        names = self.renamer.names(questions, args.rename, [args.seed, 8, self.iteration])
        if self.both:
            questions, names = (
                [x for x in items for _ in range(2)] for items in (questions, names)
            )
        clock = [time.perf_counter()]
        reward = replace(self.reward, retrieval=retrieval_reward(self.iteration, args))
        episodes = self.play(questions, self.sampled(args.explore), generator, reward, names)
        clock.append(time.perf_counter())
        learnt = [e for e in episodes if any(e.action_mask)]  # all, unless only a part learns
        with precision(args.device, args.dtype):
            experience = collect(
                self.policy,
                self.reference,
                learnt,
                self.tokenizer,
                self.beta,
                self.config,
                paired=self.both,
                spread=self.workers.map,
            )
        clock.append(time.perf_counter())
        figures = value_figures(experience)
        if args.value:
            self.replay = [*self.replay, (experience.features.bfloat16(), experience.returns)][
                -args.replay :
            ]
            features, returns = (torch.cat(x) for x in zip(*self.replay))
            figures["value_loss"] = update_value_head(
                self.policy.value_head,
                self.value_optimizer,
                features,
                returns,
                self.config,
                generator,
            )
        clock.append(time.perf_counter())
        if self.iteration >= args.value_warmup:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.iteration, args)
            with precision(args.device, args.dtype):
                figures |= ppo_update(
                    self.policy,
                    self.optimizer,
                    experience,
                    self.tokenizer,
                    self.config,
                    generator,
                    self.workers.map,
                )
        clock.append(time.perf_counter())
        kl = float(experience.per_episode(experience.k1).mean())
        figures |= {
            "kl": kl,
            "k3": float(experience.per_episode(experience.k3).mean()),
            "beta": self.beta,
        }
        if args.kl_target:
            self.beta = adapt_beta(self.beta, kl, args.kl_target, len(episodes), args.kl_horizon)
        seconds = {
            f"seconds_{name}": b - a
            for name, a, b in zip(("rollout", "score", "value", "update"), clock, clock[1:])
        }
        return {
            "iteration": self.iteration,
            "reward_policy": policy_reward(episodes, self.both),
            "retrieval_reward": reward.retrieval,
            **summarize(episodes),
            "slices": by_slice(episodes),
            **figures,
            **seconds,
            "tokens": sum(len(e.tokens) for e in episodes),
        }

    def sampled(self, explore: float = 0.0, both: bool | None = None) -> Decoding:
        """The decoding of training: a frozen decision does not explore."""
        learns = "decision" in self.roles.learn
        return Decoding(
            self.args.temperature,
            True,
            explore=explore * learns,
            both=self.both if both is None else both,
            force=self.args.force or None,
        )

    def evaluate(self) -> tuple[dict, str]:
        """Dev figures, greedy and sampled, per slice; and one episode as text."""
        greedy = self.play(self.dev, Decoding(force=self.args.force or None))
        sampled = self.play(
            self.dev, self.sampled(both=False), torch.Generator().manual_seed(self.iteration)
        )
        shown = greedy[self.iteration % len(greedy)]
        return {
            "greedy": summarize(greedy),
            "greedy_slices": by_slice(greedy),
            "sampled": summarize(sampled),
            "sampled_slices": by_slice(sampled),
        }, f"{self.tokenizer.show(shown.tokens)}   reward {shown.reward:+.2f}"

    def modules(self) -> tuple[dict, dict]:
        return trained_modules(self.policy), {
            "policy": self.optimizer,
            "value": self.value_optimizer,
        }

    @torch.no_grad()
    def average(self) -> None:
        """Count this iteration's policy into the mean (Polyak averaging), which takes the policy's place after the last one:
        greedy decisions and the answers that it knows by heart differ more from one iteration to the next than the rewards do."""
        first = self.args.iterations - round(self.args.average * self.args.iterations)
        parameters = self.policy.trunk_parameters()
        if self.iteration >= first:
            self.mean = self.mean or [torch.zeros_like(p) for p in parameters]
            for mean, p in zip(self.mean, parameters):
                mean.lerp_(p, 1 / (self.iteration - first + 1))
        if self.mean and self.iteration == self.args.iterations - 1:
            for mean, p in zip(self.mean, parameters):
                p.copy_(mean)

    def save(self, run: Run) -> None:
        tensors = {
            f"{kind}{i}": x
            for i, pair in enumerate(self.replay)
            for kind, x in zip(("features", "returns"), pair)
        }
        tensors |= {f"mean{i}": x for i, x in enumerate(self.mean)}
        run.save(
            *self.modules(),
            tensors,
            {"iteration": self.iteration, "beta": self.beta, "best": self.best},
        )

    def load(self, run: Run) -> None:
        tensors, facts = run.load(*self.modules())
        read = lambda kind: [
            tensors[f"{kind}{i}"].to(self.args.device)
            for i in range(sum(name.startswith(kind) for name in tensors))
        ]
        self.replay, self.mean = [*zip(read("features"), read("returns"))], read("mean")
        self.iteration, self.beta, self.best = facts["iteration"], facts["beta"], facts["best"]


def expected_minutes(trainer: Trainer, episodes: int = 64) -> float:
    """The run's length, from a small rollout that is scored and differentiated but changes nothing."""
    args = trainer.args
    questions = [q for q in trainer.sampler.draw(episodes // 2, 0, stream=6) for _ in range(2)]
    start = time.perf_counter()
    played = [
        e
        for e in trainer.play(questions, trainer.sampled(), torch.Generator().manual_seed(0))
        if any(e.action_mask)
    ]
    with precision(args.device, args.dtype):
        experience = collect(
            trainer.policy,
            trainer.reference,
            played,
            trainer.tokenizer,
            trainer.beta,
            trainer.config,
            paired=trainer.both,
            spread=trainer.workers.map,
        )
        middle = time.perf_counter()
        minibatch_backward(
            trainer.policy,
            experience,
            list(range(len(played))),
            trainer.tokenizer,
            trainer.config,
            trainer.workers.map,
        )
    trainer.optimizer.zero_grad(set_to_none=True)
    seconds = (middle - start) + args.epochs * (time.perf_counter() - middle)
    return seconds * args.episodes / len(questions) * (args.iterations - trainer.iteration) / 60


def describe(trainer: Trainer, run: Run) -> None:
    args, world = trainer.args, trainer.world
    print(
        f"train_ppo: world {world.name} ({len(world.corpus)} passages, {trainer.facts['open_retriever']['retriever']}, k = {trainer.env.k}, "
        f"quota {trainer.env.quota}), {args.dataset}.train: {len(trainer.sampler.questions)} questions; policy {trainer.policy.parameter_count():,} "
        f"parameters from {args.init}; {args.iterations} iterations of {args.episodes} episodes on {trainer.workers.count} threads: "
        f"about {expected_minutes(trainer):.0f} minutes; out {run.out}"
    )
    report_cut(
        trainer.sampler.questions,
        trainer.tokenizer,
        trainer.env.question_room(trainer.policy.config.max_position_embeddings),
    )


def dev_evaluation(trainer: Trainer, run: Run) -> None:
    figures, text = trainer.evaluate()
    run.log({"iteration": trainer.iteration, "dev": figures, "episode": text})
    g, slices = figures["greedy"], figures["greedy_slices"]
    tqdm.write(
        f"iteration {trainer.iteration}: dev reward {g['reward']:.3f}  EM {g['em']:.3f}  hit {g['hit']:.3f}  retrieval {g['retrieval']:.3f}"
        + "".join(f"  {name} {s['retrieval']:.2f}" for name, s in slices.items())
        + f"\n  {text}"
    )
    rates = [s["retrieval"] for s in slices.values()] or [g["retrieval"]]
    if collapsed(rates):
        tqdm.write(
            f"  warning: the decision has collapsed: retrieval is {min(rates):.0%} to {max(rates):.0%} on every slice"
        )
    if g["reward"] > trainer.best:
        trainer.best = g["reward"]
        run.export(run.out / "best", trainer.policy, trainer.tokenizer, iteration=trainer.iteration)


def train() -> None:
    args = parse(Args, __doc__)
    if Path(args.out).resolve() == Path(args.init).resolve():
        raise UsageError(f"--out {args.out} is --init: the warm-up checkpoint would be overwritten")
    if args.merge and not args.lora_rank:
        raise UsageError("--merge needs --lora-rank")
    if args.temperature == 0:
        raise UsageError("--temperature must be above 0: training samples")
    trainer = Trainer(args)
    run = Run(
        "train_ppo",
        args,
        {
            "world": trainer.world.name,
            "corpus_sha256": trainer.world.corpus_sha256,
            **trainer.facts,
        },
    )
    if run.status == "finished":
        print(
            f"{run.out} already holds the finished run; next: python evaluate.py --dataset {args.dataset}"
        )
        return
    if run.status == "resume":
        trainer.load(run)
        print(f"resuming {run.out} at iteration {trainer.iteration}")
    describe(trainer, run)
    if args.lora_rank and not args.merge:
        run.save_adapters_only(trainer.policy, trainer.tokenizer)
    if trainer.iteration == 0:
        dev_evaluation(trainer, run)
    bar = tqdm(
        total=args.iterations,
        initial=trainer.iteration,
        desc="ppo",
        unit="iteration",
        dynamic_ncols=True,
    )
    while trainer.iteration < args.iterations:
        try:
            figures = trainer.iterate()
        except FloatingPointError as error:
            raise FloatingPointError(
                f"iteration {trainer.iteration}: {error}; {run.kept}"
            ) from None
        run.log(figures)
        trainer.average()
        bar.set_postfix(
            reward=f"{figures['reward_policy']:.3f}",
            hit=f"{figures['hit']:.2f}",
            p=f"{figures['p_retrieve']:.2f}",
            kl=f"{figures['kl']:.2f}",
            refresh=False,
        )
        bar.update()
        trainer.iteration += 1
        if trainer.iteration % args.eval_every == 0 or trainer.iteration == args.iterations:
            dev_evaluation(trainer, run)
        if run.due():
            trainer.save(run)
    bar.close()
    run.finish(trainer.policy, trainer.tokenizer)
    print(
        f"checkpoint: {run.out} (best on dev: {Path(run.out) / 'best'})   next: python evaluate.py --dataset {args.dataset}"
    )


if __name__ == "__main__":
    main(train)
