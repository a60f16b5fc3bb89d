"""Masks that are born with the tokens, and batches that keep them."""

import torch

from rl import Episode, collate, observation

from .tiny import QUESTIONS, TOKENIZER


def episode(*pieces) -> Episode:
    """Pieces: ("state", tokens) or ("action", tokens, reward, keyword arguments)."""
    result = Episode(QUESTIONS[0])
    for kind, tokens, *rest in pieces:
        result.state(tokens) if kind == "state" else result.action(
            tokens, rest[0], **rest[1] if rest[1:] else {}
        )
    return result


def test_observation_by_hand():
    obs, sep, end = TOKENIZER.obs, TOKENIZER.sep, TOKENIZER.obs_end
    assert observation([[10, 11], [12], [13, 14]], TOKENIZER) == [
        obs,
        10,
        11,
        sep,
        12,
        sep,
        13,
        14,
        end,
    ]
    assert observation([[10]], TOKENIZER) == [obs, 10, end]
    assert observation([], TOKENIZER) == [obs, end]


def test_an_episode_by_hand():
    e = episode(
        ("state", [1, 20, 21]),
        ("action", [6, 30, 2], -0.2),
        ("state", [3, 40, 4]),
        ("action", [7, 50, 51, 2], 2.0, dict(decision=False)),
    )
    assert e.tokens == [1, 20, 21, 6, 30, 2, 3, 40, 4, 7, 50, 51, 2]
    assert [i for i, own in enumerate(e.action_mask) if own] == [
        3,
        4,
        5,
        10,
        11,
        12,
    ]  # the forced [ANSWER] at 9 is not ours
    assert [i for i, free in enumerate(e.decision_mask) if free] == [3]
    assert {i: r for i, r in enumerate(e.rewards) if r} == {5: -0.2, 12: 2.0} and e.reward == 1.8


def test_given_text_is_not_the_policys():
    e = episode(
        ("state", [1, 20]),
        ("action", [6, 30, 31, 2], 0.0, dict(text=False)),
        ("action", [7, 50, 2], 0.0, dict(decision=False, text=False)),
    )
    assert (
        [i for i, own in enumerate(e.action_mask) if own]
        == [2]
        == [i for i, free in enumerate(e.decision_mask) if free]
    )


def test_collate_keeps_the_masks_whatever_the_pad():
    """<pad>, <eos> and the pad id inside an episode are tokens like any other: the mask says what counts."""
    pad = TOKENIZER.pad
    a = episode(("state", [1, pad]), ("action", [6, pad, 2, 2], 0.0))
    b = episode(("state", [1, 20, 21, 22, 23]), ("action", [7, 50, 2], 0.0, dict(decision=False)))
    batch = collate([a, b], pad)
    assert batch.tokens.tolist() == [
        [1, pad, 6, pad, 2, 2, pad, pad],
        [1, 20, 21, 22, 23, 7, 50, 2],
    ]
    assert list(zip(batch.rows.tolist(), batch.columns.tolist())) == [
        (0, 2),
        (0, 3),
        (0, 4),
        (0, 5),
        (1, 6),
        (1, 7),
    ]
    assert batch.decision.tolist() == [True, False, False, False, False, False]
    assert batch.tokens.dtype == torch.long and int(batch.columns.min()) >= 1
