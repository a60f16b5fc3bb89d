"""Figures of hand-made episodes; the paired interval."""

import math

import numpy as np
import pytest

from data import Question
from rl import Decoding, Episode, Part, Turn, rollout
from rl.report.summary import by_slice, calibration, paired_interval, policy_calls, summarize
from tests.rl.tiny import QUESTIONS, TOKENIZER, environment, random_policy


def made(slice, em, f1, turns=0, hit=False, reward=0.0, malformed=False, p=0.5) -> Episode:
    return Episode(
        Question("q", "?", ("x",), slice=slice),
        rewards=[0.0, reward],
        parts=[Part.STATE, *[Part.QUERY, Part.STATE] * turns, Part.ANSWER, Part.ANSWER],
        turns=[Turn("q", [], [])] * turns,
        exact_match=em,
        f1=f1,
        hit=hit,
        malformed=malformed,
        p_retrieve=p,
    )


EPISODES = [
    made("popular", 1.0, 1.0, reward=2.0, p=0.1),
    made("tail", 0.0, 0.5, turns=2, hit=True, reward=0.1, p=0.9),
    made("tail", 1.0, 1.0, turns=1, reward=1.8, p=0.8),
    made("absent", 0.0, 0.0, reward=-1.0, malformed=True, p=0.2),
]


def test_figures_by_hand():
    figures = summarize(EPISODES)
    assert figures == pytest.approx(
        {
            "rows": 4,
            "em": 0.5,
            "f1": 0.625,
            "retrieval": 0.5,
            "queries": 0.75,
            "calls": 1.75,
            "hit": 0.5,
            "reward": 0.725,
            "malformed": 0.25,
            "p_retrieve": 0.5,
        }
    )
    slices = by_slice(EPISODES)
    assert list(slices) == ["popular", "tail", "absent"]
    assert slices["tail"] == pytest.approx(
        {
            "rows": 2,
            "em": 0.5,
            "f1": 0.75,
            "retrieval": 1.0,
            "queries": 1.5,
            "calls": 2.5,
            "hit": 0.5,
            "reward": 0.95,
            "malformed": 0.0,
            "p_retrieve": 0.85,
        }
    )
    assert math.isnan(slices["popular"]["hit"])  # nobody retrieved: no hit rate, not a rate of 0


def test_nothing_gives_no_figures():
    assert math.isnan(summarize([])["em"]) and summarize([])["rows"] == 0
    assert by_slice([made(None, 1.0, 1.0)]) == {}


def test_paired_interval():
    a = np.random.default_rng(1).normal(0.3, 1.0, 400)
    mean, low, high = paired_interval([(a + 5, np.full(400, 5.0))])
    error = a.std() / 20  # the normal approximation
    assert (
        mean == pytest.approx(a.mean())
        and low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
        and high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)
    )
    assert paired_interval([([2.0, 3.0], [1.0, 2.0])]) == (
        1.0,
        1.0,
        1.0,
    )  # the pairing removes what the questions share
    assert paired_interval([(a, 0 * a)]) == paired_interval([(a, 0 * a)])


def test_sets_weigh_the_same_whatever_their_size():
    large, small = np.zeros(1000), np.ones(10)
    assert paired_interval([(large, large), (small, 0 * small)]) == (0.5, 0.5, 0.5)
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 1, n) for n in (100, 400)]
    mean, low, high = paired_interval([(x, 0 * x) for x in noise], draws=4000)
    error = math.sqrt(noise[0].var() / 100 + noise[1].var() / 400) / 2  # variances of means add
    assert mean == pytest.approx((noise[0].mean() + noise[1].mean()) / 2)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.07)


@pytest.mark.parametrize("force, given", [("answer", 0), ("retrieve", 0), ("question", 1)])
def test_policy_calls_are_the_texts_that_the_policy_wrote(force, given):
    """One for each action token (no text holds one), but for queries that are given."""
    policy, env = random_policy(2), environment(quota=2)
    for e in rollout(policy, TOKENIZER, env, QUESTIONS * 4, Decoding(force=force)):
        actions = e.tokens.count(TOKENIZER.retrieve) + e.tokens.count(TOKENIZER.answer)
        assert policy_calls(e) == actions - given


def test_calibration_by_hand():
    """Retrieving earns 1 more for the first and the last question, .2 less for the second."""
    direct = [made(None, 0, 0, reward=r, p=p) for r, p in ((0.0, 0.31), (2.0, 0.39), (0.0, 1.0))]
    retrieved = [made(None, 0, 0, reward=r, p=0.5) for r in (1.0, 1.8, 1.0)]
    half = 1.96 * 0.6 / math.sqrt(2)
    first, last = calibration(direct, retrieved)
    assert first == pytest.approx((0.35, 0.4, 0.4 - half, 0.4 + half)) and last == (1, 1, 1, 1)
    assert calibration([], []) == []
