"""Joint PPO (SmartRAG, section 3.2 and Algorithm 1): warm-up policy + environment -> one policy
that has learnt when to retrieve, what to ask and how to answer, all from the environment's reward.

An iteration is six steps, six calls below: draw questions, play them, score, reward, advantages,
update. Both branches of every question are played (retrieve first, answer at once), which makes the
decision's gradient the exact expectation over its two actions, R_a - E_pi[R], instead of a sample
of it; `--no-both` samples the decision from (1 - explore) pi + explore / 2 instead.

The figures to watch are in metrics.jsonl (docs/metrics.md). OUT is the mean of the policies of the
last quarter of the iterations, OUT/best the best on dev. Left out: learnt rewards.
"""

import os
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until main: imports take seconds

import copy
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from data.world import Question
from model.files import weights_sha256
from model.pretrained import open_policy
from model.pretrained.lora import add_adapters, trained_modules, without_adapters
from rl import Decoding, Episode, Experience, PPOConfig, RagEnv, Reward, rollout
from rl.experience import penalised_rewards, score_rollout, with_advantages
from rl.ppo import adapt_beta, ppo_update, update_value_head
from rl.report.diagnostics import dev_figures, dev_line, policy_reward, value_statistics
from rl.report.summary import by_slice, summarize
from rl.runs.checks import check_ppo, describe, next_evaluation
from rl.runs.flags import DEVICES, UsageError, arg, main, parse, share
from rl.runs.info import RetrieverInfo, RunInfo, run_info
from rl.runs.launch import launch
from rl.runs.precision import DTYPES, precision
from rl.runs.progress import Clock, say
from rl.runs.questions import QuestionSampler, Stream, train_and_dev, typed
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.reward import load_reward
from rl.runs.run import Run, settle_dtype
from rl.runs.state import PolyakMean
from rl.study.roles import LEARN, assemble
from rl.warmup.renaming import Renamer, RenamingEnv

LR_WARMUP = 4  # iterations of linear warm-up
KL_HORIZON = 10_000  # episodes over which beta adapts


@dataclass
class Args(RetrieverArgs, PPOConfig):
    init: str = arg("runs/sft", "warm-up checkpoint, and the KL reference", "world and run")
    world: str = arg("", "mini, mini:SEED, tiny, or a directory; empty: the world of --init")
    dataset: str = arg("", "question set, or the union of several; empty: those of --init")
    k: int = arg(0, "passages per retrieval, 0: those of --init, or the world's")
    quota: int = arg(0, "retrievals per question, 0: those of --init, or the world's")
    out: str = arg("runs/ppo", "where the checkpoints and the log go")
    seed: int = arg(0, "seed of questions, sampling and minibatches")
    fresh: bool = arg(False, "discard what --out holds and start over")
    save_seconds: float = arg(20.0, "seconds between saves of the run's state")
    iterations: int = arg(90, "rollouts, each followed by an update", "rollout", least=1)
    episodes: int = arg(512, "per rollout; two per question when both branches are played", least=2)
    popular_share: float = share(0.45, "share of popular questions, where the world has slices")
    rename: float = share(1.0, "share of the others that are played under new names")
    lower_case: float = share(0.0, "share of the questions in lower case, as people type them")
    both: bool = arg(True, "play both branches of every question; else sample the decision")
    explore: float = share(0.1, "uniform exploration when the decision is sampled")
    eval_every: int = arg(20, "iterations between dev evaluations", least=1)
    eval_rows: int = arg(900, "dev questions per evaluation at most", least=1)
    reward: str = arg("", "FILE.py:function, in place of EM + F1", "reward")
    exact_match: float = arg(1.0, "weight of exact match", "reward")
    f1: float = arg(1.0, "weight of F1")
    retrieval_cost: float = arg(0.2, "cost of each retrieval")
    malformed_cost: float = arg(1.0, "cost of a malformed action")
    price_warmup: float = share(0.0, "share of the iterations in which the retrieval cost rises")
    lr: float = arg(4e-4, "peak learning rate (AdamW); pretrained policies: 1e-5", "optimiser")
    average: float = share(0.25, "share of the iterations, the last, over which OUT is the mean")
    value_lr: float = arg(2e-3, "learning rate of the value head")
    value_warmup: int = arg(4, "first iterations that train the value head alone")
    replay: int = arg(10, "iterations whose value features are kept", least=1)
    kl: float = arg(0.01, "initial coefficient beta of the KL penalty")
    kl_target: float = arg(0.0, "adapt beta towards this KL per episode, in nats; 0: fixed")
    lora_rank: int = arg(0, "train LoRA adapters of this rank; 0: all weights", most=4096)
    merge: bool = arg(False, "with --lora-rank: write plain weights, no adapters over OUT/base")
    checkpointing: bool = arg(False, "keep only what lies between layers, compute the rest twice")
    learn: str = arg(LEARN, "parts that learn; frozen --init plays the others", "study")
    reader: str = arg("", "frozen checkpoint that answers after an observation")
    force: str = arg("", "retrieve: all episodes begin with a retrieval", choices=("", "retrieve"))
    dtype: str = arg("auto", "of multiplications; auto: the faster one", "machine", choices=DTYPES)
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    ranks: int = arg(0, "processes; 0: one per core, or per GPU")


