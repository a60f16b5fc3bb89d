"""Roles: each part of an episode by its own policy, and the parts that --learn names."""

from types import SimpleNamespace

import pytest
import torch

from data import Question
from model import save_policy
from rl import ACTIONS, GREEDY, Decoding, Episode, Part, collate, rollout
from rl.runs.flags import UsageError
from rl.study.roles import LEARN, Roles, assemble, only
from tests.model.tiny import tiny_config
from tests.rl.tiny import QUESTIONS, TOKENIZER, environment, random_policy, text

KEEN = Decoding(temperature=1.0, sample_decision=True, explore=0.9)


class Script:
    """A policy that always says the same: P([RETRIEVE]), its query, its answer."""

    device = torch.device("cpu")

    def __init__(self, p: float, query: str, answer: str, context: int = 256):
        self.p, self.query, self.answer = torch.tensor(p), text(query), text(answer)
        self.config = tiny_config(len(TOKENIZER), max_position_embeddings=context)

    def for_inference(self):
        return self

    def session(self, prompts):
        return ScriptSession(self, [list(row) for row in prompts])


class ScriptSession:
    def __init__(self, script: Script, rows: list[list[int]]):
        self.script, self.rows = script, rows
        self.length = torch.tensor([len(row) for row in rows])
        self.logits = torch.zeros(len(rows), len(TOKENIZER))
        self.logits[:, TOKENIZER.retrieve] = script.p.log()
        self.logits[:, TOKENIZER.answer] = (1 - script.p).log()

    def select(self, rows):
        return ScriptSession(self.script, [self.rows[i] for i in rows.tolist()])

    def feed(self, chunks):
        rows = [row + list(chunk) for row, chunk in zip(self.rows, chunks, strict=True)]
        return ScriptSession(self.script, rows)

    def generate(self, first, budget, temperature, eos, generator=None):
        says = {TOKENIZER.retrieve: self.script.query, TOKENIZER.answer: self.script.answer}
        pairs = zip(first.tolist(), budget.tolist(), strict=True)
        return [says[token][:most] for token, most in pairs]


def roles(**players) -> Roles:
    """The decision wants to retrieve, everybody writes something of their own."""
    says = {
        "decision": Script(0.9, "no query", "no answer"),
        "query": Script(0.1, "salt road", "no answer"),
        "reader": Script(0.1, "no query", "Ada Quill"),
        "direct": Script(0.9, "no query", "Caldis"),
    }
    return Roles(**says | players, retrieve=TOKENIZER.retrieve)


def play(players, env, decoding=GREEDY):
    return rollout(players, TOKENIZER, env, QUESTIONS[:1], decoding)[0]


def test_every_part_is_played_by_its_own_policy():
    episode = play(roles(), environment(quota=2))
    assert [turn.query for turn in episode.turns] == ["salt road"] * 2
    assert episode.answer == "Ada Quill" and episode.p_retrieve == pytest.approx(0.9)
    at_once = play(roles(decision=Script(0.1, "x", "x")), environment(quota=2))
    assert at_once.answer == "Caldis" and not at_once.turns
    assert play(roles(), environment(), Decoding(force="answer")).answer == "Caldis"


def test_the_context_is_the_shortest():
    assert roles(reader=Script(0.1, "x", "y", 99)).config.max_position_embeddings == 99


@pytest.mark.parametrize(
    "learn", [(), (Part.QUERY,), (Part.ANSWER,), (Part.DECISION, Part.ANSWER), ACTIONS]
)
def test_only_the_parts_that_learn_are_scored(learn):
    episode = play(roles(), environment())
    batch = collate([only(episode, learn)], TOKENIZER.pad)
    said = {
        Part.DECISION: [TOKENIZER.retrieve],
        Part.QUERY: text("salt road"),
        Part.ANSWER: text("Ada Quill"),
    }
    learnt = batch.tokens[batch.rows, batch.columns].tolist()
    assert learnt == [token for part in said for token in said[part] if part in learn]


def test_one_policy_in_all_roles_is_that_policy():
    policy, env = random_policy(2), environment(quota=2)
    alone, split = (
        rollout(player, TOKENIZER, env, QUESTIONS * 8, KEEN, torch.Generator().manual_seed(3))
        for player in (policy, Roles(*[policy] * 4, TOKENIZER.retrieve))
    )
    assert [e.tokens for e in alone] == [e.tokens for e in split]
    assert len({len(e.turns) for e in alone}) == 3


