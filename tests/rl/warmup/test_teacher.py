"""The weak teacher: what it asks, how often, what it never gives away; and which answers
passages state.
"""

from collections import Counter

import numpy as np
import pytest

from data import Passage, Question, World
from data.metrics import answerable, contains_answer, gold_passage, normalize_answer, stated
from rl.warmup.teacher import TEACHER, Teacher, keywords_of, subject_of, template_of

# ------------------------------------------------------------------------------- the subject


@pytest.mark.parametrize(
    "question, subject",
    [
        ("What is the capital of Norland?", "Norland"),
        ("Who wrote The Salt Road?", "The Salt Road"),
        (
            "Who was the author of The Mayor of Casterbridge?",
            "The Mayor of Casterbridge",
        ),  # small words do not end a title
        ("In which city was Ada Quill born?", "Ada Quill"),
        ("What is Ada Quill's occupation?", "Ada Quill"),
        ("Which sport does Jean-Luc Obi play?", "Jean-Luc Obi"),
        ("What genre is 1984?", "1984"),
        ("Who composed Song of the?", "Song"),  # a title does not end with a small word
        ("Ada wrote what?", ""),  # the first word is a capital anyway
        ("what is the capital of norland?", ""),
        (
            "Did Ada Quill live in Velmor before she moved to Port Sable Harbour?",
            "Port Sable Harbour",
        ),  # the longest run
        ("Did Ada Quill live in Port Sable?", "Ada Quill"),  # the first of equals
        ("Who is Zoë Ångström?", "Zoë Ångström"),
        ("", ""),
    ],
)
def test_subject_by_hand(question, subject):
    assert subject_of(question) == subject


# ---------------------------------------------------------------------------------- keywords


PASSAGE = Passage(
    "p",
    "Ada Quill",
    "Ada Quill was born in Caldis, a harbour of the north, and wrote. She wrote The Salt"
    " Road in Caldis-by-Sea.",
)


def test_keywords_by_hand():
    question = Question("q", "Where was Ada Quill born?", ("Caldis",))
    assert keywords_of(PASSAGE, question) == ["harbour", "north", "wrote", "salt", "road"]
    assert keywords_of(PASSAGE, Question("q", "Who wrote The Salt Road?", ("Ada Quill",))) == [
        "born",
        "caldis",
        "harbour",
        "north",
        "caldis-by-sea",
    ]


@pytest.mark.parametrize(
    "answer, written",
    [
        ("Caldis", "Caldis"),
        ("Caldis", "CALDIS"),
        ("caldis", "Caldis's"),
        ("Caldis", "Caldis-born"),
        ("N.A.T.O.", "NATO"),
        ("NATO", "N.A.T.O"),
        ("Port Sable", "Sable"),
        ("Jean-Luc Obi", "Jean"),
        ("St. Ives", "St Ives"),
        ("Óbidos", "óbidos"),
    ],
)
def test_keywords_never_leak_the_answer(answer, written):
    passage = Passage("p", "Ada", f"She came from {written} to the harbour.")
    assert keywords_of(passage, Question("q", "Where was she born?", ("nothing", answer))) == [
        "came",
        "harbour",
    ]


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
        tokens = {
            token for answer in question.answers for token in normalize_answer(answer).split()
        }
        for keyword in keywords:
            assert not tokens & set(normalize_answer(keyword).split()) and not contains_answer(
                keyword, question.answers
            )
        checked += bool(keywords)
    assert checked > 50


# ----------------------------------------------------------------------------------- queries


def asked(
    number: int,
    relation: str,
    text: str,
    answer: str = "Caldis",
    question: str = "In which city was {} born?",
) -> tuple[Question, Passage]:
    name = f"Ada {chr(65 + number)}quill"
    return Question(
        f"{relation}{number}", question.format(name), (answer,), relation=relation
    ), Passage(f"p{number}", name, f"{name} {text} {answer}.")


