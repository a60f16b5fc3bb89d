"""Door 3: policies and baselines through the same environment -> tables, JSON results and every episode.

    python evaluate.py --dataset popqa                      runs/sft and runs/ppo side by side, with forced baselines
    python evaluate.py --dataset popqa --checkpoint DIR     one checkpoint, or several: A,B
    python evaluate.py --ask "Who wrote Middlemarch?"       one question, or with "--ask -" one per line of standard input
    ... --force answer|retrieve|question | --sample | --threshold 0.3
    ... --sweep                                             EM and reward against retrieval, for every threshold on P([RETRIEVE])
    ... --report report.html                                a page to look at, from what runs and evaluations left; plays what is missing
    python evaluate.py --compare --seeds 0,1,2              docs/EXPERIMENTS.md: train what is missing, play every system, one report and its page

Greedy by default. Results of the policy's own decisions go to CHECKPOINT/eval/<world>.<set>.<split>.json and the
episodes to a .jsonl beside it; other decodings carry their name in the file's.
"""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from tqdm import tqdm

from data.world import Question
from model import Tokenizer, is_checkpoint, write_json
from model.pretrained import open_policy
from rl import Decoding, Episode, RagEnv, Workers, rollout
from rl.report import page as report
from rl.report.results import episode_record, none_for_nan, write_result
from rl.report.summary import METRICS, by_slice, paired_interval, summarize, table
from rl.runs.flags import DEVICES, UsageError, arg, main, parse, share
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.run import precision
from rl.study.study import run_study
from rl.study.systems import CHOICES, Plan
from rl.study.table import DETAILS


@dataclass
class Args(RetrieverArgs):
    dataset: str = arg("popqa", "question set")
    split: str = arg("test", "split of the question set")
    checkpoint: str = arg(
        "", "checkpoint directories, comma-separated; empty: runs/sft and runs/ppo, whichever exist"
    )
    world: str = arg(
        "", "mini, mini:SEED, tiny, or a directory; empty: the world the checkpoint was trained on"
    )
    ask: str | None = field(
        default=None,
        metadata={
            "help": "a question, or - to read one per line; the last checkpoint answers",
            "type": str,
        },
    )
    json: bool = arg(
        False, "with --ask: one JSON object per question, and nothing else, on standard output"
    )
    force: str = arg(
        "",
        "answer: never retrieve; retrieve: always; question: always, with the raw question as query",
    )
    sample: bool = arg(False, "sample text and decision at temperature 1, as in training")
    threshold: float = share(0.5, "retrieve when P([RETRIEVE]) exceeds this")
    sweep: bool = arg(False, "print and write the figures of every threshold on P([RETRIEVE])")
    report: str = arg(
        "",
        "write this HTML file from the results on disk; only missing ones are played; with --compare: its page, else STUDY/report.html",
    )
    compare: bool = arg(
        False,
        "the study of docs/EXPERIMENTS.md: joint training against separate modules, ablations, prices; resumable, hours",
    )
    seeds: str = arg("0", "with --compare: seeds, comma-separated")
    systems: str = arg("all", f"with --compare: {', '.join(CHOICES)}", choices=CHOICES)
    study: str = arg("runs/study", "with --compare: folder of its runs and its report")
    scale: float = arg(1.0, "with --compare: share of all training steps; below 1 for a first look")
    sft_flags: str = arg("", "with --compare: more flags for every train_sft.py, as one string")
    ppo_flags: str = arg("", "with --compare: more flags for every train_ppo.py, as one string")
    rows: int = arg(0, "first questions only, 0 = all")
    show: int = arg(3, "episodes to print at the end")
    k: int = arg(0, "passages per retrieval, 0: the world's")
    quota: int = arg(0, "retrievals per question, 0: the world's")
    seed: int = arg(0, "seed of --sample")
    batch_size: int = arg(512, "questions per batch", least=1)
    dtype: str = arg("bf16", "bf16 or fp32 multiplications", choices=("bf16", "fp32"))
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    threads: int = arg(0, "CPU threads, 0 = all")


BASELINES = (
    ("direct only", Decoding(force="answer")),
    ("always retrieve, raw question", Decoding(force="question")),
    ("always retrieve, own query", Decoding(force="retrieve")),
    ("own decision", Decoding()),
)
COLUMNS = ("rows", *METRICS)
STUDY_FLAGS = (
    "compare",
    "seeds",
    "systems",
    "study",
    "scale",
    "sft_flags",
    "ppo_flags",
    "world",
    "rows",
    "report",
    "device",
    "threads",
)


