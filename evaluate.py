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
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from data.world import Question
from model import is_checkpoint, weights_sha256, write_json
from model.pretrained import open_policy
from rl import Decoding, Episode, RagEnv, Reward, ranks, rollout
from rl.report import page
from rl.report.results import OWN, Group, Result, episode_record, played, questions_sha256
from rl.report.summary import table
from rl.report.sweep import SHOWN, sweep
from rl.report.text import COLUMNS, as_json, as_text, comparison, questions_of, traces
from rl.rollout import FORCED
from rl.runs.flags import DEVICES, UsageError, arg, flag, main, parse, share
from rl.runs.info import run_info
from rl.runs.launch import launch
from rl.runs.precision import DTYPES, choose_dtype, precision
from rl.runs.progress import progress
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.run import differences, plain, read_json
from rl.study.study import StudyArgs, compare


@dataclass
class Args(RetrieverArgs, StudyArgs):
    compare: bool = arg(False, "train and compare whole systems; hours", "study (--compare)")
    checkpoint: str = arg("", "checkpoints, comma-separated; empty: runs/sft, runs/ppo", "what")
    world: str = arg("", "world; empty: the one the checkpoint was trained on", "what")
    dataset: str = arg("popqa", "question set", "what")
    split: str = arg("test", "split of the question set")
    rows: int = arg(0, "first questions only, 0 = all", "what")
    k: int = arg(0, "passages per retrieval, 0: the checkpoint's", "what")
    quota: int = arg(0, "retrievals per question, 0: the checkpoint's")
    force: str = arg(
        "", "first decision; question: as the query", "decoding", choices=("", *FORCED)
    )
    sample: bool = arg(False, "sample text and decision at temperature 1, as in training")
    threshold: float = share(0.5, "retrieve when P([RETRIEVE]) exceeds this")
    seed: int = arg(0, "seed of --sample")
    sweep: bool = arg(False, "figures of every threshold on P([RETRIEVE])", "output")
    report: str = arg("", "write this HTML file", "output")
    show: int = arg(3, "episodes to print at the end", "output")
    ask: str | None = field(
        default=None, metadata={"help": "a question, or - for lines of stdin", "type": str}
    )
    json: bool = arg(False, "with --ask: one JSON object per question and nothing else")
    batch_size: int = arg(512, "questions per batch", "machine", least=1)
    dtype: str = arg("auto", "of multiplications", choices=DTYPES)
    device: str = arg("cpu", "cpu or cuda", "machine", choices=DEVICES)
    ranks: int = arg(0, "processes that share the work, 0: one per core", "machine")


GREEDY = Decoding()
DIRECT, RETRIEVE = "direct only", "always retrieve, own query"
BASELINES = {
    DIRECT: Decoding(force="answer"),
    "always retrieve, raw question": Decoding(force="question"),
    RETRIEVE: Decoding(force="retrieve"),
    OWN: GREEDY,
}


def decoding_of(args: Args) -> Decoding:
    """Raises UsageError."""
    if args.force and args.sample:
        raise UsageError("--force and --sample exclude each other")
    if args.threshold != 0.5 and (args.force or args.sample):
        raise UsageError("--threshold goes with neither --force nor --sample")
    force = args.force or None
    return Decoding(float(args.sample), args.sample, args.threshold, force=force)


def file_suffix(decoding: Decoding) -> str:
    """ "" for the policy's own greedy decisions, else the name of the decoding."""
    if decoding.force:
        return f".force-{decoding.force}"
    if decoding.sample_decision:
        return ".sample"
    return "" if decoding.threshold == 0.5 else f".threshold-{decoding.threshold:g}"


class Evaluation:
    """One checkpoint with its world, ready to play any decoding."""

    def __init__(self, checkpoint: str, args: Args):
        self.args, self.checkpoint = args, checkpoint
        self.policy, self.tokenizer, made = open_policy(checkpoint, args.device)
        info = run_info(made, checkpoint)
        self.world, index, self.retriever = open_world(args.world, args, info)
        self.env = RagEnv(
            self.world,
            index,
            args.k or info.k,
            args.quota or info.quota or None,
            Reward(**asdict(info.reward)),
            info.passage_tokens,
            info.query_tokens,
            info.answer_tokens,
        )
        self.questions = []
        if args.ask is None:
            everything = self.world.questions(args.dataset, args.split)
            self.questions = everything[: args.rows or None]
        self.about = {
            "world": self.world.name,
            "set": args.dataset,
            "split": args.split,
            "rows": len(self.questions),
            "retriever": self.retriever,
            "k": self.env.k,
            "quota": self.env.quota,
            "reward": asdict(self.env.reward),
            "corpus_sha256": self.world.corpus_sha256,
            "questions_sha256": questions_sha256(self.questions),
            "weights_sha256": weights_sha256(checkpoint),
            "checkpoint": checkpoint,
        }

    def path(self, ending: str, decoding: Decoding = GREEDY) -> Path:
        name = f"{self.world.name}.{self.args.dataset}.{self.args.split}{file_suffix(decoding)}"
        return Path(self.checkpoint) / "eval" / f"{name}{ending}"

    def rollout(self, questions, decoding, update=lambda finished: None) -> list[Episode]:
        generator = torch.Generator().manual_seed(self.args.seed)
        parts = self.policy, self.tokenizer, self.env, questions, decoding, generator
        with precision(self.args.device, self.args.dtype):
            return rollout(*parts, self.args.batch_size, update)

    def play(self, row: str, decoding: Decoding, reuse: bool) -> tuple[list[Episode], Result]:
        """All questions, with result files; `reuse`: what is there and current is read."""
        label = f"{self.checkpoint}: {row}"
        with progress(len(self.questions), label, "question", leave=False) as bar:
            return played(
                self.path(".json", decoding),
                self.about | {"decoding": asdict(decoding)},
                self.questions,
                lambda: self.rollout(self.questions, decoding, bar.update),
                lambda episodes: [self.record(e) for e in episodes],
                reuse,
            )

    def record(self, e: Episode) -> dict:
        return episode_record(e, self.world.corpus, self.tokenizer)


