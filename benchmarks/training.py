"""How fast training is on 1, 2, ... ranks, from the scripts' own logs; rounds interleaved, medians.

    python -m benchmarks.training                    1 rank and one per core
    python -m benchmarks.training --ranks 1,2,4 --rounds 5 --steps 40
    python -m benchmarks.training --against DIR      beside another checkout of the project, with
                                                     its --threads or --ranks

Warm-up: tokens/s of whole optimiser steps with the defaults of train_sft.py (demonstrations,
retrieval and optimiser included). PPO: episodes/s of whole iterations with the defaults of
train_ppo.py, from a policy of a few warm-up steps, and (score + update) / rollout. The first steps
of a run do not count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIP = 20  # steps at the start: kernels are compiled, caches filled


def run(checkout: Path, script: str, parallel: list[str], out: Path, *flags: str) -> list[dict]:
    """The log lines of a new run of a script in a checkout."""
    command = [sys.executable, script, "--out", str(out), "--fresh", *parallel, *flags]
    environment = {**os.environ, "TQDM_DISABLE": "1", "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def measure(checkout: Path, parallel: list[str], work: Path, steps: int) -> dict[str, float]:
    """Figures of one short warm-up and one short PPO run."""
    sft = ("--read-steps", str(steps), "--mix-steps", "2", "--probe", "64")
    lines = run(checkout, "train_sft.py", parallel, work / "sft", *sft)
    read = [line for line in lines if line.get("phase") == "read" and "tokens" in line][SKIP:]
    iterations = max(4, steps // 5)
    ppo = ("--iterations", str(iterations), "--value-warmup", "1", "--average", "0")
    small = ("--eval-every", "1000", "--eval-rows", "30", "--init", str(work / "sft"))
    lines = run(checkout, "train_ppo.py", parallel, work / "ppo", *ppo, *small)
    timed = [line for line in lines if "seconds_update" in line][2:]
    stages = ("rollout", "score", "value", "update")
    seconds = {s: statistics.median(line[f"seconds_{s}"] for line in timed) for s in stages}
    return {
        "warm-up tokens/s": statistics.median(line["tokens"] / line["seconds"] for line in read),
        "PPO episodes/s": 512 / sum(seconds.values()),
        "(score + update) / rollout": (seconds["score"] + seconds["update"]) / seconds["rollout"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", default=f"1,{os.cpu_count()}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--against", type=Path, help="another checkout, built in place")
    args = parser.parse_args()
    ranks = [int(r) for r in args.ranks.split(",")]
    setups = {f"{r} ranks": (ROOT, ["--ranks", str(r)]) for r in ranks}
    if args.against:
        script = (args.against / "train_sft.py").read_text()
        kind = "threads" if "threads: int" in script else "ranks"
        for r in ranks:
            name = f"{args.against.name}, {r} {kind}"
            setups[name] = (args.against.resolve(), [f"--{kind}", str(r)])
    found: dict[str, list[dict]] = {name: [] for name in setups}
    for _ in range(args.rounds):
        for name, (checkout, parallel) in setups.items():
            with tempfile.TemporaryDirectory() as work:
                found[name].append(measure(checkout, parallel, Path(work), args.steps))
    first = next(iter(setups))
    for figure in found[first][0]:
        print(f"\n{figure} (median of {args.rounds} rounds [least, most])")
        base = statistics.median(x[figure] for x in found[first])
        for name, rounds in found.items():
            values = [x[figure] for x in rounds]
            middle = statistics.median(values)
            span = f"[{min(values):,.2f}, {max(values):,.2f}]"
            print(f"  {name:<24}{middle:12,.2f} {span:<28}{middle / base:6.2f} x")


if __name__ == "__main__":
    main()
