"""benchmarks/pretrained.py on a tiny GGUF file: both sides take the same step, every row prints."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import pretrained
from rl.episode import Part
from tests.model.test_gguf import write_gguf

SMALL = ["--tokens", "60", "--batch", "2", "--episodes", "4", "--questions", "4", "--k", "2"]
FAST = ["--write", "3", "--rounds", "1", "--threads", "1", "--dtypes", "fp32"]


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_demonstrations_have_the_asked_length_and_a_loss_on_actions_alone():
    episodes = pretrained.demonstrations(3, 60, 50)
    assert [len(e.tokens) for e in episodes] == [60] * 3
    for episode in episodes:
        assert sum(episode.mask()) == 16 and max(episode.tokens) < 50
        assert episode.parts.count(Part.DECISION) == 2 and episode.parts[0] == Part.STATE


def test_steps_of_the_peer_differ_in_nothing_but_where_logits_are_computed(init):
    args = SimpleNamespace(init=init, device="cpu", batch=2, episodes=4, tokens=60)
    gradients = []
    for sparse in (False, True):
        step = pretrained.peer_step(args, "fp32")
        step("eager", sparse)
        model = step.__closure__[step.__code__.co_freevars.index("model")].cell_contents
        gradients.append([p.grad for p in model.parameters()])
    for plain, other in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("row, least", [("memory", 4), ("sft", 5), ("rollout", 4), ("ppo", 7)])
def test_every_row_prints_its_figures(init, capfd, monkeypatch, row, least):
    argv = ["pretrained", "--rows", row, "--init", str(init), *SMALL, *FAST]
    monkeypatch.setattr(sys, "argv", argv)
    pretrained.main()
    out = capfd.readouterr().out
    figures = re.findall(r"^  \S.*?\s{2,}([\d,]+(?:\.\d+)?)", out, re.MULTILINE)
    assert len(figures) >= least and "failed" not in out
