"""Threads that share the work: order, errors, and the modes that torch keeps per thread."""

import time

import pytest
import torch

from rl import Workers
from rl.runs.parallel import backward


@pytest.fixture(scope="module")
def workers() -> Workers:
    return Workers(3)


def test_results_come_in_order(workers):
    sleepy = lambda x: (time.sleep(0.01 * (3 - x)), x * x)[1]  # the first is the last to finish
    assert workers.count == 3 and list(workers.map(sleepy, range(4))) == [0, 1, 4, 9]


def test_an_error_reaches_the_caller(workers):
    with pytest.raises(ZeroDivisionError):
        list(workers.map(lambda x: 1 / x, [1, 0]))


@pytest.mark.parametrize("threads", [1, 3])
def test_every_item_sees_the_modes_of_the_caller_and_one_thread(threads):
    seen = lambda _: (
        torch.is_grad_enabled(),
        (torch.ones(2, 2) @ torch.ones(2, 2)).dtype,
        torch.get_num_threads(),
    )
    workers = Workers(threads)
    assert set(workers.map(seen, range(6))) == {(True, torch.float32, 1)}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert set(workers.map(seen, range(6))) == {(False, torch.bfloat16, 1)}


def test_gradients_of_micro_batches_add_up(workers):
    """Against .backward() over all rows at once."""
    torch.manual_seed(0)
    module, x = torch.nn.Linear(3, 2, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    module(x).pow(2).sum().backward()
    whole = [p.grad.clone() for p in module.parameters()]
    differentiate = lambda rows: (
        len(rows),
        torch.autograd.grad(module(rows).pow(2).sum(), list(module.parameters())),
    )
    for parts in (x.split(8), x.split(3)):
        assert backward(list(module.parameters()), differentiate, parts, workers.map) == tuple(
            map(len, parts)
        )
        for parameter, expected in zip(module.parameters(), whole, strict=True):
            torch.testing.assert_close(parameter.grad, expected)
