"""The mini world: determinism, disjoint splits, honest labels, and the properties that make it
worth playing.
"""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from benchmarks import mini_world
from data import World
from data.metrics import contains_answer
from data.mini import facts as mini_text
from data.mini.facts import POORLY_COVERED, TAIL_POPULARITY
from data.mini.generate import SCALES
from retrieval_cpp import BM25Index
from tests.shared import ROOT

SPLITS = ("train", "dev", "test")
TRAINED, TEST_ONLY = (
    ("popqa", "ambignq", "hotpotqa"),
    ("triviaqa", "2wikimultihopqa", "nq", "openbookqa"),
)
HASH = """
import hashlib, sys
from data import World
world = World.open(sys.argv[1])
rows = [world.corpus_sha256, *(repr(world.questions(*split.split("."))) for split in world.splits)]
print(hashlib.sha256("".join(rows).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def world():
    return World.open("mini")


@pytest.fixture(scope="module", params=["mini", "mini:1", "tiny", "tiny:1", "tiny:2"])
def any_world(request):
    return World.open(request.param)


def bm25(world):
    index = BM25Index.build([passage.full_text for passage in world.corpus], k1=0.9, b=0.4)
    return lambda queries, k: index.search(queries, k)[0]


def questions(world):
    return {split: world.questions("popqa", split) for split in SPLITS}


# -------------------------------------------------------------------------------- generation


@pytest.mark.parametrize(
    "name, digest",
    [
        ("mini", "0ed1e21cab7a57da141247991505297d51656db3dd28d8494ca742376a293682"),
        ("mini:1", "442c9c91fbafedde95e6d855c29951b65e87e397d66067d21e6b643f5ee8920c"),
        ("tiny", "ce4b1223bf43bf16737b482e2ac37032fc737f493b966ed31aff325ace948627"),
    ],
)
def test_the_worlds_are_what_they_were(name, digest):
    """Published figures are about these passages and questions: all sets, every field."""
    world = World.open(name)
    rows = [world.corpus_sha256, *(repr(world.questions(*s.split("."))) for s in world.splits)]
    assert hashlib.sha256("".join(rows).encode()).hexdigest() == digest


def test_two_processes_generate_the_same_bits():
    def digest(name, hash_seed):
        return subprocess.run(
            [sys.executable, "-c", HASH, name],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert digest("mini", "1") == digest("mini", "2")
    assert digest("tiny:1", "0") != digest("tiny:2", "0")


def test_names_and_metadata():
    world = World.open("tiny:3")
    assert (world.name, World.open("tiny").name, World.open("tiny:0").name) == (
        "tiny-3",
        "tiny",
        "tiny",
    )
    assert (world.k, world.quota, world.splits) == (
        2,
        1,
        sorted(
            [f"{name}.{split}" for name in TRAINED for split in SPLITS]
            + [f"{name}.test" for name in TEST_ONLY]
        ),
    )


def test_saved_world_is_the_same_world(tmp_path):
    world = World.open("tiny")
    world.save(tmp_path)
    read = World.open(tmp_path)
    assert read.corpus_sha256 == world.corpus_sha256 and read.splits == world.splits
    for set_name, split in (name.split(".") for name in world.splits):
        assert read.questions(set_name, split) == world.questions(set_name, split)


# ------------------------------------------------------------------------- splits and labels


def test_no_question_is_asked_in_two_splits_or_twice(any_world):
    asked = [question.question for rows in questions(any_world).values() for question in rows]
    assert len(set(asked)) == len(asked)


def test_only_popular_entities_are_asked_about_in_several_splits(any_world):
    splits, popular = defaultdict(set), set()
    for split, rows in questions(any_world).items():
        for question in rows:
            entity = any_world.fact_of[question.id].entity
            splits[entity.kind, entity.name].add(split)
            if entity.group == "popular":
                popular.add((entity.kind, entity.name))
            assert (question.slice == "popular") == (entity.group == "popular")
            assert (question.popularity > TAIL_POPULARITY) == (entity.group == "popular")
    assert {entity for entity, where in splits.items() if len(where) > 1} <= popular
    unseen = [
        where for entity, where in splits.items() if entity not in popular and where != {"train"}
    ]
    scale = SCALES[any_world.name.partition("-")[0]]
    assert Counter(map(min, unseen)) == {"dev": scale["unseen_dev"], "test": scale["unseen_test"]}


def test_slices_and_gold_passages_agree_with_the_corpus(any_world):
    passages = {passage.id: passage for passage in any_world.corpus}
    for rows in questions(any_world).values():
        for question in rows:
            subject = any_world.fact_of[question.id].entity
            work = subject.kind in ("film", "song", "book")  # whose title another work may have
            assert subject.name in question.question
            assert not work or f" {subject.kind} " in question.question
            assert (question.slice == "absent") == (question.gold_passages == ())
            for passage in (passages[id] for id in question.gold_passages):
                assert passage.title == subject.name
                assert not work or re.search(rf"\b{subject.kind}\b", passage.text)
                assert question.answers[0] in passage.text  # to the letter: the reader copies


def test_facts_called_absent_are_stated_nowhere(any_world):
    """No passage with the subject's title and a word of the relation holds the value, unless it
    concerns another work of the same title. (Stale passages are about wrong values.)
    """
    by_title = defaultdict(list)
    for passage in any_world.corpus:
        by_title[passage.title].append(passage.text)
    checked = 0
    for fact in any_world.facts:
        if fact.present:
            continue
        for sentence in by_title[fact.entity.name]:
            same_kind = (
                fact.entity.kind not in ("film", "song", "book")
                or fact.entity.kind in sentence.split()
            )
            words = re.findall(r"\w+", sentence)
            if same_kind and set(fact.wording.keywords) & set(words):
                assert not contains_answer(sentence, [fact.value]), (fact, sentence)
                checked += 1
    assert checked > 10


def test_no_passage_on_a_capital_answers_for_the_city(world):
    """What another entity's passage would tell is not asked."""
    capitals = {fact.value for fact in world.facts if fact.relation == "capital"}
    assert len(capitals) == 20
    assert not [
        fact for fact in world.facts if fact.entity.name in capitals and fact.relation == "country"
    ]


