"""The study: its jobs and their order, the scheduler with made-up commands, and every figure of its tables by hand."""

import fcntl
import itertools
import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import rl.study.study
import train_ppo
import train_sft
from data import Question
from model import load_policy, save_policy
from rl import Decoding, RagEnv, Roles, Workers, rollout
from rl.report.summary import collapsed, paired_interval, stratified_interval
from rl.runs.flags import UsageError, parse
from rl.runs.run import precision
from rl.study import modules
from rl.study.jobs import Job, run_jobs, startable
from rl.study.study import Player, Result, Row, best_threshold, confidences
from rl.study.systems import (
    JOINT,
    PRICES,
    SEPARATE,
    SYSTEMS,
    TRAINED,
    UNSEEN,
    Plan,
    System,
    compute,
    jobs_of,
    needed,
    systems_of,
)
from rl.study.table import TOGETHER, Study, reward_at, spread, together
from tests.model.tiny import tiny_policy
from tests.rl.tiny import QUESTIONS, TOKENIZER, Retriever, environment, random_policy, world

PLAN = Plan(1500, 500)
JOBS = jobs_of(3, Path("runs/study/seed-3"), "mini", TRAINED, PLAN)


# ---------------------------------------------------------------------------------------------- what is trained


def test_every_job_comes_after_what_it_needs():
    made = set()
    for name, job in JOBS.items():
        assert job.out == Path("runs/study/seed-3") / name and made.issuperset(job.needs)
        made.add(job.out)
    assert {role for system in SYSTEMS for role in system.roles} == JOBS.keys(), (
        "every job plays a role"
    )


def test_every_command_is_one_that_its_script_understands():
    for name, job in JOBS.items():
        script, *flags = job.command
        if script == "-m":
            (module, kind, *flags), cls = flags, modules.Args
            assert module == "rl.study.modules" and kind in modules.KINDS
        else:
            cls = {"train_sft.py": train_sft.Args, "train_ppo.py": train_ppo.Args}[
                Path(script).name
            ]
        args = parse(cls, "", [*flags, "--out", str(job.out), "--threads", "1"])
        assert (args.dataset, args.quota, args.seed) == ("popqa,ambignq,hotpotqa", 2, 3), name
        paths = [getattr(args, flag, "") for flag in ("init", "query", "reader")]
        assert [path for path in paths if path] == list(map(str, job.needs)), (
            "what a job reads is what it waits for"
        )


def test_flags_that_make_the_ablations():
    args = {
        name: parse(train_ppo.Args, "", list(job.command[1:]))
        for name, job in JOBS.items()
        if job.command[0].endswith("train_ppo.py")
    }
    differs = {
        name: {k: v for k, v in vars(a).items() if v != getattr(args["joint"], k)}
        for name, a in args.items()
    }
    assert differs == {
        "joint": {},
        "no-kl": {"kl": 0.0},
        "no-cost": {"retrieval": 0.0},
        "no-value": {"value": False},
        "decision-frozen": {"learn": "query,answer"},
        "query-frozen": {"learn": "decision,answer"},
        "answer-frozen": {"learn": "decision,query"},
        "cost-.1": {"retrieval": -0.1},
        "cost-.4": {"retrieval": -0.4},
        "rewriter-ppo": {
            "learn": "query",
            "force": "retrieve",
            "iterations": 50,
            "reader": "runs/study/seed-3/reader",
        },
    }
    assert (args["joint"].iterations, args["joint"].episodes, args["joint"].retrieval) == (
        150,
        384,
        -0.2,
    )


def test_everything_after_the_warm_up_asks_the_same_questions_under_new_names():
    flags = lambda job: job.command[job.command.index("--popular-share") :][:4]
    assert {tuple(flags(job)) for name, job in JOBS.items() if name != "warm-up"} == {
        ("--popular-share", "0.45", "--rename", "1.0")
    }
    assert "--rename" not in JOBS["warm-up"].command


