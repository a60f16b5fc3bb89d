"""Training and dev questions, also of a world that has no dev questions."""

import pytest

from data.world import Passage, Question, World, WorldError
from rl.runs.flags import UsageError
from rl.runs.setting import answer_budget, train_and_dev


def questions(prefix: str, count: int) -> list[Question]:
    return [Question(f"{prefix}{i}", f"What is {prefix}{i}?", ("x",)) for i in range(count)]


def world(**splits) -> World:
    sets = {name.replace("_", "."): found for name, found in splits.items()}
    return World(name="w", corpus=[Passage("p", "t", "x")], questions=sets)


def test_splits_as_they_are():
    a, b, dev = questions("a", 5), questions("b", 3), questions("d", 2)
    own = world(a_train=a, a_dev=dev, b_train=b, b_dev=dev[:1])
    assert train_and_dev(own, "a, b") == ([a, b], [dev, dev[:1]])
    assert train_and_dev(own, "b") == ([b], [dev[:1]])


@pytest.mark.parametrize("count, held", [(1, 1), (2, 1), (10, 1), (11, 2), (95, 10), (6000, 500)])
def test_without_dev_a_tenth_is_held_out(count, held, capsys):
    everything = questions("a", count)
    [train], [dev] = train_and_dev(world(a_train=everything), "a")
    assert len(dev) == held and set(dev) <= set(everything)
    assert train == [q for q in everything if q not in set(dev) or count == 1]
    said = capsys.readouterr().out
    assert said == f"a has no dev questions: {held} of {count} are held out\n"


def test_the_same_are_held_out_whatever_stands_around_them():
    a = questions("a", 40)
    alone = train_and_dev(world(a_train=a), "a")
    beside = train_and_dev(world(b_train=questions("b", 30), a_train=a[::-1], a_dev=[]), "b,a")
    assert set(beside[1][1]) == set(alone[1][0]) and set(beside[0][1]) == set(alone[0][0])


def test_nothing_to_train_on():
    with pytest.raises(UsageError, match=r"^world 'w': a.train has no questions$"):
        train_and_dev(world(a_train=[], a_dev=questions("a", 3)), "a")
    with pytest.raises(WorldError, match=r"has no questions 'b.train'"):
        train_and_dev(world(a_train=questions("a", 3)), "b")


@pytest.mark.parametrize(
    ("answers", "budget"),
    [
        (["x"], 16),  # never fewer
        (["x" * 60] * 100, 21),
        (["x"] * 99 + ["x" * 60], 16),  # one of a hundred may be cut
        (["x"] * 98 + ["x" * 60] * 2, 21),
        (["\u00e9" * 30], 21),  # bytes, not letters
        (["x" * 3000], 64),  # never more
    ],
)
def test_the_answer_budget_is_what_the_training_answers_need(answers, budget):
    assert answer_budget([Question("i", "?", (answer,)) for answer in answers]) == budget
