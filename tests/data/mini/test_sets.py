"""The other question sets of the generated worlds: each rule on every question, against the
passages.
"""

import hashlib
import re
from collections import Counter, defaultdict
from functools import cache

import pytest

from benchmarks import mini_world
from data import World
from data.metrics import contains_answer, hit
from data.mini import facts as text
from data.mini.generate import SCALES
from data.prepare.formats import choice
from data.records import Record
from data.world import MULTI_HOP

WORLDS = ["mini", "mini:1", "tiny", "tiny:1", "tiny:2"]
TRAINED = ("popqa", "ambignq", "hotpotqa")
TEST_ONLY = ("triviaqa", "2wikimultihopqa", "nq", "openbookqa")
WORKS = ("film", "song", "book")
DOUBT = re.compile(
    "Formerly it was|once thought|wrongly|later withdrawn|but this is false|Until it was corrected"
)
KEYWORDS = {key: set(wording.keywords) for key, wording in text.WORDINGS.items()}
COMPARED = {
    "year": "year",
    "same country": "country",
    "same occupation": "occupation",
    "same religion": "religion",
}  # -> relation

open_world = cache(World.open)


@pytest.fixture(params=WORLDS)
def world(request):
    return open_world(request.param)


def passages_of(world):
    return {passage.id: passage for passage in world.corpus}


def asked(world, *sets, splits=("train", "dev", "test")):
    """(set, split, question) of these sets; without any: of all but popqa."""
    for name in world.splits:
        set_name, split = name.split(".")
        if split in splits and (set_name in sets or (not sets and set_name != "popqa")):
            for question in world.questions(set_name, split):
                yield set_name, split, question


def words(sentence):
    return re.findall(r"\w+", sentence)


# ---------------------------------------------------------------------- what stays as it was


@pytest.mark.parametrize(
    "name, digest, passages",
    [
        ("mini", "d78acf74c18f2e725801c5bc78586116e09e52e893af7f50421a21edec534055", 9741),
        ("mini:1", "b881872c2b5ca657a09dc764b8ea20b401731e1ff3917684295581e09d08cf0c", 9683),
        ("tiny", "08be2a8c64cf7afe90b51385b6f57ef5dcc85ec4ff48efeb4360142627390dce", 464),
        ("tiny:1", "642451c1f69c2d9f914268718f9e628b418ab9014320843633b101248b55a688", 477),
    ],
)
def test_popqa_is_what_it_was_before_there_were_other_sets(name, digest, passages):
    world = open_world(name)
    rows = "".join(repr(world.questions("popqa", split)) for split in ("train", "dev", "test"))
    assert hashlib.sha256(rows.encode()).hexdigest() == digest
    assert [passage.id for passage in world.corpus[:passages]] == [f"p{i}" for i in range(passages)]
    more = world.corpus[passages:]
    assert more and [passage.id for passage in more] == [f"s{i}" for i in range(len(more))]
    assert not {passage.title for passage in world.corpus[:passages]} & {
        passage.title for passage in more
    }


# -------------------------------------------------------------------------------------- rows


def test_rows(world):
    rows = defaultdict(dict)
    for set_name, split, _ in asked(world):
        rows[split][set_name] = rows[split].get(set_name, 0) + 1
    assert rows == {
        split: sizes["rows"]
        for split, sizes in SCALES[world.name.partition("-")[0]]["groups"].items()
    }


def test_mini_is_large_enough_for_intervals():
    rows = {split: sizes["rows"] for split, sizes in SCALES["mini"]["groups"].items()}
    assert rows["train"]["ambignq"] >= 1500 and rows["train"]["hotpotqa"] >= 4000
    assert all(rows["test"][name] >= 300 for name in ("ambignq", "hotpotqa", *TEST_ONLY))


def test_nothing_is_asked_twice_and_ids_are_unique_over_all_sets(world):
    rows = [question for *_, question in asked(world, "popqa")] + [
        question for *_, question in asked(world)
    ]
    assert (
        len({question.id for question in rows})
        == len({question.question for question in rows})
        == len(rows)
    )


