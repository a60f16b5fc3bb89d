"""--reward FILE.py:function: what it is given, what it may return, how it fails."""

import pytest

from rl.environment import Action
from rl.runs.flags import UsageError
from rl.runs.setting import load_reward
from tests.rl.tiny import QUESTIONS, TOKENIZER, environment, text

SHORT = """
def short(question, answers, episode):
    words = len(episode.answer.split())
    return float(episode.answer in answers) - 0.1 * words
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SHORT)
    return path


def test_an_answer_earns_what_the_function_says(file):
    env = environment(own_reward=load_reward(f"{file}:short"), answer_budget=12)
    episodes = env.reset(QUESTIONS[:2], TOKENIZER, 512)
    query = Action(True, [], given="Norland")
    env.step(episodes, [query, query], TOKENIZER)
    answers = [Action(False, text("Ada Quill")), Action(False, text("Norland"))]
    env.step(episodes, answers, TOKENIZER)
    right, wrong = episodes
    assert [r for r in right.rewards if r] == pytest.approx([-0.2, 1 - 0.1 * 2])
    assert [r for r in wrong.rewards if r] == pytest.approx([-0.2, -0.1])
    assert right.exact_match == 1 and wrong.exact_match == 0  # measured as ever


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nowhere.py:f", "FileNotFoundError"),
        ("f", "Error: "),
        ("{file}:other", "KeyError: 'other'"),
        ("{folder}/syntax.py:f", "SyntaxError"),
    ],
)
def test_what_cannot_be_opened(file, spec, said):
    (file.parent / "syntax.py").write_text("def f(:\n")
    with pytest.raises(UsageError, match=said):
        load_reward(spec.format(file=file, folder=file.parent))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return float('nan')", "nan for the answer 'x'"),
        ("return 10 ** 400", "OverflowError"),
        ("return None", "TypeError"),
        ("return answers[9]", "IndexError"),
    ],
)
def test_what_is_no_reward(tmp_path, body, said):
    path = tmp_path / "bad.py"
    path.write_text(f"def f(question, answers, episode):\n    {body}\n")
    reward = load_reward(f"{path}:f")
    [episode] = environment().reset(QUESTIONS[:1], TOKENIZER, 512)
    episode.answer = "x"
    with pytest.raises(UsageError, match=said):
        reward(episode)
