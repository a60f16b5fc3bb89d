"""What the training scripts say before and after an hour of work: flags that contradict each
other, what is about to happen, what the training questions lack, and the command that comes next.

Left out: what can only be known by playing (rl/warmup/curriculum.py, rl/report).
"""

import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from data.metrics import gold_passage, stated
from data.world import FEW, Question, World
from model import Tokenizer
from model.checkpoint import existing
from rl import ranks
from rl.environment import RagEnv
from rl.runs.flags import UsageError, flag
from rl.runs.progress import say

NEW_POLICY = ("vocab_size", "hidden_size", "layers", "heads", "muon_lr", "weight_decay")
PRETRAINED = ("lora_rank", "merge", "weights_dtype", "lr")


def check_sft(args) -> None:
    """Raises UsageError for flags of a new policy beside --init, and the other way round."""
    check_init(args)
    for f in fields(args):
        if getattr(args, f.name) == f.default:
            continue
        if args.init and f.name in NEW_POLICY:
            raise UsageError(f"{flag(f.name)} is for a new policy; --init brings its own")
        if not args.init and f.name in PRETRAINED:
            raise UsageError(f"{flag(f.name)} needs --init")


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


def check_branches(world: World, env: RagEnv) -> None:
    """Raises UsageError where no question can be played on both branches."""
    if env.quota < 1:
        raise UsageError(
            f"world {world.name!r} allows no retrieval (quota 0), so there are no two branches to"
            " play; give --quota 1 or --no-both"
        )


def describe(script: str, trainer, plan: str) -> None:
    """Say what is about to happen, and what to expect of it. trainer: has args, world, env,
    questions, policy and tokenizer. Raises ContextError."""
    args, world, env, policy = trainer.args, trainer.world, trainer.env, trainer.policy
    vocabulary = len(trainer.tokenizer)
    say(
        f"{script}: world {world.name}, {len(world.corpus):,} passages, k = {env.k}, quota"
        f" {env.quota}; {args.dataset}.train, {len(trainer.questions):,} questions;"
        f" {policy.parameter_count():,} parameters, vocabulary {vocabulary:,}; {args.dtype},"
        f" {ranks.size()} ranks; {plan}; out {args.out}"
    )
    context = policy.config.max_position_embeddings
    say_misfits(trainer.questions, trainer.tokenizer, env, context)
    generated = args.world.partition(":")[0] in ("mini", "tiny")
    if len(trainer.questions) < FEW and not args.init and not generated:
        say(
            f"warning: a new policy learns {len(trainer.questions):,} training questions by heart"
            " and answers no others; start from a pretrained one (--init), see docs/own-data.md"
        )


def say_misfits(
    questions: Sequence[Question], tokenizer: Tokenizer, env: RagEnv, context: int
) -> None:
    """Say how many questions are cut, how many answers do not fit the answer budget, and how many
    are not stated by their gold passages. Raises ContextError."""
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
    silent = 0
    for question in questions:
        row = gold_passage(question, rows)
        silent += row is not None and not question.type and not stated([env.corpus[row]], question)
    if silent:
        say(f"{silent} of {total} training answers are not stated by their gold passage")


def next_training(args) -> str:
    """The command that follows train_sft.py: joint PPO from its checkpoint, in a folder beside."""
    out = Path(args.out)
    name = out.name.replace("sft", "ppo") if "sft" in out.name else f"{out.name}-ppo"
    where = ["--init", args.out, "--out", str(out.with_name(name))]
    return shlex.join(["python", "train_ppo.py", *where, *repeated(args)])


def next_evaluation(args, world: World) -> str:
    """What follows train_ppo.py: one evaluation for each of its question sets, on the split that is
    furthest from training."""
    commands = []
    for name in (name.strip() for name in args.dataset.split(",")):
        splits = (split for split in ("test", "dev") if f"{name}.{split}" in world.splits)
        what = ["--dataset", name, "--split", next(splits, "train"), "--checkpoint", args.out]
        commands.append(shlex.join(["python", "evaluate.py", *what, *repeated(args)]))
    return " && ".join(commands)


def repeated(args) -> list[str]:
    """What no checkpoint decides: an address, a device."""
    found = []
    for f in fields(args):
        value = getattr(args, f.name)
        if f.name in ("milvus_uri", "retriever_url", "device") and value != f.default:
            found += [flag(f.name), value]
    return found
