"""PopQA as a closed world: inversion, reading, splits and passages, by hand and on the official
files.
"""

import gzip
import re
import string
from collections import Counter

import pytest

from data import World
from data.metrics import contains_answer
from data.prepare import build as popqa
from data.prepare.build import normalise, read_splits
from data.world import Question, WorldError
from tests.shared import shared_path


def ask(id, question, *answers, popularity=None, relation=None):
    return Question(id, question, answers, popularity=popularity, relation=relation)


def read(file):
    return read_splits("popqa", {"": [file]})[0][""]


# --------------------------------------------------------------------------------- templates


@pytest.mark.parametrize(
    "question, subject, relation",
    [
        # one of each
        ("What is George Rankin's occupation?", "George Rankin", "occupation"),
        ("In what city was Bert Myers born?", "Bert Myers", "place of birth"),
        ("What genre is Reach?", "Reach", "genre"),
        ("Who is the father of Nero?", "Nero", "father"),
        ("In what country is Wiesen?", "Wiesen", "country"),
        ("Who was the producer of Sleep?", "Sleep", "producer"),
        ("Who was the director of Pilot?", "Pilot", "director"),
        ("What is Prague the capital of?", "Prague", "capital of"),
        ("Who was the screenwriter for The Bat?", "The Bat", "screenwriter"),
        ("Who was the composer of Hair?", "Hair", "composer"),
        ("What color is ruby?", "ruby", "color"),
        ("What is the religion of Rumi?", "Rumi", "religion"),
        ("What sport does Roy Emerson play?", "Roy Emerson", "sport"),
        ("Who is the author of Glas?", "Glas", "author"),
        ("Who is the mother of Apollo?", "Apollo", "mother"),
        ("What is the capital of Wa State?", "Wa State", "capital"),
        # apostrophes
        ("What is Etta James's occupation?", "Etta James", "occupation"),
        (
            "What is Rosie O'Donnell's sister's occupation?",
            "Rosie O'Donnell's sister",
            "occupation",
        ),
        ("Who is the author of Angela's Ashes?", "Angela's Ashes", "author"),
        # names that end in punctuation, or hold a template's words
        ("Who is the author of What Is to Be Done??", "What Is to Be Done?", "author"),
        (
            "Who was the director of Who Is the Father of the Bride??",
            "Who Is the Father of the Bride?",
            "director",
        ),
        ("In what city was A Star Is born born?", "A Star Is born", "place of birth"),
        ("What sport does The play play?", "The play", "sport"),
        ("What genre is In what country is Wiesen??", "In what country is Wiesen?", "genre"),
        ("What is Vienna the capital of the capital of?", "Vienna the capital of", "capital of"),
        # two templates fit: the one with more fixed text
        ("What is the capital of Rome's occupation?", "Rome's occupation", "capital"),
        ("What is the religion of Geneva the capital of?", "Geneva the capital of", "religion"),
        # spaces within and around a name
        ("What genre is  A  B ?", "A B", "genre"),
    ],
)
def test_invert(question, subject, relation):
    assert popqa.invert(question) == (subject, relation)


def test_all_16_templates_invert_what_they_make():
    assert len(popqa.RELATIONS) == 16
    for name, relation in popqa.RELATIONS.items():
        assert popqa.invert(relation["question"].format(s="Ann O. Nym")) == ("Ann O. Nym", name)


@pytest.mark.parametrize(
    "question",
    [
        "Who is the author of ?",
        "Who is the author of  ?",
        "What is 's occupation?",
        "What is the capital of?",
        "who is the author of Glas?",
        "Who is the author of Glas",
        "Who wrote Glas?",
        "?",
        "",
    ],
)
def test_what_does_not_invert(question):
    assert popqa.invert(question) is None


@pytest.mark.parametrize("relation", popqa.RELATIONS)
def test_wordings(relation):
    """Five or more, each with both names inside, plain ASCII; some hold the question's key word and
    some do not.
    """
    wordings = popqa.RELATIONS[relation]["passages"]
    assert len(set(wordings)) == len(wordings) >= 5
    key = {"place of birth": "born", "capital of": "capital"}.get(relation, relation)
    assert {f" {key} " in f" {wording} " for wording in (w.lower() for w in wordings)} == {
        True,
        False,
    }
    for wording in wordings:
        fields = [field for _, field, _, _ in string.Formatter().parse(wording) if field]
        assert sorted(fields) == ["o", "s"]
        assert wording.isascii() and wording[-2:] != "}." and wording.endswith(".")
        assert 8 <= len(wording.split()) <= 13


