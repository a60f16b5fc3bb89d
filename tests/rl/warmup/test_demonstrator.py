"""Warm-up demonstrations of the tiny world: what stands in an episode, and what of it is learnt."""

import re
from dataclasses import replace

import numpy as np
import pytest

from data.metrics import contains_answer, gold_passage
from data.world import Passage, Question, World
from model import Tokenizer
from retrieval_cpp import BM25Index
from rl import RagEnv
from rl.warmup.demonstrator import Demonstrator
from train_sft import Args

PLAIN = Args(world="tiny", swap=0.0, shuffle=0.0, gold=0.0)


@pytest.fixture(scope="module")
def tiny():
    world = World.open("tiny")
    index = BM25Index.build(p.full_text for p in world.corpus)
    questions = world.questions("popqa", "train")
    texts = [p.full_text for p in world.corpus]
    return (
        world,
        questions,
        RagEnv(world, index),
        Tokenizer.train(texts + [q.question for q in questions], 700),
    )


def demonstrate(
    tiny, args: Args, retrieve: bool, known: bool = False, label: bool = False, forced: float = 1.0
):
    world, questions, env, tokenizer = tiny
    demonstrator, n = Demonstrator(world, questions, env, tokenizer, args), len(questions)
    return demonstrator, demonstrator.demonstrate(
        questions, [retrieve] * n, [label] * n, [known] * n, np.random.default_rng(0), forced
    )


def spoken(tokenizer: Tokenizer, tokens: list[int]) -> tuple[str, str, str]:
    """(query, observation, answer) of an episode, read back from its tokens; "" for what it does not hold."""
    query = tokens[tokens.index(tokenizer.retrieve) + 1 :] if tokenizer.retrieve in tokens else []
    observed = tokens[tokens.index(tokenizer.obs) + 1 :] if tokenizer.obs in tokens else []
    answer = tokens[tokens.index(tokenizer.answer) + 1 :] if tokenizer.answer in tokens else []
    cut = lambda ids, end: tokenizer.decode(ids[: ids.index(end)]) if ids else ""
    return cut(query, tokenizer.eos), cut(observed, tokenizer.obs_end), cut(answer, tokenizer.eos)


@pytest.mark.parametrize("label", [False, True])
def test_direct_answers(tiny, label):
    _, episodes = demonstrate(tiny, PLAIN, retrieve=False, label=label)
    for episode in episodes:
        assert spoken(tiny[3], episode.tokens) == ("", "", episode.question.answers[0])
        assert (
            sum(episode.decision_mask) == label
            and sum(episode.action_mask)
            == len(tiny[3].encode(episode.question.answers[0])) + 1 + label
        )


def test_what_the_passages_miss_is_learnt_only_where_it_is_known(tiny):
    tokenizer = tiny[3]
    demonstrator, strangers = demonstrate(tiny, PLAIN, retrieve=True)
    _, friends = demonstrate(tiny, PLAIN, retrieve=True, known=True)
    missed = 0
    for stranger, friend in zip(strangers, friends, strict=True):
        gold = gold_passage(stranger.question, demonstrator.rows)
        hit = gold in stranger.turns[0].passages
        query, observed, answer = spoken(tokenizer, friend.tokens)
        assert (
            query == friend.turns[0].query
            and answer == friend.question.answers[0]
            and bool(observed)
        )
        assert friend.action_mask[-1] and not friend.decision_mask[-1]
        if hit:
            assert stranger.tokens == friend.tokens and contains_answer(observed, [answer])
        else:
            missed += 1
            assert (
                stranger.tokens == friend.tokens[: len(stranger.tokens)]
                and stranger.tokens[-1] == tokenizer.eos
                and tokenizer.obs not in stranger.tokens
            )
    assert 0 < missed < len(strangers)


def test_the_gold_passage_is_put_in(tiny):
    demonstrator, episodes = demonstrate(tiny, replace(PLAIN, gold=1.0), retrieve=True)
    gold = [gold_passage(e.question, demonstrator.rows) for e in episodes]
    assert (
        all(g in e.turns[0].passages for g, e in zip(gold, episodes) if g is not None)
        and None in gold
    )
    assert all(len(e.turns[0].passages) == tiny[2].k for e in episodes)
    _, half = demonstrate(tiny, replace(PLAIN, gold=0.5), retrieve=True)
    _, none = demonstrate(tiny, PLAIN, retrieve=True)
    hits = [sum(g in e.turns[0].passages for g, e in zip(gold, x)) for x in (none, half, episodes)]
    assert hits[0] < hits[1] < hits[2]


