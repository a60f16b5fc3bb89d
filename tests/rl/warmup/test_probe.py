"""What a warm-up policy can do: figures and labels of episodes that are written down here."""

import math

from data.world import Question
from rl.episode import Episode, Turn
from rl.warmup.demonstrator import Curriculum, dev_figures
from train_sft import Args

POPULAR, TAIL = (Question(s, f"Who is {s}?", ("x",), slice=s) for s in ("popular", "tail"))


def played(question: Question, em: float, found: bool | None, malformed: bool = False) -> Episode:
    """found: whether a retrieval's passages held the answer; None without a retrieval."""
    turns = [] if found is None else [Turn("query", [0], [1.0])]
    return Episode(question, turns=turns, exact_match=em, hit=bool(found), malformed=malformed)


def play(questions, force, update=lambda n: None):
    update(len(questions))
    if force == "answer":
        return [played(q, float(q is POPULAR), None) for q in questions]
    return [played(POPULAR, 1.0, True), played(TAIL, 0.0, True), played(TAIL, 1.0, False, True)]


def test_dev_figures():
    figures = dev_figures(play, [POPULAR, TAIL])
    assert figures == {
        "direct_em": 1.0,  # the popular one alone
        "retrieve_em": 2 / 3,
        "hit": 2 / 3,
        "em_given_hit": 1 / 2,
        "malformed": 1 / 5,
    }


def test_a_world_without_slices_counts_every_direct_answer():
    plain = [Question(str(i), "Who?", ("x",)) for i in range(2)]
    figures = dev_figures(lambda questions, force: [played(q, 0.0, None) for q in plain], plain)
    assert figures["direct_em"] == 0.0 and math.isnan(figures["hit"])


def test_known_by_heart_is_right_word_for_word():
    curriculum = Curriculum([[POPULAR, TAIL]], Args())
    expected = [question is POPULAR for question in curriculum.probed]
    assert curriculum.probe(play) == 0.5 and curriculum.counters["knows"] == expected
    assert curriculum.knows == {POPULAR: True, TAIL: False}