def test_labels(world):
    for set_name, _, question in asked(world):
        hops = set_name in ("hotpotqa", "2wikimultihopqa")
        assert question.type in (MULTI_HOP[:2] if hops else (None,))
        assert question.slice == (question.type if hops else "tail") and question.popularity == 1.0
    counts = Counter(
        (set_name, split, question.type)
        for set_name, split, question in asked(world, "hotpotqa", "2wikimultihopqa")
    )
    for (set_name, split, kind), count in counts.items():
        assert count / sum(
            counts[set_name, split, other] for other in MULTI_HOP[:2]
        ) == pytest.approx(0.6 if kind == "bridge" else 0.4, abs=0.02)


# ----------------------------------------------------------------------------- gold passages


def test_gold_passages_hold_the_answer(world):
    passages = passages_of(world)
    for set_name, _, question in asked(world):
        gold = [passages[id] for id in question.gold_passages]
        if question.type is None:
            assert all(contains_answer(passage.text, question.answers) for passage in gold)
            assert question.answers[0] in gold[0].text
            assert all(hit([passage], question) for passage in gold)  # any of them will do
            lower = str.lower if set_name == "nq" else str
            assert lower(gold[0].title) in question.question
        else:
            assert (
                len(set(question.gold_passages)) == 2
                and hit(gold, question)
                and not hit(gold[:1], question)
            )


def test_no_other_passage_states_the_fact_of_a_gold_passage(world):
    """Not even wrongly, unless it says so: neither of the same subject (of two of a name, the same
    kind or trade) nor with a keyword of the relation.
    """
    by_title, passages, checked = defaultdict(list), passages_of(world), 0
    for passage in world.corpus:
        by_title[passage.title].append(passage)
    for set_name, _, question in asked(world):
        relations = (
            question.relation.split(">")
            if question.type == "bridge"
            else [COMPARED.get(question.relation, question.relation)] * 2
        )
        for gold, relation in zip(
            (passages[id] for id in question.gold_passages), relations, strict=False
        ):
            work = next((kind for kind in WORKS if kind in words(gold.text)), None)
            keywords = KEYWORDS[work or "person", relation]
            label = work or next(
                (
                    trade
                    for trade in text.WORDS["occupation"]
                    if f"the {trade}" in gold.text.lower()
                ),
                "",
            )
            assert keywords & set(words(gold.text)) and not DOUBT.search(gold.text)
            for other in by_title[gold.title]:
                if (
                    other is not gold
                    and keywords & set(words(other.text))
                    and (set_name != "ambignq" or label in words(other.text))
                ):
                    assert DOUBT.search(other.text), (gold, other)
                    checked += 1
    assert checked > 10


# ----------------------------------------------------------------------------------- ambignq


def test_either_is_right_where_the_question_does_not_say_which(world):
    passages, counts = passages_of(world), Counter()
    for _, split, question in asked(world, "ambignq"):
        gold = [passages[id] for id in question.gold_passages]
        labels = [
            next(
                label
                for label in (*WORKS, *text.WORDS["occupation"])
                if f"the {label}" in passage.text.lower()
            )
            for passage in gold
        ]
        said = [
            label
            for label in (*WORKS, *text.WORDS["occupation"])
            if f"the {label} {gold[0].title}" in question.question
        ]
        assert said == (labels if len(gold) == 1 else [])
        assert len({passage.title for passage in gold}) == 1 and len(set(labels)) == len(gold)
        stated = [
            {answer for answer in question.answers if contains_answer(passage.text, [answer])}
            for passage in gold
        ]
        assert all(stated) and (len(gold) == 1 or stated[0] != stated[1])
        counts[split, len(gold)] += 1
    for split in ("train", "dev", "test"):
        assert counts[split, 1] / (counts[split, 1] + counts[split, 2]) == pytest.approx(
            1 / 3, abs=0.08
        )


def test_aliases():
    world, found = open_world("mini"), defaultdict(Counter)
    passages = passages_of(world)
    for _, _, question in asked(world, "ambignq"):
        if len(question.gold_passages) == 1:
            found[question.relation][len(question.answers)] += 1
            full, *others = question.answers
            assert others in ([], [f"Republic of {full}"], full.split()[1:])
            if question.relation == "country":
                found["written"]["the Republic of" in passages[question.gold_passages[0]].text] += 1
    assert {
        relation: set(counts) for relation, counts in found.items() if relation != "written"
    } == {
        "composer": {2},
        "producer": {2},
        "author": {2},
        "country": {2},
        "genre": {1},
        "religion": {1},
        "sport": {1},
    }
    assert found["written"][True] / found["written"].total() == pytest.approx(0.3, abs=0.08)