# ------------------------------------------------------------------------------------------ output


def print_sweep(evaluation: Evaluation, episodes: dict[str, list[Episode]]) -> None:
    """The sweep's table; all of it goes to a .sweep.json."""

    def replay(threshold: float) -> list[Episode]:
        decoding = Decoding(threshold=threshold)
        return evaluation.play(f"threshold {threshold:g}", decoding, reuse=False)[0]

    again = replay if evaluation.env.quota > 1 else None
    swept = sweep(episodes, DIRECT, RETRIEVE, again)
    file = evaluation.path(".sweep.json")
    if ranks.rank() == 0:
        write_json(file, plain(evaluation.about | swept))
    shown = [(f"P([RETRIEVE]) > {m['threshold']:g}", m) for m in swept["curve"]]
    shown = [(label, m) for label, m in shown if m["threshold"] in SHOWN]
    print(f"\n{evaluation.checkpoint}: threshold sweep ({file})")
    print(table(shown + list(swept["points"].items()), COLUMNS))


def ask(evaluation: Evaluation, decoding: Decoding) -> None:
    """Answer --ask, each question as it comes; a reader that goes away (a closed pipe) ends it."""
    with precision(evaluation.args.device, evaluation.args.dtype):
        evaluation.policy = evaluation.policy.for_inference()  # once, not for every question
    show = as_json if evaluation.args.json else as_text
    try:
        for number, text in questions_of(evaluation.args.ask):
            start = time.perf_counter()
            [episode] = evaluation.rollout([Question(str(number), text, ())], decoding)
            record = evaluation.record(episode) | {"truncated": episode.truncated}
            print(show(record | {"seconds": time.perf_counter() - start}), flush=True)
    except BrokenPipeError:  # or else Python's last flush would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ------------------------------------------------------------------------------------- the script


def check(args: Args) -> Decoding:
    """The decoding of a command line whose flags go together. Raises UsageError."""
    if args.compare:
        studied = {"compare", *(f.name for f in fields(StudyArgs))}
        for f in fields(Args):
            if f.name not in studied and getattr(args, f.name) != f.default:
                name = flag(f.name)
                raise UsageError(f"{name} does not go with --compare, whose systems are fixed")
    decoding = decoding_of(args)
    if args.json and args.ask is None:
        raise UsageError("--json goes with --ask")
    if (args.sweep or args.report) and decoding != GREEDY:
        raise UsageError(
            "--sweep and --report are about all decodings; "
            "they go with none of --force, --sample, --threshold"
        )
    return decoding


def open_all(args: Args) -> list[Evaluation]:
    """Every checkpoint, before anything is played. Raises UsageError, CheckpointError."""
    default = [c for c in ("runs/sft", "runs/ppo") if is_checkpoint(c)]
    names = args.checkpoint.split(",") if args.checkpoint else default
    if not names:
        missing = "no checkpoint in runs/sft or runs/ppo"
        raise UsageError(f"{missing}; train one (python train_sft.py) or give --checkpoint")
    args.dtype = choose_dtype(args.dtype, args.device)
    if args.ask is not None:
        return [Evaluation(names[-1], args)]
    evaluations = [Evaluation(name, args) for name in names]
    first = evaluations[0].about
    for other in evaluations[1:]:
        asked = {name: first[name] for name in ("world", "questions_sha256", "corpus_sha256")}
        if differences(other.about, asked):
            raise UsageError(
                f"{names[0]} and {other.checkpoint} were trained on different worlds; give --world"
            )
    return evaluations


def evaluate() -> None:
    args = parse(Args, __doc__)
    decoding = check(args)
    if args.compare:
        return compare(args)
    launch(args.ranks if args.ask is None else 1, args.device)
    evaluations = open_all(args)
    if args.ask is not None:
        return ask(evaluations[0], decoding)
    rows = BASELINES
    if decoding != GREEDY:
        rows = {f"force {args.force}" if args.force else OWN: decoding}
    about, names = evaluations[0].about, [e.checkpoint for e in evaluations]
    print(
        "evaluate: world {world}, set {set}, split {split}, {rows} questions, ".format(**about)
        + "{}, k = {k}, quota {quota}; ".format(about["retriever"]["retriever"], **about)
        + f"{'sampled' if args.sample else 'greedy'}; checkpoints {', '.join(names)}"
    )
    episodes, results, reuse = {}, {}, bool(args.report) and not args.sweep
    for evaluation in evaluations:
        for row, how in rows.items():
            key = evaluation.checkpoint, row
            episodes[key], results[key] = evaluation.play(row, how, reuse)
    last = list(results.values())[-1]
    if cut := last.about["truncated_questions"]:
        print(f"{cut} questions were longer than the context and were cut")
    print(comparison(episodes))
    group = Group(about, results)
    for evaluation in evaluations:
        if args.sweep:
            print_sweep(evaluation, {row: episodes[evaluation.checkpoint, row] for row in rows})
        file = evaluation.path(".sweep.json")
        if args.report and file.exists() and not differences(read_json(file), evaluation.about):
            group.sweeps[evaluation.checkpoint] = read_json(file)
    print(traces(last.records, args.show))
    print("\nresults: " + ", ".join(str(e.path(".json", decoding)) for e in evaluations))
    if args.report and ranks.rank() == 0:
        page.write(Path(args.report), page.render(group, names))


if __name__ == "__main__":
    main(evaluate)
