"""Decoding with a cache against full forward passes: ragged rows, two turns, selected rows,
sampling."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import Session
from model.policy import sample

from .tiny import tiny_config, tiny_policy

POLICY = tiny_policy(tiny_config(vocab_size=60, max_position_embeddings=64))
EOS = 2


@torch.no_grad()
def full_log_probs(tokens: list[int], temperature: float = 1.0):
    """Log-probabilities after every prefix of one row, without cache, batch or padding."""
    return (POLICY(torch.tensor([tokens]))[0][0] / temperature).log_softmax(-1)


def assert_stands_after(session: Session, rows: list[list[int]]):
    assert session.length.tolist() == [len(row) for row in rows]
    for logits, row in zip(session.logits, rows, strict=True):
        assert (logits.log_softmax(-1) - full_log_probs(row)[-1]).abs().max() < 1e-5


chunk = st.lists(st.integers(0, 59), min_size=1, max_size=9)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(chunk, chunk, chunk), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_cached_is_full_for_ragged_rows_across_turns(rows, random):
    first, second, third = ([row[i] for row in rows] for i in range(3))
    with torch.no_grad():
        session = POLICY.session(first)
        assert_stands_after(session, first)
        kept = random.sample(
            range(len(rows)), random.randint(1, len(rows))
        )  # any rows, in any order
        session = session.select(torch.tensor(kept)).feed([second[i] for i in kept])
        assert_stands_after(session, [first[i] + second[i] for i in kept])
        session = session.feed([third[i] for i in kept])
        assert_stands_after(session, [first[i] + second[i] + third[i] for i in kept])


@settings(max_examples=30)
@given(
    st.lists(st.tuples(chunk, st.integers(0, 59), chunk), min_size=1, max_size=4),
    st.integers(1, 12),
)
def test_greedy_text_is_the_argmax_of_full_passes(rows, budget):
    """Two turns as the rollout plays them: look ahead, then feed what was written, then look ahead
    again."""

    def slow(tokens):
        text = []
        while len(text) < budget and EOS not in text:
            text.append(int(full_log_probs(tokens + text)[-1].argmax()))
        return text

    with torch.no_grad():
        session = POLICY.session([row[0] for row in rows])
        first = torch.tensor([row[1] for row in rows])
        texts = session.generate(first, budget, 0.0, EOS)
        assert texts == [slow(row[0] + [row[1]]) for row in rows]
        assert_stands_after(session, [row[0] for row in rows])  # looking ahead did not move it
        fed = [[row[1], *text, *row[2]] for row, text in zip(rows, texts, strict=True)]
        session = session.feed(fed)
        before = [row[0] + chunk for row, chunk in zip(rows, fed, strict=True)]
        assert_stands_after(session, before)
        assert session.generate(first, budget, 0.0, EOS) == [
            slow([*tokens, row[1]]) for row, tokens in zip(rows, before, strict=True)
        ]


def test_finished_rows_are_dropped_without_a_trace():
    """Rows that stop at very different times, so that the cache is compacted more than once."""
    generator = torch.Generator().manual_seed(3)
    prompts = [
        torch.randint(3, 60, (int(n),), generator=generator).tolist()
        for n in torch.randint(1, 12, (24,), generator=generator)
    ]
    first = torch.randint(3, 60, (24,), generator=generator)
    with torch.no_grad():
        for eos in range(60):
            together = POLICY.session(prompts).generate(first, 20, 0.0, eos)
            stops = {len(text) for text in together if text[-1] == eos}
            if len(stops) >= 3:  # a token that rows reach at different steps
                assert together == [
                    POLICY.session([p]).generate(first[i : i + 1], 20, 0.0, eos)[0]
                    for i, p in enumerate(prompts)
                ]
                return
    pytest.fail("no token stops rows at different steps")


def test_many_rows_are_read_in_groups_without_a_trace():
    """More rows than one forward pass reads, of many lengths, twice: each stands where it would
    stand alone."""
    generator = torch.Generator().manual_seed(4)

    def draw():
        return [
            torch.randint(3, 60, (int(n),), generator=generator).tolist()
            for n in torch.randint(1, 20, (2 * POLICY.read_rows + 5,), generator=generator)
        ]

    first, second = draw(), draw()
    with torch.no_grad():
        assert_stands_after(
            POLICY.session(first).feed(second), [a + b for a, b in zip(first, second, strict=True)]
        )


def test_the_inference_copy_computes_what_autocast_does():
    """bf16 weights without autocast against fp32 weights under it; the original is left as it
    was."""
    policy = tiny_policy(tiny_config(vocab_size=60))
    chunks = [[5, 6, 7, 8], [9, 10]]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = policy.session(chunks).logits
        twin = policy.for_inference()
    with torch.no_grad():
        found = twin.session(chunks).logits
    assert twin.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16 and {
        p.dtype for p in policy.parameters()
    } == {torch.float32}
    assert all(p.requires_grad for p in policy.parameters()) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():  # without autocast the copy is the same policy in float32
        assert torch.equal(
            policy.for_inference().session(chunks).logits, policy.session(chunks).logits
        )


def test_text_ends_with_eos_or_fills_the_budget():
    with torch.no_grad():
        session = POLICY.session([[1, i] for i in range(40)])
        texts = session.generate(
            torch.full((40,), 7), 15, 1.0, EOS, torch.Generator().manual_seed(0)
        )
    lengths = [len(text) for text in texts]
    assert all(EOS not in text[:-1] and (text[-1] == EOS or len(text) == 15) for text in texts)
    assert min(lengths) < 15 == max(lengths)


def test_every_row_stops_at_its_own_budget():
    """Greedy: what a row writes within its budget does not depend on the budgets of the others."""
    prompts, first = [[1, i] for i in range(12)], torch.full((12,), 7)
    budgets = torch.tensor([1, 15, 4, 9] * 3)
    with torch.no_grad():
        session = POLICY.session(prompts)
        texts = session.generate(first, budgets, 0.0, EOS)
        longest = session.generate(first, 15, 0.0, EOS)
    assert texts == [text[:n] for text, n in zip(longest, budgets.tolist(), strict=True)]
    assert {len(text) for text in texts} >= {1, 4, 9}


def test_more_than_the_context_is_refused():
    with torch.no_grad():
        session = POLICY.session([[3] * 40, [3] * 60])
        session.feed(
            [[4] * 24, [4] * 4]
        )  # 64 and 64: just fits, although the padding stands beyond
        with pytest.raises(ValueError, match="exceeds the context of 64 tokens"):
            session.feed([[4] * 25, [4]])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_sampling_divides_the_logits_by_the_temperature(temperature):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -6.0])
    tokens = sample(logits.expand(200_000, 5), temperature, torch.Generator().manual_seed(0))
    frequency = torch.bincount(tokens, minlength=5) / 200_000
    torch.testing.assert_close(frequency, (logits / temperature).softmax(-1), atol=0.005, rtol=0)
    assert frequency[4] > 0 or temperature < 1  # no top-k, no top-p: the tail is reachable


def test_sampling_at_zero_is_greedy():
    logits = torch.randn(50, 9)
    assert torch.equal(sample(logits, 0.0), logits.argmax(-1))


def test_the_same_generator_gives_the_same_text():
    with torch.no_grad():
        session = POLICY.session([[1, 5, 6]] * 8)

        def play(seed):
            return session.generate(
                torch.full((8,), 7), 12, 1.0, EOS, torch.Generator().manual_seed(seed)
            )

        assert play(1) == play(1) != play(2)
        assert len({tuple(text) for text in play(1)}) > 4  # rows are independent draws
