"""What a warm-up step demonstrates: exact shares, informed labels, a growing observation."""

from types import SimpleNamespace

import pytest

from data import Question
from rl.warmup.demonstrator import INFORMED, Curriculum
from rl.warmup.questions import Stream
from train_sft import Args

ARGS = Args(
    read_steps=1500,
    episodes=40,
    popular_share=0.5,
    direct_popular=0.55,
    direct_other=0.05,
    probe=30,
)


def questions(prefix: str, count: int, slice: str) -> list[Question]:
    return [Question(f"{prefix}{i}", "?", ("x",), slice, popularity=1.0) for i in range(count)]


def curriculum(seed: int = 0) -> Curriculum:
    sets = [questions("p", 30, "popular") + questions("t", 60, "tail")]
    made = Curriculum(sets, Args(**vars(ARGS) | {"seed": seed}))
    made.knows = {q: int(q.id[1:]) % 2 == 0 for q in made.probed}
    return made


@pytest.mark.parametrize("step", range(4))
def test_shares_of_the_read_phase_are_exact_at_every_step(step):
    """Of 20 popular questions 11 are answered directly, of 20 others 1; nothing is labelled."""
    branches = curriculum().read_branches(step)
    assert len(branches) == 40
    direct = [q.slice for q, retrieve, _, _ in branches if not retrieve]
    assert (direct.count("popular"), direct.count("tail")) == (11, 1)
    assert not any(label or known for *_, label, known in branches)


def test_the_mix_phase_labels_what_was_probed():
    made = curriculum()
    branches = [branch for step in range(50) for branch in made.mix_branches(step)]
    assert {q for q, *_ in branches} <= set(made.probed)
    informed = [branch for branch in branches if branch[2]]
    assert len(informed) / len(branches) == pytest.approx(INFORMED, abs=0.03)
    assert all(retrieve is not made.knows[q] for q, retrieve, *_ in informed)
    assert all(known is made.knows[q] for q, _, _, known in branches)
    coins = [retrieve for _, retrieve, label, _ in branches if not label]
    assert sum(coins) / len(coins) == pytest.approx(0.5, abs=0.06)


def test_branches_are_a_pure_function_of_seed_phase_and_step():
    used = curriculum()
    for step in (5, 1, 2):
        used.read_branches(step), used.mix_branches(step)
    for branches in ("read_branches", "mix_branches"):
        first = getattr(used, branches)(3)
        assert first == getattr(curriculum(), branches)(3)
        assert first != getattr(used, branches)(4)
        assert first != getattr(curriculum(seed=1), branches)(3)
    assert len(curriculum().probed) == 30 and curriculum(1).probed != curriculum().probed


@pytest.mark.parametrize(
    "phase, step, forced",
    [
        ("read", 0, 0.0),
        ("read", 225, 0.5),
        ("read", 450, 1.0),
        ("read", 1499, 1.0),
        ("mix", 0, 1.0),
    ],
)
def test_the_observation_grows_for_the_first_30_percent(phase, step, forced):
    given = []

    def demonstrate(branches, rngs, share):
        entropy = [rng.bit_generator.seed_seq.entropy for rng in rngs]
        given.append(([branch.retrieve for branch in branches], entropy, share))
        return branches

    made = curriculum()
    played = made.demonstrations(SimpleNamespace(demonstrate=demonstrate), phase, step)
    ((retrieve, seeds, share),) = given
    assert share == pytest.approx(forced) and len(played) == 40
    assert retrieve == sorted(retrieve, reverse=True)  # retrievals, which are long, first
    # Every demonstration has the stream of its place in the step, whoever plays it.
    stream = Stream.READ if phase == "read" else Stream.MIX
    assert sorted(seeds) == [[0, stream, step, i] for i in range(40)]
