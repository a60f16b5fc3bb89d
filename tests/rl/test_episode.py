"""Parts that are born with the tokens, and batches that keep them."""

import torch

from rl import Episode, Part, collate
from rl.environment import observation

from .tiny import QUESTIONS, TOKENIZER

S, D, Q, A = Part.STATE, Part.DECISION, Part.QUERY, Part.ANSWER


def episode(*pieces: tuple[list[int], Part]) -> Episode:
    result = Episode(QUESTIONS[0])
    for tokens, part in pieces:
        result.append(tokens, part)
    return result


def test_observation_by_hand():
    obs, sep, end = TOKENIZER.obs, TOKENIZER.sep, TOKENIZER.obs_end
    one, two = "Ada Quill was born.", "Salt"
    a, b = TOKENIZER.encode(one)[:3], TOKENIZER.encode(two)[:3]
    assert len(a) == 3 < len(TOKENIZER.encode(one))
    assert observation([one, two, one], TOKENIZER, 3) == [obs, *a, sep, *b, sep, *a, end]
    assert observation([two], TOKENIZER, 3) == [obs, *b, end]
    assert observation([], TOKENIZER, 3) == [obs, end]


RETRIEVING = (
    ([1, 20, 21], S),
    ([6], D),
    ([30, 2], Q),
    ([3, 40, 4], S),
    ([7], S),  # the forced [ANSWER] is not the policy's
    ([50, 51, 2], A),
)


def test_an_episode_by_hand():
    e = episode(*RETRIEVING)
    e.rewards[5], e.rewards[12] = -0.2, 2.0
    assert e.tokens == [1, 20, 21, 6, 30, 2, 3, 40, 4, 7, 50, 51, 2]
    assert e.parts == [S, S, S, D, Q, Q, S, S, S, S, A, A, A]
    assert [i for i, own in enumerate(e.mask()) if own] == [3, 4, 5, 10, 11, 12]
    assert len(e.rewards) == 13 and e.reward == 1.8


def test_a_batch_knows_where_the_learnt_tokens_stand():
    e, columns = episode(*RETRIEVING), [3, 4, 5, 10, 11, 12]
    batch = collate([e], TOKENIZER.pad)
    assert batch.columns.tolist() == columns
    assert batch.decision.tolist() == [column == 3 for column in columns]
    assert batch.learnt(batch.tokens).tolist() == [e.tokens[column] for column in columns]


def test_collate_keeps_the_parts_whatever_the_pad():
    """<pad>, <eos> and the pad id inside an episode are tokens like any other: the part counts."""
    pad = TOKENIZER.pad
    a = episode(([1, pad], S), ([6], D), ([pad, 2, 2], Q))
    b = episode(([1, 20, 21, 22, 23], S), ([7], S), ([50, 2], A))
    batch = collate([a, b], pad)
    padded = [1, pad, 6, pad, 2, 2, pad, pad]
    assert batch.tokens.tolist() == [padded, [1, 20, 21, 22, 23, 7, 50, 2]]
    assert batch.parts.tolist() == [[S, S, D, Q, Q, Q, S, S], [S, S, S, S, S, S, A, A]]
    places = list(zip(batch.rows.tolist(), batch.columns.tolist(), strict=True))
    assert places == [(0, 2), (0, 3), (0, 4), (0, 5), (1, 6), (1, 7)]
    assert batch.decision.tolist() == [True, False, False, False, False, False]
    assert batch.tokens.dtype == torch.long and int(batch.columns.min()) >= 1