# --------------------------------------------------------------------------------- two facts


def test_bridges_lead_from_the_question_to_the_answer(world):
    passages, pairs = passages_of(world), defaultdict(set)
    for set_name, _, question in asked(world, "hotpotqa", "2wikimultihopqa"):
        if question.type == "bridge":
            credit, fact = (passages[id] for id in question.gold_passages)
            work = next(kind for kind in WORKS if f"the {kind} {credit.title}" in question.question)
            assert work in words(credit.text)  # the question names the work,
            assert (
                fact.title in credit.text and fact.title not in question.question
            )  # its passage names the person,
            assert (
                question.answers[0] in fact.text and question.answers[0] not in credit.text
            )  # the person's passage the answer
            pairs[set_name].add(question.relation)
    assert pairs["hotpotqa"] == {
        f"{credit}>{fact}"
        for credit in ("director", "composer", "author")
        for fact in ("occupation", "place of birth", "country")
    }
    assert pairs["2wikimultihopqa"] == {
        f"{credit}>{fact}"
        for credit in ("producer", "screenwriter")
        for fact in ("religion", "sport")
    }


VALUES = {
    "same country": text.WORDS["country"],
    "same occupation": text.WORDS["occupation"],
    "same religion": text.WORDS["religion"],
    "year": text.WORDS["year"],
}


def test_comparisons_by_the_passages_own_words(world):
    passages, answers = passages_of(world), defaultdict(Counter)
    for _set_name, split, question in asked(world, "hotpotqa", "2wikimultihopqa"):
        if question.type == "comparison":
            x, y = (passages[id] for id in question.gold_passages)
            assert question.question.index(x.title) < question.question.index(y.title)
            (a,), (b,) = (
                [word for word in words(passage.text) if word in VALUES[question.relation]]
                for passage in (x, y)
            )
            if question.relation == "year":
                assert int(a) != int(b) and question.answers == (
                    (x if int(a) < int(b) else y).title,
                )
                answers[split, "year"][question.answers[0] == x.title] += 1
            else:
                assert question.answers == ("yes" if a == b else "no",)
                answers[split, question.relation][a == b] += 1
    if world.name.startswith("mini"):  # a tiny world may have too few who agree
        for (
            (_, relation),
            counted,
        ) in answers.items():  # who is named first is older by chance; yes and no are balanced
            assert abs(counted[True] - counted[False]) <= (
                0.25 * counted.total() if relation == "year" else 1
            )


def test_years_are_many_and_never_stated_as_births():
    world = open_world("mini")
    stated = [passage for passage in world.corpus if re.search(r"\b\d{4}\b", passage.text)]
    assert len({re.search(r"\d{4}", passage.text)[0] for passage in stated}) == 60
    assert not [passage for passage in stated if re.search("born|birth", passage.text)]


# ------------------------------------------------------------------------------- unseen sets


def test_no_test_needs_an_entity_that_training_asks_about(world):
    """Subjects and bridges are the titles of gold passages; where there is no gold passage (popqa),
    the subject.
    """
    passages, entities = passages_of(world), defaultdict(set)
    for set_name, split, question in [*asked(world), *asked(world, "popqa")]:
        group = split if set_name == "popqa" else f"{split} of another set"
        entities[group] |= {passages[id].title for id in question.gold_passages}
        if set_name == "popqa":
            entities[group].add(world.fact_of[question.id].entity.name)
        elif question.relation == "year" or question.relation in (
            "director",
            "composer",
            "author",
            "producer",
            "screenwriter",
        ):
            entities[group] |= {
                answer
                for answer in question.answers
                if " " in answer and len(question.gold_passages) > 0
            }
    others = [entities[f"{split} of another set"] for split in ("train", "dev", "test")]
    assert all(len(group) > 10 for group in others)
    assert not others[0] & others[1] and not others[0] & others[2] and not others[1] & others[2]
    assert not (entities["train"] | entities["dev"] | entities["test"]) & (
        others[0] | others[1] | others[2]
    )


