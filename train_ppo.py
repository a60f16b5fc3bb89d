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
from dataclasses import dataclass, replace

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until main: imports take seconds

import torch

from data.world import Question
from model.pretrained import open_policy
from rl import Decoding, Episode, PPOConfig, RagEnv, rollout, score_rollout
from rl.ppo import adapt_beta, k3, penalised_rewards, ppo_update, update_value_head, with_advantages
from rl.report.diagnostics import dev_figures, dev_line, policy_reward, value_statistics
from rl.report.summary import by_slice, summarize
from rl.runs.flags import UsageError, arg, main, share
from rl.runs.launch import precision
from rl.runs.progress import Clock, say
from rl.runs.run import Run, start
from rl.runs.setting import RewardArgs, open_setting, retrieval_cost_at, run_info
from rl.runs.state import PolyakMean, Replay
from rl.runs.training import RunArgs, adamw, check, next_evaluation, with_reference
from rl.study.roles import RoleArgs, assemble, only
from rl.warmup.questions import Stream, TrainingQuestions

LR_WARMUP = 4  # iterations of linear warm-up
KL_HORIZON = 10_000  # episodes over which beta adapts


@dataclass
class Args(RunArgs, RewardArgs, RoleArgs, PPOConfig):
    out: str = arg("runs/ppo", "where the checkpoints and the log go", "run")
    init: str = arg("runs/sft", "warm-up checkpoint, and the KL reference", "world")
    world: str = arg("", "mini, mini:SEED, tiny, or a directory; empty: the world of --init")
    dataset: str = arg("", "question set, or the union of several; empty: those of --init")
    k: int = arg(0, "passages per retrieval, 0: those of --init, or the world's")
    quota: int = arg(0, "retrievals per question, 0: those of --init, or the world's")
    iterations: int = arg(90, "rollouts and updates", "rollout", least=1, pretrained=40)
    episodes: int = arg(512, "per rollout; two per question when both branches are played", least=2)
    popular_share: float = share(0.45, "share of popular questions, where the world has slices")
    rename: float = share(1.0, "share of the others under new names", pretrained=0.5)
    both: bool = arg(True, "play both branches of every question; else sample the decision")
    explore: float = share(0.1, "uniform exploration when the decision is sampled")
    eval_every: int = arg(20, "iterations between dev evaluations", least=1)
    eval_rows: int = arg(900, "dev questions per evaluation at most", least=1)
    lr: float = arg(4e-4, "peak learning rate (AdamW)", "optimiser", pretrained=5e-5)
    average: float = share(0.25, "share of the iterations, the last, over which OUT is the mean")
    value_lr: float = arg(2e-3, "learning rate of the value head")
    value_warmup: int = arg(4, "first iterations: the value head alone", pretrained=2)
    replay: int = arg(10, "iterations whose value features are kept", least=1)
    kl: float = arg(0.01, "initial coefficient beta of the KL penalty")
    kl_target: float = arg(0.0, "adapt beta towards this KL per episode, in nats; 0: fixed")


def learning_rate(iteration: int, args: Args) -> float:
    """Linear warm-up after the value head's own iterations, then linear decay to 10 %."""
    done = iteration - args.value_warmup
    left = (args.iterations - iteration) / max(1, args.iterations - args.value_warmup)
    return args.lr * min(1.0, (done + 1) / LR_WARMUP, 0.1 + 0.9 * left)


