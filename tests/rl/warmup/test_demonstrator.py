"""Warm-up demonstrations of the tiny world: what stands in an episode, and what of it is learnt."""

import re
from dataclasses import replace

import numpy as np
import pytest

from data.metrics import contains_answer, gold_passage
from data.world import Passage, Question, World
from model import Tokenizer
from retrieval_cpp import BM25Index
from rl import Episode, Part, RagEnv, Reward
from rl.warmup.demonstrator import Branch, Demonstrator
from tests.rl.oracle import check

PLAIN = {"swap": 0.0, "shuffle": 0.0, "gold": 0.0}
CONTEXT = 1024


@pytest.fixture(scope="module")
def tiny():
    world = World.open("tiny")
    index = BM25Index.build(p.full_text for p in world.corpus)
    questions = world.questions("popqa", "train")
    texts = [p.full_text for p in world.corpus] + [q.question for q in questions]
    return world, questions, RagEnv(world, index), Tokenizer.train(texts, 700)


def demonstrate(
    tiny, retrieve: bool, known: bool = False, label: bool = False, forced: float = 1.0, **changes
) -> tuple[Demonstrator, list[Episode]]:
    _, questions, env, tokenizer = tiny
    demonstrator = Demonstrator(env, questions, tokenizer, CONTEXT, **PLAIN | changes)
    n = len(questions)
    rngs = [np.random.default_rng(i) for i in range(n)]
    branches = [Branch(q, retrieve, label, known) for q in questions]
    return demonstrator, demonstrator.demonstrate(branches, rngs, forced)


def spoken(tokenizer: Tokenizer, tokens: list[int]) -> tuple[str, str, str]:
    """(query, observation, answer) of an episode, read back from its tokens; "" for what it does
    not hold."""

    def between(start: int, end: int) -> str:
        if start not in tokens:
            return ""
        after = tokens[tokens.index(start) + 1 :]
        return tokenizer.decode(after[: after.index(end)])

    query = between(tokenizer.retrieve, tokenizer.eos)
    observed = between(tokenizer.obs, tokenizer.obs_end)
    return query, observed, between(tokenizer.answer, tokenizer.eos)


@pytest.mark.parametrize("label", [False, True])
def test_direct_answers(tiny, label):
    _, episodes = demonstrate(tiny, retrieve=False, label=label)
    for episode in episodes:
        answer = episode.question.answers[0]
        assert spoken(tiny[3], episode.tokens) == ("", "", answer)
        assert episode.parts.count(Part.DECISION) == label
        assert episode.parts.count(Part.ANSWER) == len(tiny[3].encode(answer)) + 1
        assert Part.QUERY not in episode.parts


@pytest.mark.parametrize("label", [False, True])
def test_a_retrieval_reads_back_as_an_episode(tiny, label):
    """Nothing swapped, shuffled or put in: what the environment itself would have made of it."""
    _, episodes = demonstrate(tiny, retrieve=True, known=True, label=label)
    for episode in episodes:
        episode.behaviour = [1.0] * label
        # A demonstration is not judged by what was found: see hit.
        found = {tiny[0].corpus[i].id for turn in episode.turns for i in turn.passages}
        episode.hit = bool(found & set(episode.question.gold_passages))
        check(episode, tiny[3], tiny[2], forced=not label)


def test_what_the_passages_miss_is_learnt_only_where_it_is_known(tiny):
    tokenizer = tiny[3]
    demonstrator, strangers = demonstrate(tiny, retrieve=True)
    _, friends = demonstrate(tiny, retrieve=True, known=True)
    missed = 0
    for stranger, friend in zip(strangers, friends, strict=True):
        gold = gold_passage(stranger.question, demonstrator.rows)
        query, observed, answer = spoken(tokenizer, friend.tokens)
        assert query == friend.turns[0].query and observed
        assert answer == friend.question.answers[0]
        assert friend.parts[-1] == Part.ANSWER and Part.DECISION not in friend.parts
        if gold in stranger.turns[0].passages:
            assert stranger.tokens == friend.tokens and contains_answer(observed, [answer])
        else:
            missed += 1
            assert stranger.tokens == friend.tokens[: len(stranger.tokens)]
            assert stranger.parts[-1] == Part.QUERY and stranger.tokens[-1] == tokenizer.eos
            assert tokenizer.obs not in stranger.tokens
    assert 0 < missed < len(strangers)


