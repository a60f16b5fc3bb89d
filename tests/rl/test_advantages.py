"""GAE against the double sum of the paper and numbers by hand; what others earn; whitening."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl import ACTIONS, Episode, Part
from rl.advantages import generalized_advantages, token_rewards, whiten

from .oracle import slow_advantages
from .tiny import QUESTIONS


def padded(rows: list[list[float]], rubbish: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows on the left of a grid filled with rubbish, and the mask of what is real."""
    width = max(len(row) for row in rows) + 2
    grid = torch.full((len(rows), width), rubbish)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        grid[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
    return grid, mask


number = st.floats(-3, 3, width=32)


@settings(max_examples=200)
@given(
    st.lists(st.lists(st.tuples(number, number), min_size=1, max_size=12), min_size=1, max_size=4),
    st.sampled_from([1.0, 0.99, 0.7, 0.0]),
    st.sampled_from([1.0, 0.95, 0.5, 0.0]),
)
def test_gae_is_the_double_sum(rows, gamma, lam):
    rewards, mask = padded([[r for r, _ in row] for row in rows], 1e6)
    values, _ = padded([[v for _, v in row] for row in rows], -3e5)
    result = generalized_advantages(rewards, values, mask, gamma, lam)
    for i, row in enumerate(rows):
        expected = torch.tensor(
            slow_advantages([r for r, _ in row], [v for _, v in row], gamma, lam)
        )
        torch.testing.assert_close(result[i, : len(row)], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(result[~mask], torch.zeros(int((~mask).sum())))


def test_gae_by_hand():
    rewards, values, mask = (
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([[0.5, 0.6, 0.7]]),
        torch.ones(1, 3, dtype=torch.bool),
    )
    # deltas: 0 + .9 .6 - .5 = .04;  0 + .9 .7 - .6 = .03;  1 - .7 = .3;  gamma lambda = .72
    # A_2 = .3;  A_1 = .03 + .72 .3 = .246;  A_0 = .04 + .72 .246 = .21712
    torch.testing.assert_close(
        generalized_advantages(rewards, values, mask, 0.9, 0.8),
        torch.tensor([[0.21712, 0.246, 0.3]]),
    )


def test_gae_of_a_whole_episode_by_hand():
    """A query (two tokens, -.2 at its end) and an answer (two tokens, 2 at its end), gamma = lambda
    = 1: what is still to come, minus V."""
    rewards, values = torch.tensor([[0.0, -0.2, 0.0, 2.0]]), torch.tensor([[1.0, 1.1, 1.5, 1.6]])
    result = generalized_advantages(rewards, values, torch.ones(1, 4, dtype=torch.bool), 1.0, 1.0)
    torch.testing.assert_close(result, torch.tensor([[1.8 - 1.0, 1.8 - 1.1, 2.0 - 1.5, 2.0 - 1.6]]))


def test_lambda_zero_is_the_temporal_difference_and_one_is_monte_carlo():
    rewards, values = torch.randn(1, 6), torch.randn(1, 6)
    mask = torch.ones(1, 6, dtype=torch.bool)
    after = torch.cat([values[:, 1:], torch.zeros(1, 1)], 1)
    torch.testing.assert_close(
        generalized_advantages(rewards, values, mask, 0.9, 0.0), rewards + 0.9 * after - values
    )
    monte_carlo = (
        torch.stack([sum(0.9 ** (j - t) * rewards[:, j] for j in range(t, 6)) for t in range(6)], 1)
        - values
    )
    torch.testing.assert_close(generalized_advantages(rewards, values, mask, 0.9, 1.0), monte_carlo)


def test_whitening():
    white = whiten(torch.tensor([1.0, 2.0, 3.0, 6.0]))  # mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5
    torch.testing.assert_close(white, torch.tensor([-2.0, -1.0, 0.0, 3.0]) / math.sqrt(3.5))
    assert torch.equal(whiten(torch.full((5,), 0.25)), torch.zeros(5))


# --------------------------------------------------------------- rewards of tokens


def episode_of(*pieces: tuple[int, Part, float]) -> Episode:
    """Pieces: (number of tokens, part, reward at the last of them)."""
    episode = Episode(QUESTIONS[0])
    for count, part, reward in pieces:
        episode.append([9] * count, part)
        episode.rewards[-1] = reward
    return episode


RETRIEVING = (
    (3, Part.STATE, 0.0),
    (1, Part.DECISION, 0.0),
    (2, Part.QUERY, -0.2),
    (5, Part.STATE, 0.0),
    (2, Part.ANSWER, 2.0),
)


@pytest.mark.parametrize(
    "learn, rewards",
    [
        (ACTIONS, [0.0, 0.0, -0.2, 0.0, 2.0]),
        ((Part.DECISION,), [1.8]),
        ((Part.QUERY,), [0.0, 1.8]),  # the query's end is worth what a frozen reader then earned
        ((Part.ANSWER,), [0.0, 2.0]),  # a frozen query's cost came before, and is nobody's
        ((Part.DECISION, Part.ANSWER), [-0.2, 0.0, 2.0]),
        ((), []),
    ],
)
def test_what_others_earn_belongs_to_the_learnt_token_before_them(learn, rewards):
    assert token_rewards(episode_of(*RETRIEVING), learn) == pytest.approx(rewards)


def test_the_penalty_of_a_malformed_action_of_others_is_counted_once():
    episode = episode_of((2, Part.STATE, 0.0), (1, Part.DECISION, 0.0), (4, Part.ANSWER, -1.0))
    assert token_rewards(episode, (Part.DECISION,)) == [-1.0]
    assert token_rewards(episode, (Part.QUERY,)) == []
    assert sum(token_rewards(episode, ACTIONS)) == episode.reward == -1.0
