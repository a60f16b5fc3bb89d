"""What the decision is trained on, and what it meets: the rewards of both branches on training questions and on dev.

    python -m benchmarks.branches runs/study/seed-0/joint [more checkpoints]

Of each set and slice: P([RETRIEVE]), and the mean reward of answering at once and of retrieving first, greedy. Answering that
pays in training and not on dev is what the warm-up remembers, and the decision cannot know it. Left out: test questions.
"""

import argparse

import numpy as np

from data.world import Question, World
from model.pretrained import open_policy
from rl import Decoding, RagEnv, Workers, rollout
from rl.runs.flags import main
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.run import precision


def parts(world: World, dataset: str, split: str, most: int) -> dict[str, list[Question]]:
    """Questions by slice, or by type where a set has no slices; at most `most` of each, drawn with a fixed seed."""
    groups: dict[str, list[Question]] = {}
    for question in world.questions(dataset, split):
        groups.setdefault(question.slice or question.type or "", []).append(question)
    rng = np.random.default_rng(0)
    return {
        name: [questions[i] for i in rng.permutation(len(questions))[:most]]
        for name, questions in groups.items()
    }


def show() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--world", default="", help="empty: that of each checkpoint")
    parser.add_argument("--datasets", default="popqa,ambignq,hotpotqa")
    parser.add_argument("--quota", type=int, default=2)
    parser.add_argument("--questions", type=int, default=300, help="questions of a part at most")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    workers = Workers(args.threads)
    for checkpoint in args.checkpoints:
        policy, tokenizer, made = open_policy(checkpoint)
        retriever = RetrieverArgs()  # the checkpoint's own
        vars(retriever).update(dataset=args.datasets, device="cpu", dtype="bf16")
        world, index, _ = open_world(args.world or made.get("open_world", "mini"), retriever, made)
        env = RagEnv(world, index, quota=args.quota, passage_tokens=made.get("passage_tokens", 64))
        print(
            f"{checkpoint}\n  {'':<32}{'P(retrieve)':>12}{'above .5':>10}{'answer':>8}{'retrieve':>10}"
        )
        for dataset in args.datasets.split(","):
            for split in ("train", "dev"):
                for name, questions in parts(world, dataset, split, args.questions).items():
                    with precision("cpu", "bf16"):
                        answer, retrieve = (
                            rollout(
                                policy,
                                tokenizer,
                                env,
                                questions,
                                Decoding(force=branch),
                                spread=workers.map,
                            )
                            for branch in ("answer", "retrieve")
                        )
                    p = np.array([e.p_retrieve for e in answer])
                    print(
                        f"  {f'{dataset} {name}, {split} ({len(questions)})':<32}{p.mean():>12.2f}{(p > 0.5).mean():>10.2f}"
                        + "".join(
                            f"{np.mean([e.reward for e in episodes]):>{width}.2f}"
                            for episodes, width in ((answer, 8), (retrieve, 10))
                        ),
                        flush=True,
                    )


if __name__ == "__main__":
    main(show)