def test_the_curriculum_begins_with_the_gold_passage_alone(tiny):
    demonstrator, episodes = demonstrate(tiny, PLAIN, retrieve=True, forced=0.0)
    for episode in episodes:
        gold = gold_passage(episode.question, demonstrator.rows)
        assert len(episode.turns[0].passages) == 1 and (
            gold is None or episode.turns[0].passages == [gold]
        )


def test_swapped_answers_can_only_be_copied(tiny):
    world, questions, env, tokenizer = tiny
    relations = {(answer, q.relation) for q in questions for answer in q.answers}
    demonstrator, episodes = demonstrate(tiny, replace(PLAIN, gold=1.0, swap=1.0), retrieve=True)
    swapped = 0
    for episode in episodes:
        _, observed, answer = spoken(tokenizer, episode.tokens)
        if not observed:
            continue
        truth, turn = episode.question.answers[0], episode.turns[0]
        assert (
            contains_answer(observed, [answer]) and (answer, episode.question.relation) in relations
        )
        swapped += answer != truth
        assert all(
            world.corpus[row].text in observed
            for row in turn.passages
            if row != gold_passage(episode.question, demonstrator.rows)
        )
    assert swapped > len(episodes) / 3


def test_shuffled_passages(tiny):
    plain, shuffled = (
        demonstrate(tiny, replace(PLAIN, shuffle=x), retrieve=True)[1] for x in (0.0, 1.0)
    )
    pairs = [(a.turns[0].passages, b.turns[0].passages) for a, b in zip(plain, shuffled)]
    assert (
        any(a != b for a, b in pairs)
        and sum(sorted(a) == sorted(b) for a, b in pairs) > len(pairs) / 2
    )


# ------------------------------------------------------------------------------------------------- several facts