def test_questions_with_the_same_words_ask_for_the_same_fact(world):
    """Every wording of every fact, asked or not: no two facts share one."""
    facts = {}
    for fact in world.facts:
        for wording in mini_text.questions_about(fact.entity.mention(), fact.wording):
            assert facts.setdefault(wording, fact) is fact


def test_wordings():
    wordings = [wording for wording in mini_text.WORDINGS.values() if wording.relation != "year"]
    assert len({wording.relation for wording in wordings}) >= 12
    for wording in wordings:  # (years are only compared)
        assert len(wording.clauses) >= 4 and len(wording.questions) >= 6
        for clause in wording.clauses:  # the words that the best query uses
            assert set(re.findall(r"\w+", clause)) & set(wording.keywords), clause
        covered = [
            question
            for question in (*wording.questions, *wording.phrases)
            if set(re.findall(r"\w+", question)) & set(wording.keywords)
        ]
        assert 0.3 <= len(covered) / len((*wording.questions, *wording.phrases)) <= 0.7, (
            wording.relation
        )


# ----------------------------------------------------------------------- measured properties


@pytest.mark.parametrize("name", ["mini", "mini:1"])
def test_properties_are_those_asked_for(name):
    world = World.open(name)
    figures = mini_world.properties(world, bm25(world))
    sizes, hit, absent, constant = (figures[key] for key in ("sizes", "hit", "absent", "constant"))
    assert (
        sizes["entities"] == 1500
        and 8000 <= sizes["facts"] <= 9500
        and 14_800 <= sizes["passages"] <= 15_500
    )
    assert sizes["questions"]["dev"] == {"popular": 300, "tail": 400, "absent": 200}
    assert sizes["questions"]["test"] == {"popular": 1000, "tail": 1200, "absent": 1000}
    assert sizes["questions"]["train"]["tail"] > 9000
    assert 0.26 <= absent["tail"] <= 0.30
    for relation, share in absent.items():
        if relation in POORLY_COVERED:
            assert share > 0.9
        elif relation not in ("tail", "capital"):  # 20 countries are too few for a share
            assert share < 0.12
    assert 0.55 <= hit["raw question"]["tail"] <= 0.63
    assert 0.64 <= hit["teacher"]["tail"] <= 0.72
    assert 0.94 <= hit["best query"]["tail"] <= 0.99 and hit["best query"]["popular"] >= 0.94
    assert hit["best query"]["absent"] == 0
    assert constant["absent"] < 0.1 < constant["tail"] < 0.25