BIRTH = [
    asked(0, "birth", "old native coast of"),
    asked(1, "birth", "old native coast of"),
    asked(2, "birth", "old native rare of"),
    asked(3, "birth", "old native of"),
]
WROTE = [asked(i, "author", "old novel by", "Bo", "Who wrote {}?") for i in range(4)]
UNKNOWN = Question("u", "In which city was Ada Zed born?", ("Caldis",), relation="birth")


def teacher() -> Teacher:
    return Teacher([*BIRTH, *WROTE])


def test_keywords_of_a_template_by_hand():
    """Weight = share x log(share / overall share). native: 1 x log(1 / .5); coast: .5 x log(.5 /
    .25), half of that. "old" is everywhere and tells nothing; "rare" occurs once and is no habit.
    """
    keywords = {
        template: (words, shares.tolist())
        for template, (words, shares) in teacher().keywords.items()
    }
    assert keywords == {
        template_of(BIRTH[0][0]): (["native", "coast"], pytest.approx([2 / 3, 1 / 3])),
        template_of(WROTE[0][0]): (["novel"], [1.0]),
    }


def test_templates():
    def template(question, relation=None):
        return template_of(Question("q", question, ("x",), relation=relation))

    assert (
        template("In which city was Ada Quill born?")
        == template("In which city was Bo Reed born?")
        != template("In which town was Bo Reed born?")
    )
    assert template("Who wrote the film Salt?", "author") == template(
        "Who is the author of the film Road?", "author"
    )
    assert template("Who wrote the film Salt?", "author") != template(
        "Who wrote the book Salt?", "author"
    )  # of another kind of subject


def kind_of(query: str, question: Question, subject: str, keywords: set[str]) -> str:
    if query == question.question:
        return "question"
    words = query.removeprefix(subject).split()
    assert query.startswith(subject) and len(set(words)) == len(words) and set(words) <= keywords
    return ("subject", "one keyword", "two keywords")[len(words)]


def test_teacher_shares():
    assert dict(TEACHER) == {
        "question": 0.35,
        "subject": 0.30,
        "one keyword": 0.20,
        "two keywords": 0.15,
    }  # FEASIBILITY: weak on purpose
    rng, mind = np.random.default_rng(0), teacher()
    question, subject = UNKNOWN, "Ada Zed"  # it need not have a gold passage: others asked alike
    queries = [mind.query(question, rng) for _ in range(6000)]
    counts = Counter(kind_of(query, question, subject, {"native", "coast"}) for query in queries)
    for kind, share in TEACHER:
        assert counts[kind] / 6000 == pytest.approx(share, abs=0.02)
    single = Counter(
        query.split()[-1]
        for query in queries
        if kind_of(query, question, subject, {"native", "coast"}) == "one keyword"
    )
    assert single["native"] / (single["native"] + single["coast"]) == pytest.approx(2 / 3, abs=0.05)


def test_two_keywords_where_there_is_only_one():
    rng, mind, question = np.random.default_rng(0), teacher(), WROTE[1][0]
    counts = Counter(
        kind_of(mind.query(question, rng), question, "Ada Bquill", {"novel"}) for _ in range(4000)
    )
    assert (
        counts["one keyword"] / 4000 == pytest.approx(0.35, abs=0.03)
        and counts["two keywords"] == 0
    )


def test_without_others_who_asked_alike_the_subject_stands_alone():
    rng, mind = np.random.default_rng(0), teacher()
    question = Question("n", "What is the colour of Ada Quill?", ("red",), relation="colour")
    counts = Counter(mind.query(question, rng) for _ in range(2000))
    assert set(counts) == {question.question, "Ada Quill"} and counts[
        "Ada Quill"
    ] / 2000 == pytest.approx(0.65, abs=0.04)