# ----------------------------------------------------------------------------------- reading


HEADER = "id\tsubj\tprop\tobj\ts_pop\to_pop\tquestion\tpossible_answers\n"
RANKIN = (
    "4222362\tGeorge Rankin\toccupation\tpolitician\t142\t25692\tWhat is George Rankin's"
    " occupation?\t"
    '"[""politician"", ""pol""]"\n'
)


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["popqa.tsv", "popqa.tsv.gz"])
def test_read_tsv(tmp_path, name):
    file = write(
        tmp_path / name,
        HEADER + RANKIN + '2\t"""Them"""\tgenre\trock\t\t9\t"What genre is ""Them""?"\t["rock"]\n',
    )  # no s_pop, no quoting
    assert read(file) == [
        ask(
            "4222362",
            "What is George Rankin's occupation?",
            "politician",
            "pol",
            popularity=142.0,
            relation="occupation",
        ),
        ask("2", 'What genre is "Them"?', "rock", relation="genre"),
    ]


def test_read_tsv_without_popularity(tmp_path):
    file = write(
        tmp_path / "popqa.tsv",
        'possible_answers\tid\tquestion\n["rock"]\t7\tWhat genre is Reach?\n',
    )
    assert read(file) == [ask("7", "What genre is Reach?", "rock")]


def test_read_jsonl(tmp_path):
    rows = '{"id": "a", "question": "What genre is Reach?", "answers": ["rock", "pop"]}\n\n'
    assert (
        read(write(tmp_path / "a.jsonl", rows))
        == read(write(tmp_path / "a.jsonl.gz", rows))
        == [ask("a", "What genre is Reach?", "rock", "pop")]
    )


@pytest.mark.parametrize(
    "name, text, problem",
    [
        ("x.tsv", "id\tquestion\n5\tA\n", ":2: lacks the field 'answer'"),
        ("x.tsv", "", ": holds no questions"),
        ("x.tsv", HEADER, ": holds no questions"),
        ("x.tsv", HEADER + RANKIN + RANKIN, ":3: duplicate id '4222362', first at {file}:2"),
        ("x.tsv", HEADER + RANKIN + "5\tA\n", ":3: the number of columns is not the header's"),
        (
            "x.tsv",
            HEADER + RANKIN.replace("\n", "\tmore\n"),
            ":2: the number of columns is not the header's",
        ),
        ("x.tsv", HEADER + RANKIN.replace("4222362", " "), ":2: 'id' is blank"),
        (
            "x.tsv",
            HEADER + RANKIN.replace("What is George Rankin's occupation?", ""),
            ":2: 'question' is blank",
        ),
        (
            "x.tsv",
            HEADER + RANKIN.replace("\t142\t", "\tmany\t"),
            ":2: 's_pop' must be a number of at least 0",
        ),
        *[
            (
                "x.tsv",
                HEADER + f"5\tA\tgenre\tpop\t1\t2\tWhat genre is A?\t{answers}\n",
                ":2: 'possible_answers' must be a JSON list of answers",
            )
            for answers in ('["pop"', '[" "]', '["a", 1]', '["\\ud800"]')
        ],
        ("x.tsv", HEADER + "5\tA\tg\tp\t1\t2\tWho?\t[]\n", ":2: 'answers' is empty"),
        ("x.tsv", HEADER + RANKIN + '5\tA\t"no end', ":3: not a table: unexpected end of data"),
        (
            "x.tsv",
            (HEADER + RANKIN).encode() + b"5\t\xff\n",
            ":3: not UTF-8 text: byte 0xff at character 3",
        ),
        ("x.jsonl", '{"id": "a", "question": "q", "answers": ["x"]}\n{"id": "b"\n', ":2: not JSON"),
        ("x.jsonl", '{"id": "a", "question": "q", "answers": []}\n', ":1: 'answers' is empty"),
        ("x.jsonl", '{"id": "a", "answers": ["x"]}\n', ":1: lacks the field 'question'"),
        ("x.jsonl", "\n", ": holds no questions"),
    ],
)
def test_bad_input(tmp_path, name, text, problem):
    file = write(tmp_path / name, text)
    with pytest.raises(WorldError) as error:
        read(file)
    assert str(error.value) == f"{file}{problem}".replace("{file}", str(file))