def test_properties_by_hand():
    """On a retriever that finds the gold passage for raw questions only."""
    world = World.open("tiny")
    test = world.questions("popqa", "test")
    rows = {passage.id: row for row, passage in enumerate(world.corpus)}
    gold = {
        question.question: rows[question.gold_passages[0]]
        for question in test
        if question.gold_passages
    }
    figures = mini_world.properties(
        world, lambda queries, k: [[-1] * (k - 1) + [gold.get(query, -1)] for query in queries]
    )
    assert figures["hit"] == {
        "raw question": {"popular": 1, "tail": 1, "absent": 0},
        "subject": {"popular": 0, "tail": 0, "absent": 0},
        "teacher": {"popular": pytest.approx(0.35), "tail": pytest.approx(0.35), "absent": 0},
        "best query": {"popular": 0, "tail": 0, "absent": 0},
    }
    table = mini_world.format_properties(figures).splitlines()
    assert table[0].startswith("tiny world: 75 entities, ")
    assert table[4].split() == ["test", "questions", "40", "60", "50"]
    assert table[5].split() == ["hit@2", "of", "raw", "question", "1.000", "1.000"]


def test_popular_entities_are_asked_zipf_often(world):
    popular = [fact.entity for fact in world.facts if fact.entity.group == "popular"]
    popularity = sorted({entity.popularity for entity in popular}, reverse=True)
    assert len(popularity) == 120
    assert popularity[0] / popularity[31] == pytest.approx(32**0.6, rel=1e-3)
    asked = Counter(
        question.popularity
        for question in world.questions("popqa", "test")
        if question.slice == "popular"
    )
    hot, cold = (sum(asked[p] for p in part) for part in (popularity[:30], popularity[-30:]))
    assert (
        2 < hot / cold < 5
    )  # the weights' ratio is 3.4; a wording is asked once, which evens it out


def test_stale_passages_and_namesakes(world):
    facts = world.facts
    for present, share in ((True, 0.25), (False, 0.60)):
        contradicted = [fact.stale_value is not None for fact in facts if fact.present is present]
        assert sum(contradicted) / len(contradicted) == pytest.approx(share, abs=0.04)
    assert all(fact.stale_value != fact.value for fact in facts)
    assert len({passage.title for passage in world.corpus if passage.title.endswith(" Jr")}) == 280
    kinds = defaultdict(set)
    for fact in facts:
        kinds[fact.entity.name].add(fact.entity.kind)
    assert sum(len(of_title) > 1 for of_title in kinds.values()) > 40  # works that share a title


# -------------------------------------------------------------------------------- vocabulary


def bpe(world, size):
    """As the policy's tokenizer is trained: byte-level BPE on the corpus, the train questions and
    their answers.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[f"<{i}>" for i in range(8)],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    train = [question for name in TRAINED for question in world.questions(name, "train")]
    texts = [text for passage in world.corpus for text in (passage.title, passage.text)]
    texts += [text for question in train for text in (question.question, *question.answers)]
    tokenizer.train_from_iterator(texts, trainer)
    return lambda text: len(tokenizer.encode(text).ids)


@pytest.mark.parametrize(
    "name, size, words_in_one", [("mini", 2048, 1.0), ("mini:1", 2048, 1.0), ("tiny", 1024, 0.75)]
)
def test_names_are_single_tokens(name, size, words_in_one):
    world = World.open(name)
    length = bpe(world, size)
    names = {part for passage in world.corpus for part in passage.title.split()}
    assert [part for part in sorted(names) if length(part) != 1] == []
    test = world.questions("popqa", "test")
    texts = [passage.text for passage in world.corpus]
    texts += [question.question for name in TRAINED for question in world.questions(name, "test")]
    words = {word for text in texts for word in re.findall("[A-Za-z]+", text)}
    assert sum(length(word) == 1 for word in words) / len(words) >= words_in_one
    if name != "tiny":
        assert max(length(question.answers[0]) for question in test) <= 3
        assert 8 <= sum(length(question.question) for question in test) / len(test) <= 14
        lengths = sorted(length(passage.title) + length(passage.text) for passage in world.corpus)
        assert lengths[len(lengths) // 20] >= 9 and lengths[-len(lengths) // 20] <= 26
