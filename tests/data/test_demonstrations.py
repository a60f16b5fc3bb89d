"""The weak teacher: what it asks, how often, what it never gives away; and the sampler of training questions."""
from collections import Counter

import numpy as np
import pytest

from data import Passage, Question, World, contains_answer, normalize_answer
from data.demonstrations import TEACHER, QuestionSampler, answerable, gold_passage, keywords_of, subject_of, teacher_query


@pytest.fixture(scope="module")
def tiny():
    return World.open("tiny")


# ------------------------------------------------------------------------------------------------- the subject


@pytest.mark.parametrize("question, subject", [
    ("What is the capital of Norland?", "Norland"),
    ("Who wrote The Salt Road?", "The Salt Road"),
    ("Who was the author of The Mayor of Casterbridge?", "The Mayor of Casterbridge"),  # small words do not end a title
    ("In which city was Ada Quill born?", "Ada Quill"),
    ("What is Ada Quill's occupation?", "Ada Quill"),
    ("Which sport does Jean-Luc Obi play?", "Jean-Luc Obi"),
    ("What genre is 1984?", "1984"),
    ("Who composed Song of the?", "Song"),  # a title does not end with a small word
    ("Ada wrote what?", ""),  # the first word is a capital anyway
    ("what is the capital of norland?", ""),
    ("Did Ada Quill live in Velmor before she moved to Port Sable Harbour?", "Port Sable Harbour"),  # the longest run
    ("Did Ada Quill live in Port Sable?", "Ada Quill"),  # the first of equals
    ("Who is Zoë Ångström?", "Zoë Ångström"),
    ("", ""),
])
def test_subject_by_hand(question, subject):
    assert subject_of(question) == subject


# ------------------------------------------------------------------------------------------------- keywords


PASSAGE = Passage("p", "Ada Quill", "Ada Quill was born in Caldis, a harbour of the north, and wrote. She wrote The Salt Road in Caldis-by-Sea.")


def test_keywords_by_hand():
    question = Question("q", "Where was Ada Quill born?", ("Caldis",))
    assert keywords_of(PASSAGE, question) == ["harbour", "north", "wrote", "salt", "road"]
    assert keywords_of(PASSAGE, Question("q", "Who wrote The Salt Road?", ("Ada Quill",))) == ["born", "caldis", "harbour", "north", "caldis-by-sea"]


@pytest.mark.parametrize("answer, written", [
    ("Caldis", "Caldis"), ("Caldis", "CALDIS"), ("caldis", "Caldis's"), ("Caldis", "Caldis-born"), ("N.A.T.O.", "NATO"), ("NATO", "N.A.T.O"), ("Port Sable", "Sable"),
    ("Jean-Luc Obi", "Jean"), ("St. Ives", "St Ives"), ("Óbidos", "óbidos"),
])
def test_keywords_never_leak_the_answer(answer, written):
    passage = Passage("p", "Ada", f"She came from {written} to the harbour.")
    assert keywords_of(passage, Question("q", "Where was she born?", ("nothing", answer))) == ["came", "harbour"]


@pytest.mark.parametrize("world", ["tiny", "tiny:1"])
def test_no_training_question_of_a_world_has_a_leaking_keyword(world):
    world = World.open(world)
    rows = {p.id: i for i, p in enumerate(world.corpus)}
    checked = 0
    for question in world.questions("popqa", "train"):
        row = gold_passage(question, rows)
        if row is None:
            continue
        keywords = keywords_of(world.corpus[row], question)
        tokens = {token for answer in question.answers for token in normalize_answer(answer).split()}
        for keyword in keywords:
            assert not tokens & set(normalize_answer(keyword).split()) and not contains_answer(keyword, question.answers)
        checked += bool(keywords)
    assert checked > 50


# ------------------------------------------------------------------------------------------------- queries


QUESTION = Question("q", "In which city was Ada Quill born, by the way?", ("Caldis",))


def kind_of(query: str) -> str:
    if query == QUESTION.question:
        return "question"
    words = query.removeprefix("Ada Quill").split()
    assert query.startswith("Ada Quill") and len(set(words)) == len(words) and set(words) <= set(keywords_of(PASSAGE, QUESTION))
    return ("subject", "one keyword", "two keywords")[len(words)]


def test_teacher_shares():
    rng = np.random.default_rng(0)
    counts = Counter(kind_of(teacher_query(QUESTION, PASSAGE, rng)) for _ in range(6000))
    assert sum(share for _, share in TEACHER) == pytest.approx(1)
    assert dict(TEACHER) == {"question": 0.35, "subject": 0.30, "one keyword": 0.20, "two keywords": 0.15}  # FEASIBILITY: weak on purpose
    for kind, share in TEACHER:
        assert counts[kind] / 6000 == pytest.approx(share, abs=0.02)


