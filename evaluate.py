"""Policies and baselines through the same environment -> table, traces, JSON results, report.

    python evaluate.py --dataset popqa                     runs/sft, runs/ppo, forced baselines
    python evaluate.py --dataset popqa --checkpoint A,B    other checkpoints
    python evaluate.py --ask "Who wrote Middlemarch?"      one question; "--ask -": lines of stdin
    ... --force answer|retrieve|question | --sample | --threshold 0.3
    ... --sweep                        figures of every threshold on P([RETRIEVE])
    ... --report report.html           a page to look at; what is on disk and current is not played
    python evaluate.py --compare --seeds 0,1,2             the study: python -m rl.study

Greedy by default. Results of the policy's own decisions go to
CHECKPOINT/eval/<world>.<set>.<split>.json and the episodes to a .jsonl beside it; other decodings
carry their name in the file's. Left out: training, choosing anything on test.
"""

import os
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until main: imports take seconds

import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

from data.world import Question
from model.files import existing, is_checkpoint, read_json, weights_sha256, write_json
from model.pretrained import open_policy
from rl import Decoding, Episode, ranks
from rl.report import page
from rl.report.evaluation import DIRECT, OWN, RETRIEVE, Evaluation, Result
from rl.report.summary import sweep
from rl.report.text import answer_all, as_json, as_text, comparison, printed, sweep_table, traces
from rl.rollout import FORCED
from rl.runs.flags import DEVICES, UsageError, arg, flag, main, parse, share
from rl.runs.info import run_info
from rl.runs.launch import launch
from rl.runs.precision import DTYPES, choose_dtype, precision
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.run import differences, plain
from rl.study.study import StudyArgs, compare


@dataclass
class Args(RetrieverArgs, StudyArgs):
    compare: bool = arg(False, "train and compare whole systems; hours", "study (--compare)")
    checkpoint: str = arg("", "checkpoints, comma-separated; empty: runs/sft, runs/ppo", "what")
    world: str = arg("", "world; empty: the one the checkpoint was trained on", "what")
    dataset: str = arg("", "question set, or several: a,b; empty: as trained", "what")
    split: str = arg("test", "split of the question set")
    rows: int = arg(0, "first questions only, 0 = all", "what")
    k: int = arg(0, "passages per retrieval, 0: the checkpoint's", "what")
    quota: int = arg(0, "retrievals per question, 0: the checkpoint's")
    retrieval_cost: float = arg(-1.0, "of a retrieval; -1: the checkpoint's", "reward", least=-1)
    malformed_cost: float = arg(-1.0, "of a malformed action; -1: the checkpoint's", least=-1)
    force: str = arg(
        "", "first decision; question: as the query", "decoding", choices=("", *FORCED)
    )
    sample: bool = arg(False, "sample text and decision at temperature 1, as in training")
    threshold: float = share(0.5, "retrieve when P([RETRIEVE]) exceeds this")
    seed: int = arg(0, "seed of --sample")
    sweep: bool = arg(False, "figures of every threshold on P([RETRIEVE])", "output")
    report: str = arg("", "write this HTML file", "output")
    show: int = arg(3, "episodes to print at the end", "output")
    ask: str | None = arg(None, "a question, or - for lines of stdin")
    json: bool = arg(False, "with --ask: one JSON object per question and nothing else")
    batch_size: int = arg(512, "questions per batch", "machine", least=1)
    dtype: str = arg("auto", "of multiplications", choices=DTYPES)
    device: str = arg("cpu", "cpu or cuda", "machine", choices=DEVICES)
    ranks: int = arg(0, "processes that share the work, 0: one per core", "machine")


GREEDY = Decoding()
BASELINES = {
    DIRECT: Decoding(force="answer"),
    "always retrieve, raw question": Decoding(force="question"),
    RETRIEVE: Decoding(force="retrieve"),
    OWN: GREEDY,
}


