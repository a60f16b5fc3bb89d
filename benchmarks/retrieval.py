"""How well words, vectors and both find what a world's questions need; the query is the question.

    python -m benchmarks.retrieval --world DIR --encoder DIR

For every question set of the split: hit@k (any gold passage among the k; where none is known, any
passage that holds an answer) and gold recall@k (share of a question's gold passages among the k,
over the questions that have any). Vectors come from, and go to, the scripts' own cache
(runs/cache). Left out: speed (benchmarks.bm25, benchmarks.dense) and learnt queries.
"""

import argparse
from pathlib import Path

import numpy as np

from data.metrics import hit
from data.world import Question, World
from rl.runs.flags import main
from rl.runs.retrievers import RetrieverArgs, open_world


def figures(world: World, questions: list[Question], ids: np.ndarray) -> tuple[float, float]:
    """hit@k and gold recall@k of ids int [Q, k]."""
    found = [[world.corpus[i] for i in row if i >= 0] for row in ids.tolist()]
    shares = [
        len({p.id for p in passages} & set(q.gold_passages)) / len(set(q.gold_passages))
        for q, passages in zip(questions, found, strict=True)
        if q.gold_passages
    ]
    hits = [
        any(p.id in q.gold_passages for p in passages)
        if q.gold_passages is not None
        else hit(passages, q)
        for q, passages in zip(questions, found, strict=True)
    ]
    return float(np.mean(hits)), float(np.mean(shares)) if shares else float("nan")


def settings(kind: str, arguments: argparse.Namespace) -> RetrieverArgs:
    """A script's arguments for one retriever."""
    flags = (
        {}
        if kind == "bm25"
        else {
            name: getattr(arguments, name) for name in ("encoder", "query_prefix", "passage_prefix")
        }
    )
    args = RetrieverArgs(retriever=kind, **flags)
    args.device, args.dtype = arguments.device, arguments.dtype
    return args


def measure() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", default="mini", help="mini, tiny or a directory (default: mini)")
    parser.add_argument("--encoder", required=True, help="directory of a sentence encoder")
    parser.add_argument("--query-prefix", default="")
    parser.add_argument("--passage-prefix", default="")
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "-k", type=int, default=0, help="passages per question (default: the world's)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype",
        default="bf16",
        choices=("bf16", "fp32"),
        help="of the encoder's multiplications (default: bf16, as in the scripts)",
    )
    arguments = parser.parse_args()
    name = Path(arguments.encoder).name
    rows = {"BM25": "bm25", f"dense ({name})": "dense", "hybrid": "hybrid"}
    searched = {
        row: open_world(arguments.world, settings(kind, arguments)) for row, kind in rows.items()
    }
    world = searched["BM25"][0]
    k = arguments.k or world.k
    sets = [key.rpartition(".")[0] for key in world.splits if key.endswith(f".{arguments.split}")]
    questions = {s: world.questions(s, arguments.split) for s in sets}
    print(
        f"world {world.name}, {len(world.corpus):,} passages, split {arguments.split},"
        f" the raw question as query: hit@{k} / gold recall@{k}\n"
    )
    print(
        "| retriever | "
        + " | ".join(f"{s} ({len(questions[s]):,})" for s in sets)
        + " |\n"
        + "|---" * (len(sets) + 1)
        + "|"
    )
    for row, (_, index, _) in searched.items():
        cells = [
            "{:.3f} / {:.3f}".format(
                *figures(world, qs, index.search([q.question for q in qs], k)[0])
            )
            for qs in questions.values()
        ]
        print(f"| {row} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(measure)