def test_damaged_and_missing_files(tmp_path):
    cut = tmp_path / "cut.tsv.gz"
    cut.write_bytes(gzip.compress((HEADER + RANKIN).encode())[:20])
    for file, problem in [
        (cut, "damaged, cut off or encrypted"),
        (tmp_path / "none.tsv", "No such file or directory"),
    ]:
        with pytest.raises(WorldError) as error:
            read(file)
        assert str(error.value) == f"{file}:1: cannot be read: {problem}"


# --------------------------------------------------------------------------- splits, by hand


TRAIN = [
    ask("t0", "Who was the director of Pilot?", "Ann Ash", "A. Ash"),
    ask(
        "t1", "Who was the director of Pilot?", "Bob Birch", "Ann Ash"
    ),  # another work of that name
    ask(
        "t2", "who was the director of  pilot?", "Cy Cedar"
    ),  # does not invert: templates have capitals
    ask("t3", "What is the capital of Nan?", "Nan"),
    ask("t4", "Who is the author of Glas?", "Dee Dale", popularity=12.0),
    ask("t5", "Who is the author of Glas?", "Ed Elm", popularity=20_000.0),
    ask("t6", "In what country is Cave?", "Italy"),
    ask("t7", "Who is the mother of ?", "Eve"),
]
TEST = [
    ask("s0", "What is the capital of  NAN?", "Bangkok"),  # the same question as t3, another answer
    ask("s1", "What color is {o}?", "red", "reddish", popularity=9_999.0),
    ask("s2", "What is the capital of ?", "Nowhere"),
]


@pytest.fixture(scope="module")
def small():
    return popqa.closed_world({"train": TRAIN, "test": TEST}, 0.1, 0.1)


def test_overlap_is_removed_and_counted(small):
    splits, _corpus, report = small
    assert report["overlap_dropped"] == {"train in test": 1}
    train_and_dev = splits["train"] + splits["dev"]
    assert sorted(q.id for q in train_and_dev) == ["t0", "t4", "t6"]
    assert [q.id for q in splits["test"]] == ["s0", "s1", "s2"]
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 2, "dev": 1, "test": 3}


def test_rows_that_do_not_invert_are_listed(small):
    splits, _corpus, report = small
    assert report["fit_no_template"] == [
        "train t2 'who was the director of  pilot?'",
        "train t7 'Who is the mother of ?'",
        "test s2 'What is the capital of ?'",
    ]
    kept = splits["test"][2]
    assert (kept.relation, kept.gold_passages) == (None, ())


def test_duplicates_are_merged(small):
    splits, _corpus, _report = small
    questions = {q.id: q for split in ("train", "dev", "test") for q in splits[split]}
    assert questions["t0"].answers == ("Ann Ash", "A. Ash", "Bob Birch")
    assert questions["t4"].answers == ("Dee Dale", "Ed Elm")
    assert (questions["t4"].popularity, questions["t4"].slice) == (
        20_000.0,
        "popular",
    )  # the highest of the two
    assert (questions["s1"].popularity, questions["s1"].slice) == (9_999.0, "tail")
    assert (questions["t0"].popularity, questions["t0"].slice) == (None, None)


def test_gold_passages_state_the_answers(small):
    splits, corpus, _ = small
    text = {p.id: p.text for p in corpus}
    questions = {q.id: q for split in ("train", "dev", "test") for q in splits[split]}
    gold = [text[id] for id in questions["t0"].gold_passages]
    assert len(gold) == 2 and [
        sum(name in t for t in gold) for name in ("Ann Ash", "Bob Birch")
    ] == [1, 1]
    # the fact of the removed training row stays in the corpus, but it does not answer the test
    # question
    (gold,) = questions["s0"].gold_passages
    assert "Bangkok" in text[gold]
    assert sum(p.title == "Nan" and "Bangkok" not in p.text for p in corpus) == 1
    (gold,) = questions["s1"].gold_passages  # braces in a name are not a field of the wording
    assert "{o}" in text[gold] and "red" in text[gold]


def test_nothing_left():
    """A training set that is all in the test set; questions that fit no template."""
    assert list(popqa.closed_world({"train": TEST, "test": TEST}, 0.1, 0.1)[0]) == ["test"]
    strange = [ask("x", "Who wrote Glas?", "Dee Dale")]
    with pytest.raises(WorldError, match=r"^none of the questions fits one of PopQA's 16 templ"):
        popqa.closed_world({"train": strange, "test": strange}, 0.1, 0.1)


