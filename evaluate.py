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

import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from data.world import Question
from model import is_checkpoint, weights_sha256, write_json
from model.checkpoint import existing
from model.pretrained import open_policy
from rl import Decoding, Episode, RagEnv, Reward, ranks, rollout
from rl.report import page
from rl.report.results import (
    DIRECT,
    OWN,
    RETRIEVE,
    Group,
    Result,
    episode_record,
    played,
    questions_sha256,
)
from rl.report.sweep import sweep, sweep_table
from rl.report.text import answer_all, as_json, as_text, comparison, printable, traces
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
    dataset: str = arg("", "question sets; empty: those of the checkpoint", "what")
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
    ask: str | None = arg(None, "a question, or - for lines of stdin", kind=str)
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


class Evaluation:
    """One checkpoint with its world, ready to play any decoding."""

    def __init__(self, checkpoint: str, args: Args):
        self.label = checkpoint  # in tables; with its costs where they differ
        self.policy, self.tokenizer, made = open_policy(checkpoint, args.device)
        info = run_info(made, checkpoint)
        args = replace(args, dataset=args.dataset or info.dataset or "popqa")
        self.args, self.checkpoint = args, checkpoint
        self.world, index, self.retriever = open_world(args.world, args, info)
        costs = {name: getattr(args, name) for name in ("retrieval_cost", "malformed_cost")}
        given = {name: cost for name, cost in costs.items() if cost >= 0}
        self.reward = Reward(**asdict(info.reward) | given)
        self.env = RagEnv(
            self.world,
            index,
            args.k or info.k,
            args.quota or info.quota or None,
            self.reward,
            info.passage_tokens,
            info.query_tokens,
            info.answer_tokens,
        )
        self.questions = []
        if not args.ask:
            sets = self.world.union(args.dataset, args.split)
            self.questions = [q for questions in sets for q in questions][: args.rows or None]
            if not self.questions:
                where = f"world {self.world.name}"
                raise UsageError(f"{args.dataset}.{args.split} of {where} has no questions")
        self.about = {
            "world": self.world.name,
            "set": args.dataset,
            "split": args.split,
            "rows": len(self.questions),
            "retriever": self.retriever,
            "k": self.env.k,
            "quota": self.env.quota,
            "reward": asdict(self.reward),
            "corpus_sha256": self.world.corpus_sha256,
            "questions_sha256": questions_sha256(self.questions),
            "weights_sha256": weights_sha256(checkpoint),
            "checkpoint": checkpoint,
        }

    def path(self, ending: str, decoding: Decoding = GREEDY) -> Path:
        """Results of other decodings than the policy's own greedy decisions carry their name."""
        name = f"{self.world.name}.{self.args.dataset}.{self.args.split}"
        if decoding.force:
            name += f".force-{decoding.force}"
        elif decoding.sample_decision:
            name += ".sample"
        elif decoding.threshold != 0.5:
            name += f".threshold-{decoding.threshold:g}"
        return Path(self.checkpoint) / "eval" / f"{name}{ending}"

    def rollout(self, questions, decoding, update=lambda finished: None) -> list[Episode]:
        generator = torch.Generator().manual_seed(self.args.seed)
        parts = self.policy, self.tokenizer, self.env, questions, decoding, generator
        with precision(self.args.device, self.args.dtype):
            return rollout(*parts, self.args.batch_size, update)

    def play(self, row: str, decoding: Decoding, reuse: bool) -> tuple[list[Episode], Result]:
        """All questions, with result files; `reuse`: what is there and current is read."""
        name = f"{self.label}: {row}"
        with progress(len(self.questions), name, "question", leave=False) as bar:
            return played(
                self.path(".json", decoding),
                self.about | {"decoding": asdict(decoding)},
                self.questions,
                lambda: self.rollout(self.questions, decoding, bar.update),
                lambda episodes: list(map(self.record, episodes)),
                reuse,
            )

    def record(self, e: Episode) -> dict:
        return episode_record(e, self.world.corpus, self.tokenizer)


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
    print(f"\n{evaluation.label}: threshold sweep ({file})\n{sweep_table(swept)}")


