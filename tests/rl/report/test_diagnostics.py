"""Explained variance, class means, the classes of a quota-2 episode, the policy's reward: by
hand."""

import math

import pytest
import torch

from rl import Episode, Part, PPOConfig, rollout, score_rollout
from rl.ppo import penalised_rewards, with_advantages
from rl.report.diagnostics import (
    class_means,
    explained_variance,
    policy_reward,
    token_classes,
    value_statistics,
)
from rl.study.roles import only
from tests.rl.tiny import (
    QUESTIONS,
    TOKENIZER,
    Retriever,
    Scripted,
    environment,
    random_policy,
    text,
)


@pytest.mark.parametrize(
    "values, expected",
    [
        ([1.0, 2.0, 3.0, 6.0], 1.0),  # perfect
        ([3.0, 3.0, 3.0, 3.0], 0.0),  # constant
        ([2.0, 3.0, 4.0, 7.0], 1.0),  # a constant shift does not count
        ([0.0, 2.0, 3.0, 6.0], 1 - 0.1875 / 3.5),  # residuals 1, 0, 0, 0: variance 3/16
        ([6.0, 3.0, 2.0, 1.0], 1 - 13 / 3.5),  # residuals -5, -1, 1, 5: worse than a constant
    ],
)
def test_explained_variance_by_hand(values, expected):
    assert explained_variance(
        torch.tensor(values), torch.tensor([1.0, 2.0, 3.0, 6.0])
    ) == pytest.approx(expected, abs=1e-6)


def test_explained_variance_of_constant_returns_is_undefined():
    assert math.isnan(explained_variance(torch.randn(4), torch.full((4,), 2.0)))


def test_class_means_by_hand():
    returns, classes = torch.tensor([1.0, 2.0, 6.0, -1.0, 4.0]), torch.tensor([0, 3, 0, 3, 1])
    torch.testing.assert_close(
        class_means(returns, classes), torch.tensor([3.5, 0.5, 3.5, 0.5, 4.0])
    )
    assert torch.equal(class_means(returns, torch.arange(5)), returns)


# --------------------------------------------------------------- classes of tokens


def one_retrieval_then_a_free_answer(hit: bool) -> Episode:
    """Of two retrievals that are allowed one is taken: both decisions were free."""

    def plan(tokens):
        p = 0.1 if TOKENIZER.obs in tokens else 0.9
        return p, text("salt road"), text("Ada Quill")

    env = environment(Retriever((1, 3) if hit else (0, 3)), quota=2)
    (episode,) = rollout(Scripted(plan), TOKENIZER, env, QUESTIONS[:1])
    assert episode.hit is hit and episode.parts.count(Part.DECISION) == 2
    return episode


@pytest.mark.parametrize("hit", [True, False])
def test_the_classes_of_an_episode_of_quota_two(hit):
    """An [ANSWER] after a second free decision is an answer, not a query."""
    query, answer = len(text("salt road")), len(text("Ada Quill"))
    where = ["DECISION", *["QUERY"] * query, "DECISION"]
    where += ["after hit" if hit else "after miss"] * answer
    episode = one_retrieval_then_a_free_answer(hit)
    assert token_classes(episode) == [("tail", part) for part in where]
    # What does not learn has no class, and changes that of no other token.
    assert token_classes(only(episode, (Part.ANSWER,))) == [("tail", where[-1])] * answer
    assert token_classes(only(episode, (Part.QUERY,))) == [("tail", "QUERY")] * query


def test_the_classes_of_two_retrievals_and_of_none():
    def plan(p):
        return lambda tokens: (p, text("salt"), text("Velmor"))

    env, query = environment(Retriever((0, 3)), quota=2), len(text("salt"))
    answer = len(text("Velmor"))
    twice, never = (
        rollout(Scripted(plan(p)), TOKENIZER, env, [QUESTIONS[1]])[0] for p in (0.9, 0.1)
    )
    retrieval = ["DECISION", *["QUERY"] * query]
    where = [*retrieval, *retrieval, *["after hit"] * answer]  # the last decision was forced
    assert token_classes(twice) == [("popular", part) for part in where]
    where = ["DECISION", *["ANSWER"] * answer]
    assert token_classes(never) == [("popular", part) for part in where]


def test_the_oracle_of_classes_explains_what_a_constant_head_does_not():
    policy = random_policy()
    for parameter in policy.value_head.parameters():
        parameter.data.zero_()
    episodes = [one_retrieval_then_a_free_answer(hit) for hit in (True, False) * 3]
    for i, episode in enumerate(episodes):
        earned = 2.0 if episode.hit else 0.0
        episode.rewards = [0.0] * (len(episode.tokens) - 1) + [earned]
        episode.behaviour = [0.9, 0.9]
        episode.question = QUESTIONS[i % 2]  # slices: hits are tail, misses are popular
    config = PPOConfig()
    experience = score_rollout(policy, policy, episodes, TOKENIZER, config)
    experience = with_advantages(experience, penalised_rewards(experience, 0.0), config)
    figures = value_statistics(experience)
    assert figures == pytest.approx(
        {"ev_decision": 0.0, "ev_all": 0.0, "ev_oracle_decision": 1.0, "ev_oracle_all": 1.0},
        abs=1e-5,
    )


def test_the_reward_of_the_policys_own_mixture():
    """Both branches: .8 x 1.8 + .2 x .5 and .25 x -.2 + .75 x 2, of which the mean."""
    episodes = []
    for p, rewards in ((0.8, (1.8, 0.5)), (0.25, (-0.2, 2.0))):
        for reward in rewards:
            episode = Episode(QUESTIONS[0], p_retrieve=p)
            episode.append([9], Part.DECISION)
            episode.rewards[-1] = reward
            episodes.append(episode)
    assert policy_reward(episodes, both=True) == pytest.approx((1.54 + 1.45) / 2)
    assert policy_reward(episodes, both=False) == pytest.approx((1.8 + 0.5 - 0.2 + 2.0) / 4)