def test_only_what_a_choice_needs_is_trained():
    names = lambda choice: [
        job.out.name for job in needed(JOBS, [role for s in systems_of(choice) for role in s.roles])
    ]
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
    assert [job.out.name for job in needed(JOBS, ["decision-reward"])] == [
        "warm-up",
        "reader",
        "rewriter-ppo",
        "decision-reward",
    ]


def test_names_that_tables_look_up_exist():
    names = [s.name for s in systems_of("all")]
    assert len(names) == len(set(names)) and {
        *SEPARATE,
        *PRICES.values(),
        "joint, N = 1",
        "joint, N = 3",
    } <= set(names)
    assert PRICES[0.2] == JOINT and [s.quota for s in SYSTEMS if s.name == JOINT] == [2]


def test_the_sweep_is_part_of_main_and_of_all():
    for choice in ("main", "all"):
        swept = [s for s in systems_of(choice) if s.group == "sweep"]
        assert {s.decoding for s in swept} == {
            Decoding(threshold=t)
            for t in (0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1)
        }
        assert all(
            s._replace(name=JOINT, group="main", decoding=Decoding(), sets=(*TRAINED, *UNSEEN))
            in SYSTEMS
            and s.sets == TRAINED
            for s in swept
        )
    assert not any(
        s.group == "sweep" for choice in ("ablations", "costs") for s in systems_of(choice)
    )


def test_a_scaled_plan():
    plan = Plan(1500, 500, sft_flags="--layers 2").scaled(0.02)
    assert plan == Plan(30, 10, 3, 1, 4, "--layers 2", "") and PLAN.scaled(1.0) == PLAN


# ---------------------------------------------------------------------------------------------- the scheduler


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """What a finished run leaves: the fake jobs copy it."""
    directory = tmp_path_factory.mktemp("made") / "checkpoint"
    save_policy(directory, tiny_policy(), TOKENIZER, {})
    return directory


FAKE = """
import pathlib, shutil, sys, time
made, journal, work, fail = sys.argv[1:5]
out, threads = pathlib.Path(sys.argv[sys.argv.index("--out") + 1]), sys.argv[sys.argv.index("--threads") + 1]
note = lambda what: open(journal, "a").write(f"{what} {out.name} {threads}\\n")
note("start")
out.mkdir(exist_ok=True)
with open(out / "metrics.jsonl", "w") as log:
    print('{"step": 0, "tokens": 7}', file=log)
time.sleep(float(work))
if fail == "yes":
    sys.exit("error: out of luck")
shutil.copytree(made, out, dirs_exist_ok=True, copy_function=shutil.copyfile)
note("end")
"""


@pytest.fixture
def fake(tmp_path, checkpoint):
    (tmp_path / "fake.py").write_text(FAKE)

    def make(name: str, *needs: str, seconds: float = 0.2, fail: bool = False) -> Job:
        command = (
            str(tmp_path / "fake.py"),
            str(checkpoint),
            str(tmp_path / "journal"),
            str(seconds),
            "yes" if fail else "no",
        )
        return Job(
            tmp_path / "runs" / name, command, tuple(tmp_path / "runs" / need for need in needs)
        )

    make.journal = lambda: [
        tuple(line.split()) for line in (tmp_path / "journal").read_text().splitlines()
    ]
    return make


def is_locked(log: Path) -> bool:
    with open(log) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_needs_first_and_as_many_at_once_as_there_are_cores(fake):
    jobs = [
        fake("a"),
        fake("b", "a", seconds=0.6),
        fake("c", "a", seconds=0.6),
        fake("d", "a"),
        fake("e", "b", "d"),
    ]
    run_jobs(jobs, 2, poll=0.02)
    journal = fake.journal()
    order = [(what, name) for what, name, _ in journal]
    assert journal[0] == ("start", "a", "2"), "nothing else could use the second core"
    running, most = set(), 0
    for what, name in order:
        (running.add if what == "start" else running.remove)(name)
        most = max(most, len(running))
    assert most == 2 and len(order) == 10
    for job in jobs:
        assert all(
            order.index(("end", need.name)) < order.index(("start", job.out.name))
            for need in job.needs
        )


