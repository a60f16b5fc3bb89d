"""One thread and no surprises: tiny tensors are faster on one core, and every property test draws
the same examples."""

import signal

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# A job in the background starts with SIGINT ignored, and so would what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("suite", deadline=None, derandomize=True, database=None, print_blob=False)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
