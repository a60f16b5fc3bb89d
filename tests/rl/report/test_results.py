"""Episodes as records, and back; what of them reaches a terminal."""

from dataclasses import replace

import pytest

from rl import Decoding, rollout
from rl.report.evaluation import Evaluation, episode_of
from rl.report.summary import summarize
from rl.report.text import as_text
from tests.rl.tiny import QUESTIONS, TOKENIZER, environment, random_policy


@pytest.fixture
def episodes():
    return rollout(random_policy(), TOKENIZER, environment(), QUESTIONS, Decoding(force="retrieve"))


def evaluation(questions=QUESTIONS) -> Evaluation:
    parts = random_policy(), TOKENIZER, environment(), ("popqa", "test"), questions, {}
    return Evaluation("e", *parts, "cpu", "fp32")


def records(episodes):
    return [evaluation().record(e) for e in episodes]


def test_what_is_read_back_has_the_figures_of_what_was_played(episodes):
    again = [episode_of(r, e.question) for r, e in zip(records(episodes), episodes, strict=True)]
    expected = {k: pytest.approx(v, abs=1e-6, nan_ok=True) for k, v in summarize(episodes).items()}
    assert summarize(again) == expected


def test_rewards_stand_beside_the_tokens_of_actions(episodes):
    for record, episode in zip(records(episodes), episodes, strict=True):
        assert sum(r for _, r in record["tokens"]) == pytest.approx(episode.reward, abs=1e-5)
        assert record["tokens"][0][0] == "[RETRIEVE]", "forced decisions are shown"
        assert "<obs>" not in [token for token, _ in record["tokens"]]


def test_a_hash_of_questions_sees_every_change():
    changed = replace(QUESTIONS[0], answers=("x",))
    lists = [QUESTIONS, QUESTIONS[:3], [QUESTIONS[1], QUESTIONS[0], *QUESTIONS[2:]]]
    lists.append([changed, *QUESTIONS[1:]])
    about = [evaluation(questions).facts for questions in lists]
    assert len({one["questions_sha256"] for one in about}) == 4


def test_no_control_character_reaches_a_terminal(episodes):
    [record, *_] = records(episodes)
    escape = "\x1b]0;title\x07\x9b31m"
    hostile = record | {"question": escape, "answer": escape, "malformed": False, "seconds": 1.0}
    text = as_text(hostile)
    assert not [c for c in text if c != "\n" and not c.isprintable()] and "title" in text