def test_the_gold_passage_is_put_in(tiny):
    def hits(episodes) -> int:
        pairs = zip(gold, episodes, strict=True)
        return sum(row in e.turns[0].passages for row, e in pairs)

    demonstrator, always = demonstrate(tiny, retrieve=True, gold=1.0)
    gold = [gold_passage(e.question, demonstrator.rows) for e in always]
    assert None in gold
    assert hits(always) == sum(row is not None for row in gold)
    assert all(len(e.turns[0].passages) == tiny[2].k for e in always)
    _, half = demonstrate(tiny, retrieve=True, gold=0.5)
    _, never = demonstrate(tiny, retrieve=True)
    assert hits(never) < hits(half) < hits(always)


def test_the_curriculum_begins_with_the_gold_passage_alone(tiny):
    demonstrator, episodes = demonstrate(tiny, retrieve=True, forced=0.0)
    for episode in episodes:
        gold = gold_passage(episode.question, demonstrator.rows)
        (passage,) = episode.turns[0].passages
        assert gold is None or passage == gold


def test_swapped_answers_can_only_be_copied(tiny):
    world, questions, _, tokenizer = tiny
    relations = {(answer, q.relation) for q in questions for answer in q.answers}
    demonstrator, episodes = demonstrate(tiny, retrieve=True, gold=1.0, swap=1.0)
    swapped = 0
    for episode in episodes:
        _, observed, answer = spoken(tokenizer, episode.tokens)
        if not observed:
            continue
        assert contains_answer(observed, [answer])
        assert (answer, episode.question.relation) in relations
        swapped += answer != episode.question.answers[0]
        gold = gold_passage(episode.question, demonstrator.rows)
        others = [row for row in episode.turns[0].passages if row != gold]
        assert all(world.corpus[row].text in observed for row in others)
    assert swapped > len(episodes) / 3


def test_a_swap_draws_an_index_and_copies_no_list(tiny):
    """With 40,000 questions a copy of all answers at each draw was a quarter of a step."""

    class Indexed:
        __iter__ = None  # what cannot be gone through cannot be copied

        def __init__(self, answers):
            self.answers, self.drawn = answers, 0

        def __len__(self):
            return len(self.answers)

        def __getitem__(self, index: int):
            self.drawn += 1
            return self.answers[index]

    demonstrator, _ = demonstrate(tiny, retrieve=True, gold=1.0, swap=1.0)
    demonstrator.answers = {k: Indexed(v) for k, v in demonstrator.answers.items()}
    branches = [Branch(q, True) for q in tiny[1]]
    demonstrator.demonstrate(branches, [np.random.default_rng(i) for i in range(len(branches))])
    assert sum(answers.drawn for answers in demonstrator.answers.values()) > len(branches) / 3


def test_shuffled_passages(tiny):
    plain, shuffled = (
        [e.turns[0].passages for e in demonstrate(tiny, retrieve=True, shuffle=x)[1]]
        for x in (0.0, 1.0)
    )
    pairs = list(zip(plain, shuffled, strict=True))
    assert plain != shuffled
    assert sum(sorted(a) == sorted(b) for a, b in pairs) > len(pairs) / 2


def test_a_demonstration_depends_on_its_own_stream_alone(tiny):
    """In whatever company: what ranks rely on when they share out a step."""
    _, questions, env, tokenizer = tiny
    chances = {"swap": 0.7, "shuffle": 0.5, "gold": 0.5}
    demonstrator = Demonstrator(env, questions, tokenizer, CONTEXT, **chances)

    def play(rows: list[int]) -> dict[int, list[int]]:
        rngs = [np.random.default_rng([7, i]) for i in rows]
        branches = [Branch(questions[i], i % 3 > 0, label=True) for i in rows]
        episodes = demonstrator.demonstrate(branches, rngs)
        return {i: e.tokens for i, e in zip(rows, episodes, strict=True)}

    together = play(list(range(20)))
    assert together == play(list(range(0, 20, 2))) | play(list(range(19, 0, -2)))


# --------------------------------------------------------------- several hops

