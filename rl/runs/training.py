"""What training scripts share: arguments, the policy that they start with, the command that comes
next. Left out: how a command line is read (flags.py), what the policy works in (setting.py)."""

import copy
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch

from data.world import World
from model import Config, Policy, Tokenizer
from model.pretrained import open_pretrained
from model.pretrained.lora import add_adapters, without_adapters
from rl.runs.flags import DEVICES, UsageError, arg, flag, share
from rl.runs.launch import DTYPES, precision
from rl.runs.retrievers import ADDRESSES, RetrieverArgs
from rl.runs.setting import Setting
from rl.runs.shard import place

NEW_POLICY = ("vocab_size", "hidden_size", "layers", "heads", "muon_lr", "weight_decay")
PRETRAINED = ("lora_rank", "merge", "weights_dtype", "shard")


@dataclass
class RunArgs(RetrieverArgs):
    out: str = arg("", "where the checkpoints and the log go", "run")
    seed: int = arg(0, "seed of weights, questions, sampling, minibatches", "run")
    fresh: bool = arg(False, "discard what --out holds and start over")
    save_seconds: float = arg(20.0, "seconds between saves of the run's state", pretrained=120.0)
    lower_case: float = share(0.0, "share of the questions in lower case", pretrained=0.25)
    lora_rank: int = arg(0, "train LoRA adapters of this rank; 0: all weights", most=4096)
    merge: bool = arg(False, "with --lora-rank: write plain weights, no adapters over OUT/base")
    checkpointing: bool = arg(False, "keep only what lies between layers, compute the rest twice")
    shard: bool = arg(False, "cut weights, gradients and moments into slices, one per rank (FSDP)")
    dtype: str = arg("auto", "of multiplications; auto: the faster one", "machine", choices=DTYPES)
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    ranks: int = arg(0, "processes; 0: one per core, or per GPU")
    pretrained: bool = False  # it began with somebody else's weights; no flag


@dataclass
class PolicyArgs:
    vocab_size: int = arg(4096, "entries of the tokenizer", "new policy", least=300, most=1 << 20)
    hidden_size: int = arg(128, "width", least=1, most=8192)
    layers: int = arg(4, "layers", least=1, most=1000)
    heads: int = arg(4, "attention heads; half as many key/value heads", least=1)
    context: int = arg(1024, "positions; with --init at most its own", least=1, most=1 << 20)
    init: str = arg("", "start from this Llama, Mistral, Qwen2 or Qwen3", "pretrained policy")
    weights_dtype: str = arg("fp32", "of the weights in memory", choices=("fp32", "bf16"))


def changed(args, *names: str) -> list[str]:
    """Which of these flags have another value than their default."""
    return [name for name in names if getattr(args, name) != getattr(type(args), name)]


def check(args) -> None:
    """Raises UsageError for what does not go together. args: RunArgs with `init`."""
    if args.init and Path(args.out).resolve() == Path(args.init).resolve():
        raise UsageError(f"--out {args.out} is --init: the checkpoint would be overwritten")
    if args.init and args.merge and not args.lora_rank:
        raise UsageError("--merge needs --lora-rank")
    if args.shard and args.lora_rank:
        raise UsageError("--shard is for full training; adapters are small, give --lora-rank alone")


def check_sft(args) -> None:
    """Raises UsageError, also for flags of a new policy beside --init, and the other way round."""
    check(args)
    if args.answer_tokens == 1:
        raise UsageError("--answer-tokens must be 0 or at least 2: an answer ends with <eos>")
    if args.init and (wrong := changed(args, *NEW_POLICY)):
        raise UsageError(f"{flag(wrong[0])} is for a new policy; --init brings its own")
    if not args.init and (wrong := changed(args, *PRETRAINED)):
        raise UsageError(f"{flag(wrong[0])} needs --init")


def open_start(args, setting: Setting) -> tuple[Policy, Tokenizer]:
    """args: of train_sft.py. Raises UsageError, CheckpointError."""
    torch.manual_seed(args.seed)
    policy, tokenizer = open_init(args) if args.init else new_policy(args, setting)
    place(policy, args).model.gradient_checkpointing = args.checkpointing
    return policy, tokenizer


def open_init(args) -> tuple[Policy, Tokenizer]:
    dtype = torch.bfloat16 if args.weights_dtype == "bf16" else torch.float32
    policy, tokenizer, new = open_pretrained(args.init, dtype, args.context)
    positions = policy.config.max_position_embeddings
    if changed(args, "context") and positions < args.context:
        raise UsageError(f"--context {args.context}: {args.init} has {positions} positions")
    if args.lora_rank:
        add_adapters(policy, args.lora_rank, new)
    return policy, tokenizer


def new_policy(args, setting: Setting) -> tuple[Policy, Tokenizer]:
    texts = [p.full_text for p in setting.env.corpus]
    texts += [text for q in setting.questions for text in (q.question, q.answers[0])]
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


def adamw(parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.AdamW:
    """The optimizer of all trunks, but for the matrices of a new policy's warm-up (Muon)."""
    return torch.optim.AdamW(parameters, lr, (0.9, 0.95), weight_decay=0.0, fused=True)


def with_reference(policy: Policy, args) -> Policy:
    """Prepare a warm-up for training, on the run's device; the frozen policy that it starts as.
    With --lora-rank the two share their weights."""
    place(policy, args).model.gradient_checkpointing = args.checkpointing
    if not args.lora_rank:
        with precision(args.device, args.dtype):
            reference = copy.deepcopy(policy.for_inference()).requires_grad_(False)
        return place(reference, args)
    torch.manual_seed(args.seed)
    add_adapters(policy, args.lora_rank, [])  # new tokens were trained by the warm-up
    return without_adapters(policy)


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
