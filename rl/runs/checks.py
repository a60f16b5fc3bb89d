"""What the training scripts say before and after an hour of work: flags that contradict each
other, what is about to happen, what the training questions lack, and the command that comes next.

Left out: what can only be known by playing (rl/warmup/curriculum.py, rl/report).
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from data.load import FEW
from data.metrics import gold_passage, stated
from data.world import Question, World
from model import Tokenizer
from model.files import existing
from rl import ranks
from rl.environment import RagEnv
from rl.runs.flags import UsageError, flag
from rl.runs.info import ADDRESSES
from rl.runs.progress import say

NEW_POLICY = ("vocab_size", "hidden_size", "layers", "heads", "muon_lr", "weight_decay")
PRETRAINED = ("lora_rank", "merge", "weights_dtype", "lr")


def changed(args, *names: str) -> list[str]:
    """Which of these flags have another value than their default."""
    return [name for name in names if getattr(args, name) != getattr(type(args), name)]


def check_sft(args) -> None:
    """Raises UsageError for flags of a new policy beside --init, and the other way round."""
    check_init(args)
    if args.answer_tokens == 1:
        raise UsageError("--answer-tokens must be 0 or at least 2: an answer ends with <eos>")
    if args.init and (wrong := changed(args, *NEW_POLICY)):
        raise UsageError(f"{flag(wrong[0])} is for a new policy; --init brings its own")
    if not args.init and (wrong := changed(args, *PRETRAINED)):
        raise UsageError(f"{flag(wrong[0])} needs --init")


def check_ppo(args) -> None:
    """Raises UsageError, and CheckpointError where --init is none: before ranks are started."""
    check_init(args)
    existing(args.init)
    if args.temperature == 0:
        raise UsageError("--temperature must be above 0: training samples")


def check_init(args) -> None:
    if args.init and Path(args.out).resolve() == Path(args.init).resolve():
        raise UsageError(f"--out {args.out} is --init: the checkpoint would be overwritten")
    if args.init and args.merge and not args.lora_rank:
        raise UsageError("--merge needs --lora-rank")


def describe(script: str, trainer, plan: str) -> None:
    """Say what is about to happen, and what to expect of it. trainer: has args, world, env,
    questions, policy and tokenizer. Raises ContextError, UsageError."""
    args, world, env, policy = trainer.args, trainer.world, trainer.env, trainer.policy
    if getattr(trainer, "both", False) and env.quota < 1:
        none = f"world {world.name!r} allows no retrieval (quota 0), so there are no two branches"
        raise UsageError(f"{none} to play; give --quota 1 or --no-both")
    parameters = sum(p.numel() for p in policy.parameters())
    say(
        f"{script}: world {world.name}, {len(world.corpus):,} passages, k = {env.k}, quota"
        f" {env.quota}; {args.dataset}.train, {len(trainer.questions):,} questions;"
        f" {parameters:,} parameters, vocabulary {len(trainer.tokenizer):,};"
        f" {args.dtype}, {ranks.size()} ranks; {plan}; out {args.out}"
    )
    say_misfits(trainer.questions, trainer.tokenizer, env, policy.config.max_position_embeddings)
    generated = args.world.partition(":")[0] in ("mini", "tiny")
    if len(trainer.questions) < FEW and not args.init and not generated:
        say(
            f"warning: a new policy learns {len(trainer.questions):,} training questions by heart"
            " and answers no others; start from a pretrained one (--init), see docs/own-data.md"
        )


def say_misfits(
    questions: Sequence[Question], tokenizer: Tokenizer, env: RagEnv, context: int
) -> None:
    """Say how many questions are cut, how many answers do not fit, and how many are not stated by
    their gold passages. Raises ContextError."""
    limit, total = env.question_limit(context), len(questions)
    encoded = tokenizer.encode_batch([q.question for q in questions])
    answers = tokenizer.encode_batch([q.answers[0] for q in questions])
    if cut := sum(len(ids) > limit for ids in encoded):
        say(f"{cut} of {total} training questions are longer than {limit} tokens, and are cut")
    if long := sum(len(ids) >= env.answer_budget for ids in answers):
        say(
            f"{long} of {total} training answers are longer than {env.answer_budget - 1} tokens:"
            " never demonstrated as a whole, never right; give --answer-tokens"
        )
    rows = {passage.id: row for row, passage in enumerate(env.corpus)}
    gold = [(gold_passage(q, rows), q) for q in questions if not q.type]
    if silent := sum(i is not None and not stated([env.corpus[i]], q) for i, q in gold):
        say(f"{silent} of {total} training answers are not stated by their gold passage")


def next_training(args) -> str:
    """The command that follows train_sft.py: joint PPO from its checkpoint, in a folder beside."""
    out = Path(args.out)
    name = out.name.replace("sft", "ppo") if "sft" in out.name else f"{out.name}-ppo"
    where = ["--init", args.out, "--out", str(out.with_name(name))]
    return shlex.join(["python", "train_ppo.py", *where, *repeated(args)])


def next_evaluation(args, world: World) -> str:
    """What follows train_ppo.py: an evaluation for each question set, on its split that is furthest
    from training."""
    commands = []
    for name in (name.strip() for name in args.dataset.split(",")):
        splits = (split for split in ("test", "dev") if f"{name}.{split}" in world.splits)
        what = ["--dataset", name, "--split", next(splits, "train"), "--checkpoint", args.out]
        commands.append(shlex.join(["python", "evaluate.py", *what, *repeated(args)]))
    return " && ".join(commands)


def repeated(args) -> list[str]:
    """What no checkpoint decides: an address, a device."""
    found = changed(args, *ADDRESSES, "device")
    return [word for name in found for word in (flag(name), getattr(args, name))]
