"""Algorithm 1: scripted episodes whose every token is known, and random policies read back by a
strict parser."""

import pytest
import torch

from data import Question, World
from model import Tokenizer
from retrieval_cpp import BM25Index
from rl import GREEDY, Decoding, Part, RagEnv, RetrieverError, Reward, rollout
from rl.environment import ContextError
from rl.report.summary import summarize

from .oracle import check, read
from .tiny import (
    CORPUS,
    QUESTIONS,
    TOKENIZER,
    Retriever,
    Scripted,
    always,
    environment,
    learnt,
    random_policy,
    text,
)

SAMPLED = Decoding(temperature=1.0, sample_decision=True, explore=0.1)
# About half of all decisions retrieve, whatever the policy.
KEEN = Decoding(temperature=1.0, sample_decision=True, explore=0.9)
EOS = TOKENIZER.eos
WORD = TOKENIZER.encode("x")[-1]


def script(plan, env, questions=QUESTIONS[:1], decoding=GREEDY, seed=0, context=256, **options):
    """Episodes of a scripted policy."""
    random = torch.Generator().manual_seed(seed)
    policy = Scripted(plan, context)
    return rollout(policy, TOKENIZER, env, questions, decoding, random, **options)


# --------------------------------------------------------------- one episode, token by token


def test_an_episode_with_one_retrieval_by_hand():
    env = environment(Retriever((1, 3)))
    (episode,) = script(always(0.9), env)
    first, second = [TOKENIZER.encode(CORPUS[i].full_text)[:16] for i in (1, 3)]
    pieces = [
        ([TOKENIZER.bos, *TOKENIZER.encode(QUESTIONS[0].question)], Part.STATE),
        ([TOKENIZER.retrieve], Part.DECISION),
        (text("salt road"), Part.QUERY),
        ([TOKENIZER.obs, *first, TOKENIZER.sep, *second, TOKENIZER.obs_end], Part.STATE),
        ([TOKENIZER.answer], Part.STATE),  # after the only retrieval [ANSWER] was forced
        (text("Ada Quill"), Part.ANSWER),
    ]
    assert episode.tokens == [t for tokens, _ in pieces for t in tokens]
    assert episode.parts == [part for tokens, part in pieces for _ in tokens]
    end_of_query = sum(len(tokens) for tokens, _ in pieces[:3]) - 1
    rewards = {i: r for i, r in enumerate(episode.rewards) if r}
    assert rewards == {end_of_query: -0.2, len(episode.tokens) - 1: 2.0}
    assert (episode.answer, episode.exact_match, episode.f1) == ("Ada Quill", 1.0, 1.0)
    assert episode.hit and not episode.malformed
    assert episode.reward == pytest.approx(1.8) and episode.p_retrieve == pytest.approx(0.9)
    assert env.index.asked == ["salt road"]


def test_an_episode_that_answers_at_once_by_hand():
    env = environment()
    (episode,) = script(always(0.1, answer="Quill"), env)
    head = 1 + len(TOKENIZER.encode(QUESTIONS[0].question))
    assert episode.tokens[head:] == [TOKENIZER.answer, *text("Quill")]
    answer = [Part.ANSWER] * len(text("Quill"))
    assert episode.parts == [*[Part.STATE] * head, Part.DECISION, *answer]
    assert [r for r in episode.rewards if r] == [episode.rewards[-1]] == [pytest.approx(2 / 3)]
    assert env.index.asked == [] and not episode.hit and episode.turns == []


@pytest.mark.parametrize("quota", [0, 1, 2, 3])
def test_quota(quota):
    """A policy that always wants more gets `quota` retrievals, each chosen freely, and then a
    forced [ANSWER]."""
    rows = {"first": [0], "second": [1], "third": [2], "never": [3]}
    seen = []

    def plan(tokens):
        seen.append(list(tokens))
        return 0.99, text(list(rows)[tokens.count(TOKENIZER.obs)]), text("Ada Quill")

    env = environment(Retriever(rows.__getitem__), quota=quota)
    (episode,) = script(plan, env)
    actions = check(episode, TOKENIZER, env).actions
    assert [turn.query for turn in episode.turns] == list(rows)[:quota]
    retrievals = [(True, True)] * quota
    assert [(action.retrieve, action.free) for action in actions] == [*retrievals, (False, False)]
    assert episode.reward == pytest.approx(2.0 - 0.2 * quota)
    assert episode.p_retrieve == pytest.approx(0.99)
    # All observations stay in view: what the policy last saw is the whole episode up to its answer.
    assert max(seen, key=len) == episode.tokens[: actions[-1].start]
    shown = TOKENIZER.show(max(seen, key=len))
    assert all(CORPUS[row].title in shown for row in range(quota))