def test_cores_are_dealt_out():
    jobs = [Job(Path(name), ("x",)) for name in "abc"] + [Job(Path("d"), ("x",), (Path("a"),))]
    deal = lambda done, running, cores: [
        (job.out.name, threads)
        for job, threads in startable(jobs, {Path(x) for x in done}, running, cores)
    ]
    assert deal("", {}, 2) == [("a", 1), ("b", 1)]
    assert deal("", {}, 8) == [("a", 2), ("b", 3), ("c", 3)]
    assert deal("abc", {}, 8) == [("d", 8)]
    assert deal("bc", {jobs[0]: (None, 7)}, 8) == []
    assert deal("c", {jobs[0]: (None, 7)}, 8) == [("b", 1)]


def test_finished_jobs_are_not_run_again_changed_ones_are(fake, capsys):
    jobs = [fake("a"), fake("b", "a")]
    run_jobs(jobs, 2, poll=0.02)
    run_jobs(jobs, 2, poll=0.02)
    assert len(fake.journal()) == 4
    os.utime(jobs[0].out / "model.safetensors")  # as if `a` had been trained anew
    run_jobs(jobs, 2, poll=0.02)
    assert [name for what, name, _ in fake.journal()[4:]] == ["b", "b"]
    run_jobs([jobs[0], fake("b", "a", seconds=0.1)], 2, poll=0.02)  # another command
    assert [name for what, name, _ in fake.journal()[6:]] == ["b", "b"]
    (jobs[1].out / "training.safetensors").touch()  # unfinished
    assert not jobs[1].is_finished() and jobs[0].is_finished()


def test_a_job_that_fails_ends_the_study_and_the_others(fake, tmp_path):
    jobs = [fake("slow", seconds=60), fake("bad", seconds=0.1, fail=True), fake("after", "bad")]
    start = time.monotonic()
    with pytest.raises(UsageError) as error:
        run_jobs(jobs, 2, poll=0.02)
    assert (
        str(error.value) == f"bad failed (exit code 1); {tmp_path}/runs/bad.log: error: out of luck"
    )
    assert time.monotonic() - start < 30 and {
        name for what, name, _ in fake.journal() if what == "start"
    } == {"slow", "bad"}
    assert not is_locked(jobs[0].log), "the child is gone"
    run_jobs([fake("bad"), fake("after", "bad")], 2, poll=0.02)  # mended, it goes on
    assert jobs[2].is_finished()


