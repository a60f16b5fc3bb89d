"""The environment alone: the limit of a question, results that are none, one step, rewards."""

import numpy as np
import pytest

from rl import Action, Episode, Part, RagEnv, RetrieverError, Reward
from rl.environment import MANY, ContextError

from .oracle import check
from .tiny import CORPUS, QUESTIONS, TOKENIZER, Retriever, environment, text, world

S, D, Q, A = Part.STATE, Part.DECISION, Part.QUERY, Part.ANSWER


def test_defaults_come_from_the_world():
    env = RagEnv(world(k=3, quota=2), Retriever())
    assert (env.k, env.quota) == (3, 2)
    env = RagEnv(world(k=3, quota=2), Retriever(), k=1, quota=0)
    assert (env.k, env.quota) == (1, 0)
    papers = Reward(exact_match=1.0, f1=1.0, retrieval_cost=0.2, malformed_cost=1.0)
    assert Reward() == papers


@pytest.mark.parametrize(
    "quota, k, longest",
    [
        (0, 2, 1 + 6),  # [ANSWER] and its budget
        (
            1,
            2,
            1 + 8 + 2 + 2 * 16 + 1 + 1 + 6,
        ),  # [RETRIEVE] query <obs> p <sep> p </obs> [ANSWER] ..
        (3, 1, 3 * (1 + 8 + 2 + 16) + 1 + 6),
    ],
)
def test_the_limit_of_a_question(quota, k, longest):
    env = environment(quota=quota, k=k)
    spare = 200 - 1 - longest - env.question_limit(200)
    assert 0 <= spare <= quota  # one <sep> per retrieval may be spare
    shortest = 200 - env.question_limit(200) + 1
    assert env.question_limit(shortest) == 1
    with pytest.raises(ContextError, match="has no room for a question"):
        env.question_limit(shortest - 1)


# ----------------------------------------------------------------------------------------- search


def test_search_by_hand():
    retriever = Retriever(lambda query: {"road": [1, 2], "north": [0, -1], "xyz": [-1, -1]}[query])
    road, north, nothing = environment(retriever).search(["road", "north", "xyz"])
    assert (road.query, road.passages, road.scores) == ("road", [1, 2], [1.0, 0.5])
    assert (north.passages, north.scores) == ([0], [1.0])
    assert (nothing.passages, nothing.scores) == ([], [])
    assert retriever.asked == ["road", "north", "xyz"]


def test_no_query_searches_for_nothing():
    retriever = Retriever()
    assert environment(retriever).search([]) == [] and retriever.asked == []


class Answers:
    """A retriever that answers anything with this."""

    def __init__(self, ids, scores=None, lexical: bool = False):
        self.ids, self.lexical = np.array(ids), lexical
        self.scores = np.zeros(self.ids.shape) if scores is None else np.array(scores)

    def search(self, queries, k):
        return self.ids, self.scores


NAN, INF = float("nan"), float("inf")
LIES = {
    "a row too few": Answers([[0, 1]]),
    "a row too many": Answers([[0, 1]] * 3),
    "no row": Answers(np.zeros((0, 2), int)),
    "scores of fewer rows": Answers([[0, 1]] * 2, [[0.5, 0.5]]),
    "scores of fewer columns": Answers([[0, 1]] * 2, [[0.5], [0.5]]),
    "more than k": Answers([[0, 1, 2]] * 2),  # the observation would not fit the context
    "no such passage": Answers([[0, 4]] * 2),
    "an id below -1": Answers([[0, -2]] * 2, lexical=True),
    "one dimension": Answers([0, 1]),
    "no row numbers": Answers([[0.5, 1.5]] * 2),
    "truth values": Answers([[True, False]] * 2),
    "a score that is no number": Answers([[0, 1]] * 2, [[0.5, 0.5], [0.5, NAN]]),
    "an infinite score": Answers([[0, 1]] * 2, [[INF, 0.5], [0.5, 0.5]]),
    "nothing at all": Answers(np.zeros((2, 0), int)),
    "0 of k hits for a query": Answers([[0, 1], [-1, -1]]),
    "1 of k hits for a query": Answers([[0, 1], [2, -1]]),
    "one column": Answers([[0], [1]]),
    "no list": Answers(7, 0.5),
    "scores that are texts": Answers([[0, 1]] * 2, [["0.5", "0.5"]] * 2),
    "scores that are nothing": Answers([[0, 1]] * 2, [[None, None]] * 2),
    "a passage twice": Answers([[0, 1], [2, 2]]),
}


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES)
def test_what_is_no_search_result_is_an_error(answer):
    with pytest.raises(RetrieverError, match=r"^the retriever returned"):
        environment(answer).search(["a", "b"])


