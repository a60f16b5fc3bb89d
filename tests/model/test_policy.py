"""Causality, padding and the value head."""

import copy

import torch

from model import Policy

from .tiny import tiny_config, tiny_policy


def test_values_start_at_exactly_zero():
    values = Policy(tiny_config())(torch.randint(320, (2, 30)))[1]
    assert (
        values.shape == (2, 30)
        and values.dtype == torch.float32
        and torch.equal(values, torch.zeros(2, 30))
    )


def test_logits_and_values_do_not_see_the_future():
    policy = tiny_policy()
    tokens = torch.randint(320, (1, 40))
    with torch.no_grad():
        logits, values = policy(tokens)
        assert values.std() > 0.01
        for t in (0, 1, 17, 38):
            changed = tokens.clone()
            changed[:, t + 1 :] = torch.randint(320, (1, 39 - t))
            other_logits, other_values = policy(changed)
            torch.testing.assert_close(
                other_logits[:, : t + 1], logits[:, : t + 1], atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(
                other_values[:, : t + 1], values[:, : t + 1], atol=1e-5, rtol=1e-5
            )
            assert (other_values[:, t + 1 :] - values[:, t + 1 :]).abs().max() > 1e-4


def test_a_value_sees_every_token_before_it():
    policy = tiny_policy()
    tokens = torch.randint(320, (1, 12))
    with torch.no_grad():
        value = policy(tokens)[1][0, -1]
        for t in range(12):
            changed = tokens.clone()
            changed[0, t] = (changed[0, t] + 1) % 320
            assert (policy(changed)[1][0, -1] - value).abs() > 1e-6


def test_a_padded_row_gives_what_the_unpadded_row_gives():
    policy = tiny_policy()
    short, long = torch.randint(320, (1, 9)), torch.randint(320, (1, 33))
    for pad in (0, 5):
        padded = torch.cat([torch.cat([short, torch.full((1, 24), pad)], 1), long])
        with torch.no_grad():
            logits, values = policy(padded)
            for row, alone in enumerate((short, long)):
                expected_logits, expected_values = policy(alone)
                torch.testing.assert_close(
                    logits[row : row + 1, : alone.shape[1]], expected_logits, atol=1e-5, rtol=1e-5
                )
                torch.testing.assert_close(
                    values[row : row + 1, : alone.shape[1]], expected_values, atol=1e-5, rtol=1e-5
                )


def test_value_loss_leaves_the_trunk_alone():
    policy = tiny_policy()
    policy(torch.randint(320, (2, 20)))[1].sub(1).square().mean().backward()
    assert all(parameter.grad is None for parameter in policy.model.parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in policy.value_head.parameters())


def test_value_features_at_chosen_places_are_those_of_the_whole():
    policy = tiny_policy()
    rows, columns = torch.tensor([0, 2, 2, 1]), torch.tensor([4, 0, 18, 19])
    states = policy.model(torch.randint(320, (3, 20)))
    whole = policy.value_features(states)
    assert whole.shape == (3, 20, 96)
    torch.testing.assert_close(policy.value_features(states, (rows, columns)), whole[rows, columns])


def test_value_features_by_hand():
    """[h_L, h_(L-1), causal mean of h_1], each normalised without weights."""
    policy = tiny_policy(tiny_config(num_hidden_layers=3))
    states = policy.model(torch.randint(320, (1, 8)))

    def normal(x):
        return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()

    for t in (0, 3, 7):
        by_hand = torch.cat(
            [
                normal(states[2][0, t]),
                normal(states[1][0, t]),
                normal(states[0][0, : t + 1].mean(0)),
            ]
        )
        torch.testing.assert_close(
            policy.value_features(states)[0, t], by_hand, atol=1e-5, rtol=1e-4
        )


def test_dropout_is_the_value_heads_alone():
    policy = tiny_policy()
    tokens = torch.randint(320, (1, 20))
    evaluated, trained = policy(tokens), copy.deepcopy(policy).train()(tokens)
    assert torch.equal(evaluated[0], trained[0]) and not torch.equal(evaluated[1], trained[1])
