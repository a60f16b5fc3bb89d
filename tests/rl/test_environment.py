"""The environment alone: room for the question, search results that are none, observations, rewards."""

import numpy as np
import pytest

from rl import Episode, RagEnv, RetrieverError, Reward

from .tiny import CORPUS, QUESTIONS, TOKENIZER, Retriever, environment, world


def test_defaults_come_from_the_world():
    env = RagEnv(world(k=3, quota=2), Retriever())
    assert (env.k, env.quota) == (3, 2)
    env = RagEnv(world(k=3, quota=2), Retriever(), k=1, quota=0)
    assert (env.k, env.quota) == (1, 0)
    assert Reward() == Reward(
        exact_match=1.0, f1=1.0, retrieval=-0.2, malformed=-1.0
    )  # the paper's


@pytest.mark.parametrize(
    "quota, k, longest",
    [
        (0, 2, 1 + 6),  # [ANSWER] and its budget
        (
            1,
            2,
            1 + 8 + 2 + 2 * 16 + 1 + 1 + 6,
        ),  # [RETRIEVE] query <obs> p <sep> p </obs> [ANSWER] answer
        (3, 1, 3 * (1 + 8 + 2 + 16) + 1 + 6),
    ],
)
def test_room_for_the_question(quota, k, longest):
    env = environment(quota=quota, k=k)
    assert (
        longest <= env.longest_after_question() <= longest + quota
    )  # one <sep> per retrieval may be spare
    assert env.question_room(200) == 200 - 1 - env.longest_after_question()
    assert env.question_room(env.longest_after_question() + 2) == 1
    with pytest.raises(ValueError, match="has no room for a question"):
        env.question_room(env.longest_after_question() + 1)


def test_search_by_hand():
    retriever = Retriever(lambda query: {"road": [1, 2], "north": [0, -1], "xyz": [-1, -1]}[query])
    road, north, nothing = environment(retriever).search(["road", "north", "xyz"])
    assert (road.query, road.passages, road.scores) == ("road", [1, 2], [1.0, 0.5])
    assert (north.passages, north.scores) == ([0], [1.0])
    assert (nothing.passages, nothing.scores) == ([], [])
    assert retriever.asked == ["road", "north", "xyz"]


def test_no_query_asks_nothing():
    retriever = Retriever()
    assert environment(retriever).search([]) == [] and retriever.asked == []


class Answers:
    """A retriever that answers anything with this."""

    def __init__(self, ids, scores=None):
        self.ids, self.scores = (
            np.array(ids),
            np.zeros(np.shape(ids)) if scores is None else np.array(scores),
        )

    def search(self, queries, k):
        return self.ids, self.scores


NO_RESULTS = {
    "a row too few": Answers([[0, 1]]),
    "a row too many": Answers([[0, 1]] * 3),
    "no row": Answers(np.zeros((0, 2), int)),
    "scores of fewer rows": Answers([[0, 1]] * 2, [[0.5, 0.5]]),
    "scores of fewer columns": Answers([[0, 1]] * 2, [[0.5], [0.5]]),
    "more than k": Answers([[0, 1, 2]] * 2),  # the observation would not fit the context
    "no such passage": Answers([[0, 4]] * 2),
    "one dimension": Answers([0, 1]),
    "no row numbers": Answers([[0.5, 1.5]] * 2),
}


@pytest.mark.parametrize("answer", NO_RESULTS.values(), ids=NO_RESULTS)
def test_what_is_no_search_result_is_an_error(answer):
    with pytest.raises(RetrieverError, match="^the retriever returned"):
        environment(answer).search(["a", "b"])


def test_a_retriever_that_fails_raises_with_its_reason():
    class Broken:
        def search(self, queries, k):
            raise ConnectionError("the index is on another planet")

    with pytest.raises(RetrieverError, match="the index is on another planet") as error:
        environment(Broken()).search(["a"])
    assert isinstance(error.value.__cause__, ConnectionError)


def test_observations_are_cut_and_hold_no_special_token():
    env = environment(Retriever((3, 1)), passage_tokens=5)
    (turn,) = env.search(["x"])
    first, second = (TOKENIZER.encode(CORPUS[i].full_text)[:5] for i in (3, 1))
    for _ in range(2):  # the second time from what was kept
        assert env.observe(turn, TOKENIZER) == [
            TOKENIZER.obs,
            *first,
            TOKENIZER.sep,
            *second,
            TOKENIZER.obs_end,
        ]
    assert environment(Retriever((-1, -1))).search(["x"])[0].passages == []


@pytest.mark.parametrize(
    "answer, em, f1",
    [("Ada Quill", 1, 1), ("the Miss Quill!", 1, 1), ("Quill", 0, 2 / 3), ("Caldis", 0, 0)],
)
def test_the_answer_is_paid_by_its_weights(answer, em, f1):
    env, episode = environment(reward=Reward(exact_match=3.0, f1=0.5)), Episode(QUESTIONS[0])
    assert env.judge(episode, answer) == pytest.approx(3.0 * em + 0.5 * f1)
    assert (episode.answer, episode.exact_match) == (answer, em) and episode.f1 == pytest.approx(f1)
