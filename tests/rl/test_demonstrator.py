"""Warm-up demonstrations of the tiny world: what stands in an episode, and what of it is learnt."""
from dataclasses import replace

import numpy as np
import pytest

from data.demonstrations import gold_passage
from data.metrics import contains_answer
from data.world import World
from model import Tokenizer
from retrieval_cpp import BM25Index
from rl import RagEnv
from rl.demonstrator import Demonstrator
from train_sft import Args

PLAIN = Args(world="tiny", swap=0.0, shuffle=0.0, gold=0.0)


@pytest.fixture(scope="module")
def tiny():
    world = World.open("tiny")
    index = BM25Index.build(f"{p.title} {p.text}" for p in world.corpus)
    questions = world.questions("popqa", "train")
    texts = [f"{p.title} {p.text}" for p in world.corpus]
    return world, questions, RagEnv(world, index), Tokenizer.train(texts + [q.question for q in questions], 700)


def demonstrate(tiny, args: Args, retrieve: bool, known: bool = False, label: bool = False, forced: float = 1.0):
    world, questions, env, tokenizer = tiny
    demonstrator, n = Demonstrator(world, questions, env, tokenizer, args), len(questions)
    return demonstrator, demonstrator.demonstrate(questions, [retrieve] * n, [label] * n, [known] * n, np.random.default_rng(0), forced)


def spoken(tokenizer: Tokenizer, tokens: list[int]) -> tuple[str, str, str]:
    """(query, observation, answer) of an episode, read back from its tokens; "" for what it does not hold."""
    query = tokens[tokens.index(tokenizer.retrieve) + 1:] if tokenizer.retrieve in tokens else []
    observed = tokens[tokens.index(tokenizer.obs) + 1:] if tokenizer.obs in tokens else []
    answer = tokens[tokens.index(tokenizer.answer) + 1:] if tokenizer.answer in tokens else []
    cut = lambda ids, end: tokenizer.decode(ids[:ids.index(end)]) if ids else ""
    return cut(query, tokenizer.eos), cut(observed, tokenizer.obs_end), cut(answer, tokenizer.eos)


@pytest.mark.parametrize("label", [False, True])
def test_direct_answers(tiny, label):
    _, episodes = demonstrate(tiny, PLAIN, retrieve=False, label=label)
    for episode in episodes:
        assert spoken(tiny[3], episode.tokens) == ("", "", episode.question.answers[0])
        assert sum(episode.decision_mask) == label and sum(episode.action_mask) == len(tiny[3].encode(episode.question.answers[0])) + 1 + label


def test_what_the_passages_miss_is_learnt_only_where_it_is_known(tiny):
    tokenizer = tiny[3]
    demonstrator, strangers = demonstrate(tiny, PLAIN, retrieve=True)
    _, friends = demonstrate(tiny, PLAIN, retrieve=True, known=True)
    missed = 0
    for stranger, friend in zip(strangers, friends, strict=True):
        gold = gold_passage(stranger.question, demonstrator.rows)
        hit = gold in stranger.turns[0].passages
        query, observed, answer = spoken(tokenizer, friend.tokens)
        assert query == friend.turns[0].query and answer == friend.question.answers[0] and bool(observed)
        assert friend.action_mask[-1] and not friend.decision_mask[-1]
        if hit:
            assert stranger.tokens == friend.tokens and contains_answer(observed, [answer])
        else:
            missed += 1
            assert stranger.tokens == friend.tokens[:len(stranger.tokens)] and stranger.tokens[-1] == tokenizer.eos and tokenizer.obs not in stranger.tokens
    assert 0 < missed < len(strangers)


def test_the_gold_passage_is_put_in(tiny):
    demonstrator, episodes = demonstrate(tiny, replace(PLAIN, gold=1.0), retrieve=True)
    gold = [gold_passage(e.question, demonstrator.rows) for e in episodes]
    assert all(g in e.turns[0].passages for g, e in zip(gold, episodes) if g is not None) and None in gold
    assert all(len(e.turns[0].passages) == tiny[2].k for e in episodes)
    _, half = demonstrate(tiny, replace(PLAIN, gold=0.5), retrieve=True)
    _, none = demonstrate(tiny, PLAIN, retrieve=True)
    hits = [sum(g in e.turns[0].passages for g, e in zip(gold, x)) for x in (none, half, episodes)]
    assert hits[0] < hits[1] < hits[2]


def test_the_curriculum_begins_with_the_gold_passage_alone(tiny):
    demonstrator, episodes = demonstrate(tiny, PLAIN, retrieve=True, forced=0.0)
    for episode in episodes:
        gold = gold_passage(episode.question, demonstrator.rows)
        assert len(episode.turns[0].passages) == 1 and (gold is None or episode.turns[0].passages == [gold])


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
        assert contains_answer(observed, [answer]) and (answer, episode.question.relation) in relations
        swapped += answer != truth
        assert all(world.corpus[row].text in observed for row in turn.passages if row != gold_passage(episode.question, demonstrator.rows))
    assert swapped > len(episodes) / 3


def test_shuffled_passages(tiny):
    plain, shuffled = (demonstrate(tiny, replace(PLAIN, shuffle=x), retrieve=True)[1] for x in (0.0, 1.0))
    pairs = [(a.turns[0].passages, b.turns[0].passages) for a, b in zip(plain, shuffled)]
    assert any(a != b for a, b in pairs) and sum(sorted(a) == sorted(b) for a, b in pairs) > len(pairs) / 2
