"""Algorithm 1: scripted episodes whose every token is known, and random policies read back by a strict parser."""

import importlib

import pytest
import torch

from data import Question, World
from model import Tokenizer
from retrieval_cpp import BM25Index
from rl import GREEDY, Decoding, RagEnv, RetrieverError, Reward, Roles, Workers, rollout
from rl.report.summary import summarize

from .oracle import check, read
from .tiny import (
    CORPUS,
    QUESTIONS,
    TOKENIZER,
    Retriever,
    ScriptedSession,
    environment,
    random_policy,
    scripted,
    text,
)

SAMPLED = Decoding(temperature=1.0, sample_decision=True, explore=0.1)
KEEN = Decoding(
    temperature=1.0, sample_decision=True, explore=0.9
)  # about half of all decisions retrieve, whatever the policy


@pytest.fixture
def script(monkeypatch):
    """play(plan, env, ...) with scripted sessions in place of a model."""
    monkeypatch.setattr(importlib.import_module("rl.rollout"), "Session", ScriptedSession)
    return (
        lambda plan, env, questions=QUESTIONS[:1], decoding=GREEDY, seed=0, context=256, **keywords: (
            rollout(
                scripted(plan, context),
                TOKENIZER,
                env,
                questions,
                decoding,
                torch.Generator().manual_seed(seed),
                **keywords,
            )
        )
    )


def always(p, query="salt road", answer="Ada Quill"):
    return lambda tokens: (p, text(query), text(answer))


# ------------------------------------------------------------------------------------------------- one episode, token by token


def test_an_episode_with_one_retrieval_by_hand(script):
    env = environment(Retriever((1, 3)))
    (episode,) = script(always(0.9), env)
    passages = [TOKENIZER.encode(CORPUS[i].full_text)[:16] for i in (1, 3)]
    pieces = [
        ([TOKENIZER.bos, *TOKENIZER.encode(QUESTIONS[0].question)], "ssss"),
        ([TOKENIZER.retrieve], "d"),
        (text("salt road"), "t"),
        ([TOKENIZER.obs, *passages[0], TOKENIZER.sep, *passages[1], TOKENIZER.obs_end], "s"),
        ([TOKENIZER.answer], "s"),
        (text("Ada Quill"), "t"),
    ]
    kinds = "".join(kind[0] * len(tokens) for tokens, kind in pieces)
    assert episode.tokens == [t for tokens, _ in pieces for t in tokens]
    assert episode.action_mask == [kind in "dt" for kind in kinds]
    assert episode.decision_mask == [
        kind == "d" for kind in kinds
    ]  # after the only retrieval [ANSWER] was forced
    end_of_query = sum(len(tokens) for tokens, _ in pieces[:3]) - 1
    assert {i: r for i, r in enumerate(episode.rewards) if r} == {
        end_of_query: -0.2,
        len(kinds) - 1: 2.0,
    }
    assert (episode.answer, episode.exact_match, episode.f1, episode.hit, episode.malformed) == (
        "Ada Quill",
        1.0,
        1.0,
        True,
        False,
    )
    assert (
        episode.reward == pytest.approx(1.8)
        and env.index.asked == ["salt road"]
        and episode.p_retrieve == pytest.approx(0.9)
    )


def test_an_episode_that_answers_at_once_by_hand(script):
    env = environment()
    (episode,) = script(always(0.1, answer="Quill"), env)
    head = 1 + len(TOKENIZER.encode(QUESTIONS[0].question))
    assert episode.tokens[head:] == [TOKENIZER.answer, *text("Quill")]
    assert episode.decision_mask == [i == head for i in range(len(episode.tokens))]
    assert episode.action_mask == [i >= head for i in range(len(episode.tokens))]
    assert [r for r in episode.rewards if r] == [episode.rewards[-1]] == [pytest.approx(2 / 3)]
    assert env.index.asked == [] and not episode.hit and episode.turns == []