def ask(evaluation: Evaluation, decoding: Decoding) -> None:
    """Answer --ask, each question as it comes."""
    with precision(evaluation.args.device, evaluation.args.dtype):
        evaluation.policy = evaluation.policy.for_inference()  # once, not for every question

    def answer(question: Question) -> dict:
        start = time.perf_counter()
        [episode] = evaluation.rollout([question], decoding)
        record = evaluation.record(episode) | {"truncated": episode.truncated}
        return record | {"seconds": round(time.perf_counter() - start, 4)}

    answer_all(evaluation.args.ask, answer, as_json if evaluation.args.json else as_text)


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


def open_all(names: list[str], args: Args) -> list[Evaluation]:
    """All checkpoints, before anything is played. Raises UsageError, CheckpointError."""
    evaluations = [Evaluation(name, args) for name in names]
    first = evaluations[0].about
    same = {name: first[name] for name in ("world", "questions_sha256", "corpus_sha256")}
    for other in evaluations[1:]:
        if differences(other.about, same):
            pair = f"{names[0]} and {other.checkpoint}"
            advice = "give --world and --dataset"
            raise UsageError(f"{pair} were trained on different worlds or sets; {advice}")
    if len({e.reward for e in evaluations}) > 1:
        for e in evaluations:
            costs = f"retrieval cost {e.reward.retrieval_cost:g}"
            e.label += f" ({costs}, malformed cost {e.reward.malformed_cost:g})"
    return evaluations


def evaluate() -> None:
    args = parse(Args, __doc__)
    decoding = check(args)
    if args.compare:
        return compare(args)
    names = checkpoints_of(args)
    launch(args.ranks if args.ask is None else 1, args.device)
    args.dtype = choose_dtype(args.dtype, args.device)
    if args.ask is not None:
        return ask(Evaluation(names[-1], args), decoding)
    evaluations = open_all(names, args)
    rows = BASELINES
    if decoding != GREEDY:
        rows = {f"force {args.force}" if args.force else OWN: decoding}
    about = evaluations[0].about
    header = (
        "evaluate: world {world}, set {set}, split {split}, {rows} questions, ".format(**about)
        + "{}, k = {k}, quota {quota}; ".format(about["retriever"]["retriever"], **about)
        + f"{'sampled' if args.sample else 'greedy'}; reward "
        + "{exact_match:g} EM + {f1:g} F1 - {retrieval_cost:g} per retrieval - "
        "{malformed_cost:g} if malformed; checkpoints ".format(**about["reward"])
        + ", ".join(e.label for e in evaluations)
    )
    print(printable(header))
    episodes, results, reuse = {}, {}, bool(args.report) and not args.sweep
    for evaluation in evaluations:
        for row, how in rows.items():
            key = evaluation.label, row
            episodes[key], results[key] = evaluation.play(row, how, reuse)
    last = list(results.values())[-1]
    if cut := last.about["truncated_questions"]:
        print(f"{cut} questions were longer than the context and were cut")
    print(comparison(episodes, {e.checkpoint: e.about["reward"] for e in evaluations}))
    group = Group(about, results)
    for evaluation in evaluations:
        if args.sweep:
            print_sweep(evaluation, {row: episodes[evaluation.label, row] for row in rows})
        file = evaluation.path(".sweep.json")
        if args.report and file.exists() and not differences(read_json(file), evaluation.about):
            group.sweeps[evaluation.label] = read_json(file)
    print(traces(last.records, args.show))
    print("\nresults: " + ", ".join(str(e.path(".json", decoding)) for e in evaluations))
    if args.report and ranks.rank() == 0:
        page.write(Path(args.report), page.render(group, list(map(Path, names))))


if __name__ == "__main__":
    main(evaluate)
