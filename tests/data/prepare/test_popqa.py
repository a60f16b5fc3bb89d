"""PopQA as a closed world: inversion, reading, splits and passages, by hand and on the official
files.
"""

import gzip
import json
import re
import string
from collections import Counter

import pytest

from data import contains_answer
from data.prepare import popqa
from data.world import Question, WorldError
from tests.shared import shared_path


def ask(id, question, *answers, popularity=None, relation=None):
    return Question(id, question, answers, popularity=popularity, relation=relation)


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
        assert popqa.invert(relation.question.format(s="Ann O. Nym")) == ("Ann O. Nym", name)


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
    _question, wordings = popqa.RELATIONS[relation]
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
    assert popqa.read(file) == [
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
    assert popqa.read(file) == [ask("7", "What genre is Reach?", "rock")]


def test_read_jsonl(tmp_path):
    rows = '{"id": "a", "question": "What genre is Reach?", "answers": ["rock", "pop"]}\n\n'
    assert (
        popqa.read(write(tmp_path / "a.jsonl", rows))
        == popqa.read(write(tmp_path / "a.jsonl.gz", rows))
        == [ask("a", "What genre is Reach?", "rock", "pop")]
    )


@pytest.mark.parametrize(
    "name, text, problem",
    [
        ("x.tsv", "id\tquestion\n5\tA\n", ":2: lacks the field 'answer'"),
        ("x.tsv", "", ":1: the header lacks the column 'question'; it has: nothing"),
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
            ":2: 's_pop' must be a whole number",
        ),
        *[
            (
                "x.tsv",
                HEADER + f"5\tA\tgenre\tpop\t1\t2\tWhat genre is A?\t{answers}\n",
                ":2: 'possible_answers' must be a JSON list of one answer or more",
            )
            for answers in ('["pop"', "pop", "[]", "[1]", '[" "]', '{"a": 1}', "3", '["\\ud800"]')
        ],
        ("x.tsv", HEADER + RANKIN + '5\tA\t"no end', ":3: not tab-separated text"),
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
        popqa.read(file)
    assert str(error.value) == f"{file}{problem}".replace("{file}", str(file))


def test_damaged_and_missing_files(tmp_path):
    cut = tmp_path / "cut.tsv.gz"
    cut.write_bytes(gzip.compress((HEADER + RANKIN).encode())[:20])
    for file, problem in [
        (cut, "damaged or cut off"),
        (tmp_path / "none.tsv", "No such file or directory"),
    ]:
        with pytest.raises(WorldError) as error:
            popqa.read(file)
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
    return popqa.build(TRAIN, TEST)


def test_overlap_is_removed_and_counted(small):
    world, report = small
    assert report["overlap"] == {"unique_test_questions": 3, "also_in_train": 1}
    train_and_dev = world.questions("popqa", "train") + world.questions("popqa", "dev")
    assert sorted(q.id for q in train_and_dev) == ["t0", "t4", "t6"]
    assert [q.id for q in world.questions("popqa", "test")] == ["s0", "s1", "s2"]
    assert report["splits"] == {"train": 2, "dev": 1, "test": 3}


def test_rows_that_do_not_invert_are_listed(small):
    world, report = small
    assert report["not_inverted"] == [
        "train t2 'who was the director of  pilot?'",
        "train t7 'Who is the mother of ?'",
        "test s2 'What is the capital of ?'",
    ]
    assert report["read"] == {"train": 8, "test": 3}
    assert report["inverted"] == {"train": 6, "test": 2}
    kept = world.questions("popqa", "test")[2]
    assert (kept.relation, kept.gold_passages) == (None, ())


def test_duplicates_are_merged(small):
    world, report = small
    assert report["unique"] == {"train": 4, "test": 3}
    questions = {
        q.id: q for split in ("train", "dev", "test") for q in world.questions("popqa", split)
    }
    assert questions["t0"].answers == ("Ann Ash", "A. Ash", "Bob Birch")
    assert questions["t4"].answers == ("Dee Dale", "Ed Elm")
    assert (questions["t4"].popularity, questions["t4"].slice) == (
        20_000.0,
        "popular",
    )  # the highest of the two
    assert (questions["s1"].popularity, questions["s1"].slice) == (9_999.0, "tail")
    assert (questions["t0"].popularity, questions["t0"].slice) == (None, None)


def test_gold_passages_state_the_answers(small):
    world, _ = small
    text = {p.id: p.text for p in world.corpus}
    questions = {
        q.id: q for split in ("train", "dev", "test") for q in world.questions("popqa", split)
    }
    gold = [text[id] for id in questions["t0"].gold_passages]
    assert len(gold) == 2 and [
        sum(name in t for t in gold) for name in ("Ann Ash", "Bob Birch")
    ] == [1, 1]
    # the fact of the removed training row stays in the corpus, but it does not answer the test
    # question
    (gold,) = questions["s0"].gold_passages
    assert "Bangkok" in text[gold]
    assert sum(p.title == "Nan" and "Bangkok" not in p.text for p in world.corpus) == 1
    (gold,) = questions["s1"].gold_passages  # braces in a name are not a field of the wording
    assert "{o}" in text[gold] and "red" in text[gold]


def test_nothing_left():
    with pytest.raises(
        WorldError,
        match=r"^0 training questions are left without those of the test set; 2 are needed$",
    ):
        popqa.build(TEST, TEST)
    with pytest.raises(
        WorldError, match=r"^none of the 1 test questions fits one of PopQA's 16 templates$"
    ):
        popqa.build(TRAIN, [ask("x", "Who wrote Glas?", "Dee Dale")])


def test_distractors_name_the_subject_and_give_nothing_away():
    facts = [
        popqa.Fact("Pilot", relation, f"Object{i}")
        for i, relation in enumerate(["director", "author", "genre"])
    ]
    facts += [popqa.Fact(f"Name{i}", "author", f"Writer{i}") for i in range(60)]
    corpus, passage_of, kinds = popqa.write_passages(
        facts + facts, seed=0
    )  # a fact given twice is one passage
    assert kinds["fact"] == len(passage_of) == len(facts)
    assert kinds["name page"] == 1 and kinds["index"] >= 1
    others = [p for p in corpus if p.id not in passage_of.values()]
    assert len(others) == kinds["name page"] + kinds["index"]
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


def test_deterministic():
    worlds = [popqa.build(TRAIN, TEST, seed)[0] for seed in (0, 0, 1)]
    assert worlds[0].corpus == worlds[1].corpus != worlds[2].corpus
    # pinned: the same files give the same world in every Python, on every machine
    assert (
        worlds[0].corpus_sha256
        == "c6c62d77524abd25f2e45087c6e26255a3d3938e62471eebf6955c7472a4c346"
    )


# ------------------------------------------------------------------------ the official files


@pytest.fixture(scope="module")
def official():
    train, test = (
        popqa.read(shared_path(f"datasets/popqa.{split}.jsonl.gz")) for split in ("train", "test")
    )
    return train, test, *popqa.build(train, test)


def test_official_counts(official):
    _, _, _world, report = official
    assert report["read"] == {"train": 13_554, "test": 713}
    assert report["overlap"] == {"unique_test_questions": 710, "also_in_train": 111}
    assert [row.partition(" '")[2] for row in report["not_inverted"]] == [
        "Who was the screenwriter for ?'",
        "Who is the author of ?'",
        "What is the capital of ?'",
    ]  # no names
    assert report["splits"] == {"train": 11_854, "dev": 500, "test": 710}
    assert report["unique"]["train"] == 11_854 + 500 + 111  # train, dev, those that are in test
    assert sum(report["relations"]["test"].values()) - report["relations"]["test"]["unknown"] == 709
    assert 13_000 <= report["passages"] <= 15_000
    assert report["passage_kinds"]["fact"] == 13_757


def test_official_questions_are_disjoint_and_complete(official):
    train, test, world, _ = official
    asked = {
        split: {popqa.normalise(q.question) for q in world.questions("popqa", split)}
        for split in ("train", "dev", "test")
    }
    assert not (
        asked["train"] & asked["test"]
        or asked["dev"] & asked["test"]
        or asked["train"] & asked["dev"]
    )
    assert asked["test"] == {popqa.normalise(q.question) for q in test}
    given = {popqa.normalise(q.question) for q in train if popqa.invert(q.question)}
    assert asked["train"] | asked["dev"] == given - asked["test"]


def test_official_gold_passages_hold_the_subject_and_an_answer(official):
    world = official[2]
    passages = {p.id: p for p in world.corpus}
    without = []
    for split in ("train", "dev", "test"):
        for question in world.questions("popqa", split):
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
    corpus = official[2].corpus
    words = sorted(len(p.text.split()) for p in corpus)
    assert 10 <= sum(words) / len(words) <= 14
    assert words[len(words) * 99 // 100] <= 20
    assert max(Counter(p.text for p in corpus).values()) == 1  # each fact is stated once


def test_official_world_survives_its_files(official, tmp_path):
    from data import World

    world = official[2]
    world.save(tmp_path)
    again = World.open(tmp_path)
    assert again.corpus_sha256 == world.corpus_sha256 and (again.k, again.quota, again.license) == (
        4,
        1,
        "MIT",
    )
    for split in ("train", "dev", "test"):
        assert again.questions("popqa", split) == world.questions("popqa", split)
    with open(tmp_path / "world.json", encoding="utf-8") as file:
        assert "closed world" in json.load(file)["description"]