def test_distractors_name_the_subject_and_give_nothing_away():
    facts = [
        popqa.Fact("Pilot", relation, f"Object{i}")
        for i, relation in enumerate(["director", "author", "genre"])
    ]
    facts += [popqa.Fact(f"Name{i}", "author", f"Writer{i}") for i in range(60)]
    corpus, passage_of = popqa.write_passages(facts + facts)  # a fact given twice is one passage
    assert len(passage_of) == len(facts)
    others = [p for p in corpus if p.id not in passage_of.values()]
    assert [p.title for p in others if not p.title.startswith("Index of ")] == ["Pilot"]
    assert len(others) > 1
    assert [p.text for p in others if p.title == "Pilot"] == [
        "Pilot is a name of several entries: see under director, author and genre."
    ]
    for p in others:
        assert "Object" not in p.text and "Writer" not in p.text
    for p in others:
        if p.title != "Pilot":
            listed = re.fullmatch(
                r"Listed here under author are (\w+), (\w+) and (\w+)\.", p.text
            ).groups()
            assert set(listed) <= {fact.subject for fact in facts} and len(set(listed)) == 3
    for fact in facts:
        (p,) = [p for p in corpus if p.id == passage_of[fact]]
        assert p.title == fact.subject and fact.object in p.text and fact.subject in p.text


def test_deterministic(small):
    """Pinned: the same files give the same world in every Python, on every machine."""
    world = World(name="w", corpus=small[1], questions={})
    assert world.corpus_sha256 == "c6c62d77524abd25f2e45087c6e26255a3d3938e62471eebf6955c7472a4c346"


# ------------------------------------------------------------------------ the official files


@pytest.fixture(scope="module")
def official():
    train, test = (
        read(shared_path(f"datasets/popqa.{split}.jsonl.gz")) for split in ("train", "test")
    )
    return train, test, *popqa.closed_world({"train": train, "test": test}, 0.1, 0.1)


def test_official_counts(official):
    train, test, splits, corpus, report = official
    assert (len(train), len(test)) == (13_554, 713)
    assert report["overlap_dropped"] == {"train in test": 111}
    assert [row.partition(" '")[2] for row in report["fit_no_template"]] == [
        "Who was the screenwriter for ?'",
        "Who is the author of ?'",
        "What is the capital of ?'",
    ]  # no names
    rows = {split: len(questions) for split, questions in splits.items()}
    assert rows == {"train": 11_854, "dev": 500, "test": 710}
    assert sum(question.relation is not None for question in splits["test"]) == 709
    assert 13_000 <= len(corpus) <= 15_000
    assert report["facts"] == 13_757


def test_official_questions_are_disjoint_and_complete(official):
    train, test, splits, *_ = official
    asked = {
        split: {normalise(q.question) for q in splits[split]} for split in ("train", "dev", "test")
    }
    assert not (
        asked["train"] & asked["test"]
        or asked["dev"] & asked["test"]
        or asked["train"] & asked["dev"]
    )
    assert asked["test"] == {normalise(q.question) for q in test}
    given = {normalise(q.question) for q in train if popqa.invert(q.question)}
    assert asked["train"] | asked["dev"] == given - asked["test"]


def test_official_gold_passages_hold_the_subject_and_an_answer(official):
    splits, corpus = official[2:4]
    passages = {p.id: p for p in corpus}
    without = []
    for split in ("train", "dev", "test"):
        for question in splits[split]:
            subject, _ = popqa.invert(question.question) or (None, None)
            for p in map(passages.get, question.gold_passages):
                assert p.title.casefold() == subject.casefold()
                # an answer of punctuation alone ("...") has no words to look for
                assert contains_answer(p.text, question.answers) or any(
                    a in p.text for a in question.answers
                )
            if not question.gold_passages:
                without.append(question.question)
    assert without == ["What is the capital of ?"]


def test_official_passages_are_short(official):
    corpus = official[3]
    words = sorted(len(p.text.split()) for p in corpus)
    assert 10 <= sum(words) / len(words) <= 14
    assert words[len(words) * 99 // 100] <= 20
    assert max(Counter(p.text for p in corpus).values()) == 1  # each fact is stated once
