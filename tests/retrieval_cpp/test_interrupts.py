"""A signal, as Ctrl-C sends one, is answered within about a second."""

import os
import signal
import time

import numpy as np
import pytest

from retrieval_cpp import BM25Index, DenseIndex

# Code with a sanitizer takes ten times as long.
SECONDS = 20 if "san" in os.environ.get("LD_PRELOAD", "") else 2
TEXT = " ".join(f"word{i}" for i in range(100))


def building():
    return lambda: BM25Index.build([TEXT] * 2_000_000)


def searching():
    index = BM25Index.build([TEXT] * 20_000)
    return lambda: index.search([TEXT] * 100_000, 10)


def searching_vectors():
    vectors = np.random.default_rng(0).normal(size=(50_000, 64)).astype(np.float32)
    index = DenseIndex(vectors)
    return lambda: index.search(np.tile(vectors, (5, 1)), 10)


@pytest.mark.parametrize("prepare", [building, searching, searching_vectors])
def test_a_signal_is_answered(prepare):
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    work = prepare()
    before = signal.signal(signal.SIGALRM, stop)
    try:
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Stop):
            work()
        assert time.perf_counter() - start < SECONDS
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
