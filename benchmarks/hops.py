"""Where two-hop episodes fail, step by step, from the episodes that an evaluation wrote.

    python -m benchmarks.hops runs/study/seed-0/eval/joint.hotpotqa.test.jsonl [more files]

Of the bridge questions of each file: the share whose first passages name the bridge entity; of those, the share whose
second query names it; of those, the share whose passages then held the second fact; of those, exact match. A query that
names another person than the passage does is shown. Left out: comparisons, episodes of more than two retrievals.
"""

import argparse
from pathlib import Path

from data.world import World
from rl.report.results import read_lines


def steps(episodes: list[dict], bridges: dict[str, str]) -> tuple[list[list[bool]], list[str]]:
    """Which episodes got through each step (lists that get shorter), and the second queries that name somebody else.

    bridges: question id -> title of the second gold passage, the bridge entity.
    """
    named, asked, found, right, wrong = [], [], [], [], []
    for episode in episodes:
        title, turns = bridges[episode["id"]], episode["turns"]
        named.append(
            bool(turns) and any(title in f"{p['title']} {p['text']}" for p in turns[0]["passages"])
        )
        if not named[-1]:
            continue
        asked.append(len(turns) > 1 and title in turns[1]["query"])
        if not asked[-1]:
            wrong.append(
                f"{turns[1]['query'] if len(turns) > 1 else '(none)'}   instead of {title}"
            )
            continue
        found.append(episode["hit"])
        if episode["hit"]:
            right.append(episode["em"] == 1.0)
    return [named, asked, found, right], wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--world", default="mini")
    parser.add_argument("--dataset", default="hotpotqa")
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--show", type=int, default=3, help="second queries that name somebody else, per file"
    )
    args = parser.parse_args()
    world = World.open(args.world)
    titles = {p.id: p.title for p in world.corpus}
    bridges = {
        q.id: titles[q.gold_passages[-1]]
        for q in world.questions(args.dataset, args.split)
        if q.type == "bridge"
    }
    for path in args.files:
        episodes = [episode for episode in read_lines(path) if episode["id"] in bridges]
        through, wrong = steps(episodes, bridges)
        print(f"{path}: {len(episodes)} bridge questions")
        for name, passed in zip(
            (
                "the first passages name the bridge entity",
                "the second query names it",
                "its passages hold the second fact",
                "exact match",
            ),
            through,
        ):
            print(
                f"  {name:<42}"
                + (
                    f"{sum(passed) / len(passed):.2f}  ({sum(passed)} of {len(passed)})"
                    if passed
                    else "-"
                )
            )
        for line in wrong[: args.show]:
            print(f"    {line}")


if __name__ == "__main__":
    main()