def learning_rate(iteration: int, args: Args) -> float:
    """Linear warm-up after the value head's own iterations, then linear decay to 10 %."""
    done = iteration - args.value_warmup
    left = (args.iterations - iteration) / max(1, args.iterations - args.value_warmup)
    return args.lr * min(1.0, (done + 1) / LR_WARMUP, 0.1 + 0.9 * left)


def retrieval_cost_at(iteration: int, args: Args) -> float:
    """The cost of a retrieval rises linearly: at the full price, a policy whose queries are still
    poor would stop to retrieve before it has learnt what a retrieval can be worth."""
    rise = args.price_warmup * args.iterations
    return args.retrieval_cost * (min(1.0, iteration / rise) if rise else 1.0)


class Trainer:
    def __init__(self, args: Args):
        self.args = args
        self.policy, self.tokenizer, recorded = open_policy(args.init, args.device)
        self.open_environment(run_info(recorded, args.init))
        self.both = args.both and "decision" in args.learn.split(",")
        explore = args.explore if "decision" in args.learn else 0.0  # a frozen decision: as it is
        self.training_decoding = Decoding(
            args.temperature, True, explore=explore, both=self.both, force=args.force or None
        )
        self.policy.model.gradient_checkpointing = args.checkpointing
        self.reference = copy.deepcopy(self.policy).requires_grad_(False)
        self.players, self.learn = assemble(self.policy, self.reference, self.tokenizer, args)
        if args.lora_rank:
            torch.manual_seed(args.seed)
            add_adapters(self.policy, args.lora_rank, [])  # new tokens were trained by the warm-up
            self.reference = without_adapters(self.policy)
        trunk, head = self.policy.trunk_parameters(), self.policy.value_head.parameters()
        self.optimizer = torch.optim.AdamW(trunk, args.lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.value_optimizer = torch.optim.AdamW(head, lr=args.value_lr, weight_decay=0.0)
        optimizers = {"policy": self.optimizer, "value": self.value_optimizer}
        self.trained = trained_modules(self.policy), optimizers  # what a saved state holds
        self.beta, self.best, self.first = args.kl, float("-inf"), 0
        self.latest: dict[str, float] = {}  # figures of the last iteration
        self.replay: list[tuple[Tensor, Tensor]] = []  # value features bf16 [M, 3 D], returns [M]
        averaged = round(args.average * args.iterations)
        self.average = PolyakMean(trunk, args.iterations - averaged, args.iterations - 1)

    def open_environment(self, info: RunInfo) -> None:
        """World, environment, questions: the warm-up's where the flags do not say otherwise."""
        args = self.args
        args.dataset = args.dataset or info.dataset or "popqa"
        name = args.world or info.open_world
        self.world, index, retriever = open_world(name, args, info)
        reward = Reward(args.exact_match, args.f1, args.retrieval_cost, args.malformed_cost)
        info = replace(info, open_world=name, dataset=args.dataset, reward=reward)
        info = replace(info, k=args.k or info.k, quota=args.quota or info.quota)
        self.info = replace(info, open_retriever=RetrieverInfo(**retriever))
        self.env = self.info.environment(self.world, index)
        self.env.own_reward = load_reward(args.reward) if args.reward else None
        sets, dev = train_and_dev(self.world, args.dataset)
        rows = -(-args.eval_rows // len(dev))
        self.dev = [q for questions in dev for q in questions[:rows]]
        self.sampler = QuestionSampler(sets, args.popular_share, args.seed)
        self.questions = self.sampler.questions
        self.renamer = Renamer(self.questions, self.world.corpus)

    def iterate(self, iteration: int) -> dict:
        """One rollout and its update; a pure function of the state and the iteration number."""
        args, policy, tokenizer = self.args, self.policy, self.tokenizer
        optimizer = self.optimizer
        generator = torch.Generator().manual_seed(1_000_003 * args.seed + iteration)
        torch.manual_seed(generator.initial_seed())  # dropout of the value head
        clock = Clock()
        with precision(args.device, args.dtype):
            # 1, 2: questions, and their episodes; those without a token that learns are left out
            questions, env = self.draw(iteration)
            episodes = self.play(questions, self.training_decoding, generator, env)
            clock("rollout")
            learnt = [e for e in episodes if any(e.mask(self.learn))]
            if not learnt:
                raise UsageError(f"iteration {iteration}: no episode has a part to --learn")
            # 3, 4, 5: log-probs and values, rewards with the KL penalty, advantages
            experience = score_rollout(policy, self.reference, learnt, tokenizer, args, self.learn)
            rewards = penalised_rewards(experience, self.beta)
            experience = with_advantages(experience, rewards, args, self.both)
            clock("score")
            # 6: the value head, then the policy
            figures = value_statistics(experience)
            if args.value:
                figures["value_loss"] = self.update_value(experience, generator)
            clock("value")
            if iteration >= args.value_warmup:
                optimizer.param_groups[0]["lr"] = learning_rate(iteration, args)
                figures |= ppo_update(policy, optimizer, experience, tokenizer, args, generator)
            clock("update")
        self.average.count(iteration)
        self.latest = figures | self.adapt_kl(experience, len(episodes))
        return {
            "reward_policy": policy_reward(episodes, self.both),
            "retrieval_cost": env.reward.retrieval_cost,
            **summarize(episodes),
            "slices": by_slice(episodes),
            **self.latest,
            **clock.seconds,
            "tokens": sum(len(e.tokens) for e in episodes),
        }

    def draw(self, iteration: int) -> tuple[list[Question], RagEnv]:
        """The questions of an iteration, and the environment that they are played in."""
        args = self.args
        count = args.episodes // 2 if self.both else args.episodes
        questions = self.sampler.draw(count, iteration, Stream.PPO_QUESTIONS)
        rng = np.random.default_rng([args.seed, Stream.RENAMING, iteration])
        names = self.renamer.draw(questions, args.rename, rng)
        questions = typed(questions, args.lower_case, args.seed, iteration)
        if self.both:
            questions = [q for q in questions for _ in range(2)]
        reward = replace(self.env.reward, retrieval_cost=retrieval_cost_at(iteration, args))
        env = replace(self.env, reward=reward)
        return questions, RenamingEnv.of(env, names)

    def play(self, questions, decoding, generator=None, env: RagEnv | None = None) -> list[Episode]:
        self.policy.eval()
        players, tokenizer, env = self.players, self.tokenizer, env or self.env
        with precision(self.args.device, self.args.dtype):
            return rollout(players, tokenizer, env, questions, decoding, generator)

    def adapt_kl(self, experience: Experience, episodes: int) -> dict[str, float]:
        """The KL figures of an iteration; with --kl-target, the beta of the next one."""
        args, beta = self.args, self.beta
        kl, k3 = (float(experience.per_episode(x).mean()) for x in (experience.k1, experience.k3))
        if args.kl_target:
            self.beta = adapt_beta(beta, kl, args.kl_target, episodes, KL_HORIZON)
        return {"kl": kl, "k3": k3, "beta": beta}

    def update_value(self, experience: Experience, generator: torch.Generator) -> float:
        new = (experience.features.bfloat16(), experience.returns)
        self.replay = [*self.replay, new][-self.args.replay :]
        features, returns = (torch.cat(x) for x in zip(*self.replay, strict=True))
        head, optimizer = self.policy.value_head, self.value_optimizer
        return update_value_head(head, optimizer, features, returns, self.args, generator)

    def evaluate(self, iteration: int, run: Run) -> None:
        """Dev figures, greedy and sampled, per slice, and one episode as text; maybe OUT/best."""
        greedy = self.play(self.dev, Decoding(force=self.training_decoding.force))
        decoding = replace(self.training_decoding, both=False, explore=0.0)
        sampled = self.play(self.dev, decoding, torch.Generator().manual_seed(iteration))
        shown = greedy[iteration % len(greedy)]
        text = f"{self.tokenizer.show(shown.tokens)}   reward {shown.reward:+.2f}"
        dev = dev_figures(greedy, sampled)
        run.log({"iteration": iteration, "dev": dev, "episode": text})
        say(f"iteration {iteration}: dev {dev_line(dev, self.latest)}\n  {text}")
        if dev["greedy"]["reward"] > self.best:
            self.best = dev["greedy"]["reward"]
            run.export(run.out / "best", self.policy, self.tokenizer, iteration=iteration)

    def save(self, run: Run, iteration: int) -> None:
        tensors = {f"mean{i}": x for i, x in enumerate(self.average.mean)}
        for i, (features, returns) in enumerate(self.replay):
            tensors |= {f"features{i}": features, f"returns{i}": returns}
        info = {"iteration": iteration, "beta": self.beta, "best": self.best}
        run.save(*self.trained, tensors, info)

    def load(self, run: Run) -> None:
        tensors, info = run.load(*self.trained)
        tensors = {name: tensor.to(self.args.device) for name, tensor in tensors.items()}
        count = sum(name.startswith("features") for name in tensors)
        self.replay = [(tensors[f"features{i}"], tensors[f"returns{i}"]) for i in range(count)]
        count = sum(name.startswith("mean") for name in tensors)
        self.average.mean = [tensors[f"mean{i}"] for i in range(count)]
        self.first, self.beta, self.best = info["iteration"], info["beta"], info["best"]


def train() -> None:
    args = parse(Args, __doc__)
    check_ppo(args)
    launch(args.ranks, args.device)
    settle_dtype(args)
    trainer = Trainer(args)
    world = trainer.world
    info = {"world": world.name, "corpus_sha256": world.corpus_sha256} | trainer.info.record()
    files = {"init": args.init, "reader": args.reader, "reward": args.reward.rpartition(":")[0]}
    hashes = {f"{name}_sha256": weights_sha256(file) for name, file in files.items() if file}
    run = Run("train_ppo", args, info | hashes)
    if run.status != "finished":
        if run.status == "resume":
            trainer.load(run)
            say(f"resuming {run.out} at iteration {trainer.first}")
        describe("train_ppo", trainer, f"{args.iterations} iterations of {args.episodes} episodes")
        if args.lora_rank and not args.merge:
            run.save_adapters_only(trainer.policy, trainer.tokenizer)

        def step(iteration: int) -> dict:
            if iteration % args.eval_every == 0:
                trainer.evaluate(iteration, run)
            return trainer.iterate(iteration)

        shown = ("reward_policy", "hit", "p_retrieve", "kl")
        save = partial(trainer.save, run)
        run.loop("ppo", "iteration", trainer.first, args.iterations, step, save, shown)
        trainer.evaluate(args.iterations, run)
        run.finish(trainer.policy, trainer.tokenizer)
    best = run.out / "best"
    say(f"finished: {run.out} (best on dev: {best})   next: {next_evaluation(args, world)}")


if __name__ == "__main__":
    main(train)
