"""--dtype auto: what the machine does faster, and what a resumed run began with."""

import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from rl.runs import precision as module
from rl.runs.precision import choose_dtype, precision


def test_a_given_dtype_is_kept_and_cuda_multiplies_bf16():
    assert [choose_dtype(name, "cpu") for name in ("bf16", "fp32")] == ["bf16", "fp32"]
    assert choose_dtype("auto", "cuda") == "bf16"


@pytest.mark.parametrize("slow, choice", [("bf16", "fp32"), ("fp32", "bf16")])
def test_auto_is_the_faster_one(monkeypatch, slow, choice):
    def slowed(device, dtype):
        time.sleep(0.02 * (dtype == slow))
        return nullcontext()

    monkeypatch.setattr(module, "precision", slowed)
    threads = torch.get_num_threads()
    assert choose_dtype("auto", "cpu") == choice and torch.get_num_threads() == threads


def test_all_ranks_get_the_choice_of_rank_0(monkeypatch):
    monkeypatch.setattr(module, "ranks", SimpleNamespace(map=lambda function, items: ["fp32"]))
    monkeypatch.setattr(module, "faster", lambda: "bf16")
    assert choose_dtype("auto", "cpu") == "fp32"


def test_bf16_multiplies_in_bf16_and_fp32_does_not():
    x = torch.ones(2, 2)
    for dtype, expected in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with precision("cpu", dtype):
            assert (x @ x).dtype == expected
