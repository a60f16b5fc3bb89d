"""What the study trains, in which order, with which flags; what its logs add up to."""

import json
from pathlib import Path

import train_ppo
import train_sft
from rl import Decoding
from rl.runs.flags import parse
from rl.study import modules
from rl.study.jobs import Job
from rl.study.systems import (
    COSTS,
    JOINT,
    SYSTEMS,
    TRAINED,
    UNSEEN,
    Plan,
    compute,
    jobs_of,
    needed,
    systems_of,
)

PLAN = Plan(1500, 500)
JOBS = jobs_of(3, Path("runs/study/seed-3"), "mini", TRAINED, PLAN)


def test_every_job_comes_after_what_it_needs():
    there = set()
    for name, job in JOBS.items():
        assert job.out == Path("runs/study/seed-3") / name and there.issuperset(job.needs)
        there.add(job.out)
    assert {role for system in SYSTEMS for role in system.roles} == JOBS.keys(), "all play a role"


def test_every_command_is_one_that_its_script_understands():
    for name, job in JOBS.items():
        script, *flags = job.command
        if script == "-m":
            (module, kind, *flags), cls = flags, modules.Args
            assert module == "rl.study.modules" and kind in modules.LEARNS
        else:
            cls = {"train_sft.py": train_sft.Args, "train_ppo.py": train_ppo.Args}[
                Path(script).name
            ]
        args = parse(cls, "", [*flags, "--out", str(job.out), "--ranks", "1"])
        assert (args.dataset, args.quota, args.seed) == ("popqa,ambignq,hotpotqa", 2, 3), name
        paths = [getattr(args, flag, "") for flag in ("init", "query", "reader")]
        read = [path for path in paths if path]
        assert read == list(map(str, job.needs)), "what a job reads is what it waits for"


def test_flags_that_make_the_ablations():
    args = {
        name: parse(train_ppo.Args, "", list(job.command[1:]))
        for name, job in JOBS.items()
        if job.command[0].endswith("train_ppo.py")
    }
    joint = args["joint"]
    differs = {
        name: {k: v for k, v in vars(a).items() if v != getattr(joint, k)}
        for name, a in args.items()
    }
    assert differs == {
        "joint": {},
        "no-kl": {"kl": 0.0},
        "no-cost": {"retrieval_cost": 0.0},
        "no-value": {"value": False},
        "decision-frozen": {"learn": "query,answer"},
        "query-frozen": {"learn": "decision,answer"},
        "answer-frozen": {"learn": "decision,query"},
        "cost-.1": {"retrieval_cost": 0.1},
        "cost-.4": {"retrieval_cost": 0.4},
        "rewriter-ppo": {
            "learn": "query",
            "force": "retrieve",
            "iterations": 50,
            "reader": "runs/study/seed-3/reader",
        },
    }
    assert (joint.iterations, joint.episodes, joint.retrieval_cost) == (150, 384, 0.2)


def test_everything_after_the_warm_up_asks_the_same_questions_under_new_names():
    for name, job in JOBS.items():
        words = list(job.command)
        if name == "warm-up":
            assert "--rename" not in words
        else:
            start = words.index("--popular-share")
            assert words[start : start + 4] == ["--popular-share", "0.45", "--rename", "1.0"]


def test_only_what_a_choice_needs_is_trained():
    def names(choice: str) -> list[str]:
        roles = [role for s in systems_of(choice) for role in s.roles]
        return [job.out.name for job in needed(JOBS, roles)]

    assert names("main") == [
        "warm-up",
        "reader",
        "joint",
        "rewriter-ppo",
        "rewriter-rs",
        "decision-right",
        "decision-reward",
        "decision-reward-rs",
    ]
    assert names("costs") == ["warm-up", "joint", "no-cost", "cost-.1", "cost-.4"]
    assert set(names("all")) == set(JOBS)
    chain = [job.out.name for job in needed(JOBS, ["decision-reward"])]
    assert chain == ["warm-up", "reader", "rewriter-ppo", "decision-reward"]


def test_names_that_tables_look_up_exist():
    names = [s.name for s in systems_of("all")]
    assert len(names) == len(set(names))
    assert {*COSTS, "joint, N = 1", "joint, N = 3", "confidence"} <= set(names)
    assert [s.quota for s in SYSTEMS if s.name == JOINT] == [2]


def test_the_sweep_is_part_of_main_and_of_all():
    thresholds = (0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1)
    for choice in ("main", "all"):
        swept = [s for s in systems_of(choice) if s.group == "sweep"]
        assert {s.decoding for s in swept} == {Decoding(threshold=t) for t in thresholds}
        for s in swept:
            assert s.sets == TRAINED
            sets = (*TRAINED, *UNSEEN)
            same = s._replace(name=JOINT, group="main", decoding=Decoding(), sets=sets)
            assert same in SYSTEMS, "but for the threshold it is joint"
    for choice in ("ablations", "costs"):
        assert not any(s.group == "sweep" for s in systems_of(choice))


def test_a_scaled_plan():
    plan = Plan(1500, 500, sft_flags="--layers 2").scaled(0.02)
    assert plan == Plan(30, 10, 3, 1, 4, "--layers 2", "") and PLAN.scaled(1.0) == PLAN


def test_compute_is_read_from_the_logs(tmp_path):
    logs = {
        "sft": [
            {"step": 0, "tokens": 100},
            {"step": 1, "tokens": 50},
            {"phase": "read", "dev": {}},
        ],
        "ppo": [
            {"iteration": 0, "dev": {}, "episode": '"tokens": 3'},
            {"iteration": 0, "tokens": 7},
            {"iteration": 1, "tokens": 9, "optimizer_steps": 6},
            {"iteration": 2, "tokens": 9, "optimizer_steps": 2},
        ],
    }
    for name, lines in logs.items():
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text)
    jobs = [Job(tmp_path / name, ("x",)) for name in logs]
    assert compute(jobs) == {"steps": 2 + 6 + 2, "tokens": 175}
    assert compute([]) == {"steps": 0, "tokens": 0}