def test_a_free_answer_before_the_quota_is_reached():
    """Two of three retrievals, then the policy chooses to answer: three free decisions."""

    def plan(tokens):
        p = 0.9 if tokens.count(TOKENIZER.obs) < 2 else 0.2
        return p, text("salt"), text("Ada Quill")

    env = environment(quota=3)
    (episode,) = script(plan, env)
    actions = check(episode, TOKENIZER, env).actions
    chosen = [(action.retrieve, action.free) for action in actions]
    assert chosen == [(True, True), (True, True), (False, True)]
    assert episode.behaviour == pytest.approx([0.9, 0.9, 0.8])


# --------------------------------------------------------------- malformed


@pytest.mark.parametrize(
    "written, query_malformed, answer_malformed",
    [
        ([EOS], True, True),  # empty
        ([TOKENIZER.obs, TOKENIZER.pad, EOS], True, True),  # nothing but special tokens
        ([*TOKENIZER.encode(" "), EOS], True, True),  # nothing but space
        ([WORD] * 5 + [EOS], False, False),  # six tokens: the answer's budget
        ([WORD] * 6 + [EOS], False, True),  # seven
        ([WORD] * 7 + [EOS], False, True),  # eight: the query's budget
        ([WORD] * 8 + [EOS], True, True),
        ([WORD] * 40, True, True),
        ([WORD, TOKENIZER.obs_end, TOKENIZER.answer, EOS], False, False),  # odd, but it has an end
    ],
)
@pytest.mark.parametrize("retrieve", [True, False])
def test_malformed_actions(written, query_malformed, answer_malformed, retrieve):
    env = environment(query_budget=8, answer_budget=6)
    p = 0.9 if retrieve else 0.1
    (episode,) = script(lambda tokens: (p, written, written), env)
    asked = len(env.index.asked)
    actions = check(episode, TOKENIZER, env).actions
    first_is_malformed = query_malformed if retrieve else answer_malformed
    assert actions[0].malformed == first_is_malformed
    assert episode.malformed == (first_is_malformed or answer_malformed)
    assert len(actions) == (2 if retrieve and not query_malformed else 1)
    if episode.malformed:  # ends the episode, costs 1 at its last token, and answers nothing
        assert episode.rewards[-1] == -1.0
        assert (episode.answer, episode.exact_match, episode.f1) == ("", 0.0, 0.0)
    assert asked == (retrieve and not query_malformed)


# Without known gold passages the answer's words decide; a fact known to be absent cannot be hit.
UNKNOWN = Question("u", "Who wrote The Salt Road?", ("Norland",))


@pytest.mark.parametrize(
    "question, first, second, expected",
    [
        (QUESTIONS[0], [1], [3], True),
        (QUESTIONS[0], [3], [1], True),
        (QUESTIONS[0], [0], [3], False),
        (QUESTIONS[0], [-1], [-1], False),
        (UNKNOWN, [2], [0], True),
        (UNKNOWN, [2], [1], False),
        (QUESTIONS[2], [2], [2], False),
    ],
)
def test_hits_need_a_gold_passage_in_any_turn(question, first, second, expected):
    def plan(tokens):
        return 0.9, text("second" if TOKENIZER.obs in tokens else "first"), text("x")

    env = environment(Retriever({"first": first, "second": second}.__getitem__), quota=2)
    (episode,) = script(plan, env, [question])
    assert len(episode.turns) == 2 and episode.hit is expected


def test_a_hit_counts_where_the_answer_is_malformed_too():
    (episode,) = script(lambda tokens: (0.9, text("salt"), [EOS]), environment(Retriever((1,))))
    assert episode.malformed and episode.hit and summarize([episode])["hit"] == 1.0


def test_rewards_are_weights_and_costs():
    reward = Reward(exact_match=3.0, f1=0.5, retrieval_cost=0.7, malformed_cost=4.0)
    env = environment(reward=reward)
    (ended,) = script(lambda tokens: (0.9, text("salt"), [EOS]), env)
    assert [r for r in ended.rewards if r] == [-0.7, -4.0]
    (answered,) = script(lambda tokens: (0.9, text("salt"), text("Quill")), env)
    assert [r for r in answered.rewards if r] == [-0.7, pytest.approx(0.5 * 2 / 3)]