def test_without_a_subject_the_teacher_asks_the_question():
    plain = Question("q", "what is the capital of norland?", ("Velmor",))
    assert {teacher().query(plain, np.random.default_rng(i)) for i in range(50)} == {plain.question}


@pytest.mark.parametrize("name", ["tiny", "tiny:1"])
def test_queries_of_a_world_are_plain_deterministic_and_do_not_leak(name):
    world = World.open(name)
    rows = {p.id: i for i, p in enumerate(world.corpus)}
    questions = world.questions("popqa", "train")
    gold = [(q, gold_passage(q, rows)) for q in questions]
    mind = Teacher([(q, world.corpus[row]) for q, row in gold if row is not None])
    assert len(mind.keywords) > 10

    def ask(seed):
        rngs = (np.random.default_rng([seed, i]) for i in range(len(questions)))
        return [mind.query(q, rng) for q, rng in zip(questions, rngs, strict=True)]

    queries = ask(0)
    assert queries == ask(0) != ask(1) and {type(query) for query in queries} == {str}
    for query, question in zip(queries, questions, strict=False):
        if query != question.question:
            added = query.removeprefix(subject_of(question.question))
            assert not {
                token for answer in question.answers for token in normalize_answer(answer).split()
            } & set(normalize_answer(added).split())


# ----------------------------------------------------------------------- gold and answerable


def test_gold_passage():
    rows = {"a": 4, "b": 7}

    def find(gold):
        return gold_passage(Question("q", "?", ("x",), gold_passages=gold), rows)

    assert (find(("b", "a")), find(("nowhere", "a")), find(()), find(None), find(("nowhere",))) == (
        7,
        4,
        None,
        None,
        None,
    )


def test_answerable():
    right, stale = (
        Passage("p", "Ada Quill", "Born in Caldis."),
        Passage("s", "Ada Quill", "Formerly it was said: Caldis."),
    )
    known = Question("q", "?", ("Caldis",), gold_passages=("p",))
    assert (
        answerable([stale, right], known)
        and not answerable([stale], known)
        and not answerable([], known)
    )
    assert answerable(
        [stale], Question("q", "?", ("Caldis",))
    )  # nothing is known: the words decide
    assert not answerable([right, stale], Question("q", "?", ("Caldis",), gold_passages=()))
    assert not answerable([right], Question("q", "?", ("Velmor",), gold_passages=("p",)))


def test_what_is_stated_and_where():
    right, stale = (
        Passage("p", "Ada Quill", "Born in Caldis."),
        Passage("s", "Ada Quill", "Formerly it was said: Caldis."),
    )
    other = Passage("o", "Ada Quill the younger", "Born in Velmor.")
    either = Question("q", "?", ("Caldis", "Velmor"), gold_passages=("p", "o"))
    assert (
        stated([stale, right], either) == (1, "Caldis")
        and stated([stale, other, right], either) == (1, "Velmor")
        and stated([stale], either) is None
    )


@pytest.mark.parametrize("kind", ["bridge", "comparison"])
def test_a_multi_hop_question_is_answerable_from_all_its_gold_passages(kind):
    book, author = (
        Passage("b", "The Salt Road", "Written by Ada Quill."),
        Passage("a", "Ada Quill", "She was born in Caldis."),
    )
    question = Question(
        "q",
        "Where was the author of The Salt Road born?",
        ("Caldis",),
        gold_passages=("b", "a"),
        type=kind,
    )
    assert (
        answerable([author, book], question)
        and not answerable([author], question)
        and not answerable([book], question)
    )


def test_a_follow_up_is_about_its_subject_and_never_the_question():
    rng, mind, question = np.random.default_rng(0), teacher(), BIRTH[0][0]
    queries = Counter(mind.query(question, rng, "Bo Reed") for _ in range(2000))
    assert (
        all(query.startswith("Bo Reed") for query in queries)
        and queries["Bo Reed"] / 2000 == pytest.approx(0.65, abs=0.04)
        and len(queries) > 3
    )