@pytest.mark.parametrize("quota", [0, 1, 2, 3])
def test_quota(script, quota):
    """A policy that always wants more gets `quota` retrievals, each chosen freely, and then a forced [ANSWER]."""
    rows = {"first": [0], "second": [1], "third": [2], "never": [3]}
    seen = []

    def plan(tokens):
        seen.append(list(tokens))
        return 0.99, text(list(rows)[tokens.count(TOKENIZER.obs)]), text("Ada Quill")

    env = environment(Retriever(rows.__getitem__), quota=quota)
    (episode,) = script(plan, env)
    reading = check(episode, TOKENIZER, env)
    assert [turn.query for turn in episode.turns] == list(rows)[:quota]
    assert [(action.retrieve, action.free) for action in reading.actions] == [
        (True, True)
    ] * quota + [(False, False)]
    assert episode.reward == pytest.approx(
        2.0 - 0.2 * quota
    ) and episode.p_retrieve == pytest.approx(0.99)
    # All observations stay in view: what the policy last saw is the whole episode up to its answer.
    assert max(seen, key=len) == episode.tokens[: reading.actions[-1].start]
    shown = TOKENIZER.show(max(seen, key=len))
    assert all(CORPUS[row].title in shown for row in range(quota))


def test_a_free_answer_before_the_quota_is_reached(script):
    """Two of three retrievals, then the policy chooses to answer: three free decisions."""
    env = environment(quota=3)
    (episode,) = script(
        lambda tokens: (
            0.9 if tokens.count(TOKENIZER.obs) < 2 else 0.2,
            text("salt"),
            text("Ada Quill"),
        ),
        env,
    )
    actions = check(episode, TOKENIZER, env).actions
    assert [(action.retrieve, action.free) for action in actions] == [
        (True, True),
        (True, True),
        (False, True),
    ]
    assert episode.behaviour == pytest.approx([0.9, 0.9, 0.8])


# ------------------------------------------------------------------------------------------------- malformed


EOS = TOKENIZER.eos
WORD = TOKENIZER.encode("x")[-1]


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
        (
            [WORD, TOKENIZER.obs_end, TOKENIZER.answer, EOS],
            False,
            False,
        ),  # odd, but a text with an end
    ],
)
@pytest.mark.parametrize("retrieve", [True, False])
def test_malformed_actions(script, written, query_malformed, answer_malformed, retrieve):
    env = environment(query_budget=8, answer_budget=6)
    p = 0.9 if retrieve else 0.1
    (episode,) = script(lambda tokens: (p, written, written), env)
    asked = len(env.index.asked)
    actions = check(episode, TOKENIZER, env).actions
    first_is_malformed = query_malformed if retrieve else answer_malformed
    assert actions[0].malformed == first_is_malformed
    assert episode.malformed == (first_is_malformed or answer_malformed)
    assert len(actions) == (2 if retrieve and not query_malformed else 1)
    if episode.malformed:  # ends the episode, pays -1 at its last token, and answers nothing
        assert (
            episode.rewards[-1] == -1.0
            and episode.answer == ""
            and episode.exact_match == episode.f1 == 0.0
        )
    assert asked == (retrieve and not query_malformed)


def test_hits_need_a_gold_passage_in_any_turn(script):
    unknown = Question(
        "u", "Who wrote The Salt Road?", ("Norland",)
    )  # without known gold passages the answer's words decide
    for question, first, second, expected in (
        (QUESTIONS[0], [1], [3], True),
        (QUESTIONS[0], [3], [1], True),
        (QUESTIONS[0], [0], [3], False),
        (QUESTIONS[0], [-1], [-1], False),
        (unknown, [2], [0], True),
        (unknown, [2], [1], False),
        (QUESTIONS[2], [2], [2], False),
    ):  # a fact known to be absent cannot be hit
        rows = {"first": first, "second": second}
        env = environment(Retriever(rows.__getitem__), quota=2)
        (episode,) = script(
            lambda tokens: (0.9, text("second" if TOKENIZER.obs in tokens else "first"), text("x")),
            env,
            [question],
        )
        assert len(episode.turns) == 2 and episode.hit is expected


