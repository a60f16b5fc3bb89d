"""How fast training is, and where the rest of the time goes. One process, one run; rounds interleaved; medians.

    python -m benchmarks.training                 warm-up figures; PPO's as well where runs/sft holds a warm-up policy
    python -m benchmarks.training --init DIR      PPO from this checkpoint

Warm-up: tokens/s of whole optimiser steps with the defaults of train_sft.py (demonstrations, retrieval and optimiser
included), and model FLOPs as a share of two bf16 matmul rates measured in the same rounds.

    model FLOPs   6 P T + 6 L D T^2 + 6 V D N of every episode: forward and backward (twice the forward) of the P weights of
                  the layers over its T tokens, of causal attention (half of the T x T products) and of the tied output
                  matrix at the N action tokens whose logits are computed; of the last layer, all but keys and values at
                  those tokens alone. Padding does not count as work.
    own shapes    the matmuls of the layers, forward, input gradient and weight gradient, at the tokens of one micro-batch:
                  what this machine can do at width 128
    1024^3        one large square matmul: what this machine can do at all

On a CPU with matrix units (AMX) a matmul runs at 0.7 to 1.5 TFLOP/s per core, while everything between the matmuls runs
at the speed of memory and vector units: the share says how small the model is as much as how good the code.

PPO: seconds of rollout, score, value head and update per iteration with the defaults of train_ppo.py.
"""

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import train_ppo
import train_sft
from rl import Episode

GROUPS = (
    ("matmul", ("mm", "bmm", "addmm", "linear", "matmul", "baddbmm")),
    ("softmax", ("softmax", "logsumexp")),
    (
        "copies and casts",
        ("copy_", "clone", "cat", "contiguous", "roll", "stack", "fill_", "zero_"),
    ),
    ("gather and scatter", ("index", "gather", "embedding", "scatter", "masked", "nonzero")),
    (
        "elementwise",
        (
            "mul",
            "add",
            "sub",
            "div",
            "silu",
            "exp",
            "rsqrt",
            "pow",
            "neg",
            "where",
            "sum",
            "vecdot",
            "addcmul",
            "addcdiv",
            "lerp",
            "sqrt",
            "foreach",
        ),
    ),
)


def model_flops(episodes: list[Episode], policy) -> float:
    config = policy.config
    weights = {
        name: p.numel() for name, p in policy.model.layers[0].named_parameters() if p.ndim == 2
    }
    keys = weights["self_attn.k_proj.weight"] + weights["self_attn.v_proj.weight"]
    everywhere, wanted = (
        (config.num_hidden_layers - 1) * sum(weights.values()) + keys,
        sum(weights.values()) - keys,
    )
    attention, logits = config.hidden_size, config.vocab_size * config.hidden_size
    return sum(
        6.0
        * (
            everywhere * len(e.tokens)
            + (config.num_hidden_layers - 1) * attention * len(e.tokens) ** 2
            + (wanted + logits + 2 * attention * len(e.tokens)) * sum(e.action_mask)
        )
        for e in episodes
    )


def matmul_rate(shapes: list[tuple[int, int, int]], seconds: float = 0.2) -> float:
    """FLOP/s of bf16 products [M, K] x [K, N], all shapes in turn."""
    operands = [
        (
            torch.randn(m, k, dtype=torch.bfloat16),
            torch.randn(k, n, dtype=torch.bfloat16),
            torch.empty(m, n, dtype=torch.bfloat16),
        )
        for m, k, n in shapes
    ]
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for a, b, out in operands:
            torch.mm(a, b, out=out)
        done += 1
    return done * sum(2.0 * m * k * n for m, k, n in shapes) / (time.perf_counter() - start)


def layer_shapes(policy, tokens: int) -> list[tuple[int, int, int]]:
    """Forward, input gradient and weight gradient of every weight of one layer."""
    shapes = []
    for p in policy.model.layers[0].parameters():
        if p.ndim == 2:
            out, into = p.shape
            shapes += [(tokens, into, out), (tokens, out, into), (out, tokens, into)]
    return shapes