def test_two_studies_do_not_train_into_one_folder(fake):
    job = fake("a", seconds=60)
    process = job.start(1)
    assert is_locked(job.log)
    try:
        with pytest.raises(UsageError, match="a is being trained by another process"):
            run_jobs([job], 2, poll=0.02)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_stops_the_children(fake, number):
    job = fake("a", seconds=60)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored, where a shell has started the tests in the background
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_jobs([job], 1, poll=0.02)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not is_locked(job.log) and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_progress_and_compute_are_read_from_the_logs(tmp_path):
    sft, ppo = (
        Job(tmp_path / name, ("x",), lines=lines, episodes=episodes)
        for name, lines, episodes in (("sft", 4, 96), ("ppo", 5, 384))
    )
    assert sft.trained() == 0
    for job, lines in (
        (
            sft,
            [{"step": 0, "tokens": 100}, {"step": 1, "tokens": 50}, {"phase": "read", "dev": {}}],
        ),
        (
            ppo,
            [
                {"iteration": 0, "dev": {}, "episode": '"tokens": 3'},
                {"iteration": 0, "tokens": 7},
                {"iteration": 1, "tokens": 9, "optimizer_steps": 6},
                {"iteration": 2, "tokens": 9, "optimizer_steps": 2},
            ],
        ),
    ):
        job.out.mkdir()
        (job.out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (sft.trained(), ppo.trained()) == (2 * 96, 3 * 384)
    assert compute([sft, ppo]) == {"steps": 2 + 6 + 2, "tokens": 175} and compute([]) == {
        "steps": 0,
        "tokens": 0,
    }


# ---------------------------------------------------------------------------------------------- confidence


def row(
    reward: float,
    confidence: float = math.nan,
    retrievals: int = 0,
    em: float = 0.0,
    slice: str = "tail",
    malformed: bool = False,
    hit: bool = False,
) -> Row:
    return Row(
        Question("q", "?", ("x",), slice=slice),
        em,
        em,
        retrievals,
        hit,
        malformed,
        reward,
        0.5,
        confidence,
    )


def test_threshold_by_hand():
    direct = [row(2.0, 0.9), row(0.0, 0.4), row(2.0, 0.6), row(0.0, 0.5)]
    retrieved = [row(1.8), row(1.8), row(-0.2), row(1.8)]
    assert (
        best_threshold([(direct, retrieved)]) == 0.6
    )  # retrieves below it: the two that are wrong
    assert best_threshold([(direct, [row(-0.2)] * 4)]) == 0.4  # never
    assert best_threshold([([row(0.0, 0.5)] * 3, [row(1.0)] * 3)]) == 2.0  # always
    assert best_threshold([(direct, [row(d.reward) for d in direct])]) == 0.4  # for nothing: never


def test_threshold_against_every_threshold():
    rng = np.random.default_rng(0)
    for _ in range(20):
        sets = [
            (
                [row(r, c) for r, c in zip(rng.normal(size=n), rng.integers(1, 9, n) / 10)],
                [row(r) for r in rng.normal(size=n)],
            )
            for n in (5, 30)
        ]
        earned = lambda t: np.mean(
            [
                np.mean([b.reward if a.confidence < t else a.reward for a, b in zip(*pair)])
                for pair in sets
            ]
        )
        assert earned(best_threshold(sets)) == pytest.approx(
            max(map(earned, [*np.arange(0, 1.01, 0.05), 2.0]))
        )


def test_confidence_is_the_mean_probability_of_the_text():
    policy = random_policy()
    episodes = rollout(policy, TOKENIZER, environment(), QUESTIONS, Decoding(force="answer"))
    for value, e in zip(confidences(policy, episodes, TOKENIZER, batch_size=3), episodes):
        with torch.no_grad():
            p = policy(torch.tensor([e.tokens]))[0][0].softmax(-1)
        text = [i for i, own in enumerate(e.action_mask) if own]
        assert text and value == pytest.approx(
            np.mean([float(p[i - 1, e.tokens[i]]) for i in text]), abs=1e-5
        )
        assert e.tokens[text[0] - 1] == TOKENIZER.answer, "the forced decision is no part of it"


# ---------------------------------------------------------------------------------------------- playing


@pytest.fixture
def player(tmp_path) -> Player:
    for seed, name in enumerate(("warm-up", "joint")):
        save_policy(tmp_path / name, random_policy(seed), TOKENIZER, {"passage_tokens": 16})
    return Player(tmp_path, world(), Retriever(), Workers(1), "cpu")


MIXED = System(
    "mixed, N = 2", "main", ("warm-up", "joint", "warm-up", "joint"), Decoding(force="retrieve")
)


def test_every_role_is_played_by_its_own_policy(player, tmp_path):
    played = player.result(MIXED, "popqa", "test")
    a, b = (load_policy(tmp_path / name)[0] for name in ("warm-up", "joint"))
    with precision("cpu", "bf16"):
        expected = rollout(
            Roles(a, b, a, b),
            TOKENIZER,
            RagEnv(world(), Retriever(), quota=2, passage_tokens=16),
            QUESTIONS,
            MIXED.decoding,
        )
    assert [(r.exact_match, r.retrievals, r.malformed) for r in played.rows] == [
        (e.exact_match, e.retrievals, e.malformed) for e in expected
    ]
    assert [r.reward for r in played.rows] == pytest.approx([e.reward for e in expected], abs=1e-6)
    [file] = (tmp_path / "eval").glob("*.json")
    written = [json.loads(line) for line in file.with_suffix(".jsonl").read_text().splitlines()]
    assert [[t["query"] for t in r["turns"]] for r in written] == [
        [t.query for t in e.turns] for e in expected
    ]
    assert json.loads(file.read_text())["metrics"]["queries"] == np.mean(
        [e.retrievals for e in expected]
    )


def test_only_what_is_missing_or_older_than_its_weights_is_played(player, tmp_path, monkeypatch):
    alone, count = System("alone", "main", ("warm-up",) * 4), []
    monkeypatch.setattr(
        rl.study.study,
        "rollout",
        lambda *args, **options: count.append(args) or rollout(*args, **options),
    )
    first = [player.result(s, "popqa", "test").rows for s in (MIXED, alone)]
    assert [player.result(s, "popqa", "test").rows for s in (MIXED, alone)] == first and len(
        count
    ) == 2
    later = time.time() + 5
    os.utime(tmp_path / "joint/model.safetensors", (later, later))
    player.result(alone, "popqa", "test")
    assert len(count) == 2
    player.result(MIXED, "popqa", "test")
    assert len(count) == 3
    assert (
        len(
            Player(tmp_path, world(), Retriever(), Workers(1), "cpu", rows=2)
            .result(alone, "popqa", "test")
            .rows
        )
        == 2
        and len(count) == 4
    )
    player.result(alone._replace(quota=1), "popqa", "test")
    assert len(count) == 5


@pytest.mark.parametrize("threshold, first", [(0, "[RETRIEVE]"), (1, "[ANSWER]")])
def test_a_threshold_of_the_sweep_decides(player, threshold, first):
    system = next(s for s in SYSTEMS if s.name == f"joint, threshold {threshold}")
    player.result(system, "popqa", "test")
    lines = (
        (player.folder / "eval" / system.file("popqa", "test"))
        .with_suffix(".jsonl")
        .read_text()
        .splitlines()
    )
    assert {json.loads(line)["tokens"][0][0] for line in lines} == {first}


# ---------------------------------------------------------------------------------------------- figures


def test_sets_weigh_the_same_whatever_their_size():
    nan = float("nan")
    assert together(
        [{"em": 1.0, "hit": nan}, {"em": 0.0, "hit": 0.5}, {"em": 0.5, "hit": 1.0}]
    ) == {"em": 0.5, "hit": 0.75}
    assert math.isnan(together([{"hit": nan}])["hit"])
    large, small = np.zeros(1000), np.ones(10)
    assert stratified_interval([(large, large), (small, 0 * small)]) == (0.5, 0.5, 0.5)
    assert stratified_interval([(small, large[:10])]) == paired_interval(small, large[:10])
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 1, n) for n in (100, 400)]
    mean, low, high = stratified_interval([(x, 0 * x) for x in noise], draws=4000)
    error = math.sqrt(noise[0].var() / 100 + noise[1].var() / 400) / 2  # variances of the means add
    assert mean == pytest.approx((noise[0].mean() + noise[1].mean()) / 2) and (
        high - low
    ) / 2 == pytest.approx(1.96 * error, rel=0.07)


