"""Which training questions a step sees: shares, popularity, sets; a pure function of its step."""

from collections import Counter

import pytest

from data import Question
from rl.warmup.questions import QuestionSampler, typed


def pool(popular: int, others: int) -> list[Question]:
    return [
        Question(f"p{i}", "?", ("x",), slice="popular", popularity=float(i + 1))
        for i in range(popular)
    ] + [Question(f"t{i}", "?", ("x",), slice="tail", popularity=1000.0) for i in range(others)]


def ids(questions) -> list[str]:
    return [q.id for q in questions]


def test_the_sampler_is_a_pure_function_of_seed_step_and_stream():
    questions = pool(20, 80)

    def draw(seed=0, step=3, stream=0):
        return ids(QuestionSampler([questions], 0.4, seed).draw(64, step, stream))

    assert draw() == draw()
    used = QuestionSampler([questions], 0.4, 0)
    for step in (9, 1, 2):
        used.draw(64, step, 0)
    assert (
        ids(used.draw(64, 3, 0)) == draw()
    )  # whatever was drawn before: a resumed run sees the same
    assert len({tuple(x) for x in (draw(), draw(seed=1), draw(step=4), draw(stream=5))}) == 4


@pytest.mark.parametrize(
    "share, count, popular",
    [(0.4, 50, 20), (0.5, 7, 4), (0.0, 10, 0), (1.0, 10, 10), (0.25, 96, 24)],
)
def test_shares_are_exact_at_every_step(share, count, popular):
    sampler = QuestionSampler([pool(20, 80)], share, 0)
    for step in range(5):
        drawn = ids(sampler.draw(count, step, 0))
        assert [i[0] for i in drawn] == ["p"] * popular + ["t"] * (count - popular)


def test_popular_questions_are_asked_in_proportion_to_their_popularity_and_others_uniformly():
    sampler = QuestionSampler([pool(4, 5)], 0.5, 0)
    counts = Counter(i for step in range(40) for i in ids(sampler.draw(1000, step, 0)))
    for i in range(4):
        assert counts[f"p{i}"] / 20_000 == pytest.approx((i + 1) / 10, abs=0.015)
    for i in range(5):
        assert counts[f"t{i}"] / 20_000 == pytest.approx(0.2, abs=0.015)


def test_the_others_come_from_every_set_in_equal_parts():
    sets = [
        pool(20, 90),
        [Question(f"a{i}", "?", ("x",)) for i in range(3)],
        [Question(f"b{i}", "?", ("x",), slice="bridge") for i in range(30)],
    ]
    sampler = QuestionSampler(sets, 0.4, 0)
    for count, parts in (
        (50, {"p": 20, "t": 10, "a": 10, "b": 10}),
        (96, {"p": 38, "t": 19, "a": 19, "b": 20}),
    ):
        assert Counter(i[0] for i in ids(sampler.draw(count, 1, 0))) == parts
    assert {i[0] for i in ids(QuestionSampler([pool(5, 0), sets[1]], 0.4, 0).draw(50, 0, 0))} == {
        "p",
        "a",
    }


@pytest.mark.parametrize(
    "questions",
    [pool(0, 10), pool(10, 0), [Question(str(i), "?", ("x",)) for i in range(10)]],
    ids=["tail", "popular", "no slices"],
)
def test_a_world_of_one_kind_is_drawn_whole(questions):
    sampler = QuestionSampler([questions], 0.4, 0)
    drawn = ids(sampler.draw(400, 0, 0))
    assert len(drawn) == 400 and set(drawn) == set(ids(questions))


def test_a_share_of_the_questions_is_typed_in_lower_case():
    asked = [Question(str(i), "Who wrote The Salt Road?", ("Ada Quill",)) for i in range(400)]
    assert typed(asked, 0.0, 0, 5) == asked
    made = typed(asked, 0.25, 0, 5)
    assert made == typed(asked, 0.25, 0, 5) != typed(asked, 0.25, 0, 6)
    lower = [q for q in made if q.question == "who wrote the salt road"]
    assert 70 < len(lower) < 130 and {q.id for q in lower} < {q.id for q in asked}
    assert all(q.answers == ("Ada Quill",) for q in made)