def decoding_of(args: Args) -> Decoding:
    if args.force and args.sample:
        raise UsageError("--force and --sample exclude each other")
    if args.threshold != 0.5 and (args.force or args.sample):
        raise UsageError(
            "--threshold is for the policy's own greedy decisions; it goes with neither --force nor --sample"
        )
    try:
        return Decoding(
            temperature=1.0 if args.sample else 0.0,
            sample_decision=args.sample,
            threshold=args.threshold,
            force=args.force or None,
        )
    except ValueError as error:
        raise UsageError(f"--{error}") from None


def file_suffix(decoding: Decoding) -> str:
    """ "" for the policy's own greedy decisions, else the name of the decoding."""
    if decoding.force:
        return f".force-{decoding.force}"
    if decoding.sample_decision:
        return ".sample"
    return "" if decoding.threshold == 0.5 else f".threshold-{decoding.threshold:g}"


class Evaluation:
    """One checkpoint with its world, ready to play any decoding."""

    def __init__(self, checkpoint: str, args: Args, workers: Workers):
        self.args, self.checkpoint, self.workers = args, Path(checkpoint), workers
        self.policy, self.tokenizer, made = open_policy(checkpoint, args.device)
        self.world, index, self.retriever = open_world(
            args.world or made.get("open_world", "mini"), args, made
        )
        self.env = RagEnv(
            self.world,
            index,
            args.k or None,
            args.quota or None,
            passage_tokens=made.get("passage_tokens", 64),
        )
        self.questions = (
            []
            if args.ask is not None
            else self.world.questions(args.dataset, args.split)[: args.rows or None]
        )

    def play(self, name: str, decoding: Decoding) -> list[Episode]:
        """Play all questions, write the result files, return the episodes."""
        start = time.perf_counter()
        with (
            precision(self.args.device, self.args.dtype),
            tqdm(
                total=len(self.questions),
                desc=f"{self.checkpoint}: {name}",
                unit="question",
                dynamic_ncols=True,
                leave=False,
            ) as bar,
        ):
            generator = torch.Generator().manual_seed(self.args.seed)
            episodes = rollout(
                self.policy,
                self.tokenizer,
                self.env,
                self.questions,
                decoding,
                generator,
                self.args.batch_size,
                bar.update,
                self.workers.map,
            )
        about = {**self.facts(), "checkpoint": str(self.checkpoint), "decoding": asdict(decoding)}
        write_result(
            self.path(".json", decoding),
            about,
            episodes,
            [self.record(e) for e in episodes],
            time.perf_counter() - start,
        )
        return episodes

    def path(self, ending: str, decoding: Decoding = Decoding()) -> Path:
        return (
            self.checkpoint
            / "eval"
            / f"{self.world.name}.{self.args.dataset}.{self.args.split}{file_suffix(decoding)}{ending}"
        )

    def facts(self) -> dict:
        """What a result of this evaluation is about; results with other facts are not comparable."""
        return {
            "world": self.world.name,
            "set": self.args.dataset,
            "split": self.args.split,
            "rows": len(self.questions),
            "retriever": self.retriever,
            "k": self.env.k,
            "quota": self.env.quota,
            "corpus_sha256": self.world.corpus_sha256,
        }

    def record(self, e: Episode) -> dict:
        return episode_record(e, self.world.corpus, self.tokenizer)


def print_comparison(results: dict[tuple[str, str], list[Episode]]) -> None:
    """The table of all rows, the last checkpoint's decisions per slice beside the first's, and paired differences."""
    print(table([(f"{c}: {name}", summarize(e)) for (c, name), e in results.items()], COLUMNS))
    checkpoints = list(dict.fromkeys(c for c, _ in results))
    own = {c: results[c, "own decision"] for c in checkpoints if (c, "own decision") in results}
    slices = {c: by_slice(e) for c, e in own.items()}
    if rows := [
        (f"{c}: {name}", slices[c][name])
        for name in next(iter(slices.values()), {})
        for c in slices
    ]:
        print("\nown decision, per slice\n" + table(rows, COLUMNS))
    if len(own) == 2:
        first, last = own.items()
        mine = [e.reward for e in last[1]]
        others = {f"{first[0]}: own decision": first[1]} | {
            f"{c}: {n}": results[c, n] for c, n in results if n.startswith("always")
        }
        print(
            f"\nmean reward of {last[0]}, own decision, minus that of ... (paired bootstrap, 95 %)"
        )
        for name, episodes in others.items():
            print(
                "  {:<44}{:+.3f} [{:+.3f}, {:+.3f}]".format(
                    name, *paired_interval(mine, [e.reward for e in episodes])
                )
            )


