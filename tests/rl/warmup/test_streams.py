"""Named random streams: their numbers are part of the bits of every run on disk."""

import numpy as np

from rl.warmup.questions import Stream


def test_numbers_are_those_that_runs_were_made_with():
    assert [(s.name, int(s)) for s in Stream] == [
        ("READ_QUESTIONS", 0),
        ("READ", 1),
        ("MIX_QUESTIONS", 2),
        ("MIX", 3),
        ("PROBE", 4),
        ("PPO_QUESTIONS", 5),
        ("MODULES_QUESTIONS", 7),
        ("RENAMING", 8),
        ("TYPING", 9),
    ]


def test_a_name_seeds_as_its_number():
    named, numbered, other = (
        np.random.default_rng([7, stream, 3]).random(4) for stream in (Stream.MIX, 3, 4)
    )
    assert np.array_equal(named, numbered) and not np.array_equal(named, other)