@pytest.mark.parametrize(
    "answer, message",
    [
        (Answers([[0, 1], [-1, -1]]), r"returned \[\] for \'b\': no 2 passages of a corpus of 4"),
        (
            Answers([[0, -7]] * 2),
            r"returned \[\(0, 0.0\), \(-7, 0.0\)\] for \'a\': no 2 passages of a corpus of 4",
        ),
        (Answers([[0, 9]] * 2), r"returned \[\(0, 0.0\), \(9, 0.0\)\] for \'a\'"),
        (Answers([[0, 1]]), r"returned ids int64 \[1, 2\] and scores \[1, 2\] for 2 queries"),
    ],
)
def test_the_error_says_what_was_wrong(answer, message):
    with pytest.raises(RetrieverError, match=message):
        environment(answer).search(["a", "b"])


def test_a_corpus_of_fewer_than_k_passages_has_no_more_hits():
    everything = Answers([[0, 1, 2, 3, -1]] * 2, [[4.0, 3.0, 2.0, 1.0, -INF]] * 2)
    assert [len(turn.passages) for turn in environment(everything, k=5).search(["a", "b"])] == [
        4,
        4,
    ]
    with pytest.raises(RetrieverError, match=r"returned \[.*\] for \'a\': no 5 passages"):
        environment(Answers([[0, 1, 2, -1, -1]] * 2), k=5).search(["a", "b"])


@pytest.mark.parametrize("scores", [NAN, -INF])
def test_the_score_of_no_passage_does_not_count(scores):
    answer = Answers([[0, -1]] * 2, [[1.0, scores]] * 2, lexical=True)
    assert [turn.scores for turn in environment(answer).search(["a", "b"])] == [[1.0], [1.0]]


def test_a_lexical_index_may_find_nothing_but_not_for_many():
    """A query of unknown words has no hits; eight such queries in a row are a broken index, if it
    does not find a passage by its own words either."""
    assert MANY == 8
    nothing = Retriever((-1, -1))
    for count in (1, 7):
        turns = environment(nothing).search(["xyz"] * count)
        assert [turn.passages for turn in turns] == [[]] * count
    for count in (8, 20):
        with pytest.raises(RetrieverError, match=f"returned nothing for {count} queries"):
            environment(nothing).search(["xyz"] * count)
    one = Retriever(lambda query: [2, -1] if query == "quill" else [-1, -1])
    turns = environment(one).search(["xyz"] * 19 + ["quill"])
    assert [turn.passages for turn in turns] == [[]] * 19 + [[2]]
    sound = Retriever(lambda query: [2, -1] if "Quill" in query else [-1, -1])
    turns = environment(sound).search(["xyz"] * 20)
    assert [turn.passages for turn in turns] == [[]] * 20


def test_a_retriever_that_fails_raises_with_its_reason():
    class Broken:
        def search(self, queries, k):
            raise ConnectionError("the index is on another planet")

    with pytest.raises(RetrieverError, match="the index is on another planet") as error:
        environment(Broken()).search(["a"])
    assert isinstance(error.value.__cause__, ConnectionError)
    for answer in (None, [[0, 1]], ([[0, 1], [2]], [[1.0, 0.5], [1.0]])):
        Broken.search = lambda self, queries, k, answer=answer: answer
        with pytest.raises(RetrieverError, match=r"^the retriever failed on 2 queries: "):
            environment(Broken()).search(["a", "b"])


# ----------------------------------------------------------------------------------------- a step


def head(question) -> list[int]:
    return [TOKENIZER.bos, *TOKENIZER.encode(question.question)]