def test_every_keyword_is_asked_for():
    rng = np.random.default_rng(0)
    used = Counter(word for _ in range(2000) for word in teacher_query(QUESTION, PASSAGE, rng).removeprefix("Ada Quill").split() if word.islower())
    assert set(keywords_of(PASSAGE, QUESTION)) <= set(used)


def test_without_a_gold_passage_the_teacher_knows_no_keyword():
    rng = np.random.default_rng(0)
    counts = Counter(teacher_query(QUESTION, None, rng) for _ in range(2000))
    assert set(counts) == {QUESTION.question, "Ada Quill"} and counts["Ada Quill"] / 2000 == pytest.approx(0.65, abs=0.04)


def test_without_a_subject_the_teacher_asks_the_question():
    plain = Question("q", "what is the capital of norland?", ("Velmor",))
    assert {teacher_query(plain, PASSAGE, np.random.default_rng(i)) for i in range(50)} == {plain.question}


def test_queries_are_plain_strings_and_deterministic(tiny):
    rows = {p.id: i for i, p in enumerate(tiny.corpus)}

    def ask(seed):
        rng = np.random.default_rng(seed)
        return [teacher_query(q, tiny.corpus[row] if (row := gold_passage(q, rows)) is not None else None, rng) for q in tiny.questions("popqa", "train")[:200]]

    assert ask(0) == ask(0) != ask(1) and {type(query) for query in ask(0)} == {str} and all(query.strip() for query in ask(0))


# ------------------------------------------------------------------------------------------------- gold and answerable


def test_gold_passage():
    rows = {"a": 4, "b": 7}
    find = lambda gold: gold_passage(Question("q", "?", ("x",), gold_passages=gold), rows)
    assert (find(("b", "a")), find(("nowhere", "a")), find(()), find(None), find(("nowhere",))) == (7, 4, None, None, None)


def test_answerable():
    right, stale = Passage("p", "Ada Quill", "Born in Caldis."), Passage("s", "Ada Quill", "Formerly it was said: Caldis.")
    known = Question("q", "?", ("Caldis",), gold_passages=("p",))
    assert answerable([stale, right], known) and not answerable([stale], known) and not answerable([], known)
    assert answerable([stale], Question("q", "?", ("Caldis",)))  # nothing is known: the words decide
    assert not answerable([right, stale], Question("q", "?", ("Caldis",), gold_passages=()))
    assert not answerable([right], Question("q", "?", ("Velmor",), gold_passages=("p",)))


# ------------------------------------------------------------------------------------------------- the sampler


def pool(popular: int, others: int) -> list[Question]:
    return [Question(f"p{i}", "?", ("x",), slice="popular", popularity=float(i + 1)) for i in range(popular)] + [
        Question(f"t{i}", "?", ("x",), slice="tail", popularity=1000.0) for i in range(others)]


def ids(questions) -> list[str]:
    return [q.id for q in questions]


def test_the_sampler_is_a_pure_function_of_seed_step_and_stream():
    questions = pool(20, 80)
    draw = lambda seed=0, step=3, stream=0: ids(QuestionSampler(questions, 0.4, seed).draw(64, step, stream))
    assert draw() == draw()
    used = QuestionSampler(questions, 0.4, 0)
    for step in (9, 1, 2):
        used.draw(64, step)
    assert ids(used.draw(64, 3)) == draw()  # whatever was drawn before: a resumed run sees the same
    assert len({tuple(x) for x in (draw(), draw(seed=1), draw(step=4), draw(stream=5))}) == 4


@pytest.mark.parametrize("share, count, popular", [(0.4, 50, 20), (0.5, 7, 4), (0.0, 10, 0), (1.0, 10, 10), (0.25, 96, 24)])
def test_shares_are_exact_at_every_step(share, count, popular):
    sampler = QuestionSampler(pool(20, 80), share, 0)
    for step in range(5):
        drawn = ids(sampler.draw(count, step))
        assert len(drawn) == count and [i[0] for i in drawn] == ["p"] * popular + ["t"] * (count - popular)


def test_popular_questions_are_asked_in_proportion_to_their_popularity_and_others_uniformly():
    sampler = QuestionSampler(pool(4, 5), 0.5, 0)
    counts = Counter(i for step in range(40) for i in ids(sampler.draw(1000, step)))
    for i in range(4):
        assert counts[f"p{i}"] / 20_000 == pytest.approx((i + 1) / 10, abs=0.015)
    for i in range(5):
        assert counts[f"t{i}"] / 20_000 == pytest.approx(0.2, abs=0.015)


@pytest.mark.parametrize("questions", [pool(0, 10), pool(10, 0), [Question(str(i), "?", ("x",)) for i in range(10)]], ids=["tail", "popular", "no slices"])
def test_a_world_of_one_kind_is_drawn_whole(questions):
    sampler = QuestionSampler(questions, 0.4, 0)
    drawn = ids(sampler.draw(400, 0))
    assert len(drawn) == 400 and set(drawn) == set(ids(questions))
