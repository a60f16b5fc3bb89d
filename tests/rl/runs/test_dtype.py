"""--dtype auto: what the machine does faster, and what a resumed run began with."""

import pytest
import torch

from rl.runs.launch import choose_dtype, precision


def test_a_given_dtype_is_kept_and_cuda_multiplies_bf16():
    assert [choose_dtype(name, "cpu") for name in ("bf16", "fp32")] == ["bf16", "fp32"]
    assert choose_dtype("auto", "cuda") == "bf16"


@pytest.mark.parametrize("amx, choice", [(True, "bf16"), (False, "fp32")])
def test_auto_is_the_faster_one(monkeypatch, amx, choice):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_dtype("auto", "cpu") == choice


def test_bf16_multiplies_in_bf16_and_fp32_does_not():
    x = torch.ones(2, 2)
    for dtype, expected in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with precision("cpu", dtype):
            assert (x @ x).dtype == expected