CORPUS = [
    Passage("b", "The Salt Road", "It was written by Ada Quill."),
    Passage("a", "Ada Quill", "She was born in Caldis."),
    Passage("x", "The Salt Lake", "It lies in Norland."),
    Passage("c", "Bo Reed", "He was born in Velmor."),
    Passage("d", "Ada Reed", "She lived in Norland."),
    Passage("e", "Bo Quill", "He lived in Norland."),
]
BRIDGE = Question(
    "q",
    "Where was the author of The Salt Road born?",
    ("Caldis",),
    gold_passages=("b", "a"),
    type="bridge",
    relation="author>birth",
)
COMPARISON = Question(
    "c",
    "Was Ada Quill or Bo Reed born in Caldis?",
    ("Ada Quill",),
    gold_passages=("a", "c"),
    type="comparison",
    relation="born",
)
OTHER = Question(
    "o",
    "Where was the head of The Salt Lake born?",
    ("Velmor",),
    gold_passages=("x", "c"),
    type="bridge",
    relation="author>birth",
)
# Whose people have a first or a last name of the others: names are put together from such.
KIN = Question(
    "k", "Who is older?", ("Ada Reed",), gold_passages=("d", "e"), type="comparison", relation="age"
)
TOKENIZER = Tokenizer.train(
    [p.full_text for p in CORPUS] + [BRIDGE.question, COMPARISON.question], 600
)


class Finds:
    """A retriever that answers with the passages whose ids it is told, one list for each call."""

    def __init__(self, *calls: str):
        self.calls, self.asked = list(calls), []

    def search(self, queries, k):
        self.asked += queries
        rows = np.array([["baxcde".index(i) for i in self.calls.pop(0)]] * len(queries))
        return rows, np.ones(rows.shape)


def demonstrate_one(
    question: Question,
    *calls: str,
    quota: int = 2,
    label: bool = True,
    forced: float = 1.0,
    others: tuple = (),
    seed: int = 1,
    **changes,
) -> tuple[Episode, list[str]]:
    """(episode, what the index was asked)."""
    questions = {"hotpotqa.train": [question]}
    world = World(name="four", corpus=CORPUS, questions=questions, k=2, quota=quota)
    env, chances = RagEnv(world, Finds(*calls)), PLAIN | changes
    demonstrator = Demonstrator(env, [question, *others], TOKENIZER, CONTEXT, **chances)
    rng = np.random.default_rng(seed)
    (episode,) = demonstrator.demonstrate([Branch(question, True, label)], [rng], forced)
    return episode, env.index.asked


def follow(question: Question, *calls: str, **options) -> tuple[Episode, list[str], str, str]:
    """(episode, what the index was asked, free decisions, answer)."""
    episode, asked = demonstrate_one(question, *calls, **options)
    names = {TOKENIZER.retrieve: "R", TOKENIZER.answer: "A"}
    pairs = zip(episode.tokens, episode.parts, strict=True)
    decisions = "".join(names[token] for token, part in pairs if part == Part.DECISION)
    answer = TOKENIZER.show(episode.tokens).partition("[ANSWER]")[2].strip()
    return episode, asked, decisions, answer


def test_a_bridge_is_crossed():
    episode, asked, decisions, answer = follow(BRIDGE, "bx", "ax")
    assert len(asked) == 2 and asked[1].startswith("Ada Quill")
    assert [turn.query for turn in episode.turns] == asked
    # After the second of two retrievals [ANSWER] is forced.
    assert (decisions, answer) == ("RR", "Caldis<eos>")
    assert follow(BRIDGE, "bx", "ax", quota=3)[2] == "RRA"
    assert follow(BRIDGE, "bx", "ax", label=False)[2] == "R"  # only the first lacks a label


def test_the_environment_alone_rewards_a_demonstration():
    episode, *_ = follow(BRIDGE, "bx", "ax")
    reward = Reward()
    costs = [-reward.retrieval_cost] * 2
    assert [r for r in episode.rewards if r] == [*costs, 2.0]
    ends = [i for i, r in enumerate(episode.rewards) if r]
    assert all(episode.tokens[i] == TOKENIZER.eos for i in ends)