def test_collapse():
    assert (
        collapsed([0.96, 1.0])
        and collapsed([0.0, 0.04])
        and not collapsed([0.0, 1.0])
        and not collapsed([0.94, 1.0])
    )


def test_spread():
    assert (
        spread([0.25]) == "25.0"
        and spread([0.2, 0.4], 1, ".2f") == "0.30 [0.20, 0.40]"
        and spread([math.nan]) == spread([]) == "-"
    )


SLICES = {"popqa": ("popular", "tail", "absent"), "hotpotqa": ("comparison", "bridge")}


def played(choice: str = "all", seeds=(0, 1)) -> Study:
    """An easy question a set, which all answer at once; a hard one, which joint gets right with one retrieval and system number i
    wrong with i % 3; in popqa one that nobody retrieves for or knows."""
    systems = systems_of(choice)
    study = Study("made up", TRAINED, UNSEEN, systems, draws=20)
    for seed, (i, system) in itertools.product(seeds, enumerate(systems)):
        good, results = system.name == JOINT, {}
        for name in system.sets:
            slices = SLICES.get(name, ("tail", "tail"))
            hard = (
                row(1.8, retrievals=1, em=1.0, slice=slices[1])
                if good
                else row(-0.2 * (i % 3), retrievals=i % 3, slice=slices[1])
            )
            results[name] = Result(
                [row(2.0, em=1.0, slice=slices[0]), hard, *(row(0.0, slice=s) for s in slices[2:])],
                0.01,
            )
        study.add(seed, system, results, {"steps": 10 * i, "tokens": 1000 * i})
    return study