def test_reset_by_hand():
    env = environment()
    episodes = env.reset(QUESTIONS, TOKENIZER, 256)
    assert [e.tokens for e in episodes] == [head(q) for q in QUESTIONS]
    assert all(set(e.parts) == {S} and not any(e.rewards) for e in episodes)
    assert not any(e.truncated for e in episodes)
    context = 256 - env.question_limit(256) + 3  # three tokens for the question
    cut = env.reset(QUESTIONS, TOKENIZER, context)
    assert [e.tokens for e in cut] == [head(q)[:4] for q in QUESTIONS]
    assert all(e.truncated for e in cut)


def test_a_step_by_hand():
    """Of five episodes two go on: a retrieval, and one with a query that was given. The others end:
    a right answer, an answer without end, a query without text."""
    env = environment(Retriever((1, -1)))
    questions = [QUESTIONS[0]] * 5
    episodes = env.reset(questions, TOKENIZER, 256)
    actions = [
        Action(False, text("Quill")),
        Action(True, text("salt road")),
        Action(False, TOKENIZER.encode("Quill")),
        Action(True, [], free=False, given="who wrote the road?"),
        Action(True, [TOKENIZER.eos]),
    ]
    assert env.step(episodes, actions, TOKENIZER) == [1, 3]
    assert env.index.asked == ["salt road", "who wrote the road?"]
    seen = [TOKENIZER.obs, *TOKENIZER.encode(CORPUS[1].full_text)[:16], TOKENIZER.obs_end]
    given = text("who wrote the road?")[
        :7
    ]  # the budget of 8 is for others: <eos> always stands last
    assert len(text("who wrote the road?")) > 8
    expected = [
        ([TOKENIZER.answer, *text("Quill")], [D, *[A] * len(text("Quill"))]),
        ([TOKENIZER.retrieve, *text("salt road"), *seen], None),
        ([TOKENIZER.answer, *TOKENIZER.encode("Quill")], None),
        ([TOKENIZER.retrieve, *given, TOKENIZER.eos, *seen], [S] * (9 + len(seen))),
        ([TOKENIZER.retrieve, TOKENIZER.eos], [D, Q]),
    ]
    for episode, (tokens, parts) in zip(episodes, expected, strict=True):
        start = len(head(QUESTIONS[0]))
        assert episode.tokens[start:] == tokens
        assert parts is None or episode.parts[start:] == parts
    assert [e.reward for e in episodes] == pytest.approx([2 / 3, -0.2, -1.0, -0.2, -1.0])
    assert [e.malformed for e in episodes] == [False, False, True, False, True]
    assert [e.hit for e in episodes] == [False, True, False, True, False]
    assert env.step(episodes[1:2], [Action(False, text("Ada Quill"), free=False)], TOKENIZER) == []
    assert episodes[1].reward == pytest.approx(1.8) and episodes[1].answer == "Ada Quill"
    episodes[1].behaviour = [0.5]
    check(episodes[1], TOKENIZER, env)


def test_observations_are_cut_and_hold_no_special_token():
    env = environment(Retriever((3, 1)), passage_tokens=5)
    (turn,) = env.search(["x"])
    first, second = (TOKENIZER.encode(CORPUS[i].full_text)[:5] for i in (3, 1))
    shown = [TOKENIZER.obs, *first, TOKENIZER.sep, *second, TOKENIZER.obs_end]
    for _ in range(2):  # the second time from what was kept
        episode = Episode(QUESTIONS[0])
        env.observe(episode, turn, TOKENIZER)
        assert episode.tokens == shown and set(episode.parts) == {S}
    assert environment(Retriever((-1, -1))).search(["x"])[0].passages == []


@pytest.mark.parametrize(
    "answer, em, f1",
    [("Ada Quill", 1, 1), ("the Miss Quill!", 1, 1), ("Quill", 0, 2 / 3), ("Caldis", 0, 0)],
)
def test_the_answer_is_rewarded_by_its_weights(answer, em, f1):
    env, episode = environment(reward=Reward(exact_match=3.0, f1=0.5)), Episode(QUESTIONS[0])
    assert env.act(episode, Action(False, text(answer)), TOKENIZER) is None
    assert episode.reward == episode.rewards[-1] == pytest.approx(3.0 * em + 0.5 * f1)
    assert (episode.answer, episode.exact_match) == (answer, em) and episode.f1 == pytest.approx(f1)