# --------------------------------------------------------------- retrievers


@pytest.mark.parametrize("failure", [RuntimeError("no index"), OSError("disk"), KeyError("x")])
def test_a_failing_retriever_fails_the_rollout(failure):
    class Broken:
        def search(self, queries, k):
            raise failure

    with pytest.raises(RetrieverError) as error:
        script(always(0.9), environment(Broken()))
    assert error.value.__cause__ is failure
    script(always(0.1), environment(Broken()))  # who does not retrieve does not notice


def test_a_ruined_policy_fails_the_rollout():
    """Its decisions would be comparisons with NaN."""
    policy = random_policy()
    policy.model.norm.weight.data[0] = float("nan")
    for decoding in (Decoding(), Decoding(1.0, True), Decoding(force="answer")):
        with pytest.raises(FloatingPointError, match="decision is NaN: its weights are ruined"):
            rollout(policy, TOKENIZER, environment(), QUESTIONS, decoding)


def test_a_retriever_with_the_wrong_number_of_rows_fails_the_rollout():
    class Short(Retriever):
        def search(self, queries, k):
            return super().search(queries[:-1], k)

    with pytest.raises(RetrieverError, match=r"returned ids int32 \[3, 2\] .* for 4 queries"):
        script(always(0.9), environment(Short()), QUESTIONS)


def test_nothing_found_is_an_observation_without_passages():
    env = environment(Retriever((-1, -1)))
    (episode,) = script(always(0.9), env)
    reading = check(episode, TOKENIZER, env)
    assert reading.observations == [[]] and not episode.hit
    at = episode.tokens.index(TOKENIZER.obs)
    assert episode.tokens[at : at + 2] == [TOKENIZER.obs, TOKENIZER.obs_end]
    assert episode.answer == "Ada Quill"


def test_padding_ids_are_ignored():
    (episode,) = script(always(0.9), environment(Retriever((-1, 2))))
    assert episode.turns[0].passages == [2] and len(episode.turns[0].scores) == 1


def test_only_those_who_ask_are_searched_for_and_get_their_own():
    """Rows 0 and 2 retrieve, with queries of their own; order is kept."""
    queries = {QUESTIONS[0].question: "zero", QUESTIONS[2].question: "two"}
    rows = {"zero": [0], "two": [2]}

    def plan(tokens):
        decisions = [i for i, t in enumerate(tokens) if t in (TOKENIZER.retrieve, TOKENIZER.answer)]
        question = TOKENIZER.decode(tokens[1 : decisions[0] if decisions else None])
        p = 0.9 if question in queries else 0.1
        return p, text(queries.get(question, "no")), text(f"x{len(question)}")

    env = environment(Retriever(rows.__getitem__))
    episodes = script(plan, env, QUESTIONS)
    for episode, question in zip(episodes, QUESTIONS, strict=True):
        check(episode, TOKENIZER, env)
        assert episode.question is question and episode.answer == f"x{len(question.question)}"
    assert [[turn.passages for turn in e.turns] for e in episodes] == [[[0]], [], [[2]], []]


# --------------------------------------------------------------- the question


def test_a_question_longer_than_the_context_is_cut_and_counted():
    env = environment()
    limit = env.question_limit(100)
    long = Question("l", "Caldis " * 300, ("x",))
    for question, cut in ((long, True), (QUESTIONS[0], False)):
        (episode,) = script(always(0.9), env, [question], context=100)
        reading = check(episode, TOKENIZER, env)
        assert episode.truncated is cut and len(episode.tokens) <= 100
        assert reading.question == TOKENIZER.encode(question.question)[:limit]
    exact = next(n for n in range(1, 300) if len(TOKENIZER.encode("Caldis " * n)) >= limit)
    (episode,) = script(always(0.9), env, [Question("e", "Caldis " * exact, ("x",))], context=100)
    assert episode.truncated is (len(TOKENIZER.encode("Caldis " * exact)) > limit)


def shortest_context(env: RagEnv) -> int:
    """The context that leaves one token for the question."""
    return 10_001 - env.question_limit(10_000)