def test_prices_by_hand():
    assert reward_at(0.4, em=0.5, f1=0.75, queries=1.5, malformed=0.25) == pytest.approx(
        0.5 + 0.75 - 0.6 - 0.25
    )
    table = played().prices()
    assert list(table) == [0.0, 0.1, 0.2, 0.4]
    em, queries = (2 / 3 + 1 + 1) / 3, (1 / 3 + 1 / 2 + 1 / 2) / 3
    assert table[0.2] == {
        price: pytest.approx([2 * em - price * queries] * 2) for price in (0.0, 0.1, 0.2, 0.4, 0.5)
    }
    assert [s.name for s in systems_of("all")].index("cost .4") % 3 == 2, "it asks twice"
    assert table[0.4][0.5] == pytest.approx([(2 / 3 + 1 + 1) / 3 - 0.5 * 2 * queries] * 2)


def test_figures_of_a_study_by_hand():
    study = played()
    joint = study.figures[0, JOINT, TOGETHER]
    assert (joint["reward"], joint["em"], joint["retrieval"], joint["hit"]) == pytest.approx(
        ((3.8 / 3 + 1.9 + 1.9) / 3, 8 / 9, 4 / 9, 0.0)
    )
    assert (
        study.figures[1, JOINT, "popqa: tail"]["retrieval"] == 1.0
        and study.figures[1, JOINT, "nq"]["rows"] == 2
    )
    assert (0, "joint, N = 1", TOGETHER) not in study.figures and (
        0,
        "joint, N = 1",
        "hotpotqa",
    ) in study.figures
    assert study.parts == [
        TOGETHER,
        "popqa",
        "popqa: popular",
        "popqa: tail",
        "popqa: absent",
        "ambignq",
        "hotpotqa",
        "hotpotqa: comparison",
        "hotpotqa: bridge",
        *UNSEEN,
    ]
    assert study.difference(0, JOINT, "direct only", "popqa: tail") == pytest.approx(
        (1.8, 1.8, 1.8)
    )  # number 0: no query
    assert study.difference(0, JOINT, "direct only", TOGETHER)[0] == pytest.approx(
        (0.6 + 0.9 + 0.9) / 3
    )
    assert study.difference(0, JOINT, "direct only", "nq", "em")[0] == pytest.approx(0.5)
    signs = study.unseen_signs(["direct only", JOINT])
    assert signs["direct only"] == pytest.approx(dict.fromkeys(UNSEEN, 0.9)) and set(
        signs[JOINT].values()
    ) == {0.0}