def op_groups(work) -> list[tuple[str, float]]:
    """Shares of the profiler's self time, by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    spent: Counter = Counter()
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::").strip("_")
        kind = next(
            (kind for kind, parts in GROUPS if any(part in name for part in parts)),
            "other (framework, views)",
        )
        spent[kind] += event.self_cpu_time_total
    return [(kind, t / sum(spent.values())) for kind, t in spent.most_common()]


def spread(values: list[float], unit: str, scale: float = 1.0) -> str:
    return f"{statistics.median(values) / scale:.3g} {unit} ({min(values) / scale:.3g} - {max(values) / scale:.3g})"


def warm_up_figures(args) -> None:
    run = train_sft.WarmUp(train_sft.Args(world=args.world))
    run.build()
    run.policy.train()
    first = run.args.read_steps  # after the curriculum: whole observations
    sizes = [sum(len(e.tokens) for e in run.batch(first + i)) for i in range(3)]
    shapes = layer_shapes(
        run.policy, round(statistics.mean(sizes) * run.args.micro_batch / run.args.episodes)
    )
    speed, share_own, share_large, own_rates, large_rates, parts, padded = (
        [],
        [],
        [],
        [],
        [],
        Counter(),
        [],
    )

    def step(i: int) -> list[Episode]:
        clock = [time.perf_counter()]
        episodes = run.batch(first + i)
        clock.append(time.perf_counter())
        train_sft.train_step(
            run.policy, run.optimizers, episodes, run.tokenizer, run.args, run.workers
        )
        parts.update(demonstrations=clock[1] - clock[0], step=time.perf_counter() - clock[1])
        return episodes

    step(0)
    parts.clear()
    for turn in range(args.rounds):
        own_rates.append(matmul_rate(shapes))
        large_rates.append(matmul_rate([(1024, 1024, 1024)]))
        start = time.perf_counter()
        episodes = [e for i in range(args.steps) for e in step(turn * args.steps + i)]
        seconds = time.perf_counter() - start
        speed.append(sum(len(e.tokens) for e in episodes) / seconds)
        flops = model_flops(episodes, run.policy) / seconds
        share_own.append(flops / own_rates[-1])
        share_large.append(flops / large_rates[-1])
        groups = [
            [len(batch[i].tokens) for i in g]
            for batch in [episodes[-run.args.episodes :]]
            for g in train_sft.by_length(batch, run.args.micro_batch)
        ]
        padded.append(1 - sum(map(sum, groups)) / sum(len(g) * max(g) for g in groups))
    print(
        f"SFT            {spread(speed, 'tokens/s')}; {run.args.episodes} demonstrations, about {statistics.mean(sizes):.0f} tokens per step, {statistics.mean(padded):.0%} of positions are padding"
    )
    print(
        f"matmul, bf16   own shapes {spread(own_rates, 'TFLOP/s', 1e12)}; 1024^3 {spread(large_rates, 'TFLOP/s', 1e12)}"
    )
    print(
        f"share of it    {spread(share_own, '%', 0.01)} of own shapes; {spread(share_large, '%', 0.01)} of 1024^3"
    )
    whole = sum(parts.values())
    # Parts of one more step, taken apart.
    clock, batch = Counter(), run.batch(first)
    for group in train_sft.by_length(batch, run.args.micro_batch):
        start = time.perf_counter()
        loss = train_sft.loss_of(run.policy, [batch[i] for i in group], run.tokenizer, run.args)
        middle = time.perf_counter()
        loss.backward()
        clock.update(forward=middle - start, backward=time.perf_counter() - middle)
    start = time.perf_counter()
    for optimizer in run.optimizers.values():
        optimizer.step()
    clock["optimisers"] = time.perf_counter() - start
    rest = parts["step"] / whole / sum(clock.values())
    print(
        "parts          "
        + ", ".join(
            f"{name} {t:.0%}"
            for name, t in (
                ("demonstrations and retrieval", parts["demonstrations"] / whole),
                *((k, t * rest) for k, t in clock.items()),
            )
        )
    )
    print(
        "operations     "
        + ", ".join(f"{kind} {share:.0%}" for kind, share in op_groups(lambda: step(1)))
    )


def ppo_figures(args) -> None:
    if not (Path(args.init) / "config.json").exists():
        print(f"PPO            no warm-up policy in {args.init}: python train_sft.py, or --init")
        return
    trainer = train_ppo.Trainer(train_ppo.Args(init=args.init))
    trainer.iteration = trainer.args.value_warmup  # the first iteration that updates the policy
    figures = []
    for _ in range(args.rounds + 1):
        figures.append(trainer.iterate())
        trainer.iteration += 1
    figures = figures[1:]
    names = ("rollout", "score", "value", "update")
    seconds = {name: [f[f"seconds_{name}"] for f in figures] for name in names}
    print(
        f"PPO            {trainer.args.episodes} episodes per iteration: "
        + ", ".join(f"{name} {spread(seconds[name], 's')}" for name in names)
    )
    print(
        f"ratios         update / rollout {spread([f['seconds_update'] / f['seconds_rollout'] for f in figures], 'x')}; "
        f"all but the rollout / rollout {spread([sum(f[f'seconds_{n}'] for n in names[1:]) / f['seconds_rollout'] for f in figures], 'x')}; "
        f"{statistics.median([trainer.args.episodes / sum(f[f'seconds_{n}'] for n in names) for f in figures]):.0f} episodes/s over all; "
        f"{statistics.mean(f['optimizer_steps'] for f in figures):.0f} optimiser steps per update"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--init", default="runs/sft", help="warm-up checkpoint for the PPO figures")
    parser.add_argument("--world", default="mini")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--steps", type=int, default=4, help="optimiser steps per round of the warm-up"
    )
    parser.add_argument("--threads", type=int, default=0, help="torch threads, 0 = all")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    torch.manual_seed(0)
    print(f"training: {torch.get_num_threads()} threads, torch {torch.__version__}")
    warm_up_figures(args)
    ppo_figures(args)


if __name__ == "__main__":
    main()