def sweep(evaluation: Evaluation, played: dict[str, list[Episode]]) -> str:
    """Figures of every threshold on P([RETRIEVE]) beside the baselines' points: a table, and all of it in a .sweep.json.

    Where a question is retrieved for at most once, the two forced rollouts hold what any threshold would have played, and
    P([RETRIEVE]) says which of the two; a larger quota decides again after each retrieval, so each threshold is played.
    """
    direct, retrieved = played["direct only"], played["always retrieve, own query"]
    shown = [i / 10 for i in range(11)]
    if evaluation.env.quota > 1:
        at = {t: evaluation.play(f"threshold {t:g}", Decoding(threshold=t)) for t in shown}
    else:
        p = sorted(e.p_retrieve for e in direct)
        steps = (p[len(p) * i // 100] for i in range(100))  # about 1 % of the questions each
        at = {
            t: [b if b.p_retrieve > t else a for a, b in zip(direct, retrieved)]
            for t in sorted({*shown, *steps})
        }
    better = [max(branches, key=lambda e: e.reward) for branches in zip(direct, retrieved)]
    points = {
        name: summarize(e)
        for name, e in {**played, "better branch of each question": better}.items()
    }
    curve = {t: summarize(e) for t, e in at.items()}
    write_json(
        evaluation.path(".sweep.json"),
        none_for_nan(
            {
                **evaluation.facts(),
                "checkpoint": str(evaluation.checkpoint),
                "points": points,
                "curve": [{"threshold": t, **m} for t, m in curve.items()],
            }
        ),
    )
    rows = [(f"P([RETRIEVE]) > {t:g}", curve[t]) for t in shown] + list(points.items())
    return f"\n{evaluation.checkpoint}: threshold sweep ({evaluation.path('.sweep.json')})\n{table(rows, COLUMNS)}\n"


def show_episodes(episodes: list[Episode], tokenizer: Tokenizer, count: int) -> None:
    """One episode per slice in turn, so that a reader sees each kind."""
    names = list(by_slice(episodes)) or [None]
    for i in range(min(count, len(episodes))):
        pool = (
            [e for e in episodes if e.question.slice == names[i % len(names)]]
            if names != [None]
            else episodes
        )
        e = pool[i // len(names) % len(pool)]
        print(
            f"\n[{e.question.slice or 'episode'}] P([RETRIEVE]) = {e.p_retrieve:.3f}, reward {e.reward:+.2f}, accepted: {' | '.join(e.question.answers[:3])}"
        )
        print("  " + tokenizer.show(e.tokens))


# ---------------------------------------------------------------------------------------------- questions of one's own


def ask(checkpoint: str, args: Args, decoding: Decoding, workers: Workers) -> None:
    """Answer --ask, each question as it comes; a reader that goes away (a closed pipe) ends it."""
    evaluation = Evaluation(checkpoint, args, workers)
    generator = torch.Generator().manual_seed(args.seed)
    with precision(args.device, args.dtype):
        policy = evaluation.policy.for_inference()  # once, and not for every question
    try:
        for number, text in asked(args.ask):
            start = time.perf_counter()
            with precision(args.device, args.dtype):
                [episode] = rollout(
                    policy,
                    evaluation.tokenizer,
                    evaluation.env,
                    [Question(str(number), text, ())],
                    decoding,
                    generator,
                )
            seconds = time.perf_counter() - start
            print(
                as_json(evaluation, episode, seconds)
                if args.json
                else as_text(evaluation, episode, seconds),
                flush=True,
            )
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else Python's last flush would complain


def asked(ask: str) -> Iterator[tuple[int, str]]:
    """(line number, question): the argument, or the lines of standard input that are not blank. Raises UsageError."""
    lines = sys.stdin.buffer if ask == "-" else [os.fsencode(ask)]
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            raise UsageError(
                f"{f'standard input:{number}' if ask == '-' else '--ask'}: not UTF-8 text"
            ) from None
        if text:
            yield number, text
        elif ask != "-":
            raise UsageError("--ask: the question is empty")


def as_json(evaluation: Evaluation, e: Episode, seconds: float) -> str:
    record = evaluation.record(e)
    fields = {
        name: record[name] for name in ("question", "p_retrieve", "turns", "answer", "malformed")
    }
    return json.dumps(
        none_for_nan({**fields, "truncated": e.truncated, "seconds": round(seconds, 4)}),
        ensure_ascii=False,
    )


def as_text(evaluation: Evaluation, e: Episode, seconds: float) -> str:
    lines = [
        e.question.question + (" (longer than the context, and cut)" if e.truncated else ""),
        f"  {'retrieve' if e.turns else 'answer at once'}, P([RETRIEVE]) = {e.p_retrieve:.3f}",
    ]
    for turn in e.turns:
        lines.append(f"  query: {turn.query}")
        for row, score in zip(turn.passages, turn.scores):
            passage = evaluation.world.corpus[row]
            lines.append(
                f"  {score:7.3f}  [{passage.id}] {passage.title}: {' '.join(passage.text.split())}"
            )
    answer = "(malformed: no text, or no end within the budget)" if e.malformed else e.answer
    return "\n".join([*lines, f"  answer: {answer}   {seconds:.2f} s"])


def compare(args: Args) -> None:
    """Print the study's report but for its last, long section; all of it is in --study. Raises UsageError."""
    for f in fields(Args):
        if f.name not in STUDY_FLAGS and getattr(args, f.name) != f.default:
            raise UsageError(
                f"--{f.name.replace('_', '-')} does not go with --compare, whose systems are fixed"
            )
    if not re.fullmatch("[0-9]+(,[0-9]+)*", args.seeds):
        raise UsageError(
            f"--seeds must be whole numbers with commas between them, not {args.seeds!r}"
        )
    plan = Plan(sft_flags=args.sft_flags, ppo_flags=args.ppo_flags).scaled(args.scale)
    world, seeds = args.world or "mini", list(dict.fromkeys(map(int, args.seeds.split(","))))
    page = args.report or f"{args.study}/report.html"
    text = run_study(
        Path(args.study),
        seeds,
        args.systems,
        plan,
        world,
        lambda dataset, made: open_world(world, replace(args, dataset=dataset), made),
        args.threads or torch.get_num_threads(),
        args.device,
        args.rows,
        Path(page),
    )
    print(
        text.partition(f"## {DETAILS}")[0]
        + f"per set and slice, and every figure: {args.study}/report.md, {args.study}/study.json; to look at: {page}"
    )


def evaluate() -> None:
    args = parse(Args, __doc__)
    if args.compare:
        return compare(args)
    workers = Workers(args.threads, args.device)
    decoding = decoding_of(args)
    if args.json and args.ask is None:
        raise UsageError("--json goes with --ask")
    checkpoints = (
        args.checkpoint.split(",")
        if args.checkpoint
        else [c for c in ("runs/sft", "runs/ppo") if is_checkpoint(c)]
    )
    if not checkpoints:
        raise UsageError(
            "no checkpoint in runs/sft or runs/ppo; train one (python train_sft.py) or give --checkpoint"
        )
    if args.ask is not None:
        return ask(checkpoints[-1], args, decoding, workers)
    if (args.sweep or args.report) and decoding != Decoding():
        raise UsageError(
            "--sweep and --report are about all decodings; they go with none of --force, --sample, --threshold"
        )
    if args.report and not args.sweep:
        for checkpoint in checkpoints:
            report.play_missing(Evaluation(checkpoint, args, workers), BASELINES)
        return report.write(args.report, checkpoints, BASELINES)
    rows = (
        BASELINES
        if decoding == Decoding()
        else (("own decision" if not args.force else f"force {args.force}", decoding),)
    )
    results, sweeps, evaluation = {}, [], None
    for checkpoint in checkpoints:
        evaluation = Evaluation(checkpoint, args, workers)
        if checkpoint == checkpoints[0]:
            print(
                f"evaluate: world {evaluation.world.name}, set {args.dataset}, split {args.split}, {len(evaluation.questions)} questions, "
                f"{evaluation.retriever['retriever']}, k = {evaluation.env.k}, quota {evaluation.env.quota}; "
                f"{'sampled' if args.sample else 'greedy'}; checkpoints {', '.join(checkpoints)}"
            )
        for name, row in rows:
            results[checkpoint, name] = evaluation.play(name, row)
        if args.sweep:
            sweeps.append(sweep(evaluation, {name: results[checkpoint, name] for name, _ in rows}))
    last = list(results.values())[-1]
    if cut := sum(e.truncated for e in last):
        print(f"{cut} questions were longer than the context and were cut")
    print_comparison(results)
    print("".join(sweeps), end="")
    show_episodes(last, evaluation.tokenizer, args.show)
    print(
        "\nresults: "
        + ", ".join(
            f"{c}/eval/{evaluation.world.name}.{args.dataset}.{args.split}{file_suffix(decoding)}.json"
            for c in checkpoints
        )
    )
    if args.report:
        report.write(args.report, checkpoints, BASELINES)


if __name__ == "__main__":
    main(evaluate)
