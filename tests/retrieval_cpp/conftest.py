"""Fixtures of the kernel's tests."""

import pytest

from retrieval_cpp import _core


@pytest.fixture(params=_core.simd_levels())
def simd(request, monkeypatch):
    """Runs a test once for every instruction set of this machine, the portable one among them."""
    monkeypatch.setenv("SMARTRAG_SIMD", request.param)
    assert _core.simd_level() == request.param
    return request.param
