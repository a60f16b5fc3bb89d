"""The arguments that all training scripts share, and which of them contradict each other; the
commands that come next. Left out: how a command line is read (flags.py)."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from data.world import World
from model.checkpoint import existing
from rl.runs.flags import DEVICES, UsageError, arg, flag, share
from rl.runs.info import ADDRESSES, RetrieverArgs
from rl.runs.precision import DTYPES

NEW_POLICY = ("vocab_size", "hidden_size", "layers", "heads", "muon_lr", "weight_decay")
PRETRAINED = ("lora_rank", "merge", "weights_dtype", "lr")


@dataclass
class RunArgs(RetrieverArgs):
    out: str = arg("", "where the checkpoints and the log go", "run")
    seed: int = arg(0, "seed of weights, questions, sampling and minibatches")
    fresh: bool = arg(False, "discard what --out holds and start over")
    save_seconds: float = arg(20.0, "seconds between saves of the run's state")
    lower_case: float = share(0.0, "share of the questions in lower case, as people type them")
    lora_rank: int = arg(0, "train LoRA adapters of this rank; 0: all weights", most=4096)
    merge: bool = arg(False, "with --lora-rank: write plain weights, no adapters over OUT/base")
    checkpointing: bool = arg(False, "keep only what lies between layers, compute the rest twice")
    dtype: str = arg("auto", "of multiplications; auto: the faster one", "machine", choices=DTYPES)
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    ranks: int = arg(0, "processes; 0: one per core, or per GPU")


def changed(args, *names: str) -> list[str]:
    """Which of these flags have another value than their default."""
    return [name for name in names if getattr(args, name) != getattr(type(args), name)]


def check(args) -> None:
    """Raises UsageError for what does not go together. args: RunArgs with `init`."""
    if args.init and Path(args.out).resolve() == Path(args.init).resolve():
        raise UsageError(f"--out {args.out} is --init: the checkpoint would be overwritten")
    if args.init and args.merge and not args.lora_rank:
        raise UsageError("--merge needs --lora-rank")


def check_sft(args) -> None:
    """Raises UsageError, also for flags of a new policy beside --init, and the other way round."""
    check(args)
    if args.answer_tokens == 1:
        raise UsageError("--answer-tokens must be 0 or at least 2: an answer ends with <eos>")
    if args.init and (wrong := changed(args, *NEW_POLICY)):
        raise UsageError(f"{flag(wrong[0])} is for a new policy; --init brings its own")
    if not args.init and (wrong := changed(args, *PRETRAINED)):
        raise UsageError(f"{flag(wrong[0])} needs --init")


def check_ppo(args) -> None:
    """Raises UsageError, and CheckpointError where --init is none: before ranks are started."""
    check(args)
    existing(args.init)
    if args.temperature == 0:
        raise UsageError("--temperature must be above 0: training samples")


def next_training(args) -> str:
    """The command that follows train_sft.py: joint PPO from its checkpoint, in a folder beside."""
    out = Path(args.out)
    name = out.name.replace("sft", "ppo") if "sft" in out.name else f"{out.name}-ppo"
    return command("train_ppo.py", args, "--init", args.out, "--out", str(out.with_name(name)))


def next_evaluation(args, world: World) -> str:
    """What follows train_ppo.py: an evaluation for each question set, on its split that is furthest
    from training."""
    commands = []
    for name in (name.strip() for name in args.dataset.split(",")):
        splits = (split for split in ("test", "dev") if f"{name}.{split}" in world.splits)
        what = ("--dataset", name, "--split", next(splits, "train"), "--checkpoint", args.out)
        commands.append(command("evaluate.py", args, *what))
    return " && ".join(commands)


def command(script: str, args, *words: str) -> str:
    """With what no checkpoint decides, an address and a device."""
    found = changed(args, *ADDRESSES, "device")
    more = [word for name in found for word in (flag(name), getattr(args, name))]
    return shlex.join(["python", script, *words, *more])