def test_hypotheses_by_hand():
    study = played()
    holds = lambda: {name: holds for name, (holds, _) in study.hypotheses().items()}
    best = "separate (b), rejection sampling"  # number 6: no query, so that H2 fails, and joint is best at every price, so that H7 does
    assert study.best_separate() == best
    assert holds() == {
        "H1": True,
        "H2": False,
        "H3": True,
        "H4": True,
        "H5": True,
        "H6": True,
        "H7": False,
    }

    def change(name: str, part: str, **figures: float) -> None:
        for seed in study.seeds:
            study.figures[seed, name, part] = study.figures[seed, name, part] | figures

    change(best, TOGETHER, retrieval=0.9)
    for name, quality, queries in (
        ("no retrieval cost", 1.055, 1.0),
        ("cost .1", 1.045, 0.8),
        (JOINT, 1.0, 0.5),
        ("cost .4", 0.91, 0.2),
    ):
        change(
            name, TOGETHER, em=quality, f1=0.0, malformed=0.0, queries=queries, retrieval=queries
        )  # best between 0 and .05, .15, .3 and above
    assert holds() == dict.fromkeys(("H1", "H2", "H3", "H4", "H5", "H6", "H7"), True)
    change("cost .1", TOGETHER, retrieval=0.4)
    change(JOINT, "popqa: absent", retrieval=0.5)
    change("query frozen", TOGETHER, reward=2.0)
    for part in UNSEEN[:2]:
        change(best, part, reward=2.0)
    study.rows[1, "joint, N = 1", "hotpotqa"] = study.rows[1, JOINT, "hotpotqa"]
    study.rows[1, "confidence", "popqa"] = [row(9.0, slice=s) for s in SLICES["popqa"]]
    assert holds() == {
        "H1": False,
        "H2": True,
        "H3": False,
        "H4": False,
        "H5": False,
        "H6": False,
        "H7": False,
    }


def test_the_curve_of_the_sweep_by_hand():
    study = played("main")
    for seed, values in ((0, (1.0, 0.5, 0.25, 0.25)), (1, (1.2, 0.7, 0.75, 1.75))):
        study.figures[seed, "joint, threshold 0.3", TOGETHER] |= dict(
            zip(("reward", "em", "retrieval", "queries"), values)
        )
    curve = study.sweep()
    assert list(curve) == sorted(curve) and {0.0, 0.5, 1.0} <= curve.keys()
    assert (
        curve[0.3]
        == {
            "reward": [1.0, 1.2],
            "em": [0.5, 0.7],
            "retrieval": [0.25, 0.75],
            "queries": [0.25, 1.75],
        }
        == study.as_json()["sweep"]["0.3"]
    )
    lines = study.sweep_table().splitlines()
    assert (
        "| 0.3 | 1.100 [1.000, 1.200] | 60.0 [50.0, 70.0] | 50.0 [25.0, 75.0] | 1.00 [0.25, 1.75] |"
        in lines
        and len(lines) == 2 + len(curve)
    )
    assert (
        "| **0.5**, joint | 1.689 [1.689, 1.689] | 88.9 [88.9, 88.9] | 44.4 [44.4, 44.4] | 0.44 [0.44, 0.44] |"
        in lines
    )  # as in the main table
    assert played("costs").sweep() == {}


def test_collapse_is_marked_for_own_decisions_alone():
    study = played()
    assert not study.is_collapsed(JOINT)  # popular 0, tail 1
    assert study.is_collapsed("SFT, adaptive") == (3 % 3 == 0) and not study.is_collapsed(
        "direct only"
    )


@pytest.mark.parametrize(
    "choice, there, missing",
    [
        (
            "all",
            [
                "Main comparison",
                "Ablations",
                "price of a retrieval",
                "Unseen sets",
                "Quota",
                "threshold of joint",
            ],
            [],
        ),
        (
            "main",
            ["Main comparison", "Unseen sets", "Quota", "threshold of joint"],
            ["Ablations", "price of a retrieval"],
        ),
        ("ablations", ["Ablations", "Quota"], ["Main comparison", "threshold of joint"]),
        ("costs", ["price of a retrieval"], ["Main comparison", "Ablations"]),
    ],
)
def test_the_report_of_every_choice(choice, there, missing):
    study = played(choice)
    report = study.report()
    assert (
        all(title in report for title in there)
        and not any(title in report for title in missing)
        and "nan" not in report
    )
    for table in report.split("\n\n"):
        assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) <= 1, (
            table
        )
    everything = json.loads(json.dumps(study.as_json()))
    assert everything["systems"][JOINT]["1"]["figures"]["popqa: tail"][
        "reward"
    ] == 1.8 and everything["seeds"] == [0, 1]