def test_a_renamed_bridge_is_crossed_under_its_other_name():
    names = set()
    for seed in range(30):
        episode, asked = demonstrate_one(
            BRIDGE, "bx", "ac", swap=1.0, others=(OTHER, KIN), seed=seed
        )
        shown = TOKENIZER.show(episode.tokens)
        first, second = re.findall("<obs>(.*?)</obs>", shown)
        query = re.findall(r"\[RETRIEVE\](.*?)<eos>", shown)[1].strip()
        people = [f"{a} {b}" for a in ("Ada", "Bo") for b in ("Quill", "Reed")]
        (name,) = [person for person in people if person in query]
        names.add(name)
        # The index knows only the true name.
        assert asked[1].startswith("Ada Quill") and query == asked[1].replace("Ada Quill", name)
        assert f"It was written by {name}." in first
        assert "The Salt Lake It lies in Norland." in first
        town = shown.partition("[ANSWER]")[2].strip().removesuffix("<eos>")
        assert f"{name} She was born in {town}." in second
        # Words change places: whoever else is called so gets the bridge's words.
        first_name, last_name = name.split()
        places = {"Ada": first_name, first_name: "Ada", "Quill": last_name, last_name: "Quill"}
        namesake = " ".join(places.get(word, word) for word in ("Bo", "Reed"))
        assert f"{namesake} He was born in Velmor." in second
    assert names == {"Ada Quill", "Ada Reed", "Bo Quill", "Bo Reed"}


def test_a_bridge_keeps_what_the_answer_shares_of_its_name():
    words = "Which family is the author of The Salt Road of?"
    family = replace(BRIDGE, question=words, answers=("Quill",))
    names = set()
    for seed in range(30):
        options = {"swap": 1.0, "others": (OTHER, KIN), "seed": seed}
        episode, _ = demonstrate_one(family, "bx", "ac", **options)
        names |= set(
            re.findall(r"\[RETRIEVE\] ?(\w+ Quill|\w+ Reed)", TOKENIZER.show(episode.tokens))
        )
    assert names == {"Ada Quill", "Bo Quill"}


def test_what_nobody_has_named_is_not_asked_for():
    unnamed = replace(BRIDGE, question="Where was that author born?")
    assert follow(unnamed, "xc")[1:] == ([unnamed.question], "R", "")


@pytest.mark.parametrize(
    "calls, quota, retrievals, decisions, answer",
    [
        (["ba"], 2, 1, "RA", "Caldis<eos>"),  # one retrieval found it all
        (
            ["xc", "bx"],
            2,
            2,
            "RR",
            "",
        ),  # the first hop is tried again: the question names its title
        (["bx"], 1, 1, "R", ""),  # the quota is used up, and the answer could only be guessed
        (["bx", "xc"], 2, 2, "RR", ""),
        (["bx", "xc", "ax"], 3, 3, "RRR", "Caldis<eos>"),
    ],
)
def test_a_bridge_is_crossed_only_where_the_way_is_known(
    calls, quota, retrievals, decisions, answer
):
    _, asked, taken, said = follow(BRIDGE, *calls, quota=quota)
    assert (len(asked), taken, said) == (retrievals, decisions, answer)


def test_both_sides_of_a_comparison_are_looked_up_and_nothing_is_swapped():
    _, asked, decisions, answer = follow(COMPARISON, "ax", "cx", swap=1.0)
    assert asked[1].startswith("Bo Reed") and (decisions, answer) == ("RR", "Ada Quill<eos>")


@pytest.mark.parametrize("options", [{"gold": 1.0}, {"forced": 0.0}])
def test_the_gold_passage_of_each_hop_is_put_in(options):
    episode, *_, answer = follow(BRIDGE, "xc", "xc", **options)
    assert [turn.passages[-1] for turn in episode.turns] == [0, 1] and answer == "Caldis<eos>"


def test_of_two_right_answers_the_one_that_was_found_is_learnt():
    answers, gold = ("Velmor", "Caldis"), ("c", "a")
    either = Question("q", "Where was the writer born?", answers, gold_passages=gold)
    said = [follow(either, calls)[3] for calls in ("ax", "xc", "ca")]
    assert said == ["Caldis<eos>", "Velmor<eos>", "Velmor<eos>"]