def test_training_has_none_of_the_forms_of_the_unseen_sets(world):
    forms = [
        form
        for unseen in text.WORDINGS.values()
        for form in (*unseen.triviaqa, *unseen.nq, *unseen.openbookqa)
    ]
    for relation in ("occupation", "religion"):
        forms += text.COMPARISONS[f"same {relation}"]
    pattern = re.compile("|".join(re.sub(r"\\\{\w\\\}", ".+", re.escape(form)) for form in forms))
    for *_, question in asked(world, *TRAINED, splits=("train",)):
        assert not pattern.fullmatch(question.question), question
    for *_, question in asked(world, *TEST_ONLY):  # the pattern knows what it looks for
        assert pattern.fullmatch(question.question.partition(" (A) ")[0]), question


def test_unseen_sets_put_known_words_into_new_forms():
    """A small model can only be asked in words that it has read; nq aside, whose lower-case names
    are the point of it.
    """
    world = open_world("mini")
    known = {word for passage in world.corpus for word in words(passage.full_text)}
    known |= {
        word
        for *_, question in asked(world, *TRAINED, splits=("train",))
        for word in words(question.question)
    }
    for _set_name, _, question in asked(world, "triviaqa", "2wikimultihopqa", "openbookqa"):
        assert set(words(question.question)) <= known | set("ABCD"), question


def test_triviaqa_states_facts_in_the_middle(world):
    passages = passages_of(world)
    for *_, question in asked(world, "triviaqa"):
        (gold,) = (passages[id] for id in question.gold_passages)
        sentences = gold.text.removesuffix(".").split(". ")
        assert len(sentences) == 4 and question.answers[0] in sentences[1] + sentences[2]
        assert len(re.findall(r"\w+|[^\w\s]", gold.full_text)) < 60  # passages are cut at 64 tokens


def test_nq_is_typed_into_a_search_engine(world):
    for *_, question in asked(world, "nq"):
        assert question.question == question.question.lower() and "?" not in question.question


def test_openbookqa_has_four_options_as_the_published_set(world):
    letters = Counter()
    for *_, question in asked(world, "openbookqa"):
        stem, *options = re.split(r" \([ABCD]\) ", question.question)
        assert len(options) == len(set(options)) == 4
        letters[question.answers[1]] += 1
        shown = dict(zip("ABCD", options, strict=False))
        assert (
            question.answers
            == (shown[question.answers[1]], question.answers[1])
            == choice(Record({}, ""), stem, shown, question.answers[1]).question.answers
        )
    assert set(letters) == set("ABCD") and max(letters.values()) < 0.5 * letters.total()


def test_every_tiny_world_has_all_its_rows():
    """Few names and few values: no seed may run out of either."""
    for seed in range(12):
        test_rows(World.open(f"tiny:{seed}"))


# ----------------------------------------------------------------------------------- figures


def test_figures_by_hand():
    """On a retriever that finds the first gold passage of each question and nothing else."""
    world = open_world("tiny")
    rows = {passage.id: row for row, passage in enumerate(world.corpus)}
    first = {question.question: rows[question.gold_passages[0]] for *_, question in asked(world)}
    figures = mini_world.properties(
        world, lambda queries, k: [[first.get(query, -1)] + [-1] * (k - 1) for query in queries]
    )
    gold = [
        len(question.gold_passages) for *_, question in asked(world, "ambignq", splits=("test",))
    ]
    assert figures["sets"] == {
        "2wikimultihopqa bridge": {"train": 0, "dev": 0, "test": 18, "hit": 0, "recall": 0.5},
        "2wikimultihopqa comparison": {"train": 0, "dev": 0, "test": 12, "hit": 0, "recall": 0.5},
        "ambignq tail": {
            "train": 90,
            "dev": 20,
            "test": 30,
            "hit": 1,
            "recall": pytest.approx((gold.count(1) + gold.count(2) / 2) / 30),
        },
        "hotpotqa bridge": {"train": 72, "dev": 14, "test": 24, "hit": 0, "recall": 0.5},
        "hotpotqa comparison": {"train": 48, "dev": 10, "test": 16, "hit": 0, "recall": 0.5},
        **{
            f"{name} tail": {"train": 0, "dev": 0, "test": 30, "hit": 1, "recall": 1}
            for name in ("nq", "openbookqa", "triviaqa")
        },
    }
    table = mini_world.format_properties(figures).splitlines()
    assert table[-6].split() == [
        "ambignq",
        "tail",
        "90",
        "20",
        "30",
        "1.000",
        f"{figures['sets']['ambignq tail']['recall']:.3f}",
    ]
    assert table[-9].split()[-5:] == ["train", "dev", "test", "hit@2", "recall"]
