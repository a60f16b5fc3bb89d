"""Policies and baselines through the same environment -> table, traces, JSON results, report.

    python evaluate.py --dataset popqa --checkpoint A,B    without: runs/sft, runs/ppo; their sets
    python evaluate.py --ask "Who wrote Middlemarch?"      one question; "--ask -": lines of stdin
    ... --force answer|retrieve|question | --sample | --threshold 0.3
    ... --sweep                        figures of every threshold on P([RETRIEVE])
    ... --report report.html           a page to look at; what is on disk and current is not played
    python evaluate.py --compare --seeds 0,1,2             the study; its flags: --compare --help

Greedy by default; results go to CHECKPOINT/eval. Left out: training, choosing anything on test.
"""

import os
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until main: imports take seconds

import sys
from dataclasses import dataclass

from rl import GREEDY, Decoding, ranks
from rl.report.page import write_report
from rl.report.summary import DIRECT, OWN, RETRIEVE, sweep
from rl.report.text import answer, check, comparison, header, open_checkpoint, traces
from rl.rollout import FORCED
from rl.runs.flags import DEVICES, arg, main, parse, share
from rl.runs.launch import DTYPES, choose_dtype, launch
from rl.runs.retrievers import RetrieverArgs
from rl.study import study

ROWS = {
    DIRECT: Decoding(force="answer"),
    "always retrieve, raw question": Decoding(force="question"),
    RETRIEVE: Decoding(force="retrieve"),
    OWN: GREEDY,
}


@dataclass
class Args(RetrieverArgs):
    checkpoint: str = arg("", "checkpoints, comma-separated; empty: runs/sft, runs/ppo", "what")
    world: str = arg("", "world; empty: the one the checkpoint was trained on")
    dataset: str = arg("", "question set, or several: a,b; empty: as trained")
    split: str = arg("test", "split of the question set")
    rows: int = arg(0, "first questions only, 0 = all")
    k: int = arg(0, "passages per retrieval, 0: the checkpoint's")
    quota: int = arg(0, "retrievals per question, 0: the checkpoint's")
    retrieval_cost: float = arg(-1.0, "of a retrieval; -1: the checkpoint's", "reward", least=0)
    malformed_cost: float = arg(-1.0, "of a malformed action; -1: the checkpoint's", least=0)
    force: str = arg("", "the first decision", "decoding", choices=("", *FORCED))
    sample: bool = arg(False, "sample text and decision at temperature 1, as in training")
    threshold: float = share(0.5, "retrieve when P([RETRIEVE]) exceeds this")
    seed: int = arg(0, "seed of --sample")
    sweep: bool = arg(False, "figures of every threshold on P([RETRIEVE])", "output")
    report: str = arg("", "write this HTML file")
    show: int = arg(3, "episodes to print at the end")
    ask: str | None = arg(None, "a question, or - for lines of stdin")
    json: bool = arg(False, "with --ask: one JSON object per question and nothing else")
    dtype: str = arg("auto", "of multiplications", "machine", choices=DTYPES)
    device: str = arg("cpu", "cpu or cuda", choices=DEVICES)
    ranks: int = arg(0, "processes that share the work, 0: one per core")


def evaluate() -> None:
    if "--compare" in sys.argv:
        return study.compare(parse(study.StudyArgs, study.__doc__))
    args = parse(Args, __doc__)
    names, rows = check(args, ROWS)
    launch(args.ranks if args.ask is None else 1, args.device)
    args.dtype = choose_dtype(args.dtype, args.device)
    if args.ask is not None:
        return answer(open_checkpoint(names[-1], args), [*rows.values()][-1], args)
    policies = [open_checkpoint(name, args) for name in names]
    about = header(policies, args.sample)
    print(about + "\n")
    results, sweeps = {}, {}
    for policy in policies:
        for row, how in rows.items():
            results[policy.name, row] = policy.play(row, how, reuse=bool(args.report))
        if args.sweep:
            sweeps[policy.name] = sweep({row: results[policy.name, row].episodes for row in rows})
    tables = comparison(results, sweeps)
    print("\n".join(table.markdown() for table in tables))
    print(traces(results[policy.name, row], args.show))
    print("\nresults: " + ", ".join(str(policy.file(how)) for policy in policies))
    if args.report and ranks.rank() == 0:
        write_report(args.report, about, results, tables, sweeps)


if __name__ == "__main__":
    main(evaluate)