CORPUS = [
    Passage("b", "The Salt Road", "It was written by Ada Quill."),
    Passage("a", "Ada Quill", "She was born in Caldis."),
    Passage("x", "The Salt Lake", "It lies in Norland."),
    Passage("c", "Bo Reed", "He was born in Velmor."),
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


class Finds:
    """A retriever that answers with the passages whose ids it is told, one list for each call."""

    def __init__(self, *calls: str):
        self.calls, self.asked = list(calls), []

    def search(self, queries, k):
        self.asked += queries
        rows = np.array([["baxc".index(i) for i in self.calls.pop(0)]] * len(queries))
        return rows, np.ones(rows.shape)


def follow(
    question: Question,
    *calls: str,
    args: Args = PLAIN,
    quota: int = 2,
    label: bool = True,
    forced: float = 1.0,
):
    """(episode, what the index was asked, free decisions, answer)."""
    episode, asked, tokenizer = demonstrate_one(
        question, *calls, args=args, quota=quota, label=label, forced=forced
    )
    decisions = "".join(
        "?RA"[(t == tokenizer.retrieve) + 2 * (t == tokenizer.answer)]
        for t, d in zip(episode.tokens, episode.decision_mask)
        if d
    )
    return (
        episode,
        asked,
        decisions,
        tokenizer.show(episode.tokens).partition("[ANSWER]")[2].strip(),
    )


def demonstrate_one(
    question: Question,
    *calls: str,
    args: Args,
    quota: int = 2,
    label: bool = True,
    forced: float = 1.0,
    others: tuple = (),
    seed: int = 1,
):
    world = World(
        name="four", corpus=CORPUS, questions={"hotpotqa.train": [question]}, k=2, quota=quota
    )
    env = RagEnv(world, Finds(*calls))
    tokenizer = Tokenizer.train(
        [p.full_text for p in CORPUS] + [BRIDGE.question, COMPARISON.question], 600
    )
    demonstrator = Demonstrator(world, [question, *others], env, tokenizer, args)
    (episode,) = demonstrator.demonstrate(
        [question], [True], [label], [False], np.random.default_rng(seed), forced
    )
    return episode, env.index.asked, tokenizer


def test_a_bridge_is_crossed():
    episode, asked, decisions, answer = follow(BRIDGE, "bx", "ax")
    assert (
        len(asked) == 2
        and asked[1].startswith("Ada Quill")
        and [t.query for t in episode.turns] == asked
    )
    assert (
        decisions == "RR" and answer == "Caldis<eos>"
    )  # after the second of two retrievals [ANSWER] is forced
    assert (
        follow(BRIDGE, "bx", "ax", quota=3)[2] == "RRA"
        and follow(BRIDGE, "bx", "ax", label=False)[2] == "R"
    )  # only the first lacks a label
    assert sum(e in episode.rewards for e in (1.0, -0.2)) == 0


OTHER = Question(
    "o",
    "Where was the head of The Salt Lake born?",
    ("Velmor",),
    gold_passages=("x", "c"),
    type="bridge",
    relation="author>birth",
)


def test_a_renamed_bridge_is_crossed_under_its_other_name():
    names = set()
    for seed in range(30):
        episode, asked, tokenizer = demonstrate_one(
            BRIDGE, "bx", "ac", args=replace(PLAIN, swap=1.0), others=(OTHER,), seed=seed
        )
        first, second = re.findall("<obs>(.*?)</obs>", shown := tokenizer.show(episode.tokens))
        query = re.findall(r"\[RETRIEVE\](.*?)<eos>", shown)[1].strip()
        name = next(
            f"{a} {b}" for a in ("Ada", "Bo") for b in ("Quill", "Reed") if f"{a} {b}" in query
        )
        names.add(name)
        assert asked[1].startswith("Ada Quill") and query == asked[1].replace(
            "Ada Quill", name
        )  # the index knows only the true name
        assert (
            f"It was written by {name}." in first and "The Salt Lake It lies in Norland." in first
        )
        town = shown.partition("[ANSWER]")[2].strip().removesuffix("<eos>")
        assert (
            f"{name} She was born in {town}." in second
            and "Bo Reed He was born in Velmor." in second
        )
    assert names == {"Ada Quill", "Ada Reed", "Bo Quill", "Bo Reed"}


def test_a_bridge_keeps_its_name_where_the_answer_shares_it():
    family = replace(
        BRIDGE, question="Which family is the author of The Salt Road of?", answers=("Quill",)
    )
    for seed in range(30):
        episode, _, tokenizer = demonstrate_one(
            family, "bx", "ac", args=replace(PLAIN, swap=1.0), others=(OTHER,), seed=seed
        )
        assert re.search(r"\[RETRIEVE\] ?Ada Quill", tokenizer.show(episode.tokens))


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
        ),  # the first hop is tried again, its title stands in the question
        (["bx"], 1, 1, "R", ""),  # the quota is used up, and the answer could only be guessed
        (["bx", "xc"], 2, 2, "RR", ""),
        (["bx", "xc", "ax"], 3, 3, "RRR", "Caldis<eos>"),
    ],
)
def test_a_bridge_is_crossed_only_where_the_way_is_known(
    calls, quota, retrievals, decisions, answer
):
    episode, asked, taken, said = follow(BRIDGE, *calls, quota=quota)
    assert (len(asked), taken, said) == (retrievals, decisions, answer)


def test_both_sides_of_a_comparison_are_looked_up_and_nothing_is_swapped():
    episode, asked, decisions, answer = follow(
        COMPARISON, "ax", "cx", args=replace(PLAIN, swap=1.0)
    )
    assert asked[1].startswith("Bo Reed") and (decisions, answer) == ("RR", "Ada Quill<eos>")


def test_the_gold_passage_of_each_hop_is_put_in():
    for args, forced in ((replace(PLAIN, gold=1.0), 1.0), (PLAIN, 0.0)):
        episode, *_, answer = follow(BRIDGE, "xc", "xc", args=args, forced=forced)
        assert [turn.passages[-1] for turn in episode.turns] == [0, 1] and answer == "Caldis<eos>"


def test_of_two_right_answers_the_one_that_was_found_is_learnt():
    either = Question(
        "q", "Where was the writer born?", ("Velmor", "Caldis"), gold_passages=("c", "a")
    )
    assert [follow(either, calls)[3] for calls in ("ax", "xc", "ca")] == [
        "Caldis<eos>",
        "Velmor<eos>",
        "Velmor<eos>",
    ]