@pytest.mark.parametrize("quota", [0, 1, 2])
def test_the_longest_possible_episode_fits_the_context(quota):
    """Every budget used up, k passages of full length, a question that fills what is left."""
    shape = {"quota": quota, "passage_tokens": 3, "query_budget": 4, "answer_budget": 3}
    env = environment(Retriever((1, 2)), **shape)
    context = shortest_context(env) + 4
    policy = random_policy(max_position_embeddings=context)
    questions = [Question("l", "Caldis " * 50, ("x",))] * 64
    decoding, random = Decoding(1.0, True, explore=0.5), torch.Generator().manual_seed(1)
    episodes = rollout(policy, TOKENIZER, env, questions, decoding, random)
    lengths = {len(check(e, TOKENIZER, env).kinds) for e in episodes}
    assert max(lengths) <= context and max(lengths) > context - 2 * (quota + 1)


def test_a_context_that_is_too_small_is_refused():
    env = environment()
    script(always(0.9), env, context=shortest_context(env))
    with pytest.raises(ContextError, match="has no room for a question"):
        script(always(0.9), env, context=shortest_context(env) - 1)


# --------------------------------------------------------------- decisions


def test_the_decision_is_a_softmax_over_the_two_action_tokens_alone():
    """In ScriptedSession every other logit is 50: a softmax over the vocabulary would give about
    0."""
    for p in (0.03, 0.5, 0.8):
        assert script(always(p), environment())[0].p_retrieve == pytest.approx(p, rel=1e-5)


@pytest.mark.parametrize(
    "options, no, yes",
    [({}, 0.49, 0.51), ({"threshold": 0.8}, 0.79, 0.81), ({"threshold": 0.05}, 0.04, 0.06)],
)
def test_greedy_and_thresholds(options, no, yes):
    for p, expected in ((no, False), (yes, True)):
        (episode,) = script(always(p), environment(), decoding=Decoding(**options))
        assert bool(episode.turns) is expected


def test_the_exploring_mixture_by_hand():
    """P([RETRIEVE]) = .8: sampled from .9 pi + .1/2, so with .77 and .23; these are the behaviour
    probabilities."""
    env = environment()
    episodes = script(always(0.8), env, [QUESTIONS[0]] * 4000, SAMPLED)
    retrieved = [bool(e.turns) for e in episodes]
    assert sum(retrieved) / 4000 == pytest.approx(0.77, abs=0.02)
    for episode, retrieve in zip(episodes, retrieved, strict=True):
        assert episode.behaviour == [pytest.approx(0.77 if retrieve else 0.23)]
    plain = script(always(0.8), env, [QUESTIONS[0]] * 50, Decoding(sample_decision=True))
    assert all(e.behaviour == [pytest.approx(0.8 if e.turns else 0.2)] for e in plain)


def test_exploration_reaches_what_the_policy_never_does():
    episodes = script(always(1e-6), environment(), [QUESTIONS[0]] * 2000, SAMPLED)
    assert 60 < sum(bool(e.turns) for e in episodes) < 140  # .05 of 2,000


BOTH = Decoding(1.0, sample_decision=True, both=True)