def test_equal_policies_in_different_roles_play_what_one_would():
    """Rows that are split between players, sessions that are fed side by side: greedy, so that no
    random number shifts."""
    more = [Question(str(i), f"Ada {i} Quill {'x' * i}?", ("x",)) for i in range(30)]
    env, questions = environment(quota=2), [*QUESTIONS, *more]
    alone = rollout(random_policy(2, eos_bias=3.0), TOKENIZER, env, questions)
    players = (random_policy(2, eos_bias=3.0) for _ in range(4))
    split = rollout(Roles(*players, TOKENIZER.retrieve), TOKENIZER, env, questions)
    assert [e.tokens for e in alone] == [e.tokens for e in split]
    assert {len(e.turns) for e in alone} == {0, 1, 2}


# ------------------------------------------------------------------ rewards of others


def episode_of(*pieces: tuple[int, Part, float]) -> Episode:
    """Pieces: (number of tokens, part, reward at the last of them)."""
    episode = Episode(QUESTIONS[0])
    for count, part, reward in pieces:
        episode.append([9] * count, part)
        episode.rewards[-1] = reward
    return episode


RETRIEVING = (
    (3, Part.STATE, 0.0),
    (1, Part.DECISION, 0.0),
    (2, Part.QUERY, -0.2),
    (5, Part.STATE, 0.0),
    (2, Part.ANSWER, 2.0),
)


def earned(episode: Episode, learn) -> list[float]:
    """The rewards of those of its tokens that are learnt."""
    mine = only(episode, learn)
    assert mine.tokens == episode.tokens and len(mine.parts) == len(episode.parts)
    return [r for r, own in zip(mine.rewards, mine.mask(), strict=True) if own]


@pytest.mark.parametrize(
    "learn, rewards",
    [
        (ACTIONS, [0.0, 0.0, -0.2, 0.0, 2.0]),
        ((Part.DECISION,), [1.8]),
        ((Part.QUERY,), [0.0, 1.8]),  # the query's end is worth what a frozen reader then earned
        ((Part.ANSWER,), [0.0, 2.0]),  # a frozen query's cost came before, and is nobody's
        ((Part.DECISION, Part.ANSWER), [-0.2, 0.0, 2.0]),
        ((), []),
    ],
)
def test_what_others_earn_belongs_to_the_learnt_token_before_them(learn, rewards):
    assert earned(episode_of(*RETRIEVING), learn) == pytest.approx(rewards)


def test_the_penalty_of_a_malformed_action_of_others_is_counted_once():
    episode = episode_of((2, Part.STATE, 0.0), (1, Part.DECISION, 0.0), (4, Part.ANSWER, -1.0))
    assert earned(episode, (Part.DECISION,)) == [-1.0]
    assert earned(episode, (Part.QUERY,)) == []
    assert sum(earned(episode, ACTIONS)) == episode.reward == -1.0


# ------------------------------------------------------------------------ --learn, --reader


def args(**changed) -> SimpleNamespace:
    flags = {"learn": LEARN, "reader": "", "force": "", "lora_rank": 0, "device": "cpu"}
    flags |= {"temperature": 0.9, "both": True, "explore": 0.2}
    return SimpleNamespace(init="INIT", **flags | changed)


def test_who_plays_what_is_learnt(tmp_path):
    policy, frozen = random_policy(0), random_policy(1)
    keen = Decoding(0.9, True, explore=0.2, both=True)
    assert assemble(policy, frozen, TOKENIZER, args()) == (policy, ACTIONS, keen)
    players, learn, decoding = assemble(policy, frozen, TOKENIZER, args(learn="query,answer"))
    assert decoding == Decoding(0.9, True), "a frozen decision is played as it is"
    assert players.players == (frozen, policy, policy, policy)
    assert learn == (Part.QUERY, Part.ANSWER)
    save_policy(tmp_path, random_policy(2), TOKENIZER, {})
    given = args(learn="query", force="retrieve", reader=str(tmp_path))
    players, learn, decoding = assemble(policy, frozen, TOKENIZER, given)
    assert decoding == Decoding(0.9, True, force="retrieve")
    assert (players.decision, players.query, players.direct) == (frozen, policy, frozen)
    expected = random_policy(2).state_dict()["model.norm.weight"]
    assert torch.equal(players.reader.state_dict()["model.norm.weight"], expected)
    assert not any(p.requires_grad for p in players.reader.parameters())


@pytest.mark.parametrize(
    "flags, problem",
    [
        ({"learn": "query,query"}, f"--learn query,query: some of {LEARN}, each once"),
        ({"learn": "reading"}, f"some of {LEARN}"),
        ({"reader": "X"}, "--reader X goes with a --learn without answer"),
        ({"force": "retrieve"}, "--force retrieve goes with a --learn without decision"),
        ({"learn": "query", "lora_rank": 4}, "does not go with --lora-rank"),
    ],
)
def test_parts_that_do_not_go_together(flags, problem):
    with pytest.raises(UsageError) as error:
        assemble(random_policy(0), random_policy(1), TOKENIZER, args(**flags))
    assert problem in str(error.value)