def test_a_hit_counts_where_the_answer_is_malformed_too(script):
    (episode,) = script(lambda tokens: (0.9, text("salt"), [EOS]), environment(Retriever((1,))))
    assert episode.malformed and episode.hit and summarize([episode])["hit"] == 1.0


def test_malformed_rewards_are_weights(script):
    env = environment(reward=Reward(exact_match=3.0, f1=0.5, retrieval=-0.7, malformed=-4.0))
    (ended,) = script(lambda tokens: (0.9, text("salt"), [EOS]), env)
    assert [r for r in ended.rewards if r] == [-0.7, -4.0]
    (paid,) = script(lambda tokens: (0.9, text("salt"), text("Quill")), env)
    assert [r for r in paid.rewards if r] == [-0.7, pytest.approx(0.5 * 2 / 3)]


# ------------------------------------------------------------------------------------------------- retrievers


@pytest.mark.parametrize("failure", [RuntimeError("no index"), OSError("disk"), KeyError("x")])
def test_a_failing_retriever_fails_the_rollout(script, failure):
    class Broken:
        def search(self, queries, k):
            raise failure

    with pytest.raises(RetrieverError) as error:
        script(always(0.9), environment(Broken()))
    assert error.value.__cause__ is failure
    script(always(0.1), environment(Broken()))  # who does not retrieve does not notice


def test_a_retriever_with_the_wrong_number_of_rows_fails_the_rollout(script):
    class Short(Retriever):
        def search(self, queries, k):
            return super().search(queries[:-1], k)

    with pytest.raises(RetrieverError, match="returned 3 results for 4 queries"):
        script(always(0.9), environment(Short()), QUESTIONS)


def test_nothing_found_is_an_observation_without_passages(script):
    env = environment(Retriever((-1, -1)))
    (episode,) = script(always(0.9), env)
    reading = check(episode, TOKENIZER, env)
    assert reading.observations == [[]] and not episode.hit
    at = episode.tokens.index(TOKENIZER.obs)
    assert (
        episode.tokens[at : at + 2] == [TOKENIZER.obs, TOKENIZER.obs_end]
        and episode.answer == "Ada Quill"
    )


def test_padding_ids_are_ignored(script):
    (episode,) = script(always(0.9), environment(Retriever((-1, 2))))
    assert episode.turns[0].passages == [2] and len(episode.turns[0].scores) == 1


def test_only_those_who_ask_are_searched_for_and_get_their_own(script):
    """Rows 0 and 2 retrieve, with queries of their own; order is kept."""
    wants = {q.question: i in (0, 2) for i, q in enumerate(QUESTIONS)}
    rows = {"zero": [0], "two": [2]}
    asks = {QUESTIONS[0].question: "zero", QUESTIONS[2].question: "two"}

    def plan(tokens):
        question = TOKENIZER.decode(read_question(tokens))
        return (
            0.9 if wants[question] else 0.1,
            text(asks.get(question, "no")),
            text(f"x{len(question)}"),
        )

    def read_question(tokens):
        return next(
            (
                tokens[1:i]
                for i, t in enumerate(tokens)
                if t in (TOKENIZER.retrieve, TOKENIZER.answer)
            ),
            tokens[1:],
        )

    env = environment(Retriever(rows.__getitem__))
    episodes = script(plan, env, QUESTIONS)
    for episode, question in zip(episodes, QUESTIONS, strict=True):
        check(episode, TOKENIZER, env)
        assert episode.question is question and episode.answer == f"x{len(question.question)}"
    assert [[turn.passages for turn in e.turns] for e in episodes] == [[[0]], [], [[2]], []]


# ------------------------------------------------------------------------------------------------- the question