def test_both_branches():
    env = environment()
    episodes = script(always(0.9), env, QUESTIONS, BOTH)
    assert len(episodes) == 2 * len(QUESTIONS)
    for i, episode in enumerate(episodes):
        action = check(episode, TOKENIZER, env).actions[0]
        assert episode.question is QUESTIONS[i // 2]
        assert action.retrieve == (i % 2 == 0) and action.free
        assert episode.behaviour == [0.5] and episode.p_retrieve == pytest.approx(0.9)


def test_both_branches_sample_the_later_decisions():
    episodes = script(always(0.25), environment(quota=2), [QUESTIONS[0]] * 200, BOTH)
    assert all(len(e.turns) == 0 for e in episodes[1::2])
    again = [len(e.turns) == 2 for e in episodes[::2]]
    assert 0.15 < sum(again) / 200 < 0.35
    for episode, twice in zip(episodes[::2], again, strict=True):
        assert episode.behaviour == pytest.approx([0.5, 0.25 if twice else 0.75])


@pytest.mark.parametrize("batch_size, finished", [(1, [2] * 4), (5, [4, 4]), (8, [8])])
def test_both_branches_stay_in_one_batch(batch_size, finished):
    seen, options = [], {"batch_size": batch_size}
    options["progress"] = seen.append
    episodes = script(always(0.9), environment(), QUESTIONS, Decoding(both=True), **options)
    assert seen == finished and [len(e.turns) for e in episodes] == [1, 0] * 4


def test_both_branches_need_a_quota():
    with pytest.raises(ValueError, match="a quota of 0 leaves no decision"):
        script(always(0.5), environment(quota=0), QUESTIONS[:1], Decoding(both=True))


@pytest.mark.parametrize(
    "force, p, retrieved",
    [
        ("answer", 0.99, [False]),
        ("retrieve", 0.01, [True, False]),
        ("retrieve", 0.99, [True, True, False]),
    ],
)
def test_the_first_decision_can_be_forced_and_is_then_not_the_policys(force, p, retrieved):
    env = environment(quota=2)
    (episode,) = script(always(p), env, decoding=Decoding(force=force))
    actions = check(episode, TOKENIZER, env, forced=True).actions
    assert [action.retrieve for action in actions] == retrieved and not actions[0].free
    assert episode.p_retrieve == pytest.approx(p)
    second_was_free = len(retrieved) > 1
    assert episode.parts.count(Part.DECISION) == len(episode.behaviour) == second_was_free
    assert Part.ANSWER in episode.parts  # the texts are still the policy's


def test_the_question_as_query():
    env = environment()
    (episode,) = script(always(0.01), env, decoding=Decoding(force="question"))
    assert env.index.asked == [QUESTIONS[0].question] == [episode.turns[0].query]
    assert Part.DECISION not in episode.parts and episode.answer == "Ada Quill"
    assert learnt(episode) == text("Ada Quill")  # the query was given, not written
    assert episode.reward == pytest.approx(1.8)
    whole = environment(
        query_budget=16
    )  # a question is cut to the budget for the policy's eyes only
    (episode,) = script(always(0.01), whole, decoding=Decoding(force="question"))
    check(episode, TOKENIZER, whole, forced=True, given=True)


def test_the_question_is_the_first_query_only():
    env = environment(quota=2)
    script(always(0.99), env, decoding=Decoding(force="question"))
    assert env.index.asked == [QUESTIONS[0].question, "salt road"]


def test_the_question_is_no_query_where_nothing_may_be_retrieved():
    env = environment(quota=0)
    (episode,) = script(always(0.99), env, decoding=Decoding(force="question"))
    assert env.index.asked == [] and episode.answer == "Ada Quill"


def test_an_unknown_force_is_refused():
    with pytest.raises(KeyError, match="both"):
        script(always(0.5), environment(), decoding=Decoding(force="both"))


# --------------------------------------------------------------- real sessions


@pytest.fixture(scope="module")
def real():
    """The generated tiny world, its index, and a tokenizer trained on it."""
    tiny = World.open("tiny")
    questions = tiny.questions("popqa", "train")
    texts = [p.full_text for p in tiny.corpus] + [q.question for q in questions]
    index = BM25Index.build(p.full_text for p in tiny.corpus)
    return tiny, index, Tokenizer.train(texts, 700), questions


@pytest.mark.parametrize(
    "quota, decoding",
    [
        (0, KEEN),
        (1, KEEN),
        (2, KEEN),
        (3, KEEN),
        (1, SAMPLED),
        (1, GREEDY),
        (1, Decoding(1.0, force="retrieve")),
        (2, Decoding(0.7, True, both=True)),
    ],
    ids=str,
)
def test_every_random_episode_reads_back(real, quota, decoding):
    tiny, index, tokenizer, questions = real
    # TalkativePolicy speaks of this <eos>.
    assert (tokenizer.pad, tokenizer.eos) == (TOKENIZER.pad, TOKENIZER.eos)
    policy = random_policy(quota, vocab_size=len(tokenizer), max_position_embeddings=512)
    env = RagEnv(tiny, index, quota=quota, passage_tokens=24, query_budget=10, answer_budget=7)
    asked = [q for q in questions[:40] for _ in range(4)]
    random = torch.Generator().manual_seed(0)
    once = asked[:: 2 if decoding.both else 1]
    episodes = rollout(policy, tokenizer, env, once, decoding, random, batch_size=32)
    readings = [check(e, tokenizer, env, forced=decoding.force is not None) for e in episodes]
    assert [e.question for e in episodes] == asked
    if decoding is KEEN:
        assert {len(r.observations) for r in readings} == set(range(quota + 1))
        assert 0 < sum(e.malformed for e in episodes) < 160


MANY_LENGTHS = [Question(str(i), f"Ada {i} Quill {'x' * i}?", ("x",)) for i in range(30)]


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(force="retrieve")], ids=str)
def test_greedy_episodes_do_not_depend_on_the_batch(decoding):
    env, policy = environment(quota=2), random_policy(2, eos_bias=3.0)
    questions = [*QUESTIONS, *MANY_LENGTHS]
    one, some, all_at_once = (
        rollout(policy, TOKENIZER, env, questions, decoding, batch_size=size) for size in (1, 7, 64)
    )
    for a, b, c in zip(one, some, all_at_once, strict=True):
        assert a.tokens == b.tokens == c.tokens
        assert a.parts == b.parts == c.parts
        assert a.rewards == b.rewards == c.rewards
        assert b.p_retrieve == pytest.approx(a.p_retrieve, abs=1e-5)
        assert c.p_retrieve == pytest.approx(a.p_retrieve, abs=1e-5)
    assert [e.question for e in some] == questions
    assert {len(e.turns) for e in one} == {0, 1, 2} and 0 < sum(e.malformed for e in one) < len(one)


