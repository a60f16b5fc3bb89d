"""Answer metrics against worked examples of the official SQuAD v1.1 script's behaviour."""

import pytest

from data.metrics import contains_answer, exact_match, f1_score, hit, missing_gold, normalize_answer
from data.world import Passage, Question


@pytest.mark.parametrize(
    "raw, normalized",
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("  a\tcat \n and an  owl ", "cat and owl"),
        ("U.S.A.", "usa"),
        ("well-known", "wellknown"),  # punctuation is dropped, not replaced by a blank
        ("a.an.the", "aanthe"),  # punctuation goes first, so no article is left to drop
        ("theatre anthem", "theatre anthem"),  # articles are whole words
        ("“quoted”", "“quoted”"),  # ASCII punctuation only
        ("The", "the"),  # unlike the official script
        ("", ""),
        ("A", "a"),
        ("The  The!", "the the"),
        ("!!! ", "!!!"),
        ("(a)", "a"),
        ("Me\u0301xico", "m\u00e9xico"),  # composed and decomposed are the same
    ],
)
def test_normalize_answer(raw, normalized):
    assert normalize_answer(raw) == normalized


@pytest.mark.parametrize(
    "prediction, answers, em, f1",
    [
        ("Denver Broncos", ["Denver Broncos"], 1, 1),
        ("the Denver Broncos.", ["Denver broncos"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),  # precision 1, recall 1/2
        (
            "in the city of Denver",
            ["Denver"],
            0,
            2 / 5,
        ),  # "the" is dropped: precision 1/4, recall 1
        (
            "to be to be",
            ["to be or not to be"],
            0,
            4 / 5,
        ),  # bag overlap 4: precision 4/4, recall 4/6
        ("York", ["Boston", "New York", "York City Hall"], 0, 2 / 3),  # the best alias counts
        ("London", ["Paris"], 0, 0),
        ("", ["Paris"], 0, 0),
        ("The", ["a"], 0, 0),  # both would normalise to nothing
        ("yes", ["yes sir"], 0, 2 / 3),  # HotpotQA's script would say 0
        ("Paris", [], 0, 0),
        ("A", ["A", "cork"], 1, 1),
        ("(A).", ["A"], 1, 1),
        ("the", ["A"], 0, 0),
        ("...", ["A"], 0, 0),
        ("", ["A"], 0, 0),
        ("the the", ["The The"], 1, 1),
        ("!!!", ["!!!"], 1, 1),
        ("???", ["!!!"], 0, 0),
        ("Mo\u0308ln", ["M\u00f6ln"], 1, 1),
        ("M\u00f6ln", ["Mo\u0308ln"], 1, 1),
    ],
)
def test_exact_match_and_f1(prediction, answers, em, f1):
    assert exact_match(prediction, answers) == em
    assert f1_score(prediction, answers) == pytest.approx(f1)


@pytest.mark.parametrize(
    "text, answers, found",
    [
        ("She was born in New York City.", ["New York"], True),
        ("He was an artist.", ["art"], False),
        ("A newly built York", ["New York"], False),
        ("York is new.", ["New York"], False),
        ("Songs of the Sea", ["songs of sea"], True),
        ("Paris", ["London", "paris"], True),
        ("anything at all", ["The"], False),
        ("", [""], False),
        ("The band The The played.", ["The The"], True),
        ("The band played.", ["The The"], False),
        ("The band !!! played.", ["!!!"], True),
        ("The band played!", ["!!!"], False),
        ("A thing of the sea", ["A"], False),
        ("It lies in Mo\u0308ln.", ["M\u00f6ln"], True),
    ],
)
def test_contains_answer(text, answers, found):
    assert contains_answer(text, answers) is found


def test_hit_goes_by_gold_passages_where_they_are_known():
    stating = Passage("1", "Velmor", "It lies in Norland.")
    other = Passage("2", "Caldis", "It lies in Norland, too.")
    unknown, known, absent = (
        Question("q", "?", ("Norland",), gold_passages=gold) for gold in (None, ("1",), ())
    )
    assert hit([other, stating], known) and not hit([other], known)
    assert hit([other], unknown) and not hit([], unknown)
    assert not hit([stating, other], absent)
    assert hit([Passage("3", "Norland", "")], unknown)  # the title counts


def test_yes_and_no_are_in_no_passage():
    passages = [Passage("1", "Maps", "No map is lent; yes, none.")]
    for answers in (("no",), ("Yes.",), ("no", "none at all")):
        assert not hit(passages, Question("q", "?", answers))
    assert hit(passages, Question("q", "?", ("no", "none")))
    assert hit(passages, Question("q", "?", ("no",), gold_passages=("1",)))


def test_a_multi_hop_question_needs_all_its_gold_passages_in_their_order():
    a, b, c = (Passage(i, i, i) for i in "abc")
    bridge, single = (
        Question("q", "?", ("x",), gold_passages=("b", "a"), type=kind) for kind in ("bridge", None)
    )
    assert missing_gold([c], bridge) == missing_gold([c], single) == ["b", "a"]
    assert missing_gold([a, c], bridge) == ["b"] and not hit([a, c], bridge)
    assert missing_gold([a, c], single) == [] and hit([a, c], single)
    assert missing_gold([a, b], bridge) == [] and hit([a, b], bridge)
    assert missing_gold([], Question("q", "?", ("x",), gold_passages=(), type="bridge")) == []