class Checkpoint:
    """A checkpoint in the environment of a command line, ready to play any decoding."""

    def __init__(self, name: str, args: Args):
        """Raises UsageError, CheckpointError, WorldError."""
        self.name, self.args = name, args
        self.label = name  # in tables; with its costs where they differ
        policy, tokenizer, made = open_policy(name, args.device)
        info = run_info(made, name)
        world, index, retriever = open_world(args.world, args, info)
        costs = {cost: getattr(args, cost) for cost in ("retrieval_cost", "malformed_cost")}
        given = {cost: value for cost, value in costs.items() if value >= 0}
        self.reward = replace(info.reward, **given)
        shape = {"k": args.k or info.k, "quota": args.quota or info.quota}
        env = replace(info, reward=self.reward, **shape).environment(world, index)
        about = {"retriever": retriever, "checkpoint": name, "weights_sha256": weights_sha256(name)}
        machine = args.device, args.dtype, args.batch_size, args.seed
        self.evaluation = Evaluation(policy, tokenizer, env, about, *machine)
        self.asked = args.dataset or info.dataset or "popqa", args.split
        self.questions = []
        if args.ask is None:
            sets = world.union(*self.asked)
            self.questions = [q for questions in sets for q in questions][: args.rows or None]
            if not self.questions:
                raise UsageError(f"{'.'.join(self.asked)} of world {world.name} is empty")
        self.about = self.evaluation.depends_on(self.asked, self.questions)

    def path(self, ending: str, decoding: Decoding = GREEDY) -> Path:
        """Results of other decodings than the policy's own greedy decisions carry their name."""
        name = ".".join([self.about["world"], *self.asked])
        if decoding.force:
            name += f".force-{decoding.force}"
        elif decoding.sample_decision:
            name += ".sample"
        elif decoding.threshold != 0.5:
            name += f".threshold-{decoding.threshold:g}"
        return Path(self.name) / "eval" / f"{name}{ending}"

    def play(self, row: str, decoding: Decoding, reuse: bool) -> Result:
        file, name = self.path(".json", decoding), f"{self.label}: {row}"
        return self.evaluation.play(file, self.asked, self.questions, decoding, reuse, name)


def print_sweep(checkpoint: Checkpoint, episodes: dict[str, list[Episode]]) -> None:
    """The sweep's table; all of it goes to a .sweep.json."""

    def replay(threshold: float) -> list[Episode]:
        decoding = Decoding(threshold=threshold)
        return checkpoint.play(f"threshold {threshold:g}", decoding, reuse=False).episodes

    again = replay if checkpoint.about["quota"] > 1 else None
    swept = sweep(episodes, DIRECT, RETRIEVE, again)
    file = checkpoint.path(".sweep.json")
    if ranks.rank() == 0:
        write_json(file, plain(checkpoint.about | swept))
    title = f"{checkpoint.label}: threshold sweep ({file})"
    print(printed(sweep_table(title, swept).markdown()))


def ask(evaluation: Evaluation, args: Args, decoding: Decoding) -> None:
    """Answer --ask, each question as it comes."""
    with precision(args.device, args.dtype):
        evaluation.policy = evaluation.policy.for_inference()  # once, not for every question

    def answer(question: Question) -> dict:
        start = time.perf_counter()
        [episode] = evaluation.answer([question], decoding)
        [record] = evaluation.records([episode])
        seconds = round(time.perf_counter() - start, 4)
        return record | {"truncated": episode.truncated, "seconds": seconds}

    answer_all(args.ask, answer, as_json if args.json else as_text)


def check(args: Args) -> Decoding:
    """The decoding of a command line whose flags go together. Raises UsageError."""
    if args.compare:
        studied = {"compare", *(f.name for f in fields(StudyArgs))}
        for f in fields(Args):
            if f.name not in studied and getattr(args, f.name) != f.default:
                name = flag(f.name)
                raise UsageError(f"{name} does not go with --compare, whose systems are fixed")
    if bool(args.force) + args.sample + (args.threshold != 0.5) > 1:
        raise UsageError("--force, --sample and --threshold exclude each other")
    force = args.force or None
    decoding = Decoding(float(args.sample), args.sample, args.threshold, force=force)
    if args.json and args.ask is None:
        raise UsageError("--json goes with --ask")
    if (args.sweep or args.report) and decoding != GREEDY:
        alone = "they go with none of --force, --sample, --threshold"
        raise UsageError(f"--sweep and --report are about all decodings; {alone}")
    return decoding