class Trainer:
    def __init__(self, args: Args):
        self.args = args
        self.policy, self.tokenizer, made = open_policy(args.init)
        self.setting = open_setting(args, run_info(made, args.init))
        self.questions = TrainingQuestions(self.setting, args.popular_share, args.rename, args)
        self.reference = with_reference(self.policy, args)
        roles = assemble(self.policy, self.reference, self.tokenizer, args)
        self.players, self.learn, self.decoding = roles  # who plays, what learns, how it is played
        trunk, head = self.policy.trunk_parameters(), self.policy.value_head.parameters()
        value_optimizer = torch.optim.AdamW(head, args.value_lr, weight_decay=0.0)
        self.average = PolyakMean(trunk, args.iterations, args.average)
        self.replay = Replay(args.replay)
        # What a run goes on with, beside the policy; best: reward on dev.
        self.optimizers = {"policy": adamw(trunk, args.lr), "value": value_optimizer}
        self.counters = {"beta": args.kl, "best": float("-inf")}
        self.buffers = self.replay.buffers | {"mean": self.average.mean}
        self.latest: dict[str, float] = {}  # figures of the last iteration

    def iterate(self, iteration: int) -> dict:
        """One rollout and its update; a pure function of the state and the iteration number."""
        args, policy, tokenizer = self.args, self.policy, self.tokenizer
        beta = self.counters["beta"]
        generator = torch.Generator().manual_seed(1_000_003 * args.seed + iteration)
        torch.manual_seed(generator.initial_seed())  # dropout of the value head
        clock = Clock()
        with precision(args.device, args.dtype):
            # 1, 2: questions, and their episodes; those without a token that learns are left out
            questions, env = self.draw(iteration)
            episodes = self.play(questions, self.decoding, generator, env)
            clock("rollout")
            learnt = [e for e in (only(e, self.learn) for e in episodes) if any(e.mask())]
            if not learnt:
                raise UsageError(f"iteration {iteration}: no episode has a part to --learn")
            # 3, 4, 5: log-probs and values, rewards with the KL penalty, advantages
            experience = score_rollout(policy, self.reference, learnt, tokenizer, args)
            rewards = penalised_rewards(experience, beta)
            experience = with_advantages(experience, rewards, args, self.decoding.both)
            clock("score")
            # 6: the value head, then the policy
            figures = value_statistics(experience)
            if args.value:
                replayed = self.replay.add(experience.features, experience.returns[experience.mask])
                head, optimizer = policy.value_head, self.optimizers["value"]
                figures["value_loss"] = update_value_head(head, optimizer, *replayed, generator)
            clock("value")
            if iteration >= args.value_warmup:
                optimizer = self.optimizers["policy"]
                optimizer.param_groups[0]["lr"] = learning_rate(iteration, args)
                figures |= ppo_update(policy, optimizer, experience, tokenizer, args, generator)
            clock("update")
        self.average.count(iteration)
        kl, k3_mean = (float(x.sum(1).mean()) for x in (experience.k1, k3(-experience.k1)))
        if args.kl_target:
            self.counters["beta"] = adapt_beta(beta, kl, args.kl_target, len(episodes), KL_HORIZON)
        self.latest = figures | {"kl": kl, "k3": k3_mean, "beta": beta}
        return {
            "reward_policy": policy_reward(episodes, self.decoding.both),
            "retrieval_cost": env.reward.retrieval_cost,
            **summarize(episodes),
            "slices": by_slice(episodes),
            **self.latest,
            **clock.seconds,
            "tokens": sum(len(e.tokens) for e in episodes),
        }

    def draw(self, iteration: int) -> tuple[list[Question], RagEnv]:
        """The questions of an iteration, and the environment that they are played in."""
        count = self.args.episodes // 2 if self.decoding.both else self.args.episodes
        questions, env = self.questions.draw(count, iteration, Stream.PPO_QUESTIONS)
        cost = retrieval_cost_at(iteration, self.args)
        return questions, replace(env, reward=replace(env.reward, retrieval_cost=cost))

    def play(self, questions, decoding, generator=None, env: RagEnv | None = None) -> list[Episode]:
        players, tokenizer, env = self.players, self.tokenizer, env or self.setting.env
        with precision(self.args.device, self.args.dtype):
            return rollout(players, tokenizer, env, questions, decoding, generator)

    def evaluate(self, iteration: int, run: Run) -> None:
        """Dev figures, greedy and sampled, per slice, and one episode as text; maybe OUT/best."""
        questions, decoding = self.setting.dev, replace(self.decoding, both=False, explore=0.0)
        greedy = self.play(questions, Decoding(force=decoding.force))
        sampled = self.play(questions, decoding, torch.Generator().manual_seed(iteration))
        shown = greedy[iteration % len(greedy)]
        text = f"{self.tokenizer.show(shown.tokens)}   reward {shown.reward:+.2f}"
        dev = dev_figures(greedy, sampled)
        run.log({"iteration": iteration, "dev": dev, "episode": text})
        say(f"iteration {iteration}: dev {dev_line(dev, self.latest)}\n  {text}")
        if dev["greedy"]["reward"] > self.counters["best"]:
            self.counters["best"] = dev["greedy"]["reward"]
            run.export(run.out / "best", iteration=iteration)


def train() -> None:
    args = start(Args, __doc__, check)
    trainer = Trainer(args)
    run = Run("train_ppo", args, trainer.setting.record())
    if run.status != "finished":
        run.begin(trainer, f"{args.iterations} iterations of {args.episodes} episodes")

        def step(iteration: int) -> dict:
            if iteration % args.eval_every == 0:
                trainer.evaluate(iteration, run)
            return trainer.iterate(iteration)

        shown = ("reward_policy", "hit", "p_retrieve", "kl")
        run.loop("ppo", "iteration", args.iterations, step, shown)
        trainer.evaluate(args.iterations, run)
        run.finish()
    say(f"finished: {run.out}   next: {next_evaluation(args, trainer.setting.env.world)}")


if __name__ == "__main__":
    main(train)
