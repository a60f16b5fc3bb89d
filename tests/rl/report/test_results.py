"""Results on disk: written whole, read back, played again only where something differs."""

import json
from dataclasses import replace

import pytest

from rl import Decoding, rollout
from rl.report.results import episode_record, played, questions_sha256
from rl.report.summary import summarize
from rl.report.text import as_text
from tests.rl.tiny import QUESTIONS, TOKENIZER, environment, random_policy

ABOUT = {"world": "four", "rows": 4, "weights_sha256": "a"}


@pytest.fixture
def episodes():
    return rollout(random_policy(), TOKENIZER, environment(), QUESTIONS, Decoding(force="retrieve"))


def records(episodes):
    return [episode_record(e, environment().corpus, TOKENIZER) for e in episodes]


def test_what_is_read_back_has_the_figures_of_what_was_played(tmp_path, episodes):
    file = tmp_path / "eval/x.json"
    first, result = played(file, ABOUT, QUESTIONS, lambda: episodes, records, reuse=True)
    assert first is episodes and result.about["metrics"]["em"] == summarize(episodes)["em"]
    again, same = played(file, ABOUT, QUESTIONS, pytest.fail, records, reuse=True)
    assert same == result
    expected = {k: pytest.approx(v, abs=1e-6, nan_ok=True) for k, v in summarize(episodes).items()}
    assert summarize(again) == expected
    assert json.loads(file.read_text())["seconds"] >= 0


@pytest.mark.parametrize("change", [{"rows": 5}, {"weights_sha256": "b"}, {"quota": 2}])
def test_what_is_about_something_else_is_played_again(tmp_path, episodes, change):
    file, count = tmp_path / "x.json", []

    def play():
        count.append(1)
        return episodes

    played(file, ABOUT, QUESTIONS, play, records, reuse=True)
    played(file, ABOUT | change, QUESTIONS, play, records, reuse=True)
    assert len(count) == 2
    played(file, ABOUT | change, QUESTIONS, play, records, reuse=False)
    assert len(count) == 3, "asked to play anew"


def test_rewards_stand_beside_the_tokens_of_actions(episodes):
    for record, episode in zip(records(episodes), episodes, strict=True):
        assert sum(r for _, r in record["tokens"]) == pytest.approx(episode.reward, abs=1e-5)
        assert record["tokens"][0][0] == "[RETRIEVE]", "forced decisions are shown"
        assert "<obs>" not in [token for token, _ in record["tokens"]]


def test_a_hash_of_questions_sees_every_change():
    first = questions_sha256(QUESTIONS)
    assert first != questions_sha256(QUESTIONS[:3])
    assert first != questions_sha256([QUESTIONS[1], QUESTIONS[0], *QUESTIONS[2:]])
    changed = replace(QUESTIONS[0], answers=("x",))
    assert first != questions_sha256([changed, *QUESTIONS[1:]])


def test_no_control_character_reaches_a_terminal(episodes):
    [record, *_] = records(episodes)
    escape = "\x1b]0;title\x07\x9b31m"
    hostile = record | {"question": escape, "answer": escape, "malformed": False, "seconds": 1.0}
    text = as_text(hostile)
    assert not [c for c in text if c != "\n" and not c.isprintable()] and "title" in text