def test_a_question_longer_than_the_context_is_cut_and_counted(script):
    env = environment()
    room = env.question_room(100)
    long = Question("l", "Caldis " * 300, ("x",))
    for question, cut in ((long, True), (QUESTIONS[0], False)):
        (episode,) = script(always(0.9), env, [question], context=100)
        reading = check(episode, TOKENIZER, env)
        assert episode.truncated is cut and len(episode.tokens) <= 100
        assert reading.question == TOKENIZER.encode(question.question)[:room]
    exact = next(n for n in range(1, 300) if len(TOKENIZER.encode("Caldis " * n)) >= room)
    (episode,) = script(always(0.9), env, [Question("e", "Caldis " * exact, ("x",))], context=100)
    assert episode.truncated is (len(TOKENIZER.encode("Caldis " * exact)) > room)


@pytest.mark.parametrize("quota", [0, 1, 2])
def test_the_longest_possible_episode_fits_the_context(quota):
    """Every budget used up, k passages of full length, a question that fills what is left."""
    env = environment(
        Retriever((1, 2)), quota=quota, passage_tokens=3, query_budget=4, answer_budget=3
    )
    context = env.longest_after_question() + 6
    policy = random_policy(max_position_embeddings=context)
    questions = [Question("l", "Caldis " * 50, ("x",))] * 64
    episodes = rollout(
        policy,
        TOKENIZER,
        env,
        questions,
        Decoding(1.0, True, explore=0.5),
        torch.Generator().manual_seed(1),
    )
    lengths = {len(check(e, TOKENIZER, env).kinds) for e in episodes}
    assert max(lengths) <= context and max(lengths) > context - 2 * (quota + 1)


def test_a_context_without_room_is_refused(script):
    env = environment()
    with pytest.raises(ValueError, match="has no room for a question"):
        script(always(0.9), env, context=env.longest_after_question() + 1)


# ------------------------------------------------------------------------------------------------- decisions


def test_the_decision_is_a_softmax_over_the_two_action_tokens_alone(script):
    """In ScriptedSession every other logit is 50: a softmax over the vocabulary would give about 0."""
    for p in (0.03, 0.5, 0.8):
        assert script(always(p), environment())[0].p_retrieve == pytest.approx(p, rel=1e-5)


def test_greedy_and_thresholds(script):
    decide = lambda p, **kw: bool(
        script(always(p), environment(), decoding=Decoding(**kw))[0].turns
    )
    assert [decide(p) for p in (0.49, 0.51)] == [False, True]
    assert [decide(p, threshold=0.8) for p in (0.79, 0.81)] == [False, True]
    assert [decide(p, threshold=0.05) for p in (0.04, 0.06)] == [False, True]


def test_the_exploring_mixture_by_hand(script):
    """P([RETRIEVE]) = .8: sampled from .9 pi + .1/2, so with .77 and .23; these are the behaviour probabilities."""
    env = environment()
    episodes = script(always(0.8), env, [QUESTIONS[0]] * 4000, SAMPLED)
    retrieved = [bool(e.turns) for e in episodes]
    assert sum(retrieved) / 4000 == pytest.approx(0.77, abs=0.02)
    for episode, retrieve in zip(episodes, retrieved):
        assert episode.behaviour == [pytest.approx(0.77 if retrieve else 0.23)]
    plain = script(always(0.8), env, [QUESTIONS[0]] * 50, Decoding(sample_decision=True))
    assert all(e.behaviour == [pytest.approx(0.8 if e.turns else 0.2)] for e in plain)


def test_exploration_reaches_what_the_policy_never_does(script):
    episodes = script(always(1e-6), environment(), [QUESTIONS[0]] * 2000, SAMPLED)
    assert 60 < sum(bool(e.turns) for e in episodes) < 140  # .05 of 2,000


def test_both_branches(script):
    questions = [q for q in QUESTIONS for _ in range(2)]
    env = environment()
    episodes = script(always(0.9), env, questions, Decoding(1.0, sample_decision=True, both=True))
    for i, episode in enumerate(episodes):
        action = check(episode, TOKENIZER, env).actions[0]
        assert episode.question is questions[i] and action.retrieve == (i % 2 == 0) and action.free
        assert episode.behaviour == [0.5] and episode.p_retrieve == pytest.approx(0.9)


