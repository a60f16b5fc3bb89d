"""The README's table: warm-up and joint PPO on the mini world, several seeds, the default commands.

    python -m benchmarks.seeds --seeds 0,1,2

Trains and evaluates what is missing under runs/seeds (the scripts are resumable and skip what is
finished), and prints the mean and the range over seeds, and each seed's paired 95 % bootstrap
interval of the reward. Left out: other systems and ablations (evaluate.py --compare).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from rl.report.summary import METRICS, paired_interval

ROOT = Path(__file__).resolve().parent.parent
ROWS = (
    ("direct only", ".force-answer"),
    ("always retrieve, raw question", ".force-question"),
    ("always retrieve, own query", ".force-retrieve"),
    ("own decision", ""),
)


def run(script: str, *flags: str) -> None:
    subprocess.run([sys.executable, script, *flags], check=True, stdout=sys.stderr)


def episodes(checkpoint: Path, suffix: str) -> list[dict]:
    """The episodes that evaluate.py wrote, in the order of the questions."""
    return [
        json.loads(line)
        for line in (checkpoint / f"eval/mini.popqa.test{suffix}.jsonl").read_text().splitlines()
    ]


def figures(checkpoint: Path, suffix: str) -> dict[str, dict]:
    """{"all" or slice: metrics} as evaluate.py wrote them."""
    result = json.loads((checkpoint / f"eval/mini.popqa.test{suffix}.json").read_text())
    return {"all": result["metrics"], **result["slices"]}


def spread(values: list[float | None]) -> str:
    """Mean and range over seeds; "-" where a figure does not exist (hit without retrieval)."""
    known = [v for v in values if v is not None]
    return f"{np.mean(known):.3f} [{min(known):.3f}, {max(known):.3f}]" if known else "-"


def explained_variance(checkpoint: Path, last: int = 10) -> dict[str, float]:
    """Mean over the last iterations of training: of the value head and of the class oracle."""
    lines = [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "ev_all" in line][-last:]
    return {
        name: float(np.mean([line[name] for line in lines]))
        for name in ("ev_decision", "ev_oracle_decision", "ev_all", "ev_oracle_all")
    }


def main() -> None:
    os.chdir(ROOT)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (default: 0,1,2)")
    parser.add_argument(
        "--out", default="runs/seeds", help="folder of the runs (default: runs/seeds)"
    )
    args = parser.parse_args()
    pairs = []
    for seed in args.seeds.split(","):
        sft, ppo = (Path(args.out) / f"{kind}-{seed}" for kind in ("sft", "ppo"))
        run("train_sft.py", "--seed", seed, "--out", str(sft))
        run("train_ppo.py", "--seed", seed, "--init", str(sft), "--out", str(ppo))
        if not all((c / "eval/mini.popqa.test.json").exists() for c in (sft, ppo)):
            run("evaluate.py", "--dataset", "popqa", "--checkpoint", f"{sft},{ppo}", "--show", "0")
        pairs.append((sft, ppo))
    print(f"mini world, popqa.test, greedy, seeds {args.seeds}: mean [least, most]\n")
    print(
        "| policy | decoding | slice | "
        + " | ".join(METRICS)
        + " |\n"
        + "|---" * (len(METRICS) + 3)
        + "|"
    )
    for name, checkpoints in zip(("warm-up", "joint PPO"), zip(*pairs, strict=True), strict=True):
        for label, suffix in ROWS:
            results = [figures(c, suffix) for c in checkpoints]
            for part in results[0] if label == "own decision" else ["all"]:
                print(
                    f"| {name} | {label} | {part} | "
                    + " | ".join(spread([r[part][m] for r in results]) for m in METRICS)
                    + " |"
                )
    print("\nreward of joint PPO (own decision) minus ..., paired 95 % interval, per seed")
    for kind, label, suffix in [
        (0, "own decision", ""),
        *((kind, *row) for kind in (0, 1) for row in ROWS[1:3]),
    ]:
        cells = [
            paired_interval(
                [
                    (
                        [e["reward"] for e in episodes(pair[1], "")],
                        [e["reward"] for e in episodes(pair[kind], suffix)],
                    )
                ]
            )
            for pair in pairs
        ]
        print(
            f"  {('warm-up', 'joint PPO')[kind]}, {label}: "
            + "; ".join("{:+.3f} [{:+.3f}, {:+.3f}]".format(*c) for c in cells)
        )
    print(
        "\nEM given a hit on tail questions, always retrieving, own query: "
        + "; ".join(
            "{} {}".format(
                kind,
                spread(
                    [
                        np.mean(
                            [
                                e["em"]
                                for e in episodes(pair[i], ".force-retrieve")
                                if e["hit"] and e["slice"] == "tail"
                            ]
                        )
                        for pair in pairs
                    ]
                ),
            )
            for i, kind in enumerate(("warm-up", "joint PPO"))
        )
    )
    print(
        "direct EM on popular questions, warm-up: "
        + spread([figures(sft, ".force-answer")["popular"]["em"] for sft, _ in pairs])
    )
    for name in ("ev_decision", "ev_oracle_decision", "ev_all", "ev_oracle_all"):
        print(
            f"{name} (last 10 iterations): "
            + spread([explained_variance(ppo)[name] for _, ppo in pairs])
        )


if __name__ == "__main__":
    main()
