"""docs/figures.py: pictures that are well-formed and hold what they are about."""

import importlib.util
import json
from xml.etree import ElementTree

import pytest

from rl.runs.flags import UsageError
from tests.shared import ROOT


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs/figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(picture: str) -> list[str]:
    return [e.text for e in ElementTree.fromstring(picture).iter() if e.tag.endswith("text")]


def test_the_loop(figures):
    words = texts(figures.loop())
    steps = ("question", "decide", "query", "passages", "answer", "reward", "PPO")
    assert all(any(step in word for word in words) for step in steps)
    assert figures.loop() == (ROOT / "docs/loop.svg").read_text(), "python docs/figures.py"


def test_the_curves_of_a_run(figures, tmp_path):
    lines = [
        {"iteration": i, "reward_policy": 0.5, "p_retrieve": 0.25, "hit": 0.5, "kl": 0.0}
        for i in range(3)
    ]
    greedy = {"reward": 0.75, "em": 0.5, "retrieval": 0.125, "hit": 1.0}
    lines.append({"iteration": 3, "dev": {"greedy": greedy, "greedy_slices": {}}})
    log = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(log)
    words = texts(figures.curves(tmp_path))
    shown = ("Reward", "dev reward: 0.750 at the end", "dev retrieval: 0.125 at the end")
    assert set(shown) <= set(words)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    with pytest.raises(UsageError, match="no PPO run"):
        figures.curves(tmp_path)


def test_the_sweep_is_drawn_from_the_committed_figures(figures):
    picture = figures.sweep(ROOT / "docs/real-text-two-cores.json")
    assert texts(picture).count("6 joint, own decision") == 4, "EM and reward, two seeds"
    assert picture == (ROOT / "docs/sweep.svg").read_text(), "python docs/figures.py"