def test_both_branches_sample_the_later_decisions(script):
    questions = [QUESTIONS[0]] * 400
    env = environment(quota=2)
    episodes = script(always(0.25), env, questions, Decoding(1.0, sample_decision=True, both=True))
    assert all(len(e.turns) == 0 for e in episodes[1::2])
    again = [len(e.turns) == 2 for e in episodes[::2]]
    assert 0.15 < sum(again) / 200 < 0.35
    assert all(
        e.behaviour == pytest.approx([0.5, 0.25 if twice else 0.75])
        for e, twice in zip(episodes[::2], again)
    )


@pytest.mark.parametrize(
    "questions, batch_size", [(QUESTIONS, 4), ([QUESTIONS[0]] * 3, 4), ([QUESTIONS[0]] * 6, 3)]
)
def test_both_branches_need_pairs(script, questions, batch_size):
    with pytest.raises(ValueError):
        script(always(0.5), environment(), questions, Decoding(both=True), batch_size=batch_size)


def test_both_branches_need_a_quota(script):
    with pytest.raises(ValueError, match="a quota of 0 leaves no decision"):
        script(always(0.5), environment(quota=0), [QUESTIONS[0]] * 2, Decoding(both=True))


@pytest.mark.parametrize(
    "force, p, retrieved",
    [
        ("answer", 0.99, [False]),
        ("retrieve", 0.01, [True, False]),
        ("retrieve", 0.99, [True, True, False]),
    ],
)
def test_the_first_decision_can_be_forced_and_is_then_in_no_mask(script, force, p, retrieved):
    env = environment(quota=2)
    (episode,) = script(always(p), env, decoding=Decoding(force=force))
    reading = check(episode, TOKENIZER, env, forced=True)
    assert [
        action.retrieve for action in reading.actions
    ] == retrieved and episode.p_retrieve == pytest.approx(p)
    assert not reading.actions[0].free and sum(episode.decision_mask) == len(
        episode.behaviour
    ) == len(retrieved[1:2])  # the second was free
    assert any(episode.action_mask)  # the texts are still the policy's


def test_the_question_as_query(script):
    env = environment()
    (episode,) = script(always(0.01), env, decoding=Decoding(force="question"))
    assert env.index.asked == [QUESTIONS[0].question] == [episode.turns[0].query]
    assert not any(episode.decision_mask) and episode.answer == "Ada Quill"
    own = [t for t, mine in zip(episode.tokens, episode.action_mask) if mine]
    assert own == text("Ada Quill")  # the query was given, not written
    assert episode.reward == pytest.approx(1.8)


def test_the_question_is_the_first_query_only(script):
    env = environment(quota=2)
    (episode,) = script(always(0.99), env, decoding=Decoding(force="question"))
    assert env.index.asked == [QUESTIONS[0].question, "salt road"]


def test_an_unknown_force_is_refused():
    with pytest.raises(ValueError, match="force must be"):
        Decoding(force="both")


# ------------------------------------------------------------------------------------------------- roles


def cast(**plans):
    """Roles whose players differ: the decider wants to retrieve, everybody writes something of their own."""
    says = {
        "decision": always(0.9, "no query", "no answer"),
        "query": always(0.1, "salt road", "no answer"),
        "reader": always(0.1, "no query", "Ada Quill"),
        "direct": always(0.9, "no query", "Caldis"),
    }
    return Roles(**{part: scripted(plan) for part, plan in (says | plans).items()})


def play(roles, env, decoding=GREEDY):
    return rollout(roles, TOKENIZER, env, QUESTIONS[:1], decoding)[0]


def test_every_part_is_played_by_its_own_policy(script):
    env = environment(quota=2)
    episode = play(cast(), env)
    assert (
        [turn.query for turn in episode.turns] == ["salt road"] * 2
        and episode.answer == "Ada Quill"
        and episode.p_retrieve == pytest.approx(0.9)
    )
    check(episode, TOKENIZER, env)
    assert (
        play(cast(decision=always(0.1)), env).answer == "Caldis"
    )  # at once: the direct policy, and nobody was asked for a query
    assert play(cast(), env, Decoding(force="answer")).answer == "Caldis"


