"""GAE against the double sum of the paper and numbers by hand; whitening."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.ppo import generalized_advantages, whiten

from .oracle import slow_advantages


def padded(rows: list[list[float]]) -> torch.Tensor:
    """Rows on the left of a grid of zeros."""
    grid = torch.zeros(len(rows), max(len(row) for row in rows) + 2)
    for i, row in enumerate(rows):
        grid[i, : len(row)] = torch.tensor(row)
    return grid


number = st.floats(-3, 3, width=32)


@settings(max_examples=200)
@given(
    st.lists(st.lists(st.tuples(number, number), min_size=1, max_size=12), min_size=1, max_size=4),
    st.sampled_from([1.0, 0.99, 0.7, 0.0]),
    st.sampled_from([1.0, 0.95, 0.5, 0.0]),
)
def test_gae_is_the_double_sum(rows, gamma, lam):
    rewards, values = (padded([[step[i] for step in row] for row in rows]) for i in (0, 1))
    result = generalized_advantages(rewards, values, gamma, lam)
    for i, row in enumerate(rows):
        expected = torch.tensor(
            slow_advantages([r for r, _ in row], [v for _, v in row], gamma, lam)
        )
        torch.testing.assert_close(result[i, : len(row)], expected, atol=1e-4, rtol=1e-4)
        assert not result[i, len(row) :].any()


def test_gae_by_hand():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.6, 0.7]])
    # deltas: 0 + .9 .6 - .5 = .04;  0 + .9 .7 - .6 = .03;  1 - .7 = .3;  gamma lambda = .72
    # A_2 = .3;  A_1 = .03 + .72 .3 = .246;  A_0 = .04 + .72 .246 = .21712
    torch.testing.assert_close(
        generalized_advantages(rewards, values, 0.9, 0.8), torch.tensor([[0.21712, 0.246, 0.3]])
    )


def test_gae_of_a_whole_episode_by_hand():
    """A query (two tokens, -.2 at its end) and an answer (two tokens, 2 at its end), gamma = lambda
    = 1: what is still to come, minus V."""
    rewards, values = torch.tensor([[0.0, -0.2, 0.0, 2.0]]), torch.tensor([[1.0, 1.1, 1.5, 1.6]])
    result = generalized_advantages(rewards, values, 1.0, 1.0)
    torch.testing.assert_close(result, torch.tensor([[1.8 - 1.0, 1.8 - 1.1, 2.0 - 1.5, 2.0 - 1.6]]))


def test_lambda_zero_is_the_temporal_difference_and_one_is_monte_carlo():
    rewards, values = torch.randn(1, 6), torch.randn(1, 6)
    after = torch.cat([values[:, 1:], torch.zeros(1, 1)], 1)
    torch.testing.assert_close(
        generalized_advantages(rewards, values, 0.9, 0.0), rewards + 0.9 * after - values
    )
    monte_carlo = (
        torch.stack([sum(0.9 ** (j - t) * rewards[:, j] for j in range(t, 6)) for t in range(6)], 1)
        - values
    )
    torch.testing.assert_close(generalized_advantages(rewards, values, 0.9, 1.0), monte_carlo)


def test_whitening():
    """1, 2, 3, 6: mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5; the 9 is no token."""
    x, mask = torch.tensor([[1.0, 2.0], [3.0, 9.0], [6.0, 9.0]]), torch.ones(3, 2, dtype=torch.bool)
    mask[1:, 1] = False
    expected = torch.tensor([[-2.0, -1.0], [0.0, 0.0], [3.0, 0.0]]) / math.sqrt(3.5)
    torch.testing.assert_close(whiten(x, mask), expected)
    assert not whiten(torch.full((5, 1), 0.25), torch.ones(5, 1, dtype=torch.bool)).any()
