"""What the study trains, in which order, with which flags."""

from pathlib import Path

import train_ppo
import train_sft
from rl import Decoding
from rl.runs.flags import parse
from rl.study import modules
from rl.study.study import StudyArgs
from rl.study.systems import (
    JOINT,
    RECIPES,
    SYSTEMS,
    TRAINED,
    UNSEEN,
    commands_of,
    needed,
    systems_of,
)

FOLDER = Path("runs/study/seed-3")


def commands(**args) -> dict[str, list[str]]:
    found = commands_of(3, FOLDER, TRAINED, StudyArgs(**args))
    assert {folder.parent for folder in found} == {FOLDER}
    return {folder.name: command for folder, command in found.items()}


def parsed(command: list[str]):
    _, module, *flags = command
    scripts = {m.__name__: m.Args for m in (train_sft, train_ppo, modules)}
    return parse(scripts[module], "", flags)


def test_every_role_is_a_run_and_every_run_plays_a_role():
    assert {role for system in SYSTEMS for role in system.roles} == RECIPES.keys()
    assert list(commands()) == list(RECIPES)


def test_every_command_is_one_that_its_script_understands_after_what_it_needs():
    there = set()
    for name, command in commands().items():
        args = parsed([*command, "--out", str(FOLDER / name), "--ranks", "1"])
        assert (args.dataset, args.quota, args.seed) == ("popqa,ambignq,hotpotqa", 2, 3), name
        paths = [getattr(args, flag, "") for flag in ("init", "query", "reader")]
        assert {path for path in paths if path} <= there
        assert name == "warm-up" or args.init == f"{FOLDER}/warm-up"
        there.add(str(FOLDER / name))


def test_flags_that_make_the_ablations():
    ppo = {name: parsed(c) for name, c in commands().items() if "train_ppo" in c}
    joint = ppo["joint"]
    differs = {
        name: {k: v for k, v in vars(a).items() if v != getattr(joint, k)}
        for name, a in ppo.items()
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
            "reader": f"{FOLDER}/reader",
        },
    }
    assert (joint.iterations, joint.episodes, joint.retrieval_cost) == (150, 384, 0.2)


def test_everything_after_the_warm_up_asks_the_same_questions_under_new_names():
    ours = (modules.POPULAR_SHARE, modules.RENAME)
    joint = parsed(commands()["joint"])
    assert (joint.popular_share, joint.rename) == ours == (0.45, 1.0)
    assert (joint.lr, joint.decision_weight, joint.price_warmup) == (4e-4, 4.0, 0.5)


def test_only_what_a_choice_needs_is_trained():
    assert list(commands(systems="main")) == [
        "warm-up",
        "reader",
        "joint",
        "rewriter-ppo",
        "rewriter-rs",
        "decision-right",
        "decision-reward",
        "decision-reward-rs",
    ]
    chain = needed(["decision-reward"])
    assert chain == ["warm-up", "reader", "rewriter-ppo", "decision-reward"]


def test_more_flags_and_another_scale():
    flags = {"sft_flags": "--layers 2 --mix-steps 7", "ppo_flags": "--lr 0.01"}
    flags["module_flags"] = "--lower-case 0.5"
    found = commands(scale=0.02, **flags)
    warm_up, joint, reader = (parsed(found[name]) for name in ("warm-up", "joint", "reader"))
    assert (warm_up.read_steps, warm_up.mix_steps, warm_up.layers) == (50, 7, 2)
    assert (joint.iterations, joint.lr) == (3, 0.01)
    assert (reader.steps, reader.lower_case) == (4, 0.5)
    assert parsed(found["rewriter-ppo"]).iterations == 1


def test_a_pretrained_policy_has_the_steps_and_weights_of_its_scripts_defaults():
    found = commands(scale=0.5, sft_flags="--init model.gguf")
    warm_up, joint, reader = (parsed(found[name]) for name in ("warm-up", "joint", "reader"))
    assert (warm_up.read_steps, warm_up.mix_steps) == (80, 30)
    assert (joint.iterations, joint.episodes) == (20, 512)
    assert (joint.decision_weight, joint.price_warmup) == (16, 0)
    assert (reader.steps, reader.episodes) == (20, 128)


def test_names_are_given_once():
    names = [system.name for system in SYSTEMS]
    assert len(names) == len(set(names))
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