@pytest.mark.parametrize(
    "learn",
    [
        (),
        ("decision",),
        ("query",),
        ("answer",),
        ("decision", "answer"),
        ("decision", "query", "answer"),
    ],
)
def test_only_the_parts_that_learn_are_actions(script, learn):
    episode = play(cast()._replace(learn=learn), environment())
    everything = play(cast(), environment())
    assert episode.tokens == everything.tokens and episode.rewards == everything.rewards
    of = {"decision": [TOKENIZER.retrieve], "query": text("salt road"), "answer": text("Ada Quill")}
    own = [t for t, mine in zip(episode.tokens, episode.action_mask) if mine]
    assert own == [t for part in of for t in of[part] if part in learn]
    assert sum(episode.decision_mask) == len(episode.behaviour) == ("decision" in learn)


def test_one_policy_in_all_roles_is_that_policy():
    policy, env = random_policy(2), environment(quota=2)
    alone, split = (
        rollout(player, TOKENIZER, env, QUESTIONS * 8, KEEN, torch.Generator().manual_seed(3))
        for player in (policy, Roles(*[policy] * 4))
    )
    assert [e.tokens for e in alone] == [e.tokens for e in split] and len(
        {len(e.turns) for e in alone}
    ) == 3


def test_equal_policies_in_different_roles_play_what_one_would():
    """Rows that are split between players, and sessions that are fed side by side: greedy, so that no random number shifts."""
    env, questions = (
        environment(quota=2),
        [*QUESTIONS, *(Question(str(i), f"Ada {i} Quill {'x' * i}?", ("x",)) for i in range(30))],
    )
    alone = rollout(random_policy(2, eos_bias=3.0), TOKENIZER, env, questions)
    split = rollout(
        Roles(*(random_policy(2, eos_bias=3.0) for _ in range(4))), TOKENIZER, env, questions
    )
    assert [e.tokens for e in alone] == [e.tokens for e in split] and {
        len(e.turns) for e in alone
    } == {0, 1, 2}


# ------------------------------------------------------------------------------------------------- real sessions


@pytest.fixture(scope="module")
def real():
    """The generated tiny world, its index, and a tokenizer trained on it."""
    tiny = World.open("tiny")
    questions = tiny.questions("popqa", "train")
    tokenizer = Tokenizer.train(
        [p.full_text for p in tiny.corpus] + [q.question for q in questions], 700
    )
    return tiny, BM25Index.build(p.full_text for p in tiny.corpus), tokenizer, questions


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
    assert (tokenizer.pad, tokenizer.eos) == (
        TOKENIZER.pad,
        TOKENIZER.eos,
    )  # TalkativePolicy speaks of this <eos>
    policy = random_policy(quota, vocab_size=len(tokenizer), max_position_embeddings=512)
    env = RagEnv(tiny, index, quota=quota, passage_tokens=24, query_budget=10, answer_budget=7)
    asked = [q for q in questions[:40] for _ in range(2)]
    episodes = rollout(
        policy, tokenizer, env, asked, decoding, torch.Generator().manual_seed(0), batch_size=32
    )
    readings = [check(e, tokenizer, env, forced=decoding.force is not None) for e in episodes]
    assert [e.question for e in episodes] == asked
    if decoding is KEEN:
        assert {len(r.observations) for r in readings} == set(range(quota + 1))
        assert 0 < sum(e.malformed for e in episodes) < 80


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(force="retrieve")], ids=str)
def test_greedy_episodes_do_not_depend_on_the_batch(decoding):
    env = environment(quota=2)
    policy, questions = (
        random_policy(2, eos_bias=3.0),
        [*QUESTIONS, *(Question(str(i), f"Ada {i} Quill {'x' * i}?", ("x",)) for i in range(30))],
    )
    one, some, all_at_once = (
        rollout(policy, TOKENIZER, env, questions, decoding, batch_size=size) for size in (1, 7, 64)
    )
    for a, b, c in zip(one, some, all_at_once, strict=True):
        assert (
            a.tokens == b.tokens == c.tokens
            and a.action_mask == b.action_mask == c.action_mask
            and a.rewards == b.rewards == c.rewards
        )
        assert (
            a.p_retrieve
            == pytest.approx(b.p_retrieve, abs=1e-5)
            == pytest.approx(c.p_retrieve, abs=1e-5)
        )
    assert [e.question for e in some] == questions
    assert {len(e.turns) for e in one} == {0, 1, 2} and 0 < sum(e.malformed for e in one) < len(one)