def test_the_same_generator_gives_the_same_episodes():
    env, policy = environment(), random_policy()

    def play(seed: int) -> list[list[int]]:
        random = torch.Generator().manual_seed(seed)
        return [e.tokens for e in rollout(policy, TOKENIZER, env, QUESTIONS * 4, SAMPLED, random)]

    assert play(0) == play(0) != play(1)


def test_sampled_text_has_the_probabilities_of_the_tempered_softmax():
    """First answer token of many episodes: frequency against softmax(logits / T) of a full pass."""
    policy, env = random_policy(), environment()
    questions, random = [QUESTIONS[0]] * 4000, torch.Generator().manual_seed(0)
    decoding = Decoding(temperature=1.6, force="answer")
    episodes = rollout(policy, TOKENIZER, env, questions, decoding, random, batch_size=4000)
    head = [TOKENIZER.bos, *TOKENIZER.encode(QUESTIONS[0].question), TOKENIZER.answer]
    with torch.no_grad():
        expected = (policy(torch.tensor([head]))[0][0, -1] / 1.6).softmax(-1)
    first = torch.tensor([e.tokens[len(head)] for e in episodes])
    frequency = torch.bincount(first, minlength=len(expected)) / 4000
    difference = (frequency - expected).abs()
    assert difference.sum() < 0.25 and difference.max() < 0.03
    # What temperature 1 would give is further away.
    plain = expected.pow(1.6) / expected.pow(1.6).sum()
    assert (frequency - plain).abs().sum() > 2 * difference.sum()


def test_progress_counts_every_episode_and_no_questions_are_fine():
    finished = []
    script(always(0.5), environment(), QUESTIONS * 3, batch_size=5, progress=finished.append)
    assert finished == [5, 5, 2]
    assert script(always(0.5), environment(), []) == []


# --------------------------------------------------------------- the oracle of this file can fail

Q, RETRIEVE, ANSWER = WORD, TOKENIZER.retrieve, TOKENIZER.answer
BOS, OBS, END = TOKENIZER.bos, TOKENIZER.obs, TOKENIZER.obs_end
GOOD = [BOS, Q, RETRIEVE, Q, EOS, OBS, Q, END, ANSWER, Q, EOS]


def test_the_parser_reads_an_episode():
    kinds = ["STATE"] * 2 + ["DECISION", "QUERY", "QUERY"] + ["STATE"] * 4 + ["ANSWER"] * 2
    assert read(GOOD, TOKENIZER, 1, 8, 6).kinds == kinds


@pytest.mark.parametrize(
    "bad",
    [
        [Q, *GOOD[1:]],
        [*GOOD, Q],
        GOOD[:5],
        GOOD[:8],
        GOOD[:9],
        [BOS, Q, ANSWER, Q, Q],
        GOOD[:5] + GOOD[8:],
        [*GOOD[:7], EOS, END, *GOOD[8:]],
        [BOS, Q, RETRIEVE, Q, EOS, OBS, END] * 2 + GOOD[8:],
        [BOS, Q, EOS, ANSWER, Q, EOS],
    ],
)
def test_the_parser_refuses_what_is_no_episode(bad):
    with pytest.raises((AssertionError, IndexError, ValueError)):
        read(bad, TOKENIZER, 1, 8, 6)