def checkpoints_of(args: Args) -> list[str]:
    """Raises UsageError, CheckpointError."""
    default = [c for c in ("runs/sft", "runs/ppo") if is_checkpoint(c)]
    names = args.checkpoint.split(",") if args.checkpoint else default
    if not names:
        missing = "no checkpoint in runs/sft or runs/ppo"
        raise UsageError(f"{missing}; train one (python train_sft.py) or give --checkpoint")
    return [str(existing(name)) for name in names]


def open_all(names: list[str], args: Args) -> list[Checkpoint]:
    """All checkpoints, before anything is played. Raises UsageError, CheckpointError."""
    checkpoints = [Checkpoint(name, args) for name in names]
    first = checkpoints[0].about
    same = {name: first[name] for name in ("world", "questions_sha256", "corpus_sha256")}
    for other in checkpoints[1:]:
        if differences(other.about, same):
            pair = f"{names[0]} and {other.name}"
            advice = "give --world and --dataset"
            raise UsageError(f"{pair} were trained on different worlds or sets; {advice}")
    if len({c.reward for c in checkpoints}) > 1:
        for c in checkpoints:
            costs = f"retrieval cost {c.reward.retrieval_cost:g}"
            c.label += f" ({costs}, malformed cost {c.reward.malformed_cost:g})"
    return checkpoints


def evaluate() -> None:
    args = parse(Args, __doc__)
    decoding = check(args)
    if args.compare:
        return compare(args)
    names = checkpoints_of(args)
    launch(args.ranks if args.ask is None else 1, args.device)
    args.dtype = choose_dtype(args.dtype, args.device)
    if args.ask is not None:
        return ask(Checkpoint(names[-1], args).evaluation, args, decoding)
    checkpoints = open_all(names, args)
    rows = BASELINES
    if decoding != GREEDY:
        rows = {f"force {args.force}" if args.force else OWN: decoding}
    about = checkpoints[0].about
    header = (
        "evaluate: world {world}, set {set}, split {split}, {rows} questions, ".format(**about)
        + "{}, k = {k}, quota {quota}; ".format(about["retriever"]["retriever"], **about)
        + f"{'sampled' if args.sample else 'greedy'}; reward "
        + "{exact_match:g} EM + {f1:g} F1 - {retrieval_cost:g} per retrieval - "
        "{malformed_cost:g} if malformed; checkpoints ".format(**about["reward"])
        + ", ".join(c.label for c in checkpoints)
    )
    print(printed(header + "\n"))
    results, reuse = {}, bool(args.report) and not args.sweep
    for checkpoint in checkpoints:
        for row, how in rows.items():
            results[checkpoint.label, row] = checkpoint.play(row, how, reuse)
    last = list(results.values())[-1]
    if cut := last.about["truncated_questions"]:
        print(f"{cut} questions were longer than the context and were cut")
    tables = comparison(results)
    print(printed("\n".join(table.markdown() for table in tables)))
    sweeps = {}
    for checkpoint in checkpoints:
        if args.sweep:
            print_sweep(checkpoint, {row: results[checkpoint.label, row].episodes for row in rows})
        file = checkpoint.path(".sweep.json")
        if args.report and file.exists() and not differences(read_json(file), checkpoint.about):
            sweeps[checkpoint.label] = read_json(file)
    print(traces(last.records, args.show))
    print("\nresults: " + ", ".join(str(c.path(".json", decoding)) for c in checkpoints))
    if args.report and ranks.rank() == 0:
        page.report(Path(args.report), header, results, tables, sweeps)


if __name__ == "__main__":
    main(evaluate)