def test_the_same_generator_gives_the_same_episodes():
    env, policy = environment(), random_policy()
    play = lambda seed: [
        e.tokens
        for e in rollout(
            policy, TOKENIZER, env, QUESTIONS * 4, SAMPLED, torch.Generator().manual_seed(seed)
        )
    ]
    assert play(0) == play(0) != play(1)


def test_the_number_of_threads_changes_nothing():
    env, policy, workers = environment(quota=2), random_policy(2), Workers(3)
    play = lambda spread: rollout(
        policy,
        TOKENIZER,
        env,
        QUESTIONS * 4,
        KEEN,
        torch.Generator().manual_seed(0),
        batch_size=3,
        spread=spread,
    )
    assert [(e.question, e.tokens, e.rewards, e.behaviour) for e in play(map)] == [
        (e.question, e.tokens, e.rewards, e.behaviour) for e in play(workers.map)
    ]


def test_sampled_text_has_the_probabilities_of_the_tempered_softmax():
    """First answer token of many episodes: frequency against softmax(logits / T) of a full forward pass."""
    policy, env = random_policy(), environment()
    episodes = rollout(
        policy,
        TOKENIZER,
        env,
        [QUESTIONS[0]] * 4000,
        Decoding(temperature=1.6, force="answer"),
        torch.Generator().manual_seed(0),
        batch_size=4000,
    )
    head = [TOKENIZER.bos, *TOKENIZER.encode(QUESTIONS[0].question), TOKENIZER.answer]
    with torch.no_grad():
        expected = (policy(torch.tensor([head]))[0][0, -1] / 1.6).softmax(-1)
    frequency = (
        torch.bincount(
            torch.tensor([e.tokens[len(head)] for e in episodes]), minlength=len(expected)
        )
        / 4000
    )
    assert (frequency - expected).abs().sum() < 0.25 and (frequency - expected).abs().max() < 0.03
    plain = (
        expected.pow(1.6) / expected.pow(1.6).sum()
    )  # what temperature 1 would give is further away
    assert (frequency - plain).abs().sum() > 2 * (frequency - expected).abs().sum()


def test_progress_counts_every_episode_and_no_questions_are_fine(script):
    seen = []
    script(always(0.5), environment(), QUESTIONS * 3, batch_size=5, progress=seen.append)
    assert seen == [5, 5, 2]
    assert script(always(0.5), environment(), []) == []


def test_the_parser_itself_refuses_what_is_no_episode():
    """The oracle of this file can fail."""
    bos, ret, ans, obs, end, q = (
        TOKENIZER.bos,
        TOKENIZER.retrieve,
        TOKENIZER.answer,
        TOKENIZER.obs,
        TOKENIZER.obs_end,
        WORD,
    )
    good = [bos, q, ret, q, EOS, obs, q, end, ans, q, EOS]
    reading = read(good, TOKENIZER, 1, 8, 6)
    assert reading.kinds == [
        "state",
        "state",
        "decision",
        "text",
        "text",
        "state",
        "state",
        "state",
        "forced",
        "text",
        "text",
    ]
    for bad in (
        [q, *good[1:]],
        good + [q],
        good[:5],
        good[:8],
        good[:9],
        [bos, q, ans, q, q],
        good[:5] + good[8:],
        good[:7] + [EOS, end] + good[8:],
        [bos, q, ret, q, EOS, obs, end] * 2 + good[8:],
        [bos, q, EOS, ans, q, EOS],
    ):
        with pytest.raises((AssertionError, IndexError, ValueError)):
            read(bad, TOKENIZER, 1, 8, 6)
