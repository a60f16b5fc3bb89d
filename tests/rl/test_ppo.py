"""PPO line by line: scoring, KL, weights, losses, the update; against numbers by hand and slow loops over single tokens."""

import copy
import importlib
import math
import random
from dataclasses import replace

import pytest
import torch

from rl import Decoding, Episode, PPOConfig, Roles, collate, collect, ppo_update, rollout, score
from rl.advantages import whiten
from rl.ppo import (
    action_rewards,
    adapt_beta,
    minibatch_backward,
    paired_decision_advantages,
    policy_loss,
    update_value_head,
    value_loss,
)
from rl.scoring import by_length

from .oracle import slow_advantages
from .tiny import QUESTIONS, TOKENIZER, environment, random_policy, text

CONFIG = PPOConfig(minibatch=8, decision_weight=2.0, decision_entropy=0.02, text_entropy=0.01)
SAMPLED = Decoding(temperature=1.0, sample_decision=True, explore=0.1)
PAIR = [TOKENIZER.retrieve, TOKENIZER.answer]


def play(
    policy, count: int = 16, decoding: Decoding = SAMPLED, seed: int = 0, **env
) -> list[Episode]:
    """Random episodes of every kind: direct, retrieving, malformed; with rewards of many sizes."""
    questions = (
        [QUESTIONS[i % 4] for i in range(count)]
        if not decoding.both
        else [QUESTIONS[i // 2 % 4] for i in range(count)]
    )
    episodes = rollout(
        policy,
        TOKENIZER,
        environment(**env),
        questions,
        decoding,
        torch.Generator().manual_seed(seed),
    )
    for i, episode in enumerate(episodes):
        episode.rewards[-1] += 0.1 * (i % 5)
    return episodes


def slow_scores(
    policy, episode: Episode, temperature: float = 1.0
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(log-probability, entropy, value) of every action token: one unpadded pass, one token at a time, logits at t - 1."""
    logits, values = policy(torch.tensor([episode.tokens]))
    result = []
    for t, token in enumerate(episode.tokens):
        if episode.action_mask[t]:
            row = logits[0, t - 1]
            if episode.decision_mask[t]:
                log_probs, place = row[PAIR].log_softmax(-1), PAIR.index(token)
            else:
                log_probs, place = (row / temperature).log_softmax(-1), token
            result.append(
                (log_probs[place], -(log_probs.exp() * log_probs).sum(), values[0, t - 1])
            )
    return result


def flat(per_episode: list[list[float]]) -> torch.Tensor:
    return torch.tensor([x for row in per_episode for x in row])


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4):
    torch.testing.assert_close(a.detach(), b.detach(), atol=tolerance, rtol=tolerance)


def gradients(policy) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in policy.model.named_parameters()}


def perturbed(policy, by: float = 0.02, seed: int = 5):
    """A policy a little further on, so that ratios differ from 1."""
    policy, generator = copy.deepcopy(policy), torch.Generator().manual_seed(seed)
    for parameter in policy.model.parameters():
        parameter.data += by * torch.randn(parameter.shape, generator=generator)
    return policy


# ------------------------------------------------------------------------------------------------- scoring


@pytest.mark.parametrize("temperature, layers", [(1.0, 2), (0.7, 2), (1.0, 1), (1.0, 3)])
def test_scores_are_those_of_single_tokens(temperature, layers):
    policy = random_policy(num_hidden_layers=layers)
    episodes = play(policy, quota=2)
    scores = score(policy, collate(episodes, TOKENIZER.pad), TOKENIZER, temperature)
    slow = [entry for episode in episodes for entry in slow_scores(policy, episode, temperature)]
    log_probs, entropy, values = (torch.stack(column) for column in zip(*slow))
    close(scores.log_probs, log_probs, 1e-5)
    close(scores.entropy, entropy, 1e-5)
    close(policy.value_head(scores.features), values, 1e-5)


def test_scores_do_not_depend_on_padding_or_company():
    policy = random_policy()
    episodes = play(policy)
    together = score(policy, collate(episodes, TOKENIZER.pad), TOKENIZER)
    alone = [score(policy, collate([e], TOKENIZER.pad), TOKENIZER) for e in episodes]
    for field in ("log_probs", "entropy", "features"):
        close(getattr(together, field), torch.cat([getattr(x, field) for x in alone]), 1e-5)


@pytest.mark.parametrize("spare", [0, 1, 9])
def test_rounded_shapes_stay_inside_the_context(spare):
    """An episode may fill the context to its last position, whatever its length is rounded to."""
    wide = random_policy()
    episodes = play(wide)
    longest = max(len(e.tokens) for e in episodes)
    assert (
        longest % 8 and longest % 8 != 7
    )  # so that rounding up would go beyond both narrow contexts
    narrow = random_policy(max_position_embeddings=longest + spare)
    narrow.load_state_dict(wide.state_dict())
    for a, b in zip(
        score(wide, collate(episodes, TOKENIZER.pad), TOKENIZER),
        score(narrow, collate(episodes, TOKENIZER.pad), TOKENIZER),
    ):
        close(a, b, 1e-6)


def test_cached_generation_has_the_log_probs_of_the_full_pass():
    """The decision's probability at sampling (cache) is the one at scoring (full pass), for the first and the second."""
    policy = random_policy()
    episodes = play(policy, 32, Decoding(1.0, sample_decision=True), quota=2)
    experience = collect(policy, policy, episodes, TOKENIZER, 0.0, CONFIG)
    sampled = torch.tensor([b for e in episodes for b in e.behaviour])
    assert len(sampled) == int(experience.decision.sum()) > 32
    close(experience.log_probs[experience.decision].exp(), sampled, 1e-5)
    close(experience.weight, torch.ones_like(experience.weight), 1e-4)


def test_only_the_two_action_logits_move_a_decision():
    policy = random_policy()
    episodes = play(policy)
    batch = collate(episodes, TOKENIZER.pad)
    before = score(policy, batch, TOKENIZER)
    changed = copy.deepcopy(policy)
    others = [i for i in range(len(TOKENIZER)) if i not in PAIR]
    noise = 5 * torch.randn(len(others))
    logits = type(policy).logits

    class Noisy(type(policy)):
        def logits(self, hidden):
            return logits(self, hidden).index_add(
                -1, torch.tensor(others), noise.expand(*hidden.shape[:-1], -1)
            )

    changed.__class__ = Noisy
    after = score(changed, batch, TOKENIZER)
    close(after.log_probs[batch.decision], before.log_probs[batch.decision], 1e-6)
    close(after.entropy[batch.decision], before.entropy[batch.decision], 1e-6)
    assert (after.log_probs - before.log_probs)[~batch.decision].abs().min() > 1e-3
    old, new = (rollout(p, TOKENIZER, environment(), QUESTIONS) for p in (policy, changed))
    assert [e.p_retrieve for e in new] == pytest.approx([e.p_retrieve for e in old], abs=1e-6)


def test_a_decision_is_scored_without_temperature():
    policy = random_policy()
    batch = collate(play(policy), TOKENIZER.pad)
    cold, warm = (score(policy, batch, TOKENIZER, t).log_probs for t in (0.5, 2.0))
    close(cold[batch.decision], warm[batch.decision], 0)
    assert (cold - warm)[~batch.decision].abs().min() > 1e-3


def test_forced_decisions_and_observations_carry_no_gradient():
    """d log pi / d logits lives exactly one column before each action token, and nowhere else."""
    policy = random_policy()
    for episode in [
        *play(policy, 8, quota=2),
        *play(policy, 4, Decoding(1.0, force="retrieve")),
        *play(policy, 4, Decoding(1.0, force="question")),
    ]:
        seen = []
        hook = policy.model.register_forward_hook(
            lambda m, i, keywords, out: (
                (out[-1].retain_grad(), seen.append((keywords["columns"][0], out[-1]))) and None
            ),
            with_kwargs=True,
        )
        score(policy, collate([episode], TOKENIZER.pad), TOKENIZER).log_probs.sum().backward()
        hook.remove()
        (columns, states), touched = seen[0], torch.zeros(len(episode.tokens), dtype=torch.bool)
        touched[columns] = states.grad[0].abs().sum(-1) > 0
        assert touched.tolist() == [*episode.action_mask[1:], False]


# ------------------------------------------------------------------------------------------------- collect


@pytest.mark.parametrize(
    "beta, temperature, gamma, lam",
    [(0.0, 1.0, 1.0, 1.0), (0.3, 0.7, 1.0, 0.95), (0.05, 1.3, 0.9, 0.8)],
)
def test_collect_against_slow_loops(beta, temperature, gamma, lam):
    """Everything an Experience holds, episode by episode and token by token."""
    policy, reference = random_policy(0), random_policy(1)
    episodes = play(policy, quota=2)
    config = replace(CONFIG, temperature=temperature, gamma=gamma, lam=lam)
    experience = collect(policy, reference, episodes, TOKENIZER, beta, config, score_batch=5)
    with torch.no_grad():
        own = [slow_scores(policy, e, temperature) for e in episodes]
        other = [slow_scores(reference, e, temperature) for e in episodes]
    log_probs, values = ([[float(entry[i]) for entry in row] for row in own] for i in (0, 2))
    reference_log_probs = [[float(entry[0]) for entry in row] for row in other]
    advantages, returns, weights, decisions = [], [], [], []
    for e, lp, rlp, v in zip(episodes, log_probs, reference_log_probs, values):
        paid = [r for r, mine in zip(e.rewards, e.action_mask) if mine]
        row = slow_advantages([r - beta * (a - b) for r, a, b in zip(paid, lp, rlp)], v, gamma, lam)
        advantages.append(row)
        returns.append([a + x for a, x in zip(row, v)])
        decisions.append([d for d, mine in zip(e.decision_mask, e.action_mask) if mine])
        behaviour = iter(e.behaviour)
        weights.append(
            [math.exp(x) / next(behaviour) if d else 1.0 for x, d in zip(lp, decisions[-1])]
        )
    close(experience.log_probs, flat(log_probs))
    close(experience.reference_log_probs, flat(reference_log_probs))
    close(experience.values, flat(values))
    close(experience.returns, flat(returns))
    close(experience.weight, flat(weights))
    assert experience.decision.tolist() == [d for row in decisions for d in row]
    raw = flat(advantages)
    close(
        experience.advantages, (raw - raw.mean()) / raw.std(unbiased=False)
    )  # over the whole rollout, never a batch of it
    assert experience.offsets == [
        0,
        *torch.tensor([len(row) for row in advantages]).cumsum(0).tolist(),
    ]
    close(experience.k1, experience.log_probs - experience.reference_log_probs)
    per_episode = torch.tensor(
        [sum(a - b for a, b in zip(x, y)) for x, y in zip(log_probs, reference_log_probs)]
    )
    close(experience.per_episode(experience.k1), per_episode, 1e-3)


def test_what_is_paid_for_others_tokens_belongs_to_the_action_before_them():
    """own query -.2, a frozen reader's answer 2: the query's end is worth 1.8; before any action nothing is earned."""
    episode = Episode(QUESTIONS[0])
    episode.state([1, 2])
    episode.action([3, 4, 5], -0.2, decision=False)
    episode.state([6])
    episode.action([7, 8], 2.0, decision=False, text=False)
    assert action_rewards(episode) == pytest.approx([0.0, 1.8])
    episode = Episode(QUESTIONS[0])
    episode.action([3, 4], -0.2, decision=False, text=False)
    episode.action([7, 8], 2.0, decision=False)
    assert action_rewards(episode) == [2.0]


@pytest.mark.parametrize("learn", [("query",), ("decision", "query"), ("answer",)])
def test_parts_that_do_not_learn_are_in_no_tensor(learn):
    policy, frozen = random_policy(0), random_policy(1)
    roles = Roles(
        *(
            policy if part in learn else frozen
            for part in ("decision", "query", "answer", "answer")
        ),
        learn,
    )
    episodes = [
        e
        for e in rollout(
            roles,
            TOKENIZER,
            environment(quota=2),
            QUESTIONS * 8,
            SAMPLED,
            torch.Generator().manual_seed(0),
        )
        if any(e.action_mask)
    ]
    experience = collect(
        policy, random_policy(2), episodes, TOKENIZER, 0.0, replace(CONFIG, value=False)
    )
    special = {TOKENIZER.retrieve, TOKENIZER.answer}
    decisions = sum(sum(e.decision_mask) for e in episodes)
    assert (
        int(experience.decision.sum()) == decisions
        and (decisions > 0) == ("decision" in learn)
        and len(episodes) > 8
    )
    assert not any(
        mine and t in special
        for e in episodes
        for t, mine, d in zip(e.tokens, e.action_mask, e.decision_mask)
        if not d
    )
    total = [
        e.reward for e in episodes
    ]  # gamma 1, no value, no penalty: the first token's return is all that is paid from there on
    first = [float(experience.returns[i]) for i in experience.offsets[:-1]]
    skipped = [
        sum(r for r, _ in zip(e.rewards, range(e.action_mask.index(True)))) for e in episodes
    ]
    assert first == pytest.approx([a - b for a, b in zip(total, skipped)], abs=1e-5)


def test_without_a_value_head_the_baseline_is_the_mean_of_the_batch():
    policy, episodes = random_policy(), play(random_policy())
    experience = collect(policy, policy, episodes, TOKENIZER, 0.3, replace(CONFIG, value=False))
    to_come = [sum(e.rewards[i:]) for e in episodes for i, mine in enumerate(e.action_mask) if mine]
    x = torch.tensor(to_come)
    assert not experience.values.any()
    close(experience.returns, x)
    close(experience.advantages, (x - x.mean()) / x.std(unbiased=False))


def test_collect_does_not_depend_on_the_scoring_batch():
    policy, reference = random_policy(0), random_policy(1)
    episodes = play(policy)
    one, many = (
        collect(policy, reference, episodes, TOKENIZER, 0.1, CONFIG, score_batch=size)
        for size in (1, 64)
    )
    for field in (
        "log_probs",
        "reference_log_probs",
        "values",
        "returns",
        "advantages",
        "weight",
        "features",
    ):
        close(getattr(one, field), getattr(many, field))


@pytest.mark.parametrize("length", [0, 1, 40])
def test_observation_tokens_change_no_advantage(length):
    """V = 0 and beta = 0 here, so that only the places of the tokens could matter; gamma and lambda would show them."""
    policy = random_policy()
    for parameter in policy.value_head.parameters():
        parameter.data.zero_()

    def episode(observation: list[int]) -> Episode:
        e = Episode(QUESTIONS[0])
        e.state([TOKENIZER.bos, *TOKENIZER.encode(QUESTIONS[0].question)])
        e.action([TOKENIZER.retrieve, *text("salt road")], -0.2)
        e.state(observation)
        e.action([TOKENIZER.answer, *text("Ada Quill")], 2.0, decision=False)
        e.behaviour = [1.0]
        return e

    config = replace(CONFIG, gamma=0.9, lam=0.8)
    without, having = (
        collect(policy, policy, [episode(o)], TOKENIZER, 0.0, config) for o in ([], [11] * length)
    )
    assert torch.equal(without.advantages, having.advantages) and torch.equal(
        without.returns, having.returns
    )
    assert without.returns[0] != 0 and without.offsets == having.offsets


def test_exploration_by_hand():
    """pi([RETRIEVE]) = .8, b = .9 .8 + .05 = .77: the weight of a sampled decision is .8 / .77, or .2 / .23."""
    policy = random_policy()
    with torch.no_grad():
        policy.model.embed_tokens.weight[PAIR] = 0.0  # both logits 0 ...
    policy.logits = lambda hidden: (
        type(policy)
        .logits(policy, hidden)
        .index_add(-1, torch.tensor(PAIR[:1]), torch.full((*hidden.shape[:-1], 1), math.log(4)))
    )
    episodes = play(policy, 64)
    experience = collect(policy, policy, episodes, TOKENIZER, 0.0, CONFIG)
    kinds = torch.tensor(
        [
            len(e.turns) > 0 or e.tokens[e.decision_mask.index(True)] == TOKENIZER.retrieve
            for e in episodes
        ]
    )
    weights = experience.weight[experience.decision]
    assert 0 < kinds.sum() < 64
    close(weights, torch.where(kinds, 0.8 / 0.77, 0.2 / 0.23), 1e-5)
    assert torch.equal(
        experience.weight[~experience.decision], torch.ones(int((~experience.decision).sum()))
    )


def test_kl_by_hand():
    """k1 = log p - log q and k3 = q/p - 1 - log(q/p), at p = .5, .8 and q = .25, .9."""
    policy = random_policy()
    experience = collect(policy, policy, play(policy, 2), TOKENIZER, 0.0, CONFIG)
    experience.log_probs, experience.reference_log_probs = (
        torch.tensor([0.5, 0.8]).log(),
        torch.tensor([0.25, 0.9]).log(),
    )
    close(experience.k1, torch.tensor([math.log(2), math.log(8 / 9)]), 1e-6)
    close(experience.k3, torch.tensor([0.5 - 1 + math.log(2), 1.125 - 1 - math.log(1.125)]), 1e-6)
    experience.offsets = [0, 1, 2]
    close(experience.per_episode(experience.k1), experience.k1, 0)
    experience.offsets = [0, 2]
    close(
        experience.per_episode(experience.k1), torch.tensor([math.log(2) + math.log(8 / 9)]), 1e-6
    )


def test_both_estimators_have_the_mean_of_the_divergence():
    """Summed over the vocabulary under p, k1 and k3 are both KL(p || q); k3 is never negative."""
    p, q = torch.randn(50).softmax(-1), torch.randn(50).softmax(-1)
    policy = random_policy()
    experience = collect(policy, policy, play(policy, 2), TOKENIZER, 0.0, CONFIG)
    experience.log_probs, experience.reference_log_probs = p.log(), q.log()
    divergence = (p * (p / q).log()).sum()
    close((p * experience.k1).sum(), divergence, 1e-5)
    close((p * experience.k3).sum(), divergence, 1e-5)
    assert experience.k3.min() >= 0 > experience.k1.min()


def test_the_penalty_moves_the_returns_by_beta_times_k1():
    policy, reference = random_policy(0), random_policy(1)
    episodes = play(policy)
    free, penalised = (
        collect(policy, reference, episodes, TOKENIZER, beta, CONFIG) for beta in (0.0, 0.5)
    )
    for e, count in enumerate(free.counts):  # gamma = lambda = 1: the penalty still to come
        part = slice(free.offsets[e], free.offsets[e] + count)
        to_come = free.k1[part].flip(0).cumsum(0).flip(0)
        close(penalised.returns[part], free.returns[part] - 0.5 * to_come)


@pytest.mark.parametrize(
    "kl, factor",
    [
        (6.0, 1.0),
        (6.6, 1 + 0.1 * 0.0512),
        (60.0, 1 + 0.2 * 0.0512),
        (5.4, 1 - 0.1 * 0.0512),
        (-3.0, 1 - 0.2 * 0.0512),
    ],
)
def test_adaptive_beta_by_hand(kl, factor):
    """beta (1 + clip(KL / 6 - 1, -.2, .2) 512 / 10,000)."""
    assert adapt_beta(0.01, kl, 6.0, 512, 10_000) == pytest.approx(0.01 * factor)


# ------------------------------------------------------------------------------------------------- both branches


def test_paired_advantages_by_hand():
    """P = .8: R = 1.8 after retrieving and .5 without, so E = 1.54 and the advantages are .26 and -1.04."""
    returns = torch.tensor([1.8, 9.0, 9.0, 0.5, 9.0])  # the decisions are tokens 0 and 3
    log_probs = torch.tensor([0.8, 0.3, 0.3, 0.2, 0.3]).log()
    result = paired_decision_advantages(
        torch.tensor([7.0, 1.0, 2.0, 7.0, 3.0]), returns, log_probs, torch.tensor([0, 3])
    )
    close(result, torch.tensor([0.26, 1.0, 2.0, -1.04, 3.0]), 1e-6)
    close(result[0] * 0.8 + result[3] * 0.2, torch.tensor(0.0), 1e-6)


def test_paired_collect():
    """Both branches: weights 2 pi, decisions against the policy's own mixture of returns, text against the value head."""
    policy, reference = random_policy(0), random_policy(1)
    episodes = play(policy, 12, Decoding(1.0, sample_decision=True, both=True))
    paired, single = (
        collect(policy, reference, episodes, TOKENIZER, 0.1, CONFIG, paired=p)
        for p in (True, False)
    )
    pi = paired.log_probs[paired.decision].exp()
    close(pi[::2] + pi[1::2], torch.ones(6), 1e-5)
    close(paired.weight[paired.decision], 2 * pi, 1e-5)
    assert torch.equal(paired.returns, single.returns) and paired.decision.sum() == 12
    raw = single.returns - single.values
    decided = paired.returns[paired.decision]
    expected = (decided * pi).view(-1, 2).sum(-1).repeat_interleave(2)
    raw[paired.decision] = decided - expected
    close(paired.advantages, whiten(raw))


def branches(policy, rewards=(1.7, 0.4)) -> list[Episode]:
    """One question on both branches, the decision its only action token: [RETRIEVE] pays the first, [ANSWER] the second."""
    result = []
    for token, reward in zip(PAIR, rewards):
        e = Episode(QUESTIONS[0], behaviour=[0.5])
        e.state([TOKENIZER.bos, *TOKENIZER.encode(QUESTIONS[0].question)])
        e.action([token], reward)
        result.append(e)
    return result


def expected_reward_gradient(policy, rewards) -> dict[str, torch.Tensor]:
    """d/dw of sum_a pi(a) R_a, straight through the two-way softmax."""
    policy.zero_grad()
    prompt = [TOKENIZER.bos, *TOKENIZER.encode(QUESTIONS[0].question)]
    (
        policy(torch.tensor([prompt]))[0][0, -1, PAIR].softmax(-1) * torch.tensor(rewards)
    ).sum().backward()
    return gradients(policy)


def test_both_branches_give_the_gradient_of_the_expected_reward():
    policy, rewards = random_policy(), (1.7, 0.4)
    expected = expected_reward_gradient(policy, rewards)
    episodes = branches(policy, rewards)
    experience = collect(policy, policy, episodes, TOKENIZER, 0.0, CONFIG, paired=True)
    first = torch.tensor(experience.offsets[:-1])
    advantages = paired_decision_advantages(
        torch.zeros(2), experience.returns, experience.log_probs, first
    )
    policy.zero_grad()
    new = score(policy, collate(episodes, TOKENIZER.pad), TOKENIZER).log_probs
    policy_loss(new, experience.log_probs, advantages, experience.weight, 0.2)[0].mean().backward()
    for name, gradient in gradients(policy).items():
        close(-gradient, expected[name], 1e-6)
    assert expected["embed_tokens.weight"].abs().max() > 1e-3


@pytest.mark.parametrize("explore", [0.0, 0.1, 1.0])
def test_importance_weights_make_exploration_unbiased(explore):
    """E over the behaviour b of weight x surrogate gradient is the gradient of E_pi[R], whatever the mixture."""
    policy, rewards = random_policy(), (1.7, 0.4)
    expected = expected_reward_gradient(policy, rewards)
    episodes = branches(policy, rewards)
    with torch.no_grad():
        pi = score(policy, collate(episodes, TOKENIZER.pad), TOKENIZER).log_probs.exp()
    b = (1 - explore) * pi + explore / 2
    for episode, value in zip(episodes, b.tolist()):
        episode.behaviour = [value]
    experience = collect(policy, policy, episodes, TOKENIZER, 0.0, CONFIG)
    policy.zero_grad()
    new = score(policy, collate(episodes, TOKENIZER.pad), TOKENIZER).log_probs
    surrogate = policy_loss(new, experience.log_probs, experience.returns, experience.weight, 0.2)[
        0
    ]
    (b * surrogate).sum().backward()
    for name, gradient in gradients(policy).items():
        close(-gradient, expected[name], 1e-6)


# ------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(
    "ratio, advantage, loss, slope",
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.0),
        (1.5, 2.0, -2.4, 0.0),
        (0.5, 2.0, -1.0, -2.0),  # gains are cut above 1.2
        (1.0, -2.0, 2.0, 2.0),
        (0.9, -2.0, 1.8, 2.0),
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 2.0),  # and below .8; losses never
    ],
)
@pytest.mark.parametrize("weight", [1.0, 1.04])
def test_policy_loss_by_hand(ratio, advantage, loss, slope, weight):
    log_prob = torch.tensor([math.log(0.3 * ratio)], requires_grad=True)
    result, r = policy_loss(
        log_prob,
        torch.tensor([math.log(0.3)]),
        torch.tensor([advantage]),
        torch.tensor([weight]),
        0.2,
    )
    close(r, torch.tensor([ratio]), 1e-5)
    close(result, torch.tensor([weight * loss]), 1e-5)
    result.sum().backward()
    close(log_prob.grad, torch.tensor([weight * slope * ratio]), 1e-5)  # d ratio / d log pi = ratio


@pytest.mark.parametrize(
    "value, old, target, loss, slope",
    [
        (1.2, 1.0, 2.0, 0.32, -0.8),  # within the clip: half the squared error
        (1.8, 1.0, 2.0, 0.125, 0.0),  # moved too far towards the target: the clipped 1.5 counts
        (0.2, 1.0, 2.0, 1.62, -1.8),  # moved too far away: the worse of the two, itself
        (1.0, 1.0, -3.0, 8.0, 4.0),
        (0.2, 1.0, -3.0, 6.125, 0.0),
    ],
)
def test_value_loss_by_hand(value, old, target, loss, slope):
    values = torch.tensor([value, value], requires_grad=True)
    result = value_loss(values, torch.full((2,), old), torch.full((2,), target), 0.5)
    close(result, torch.tensor(loss), 1e-5)
    result.backward()
    close(values.grad, torch.full((2,), slope / 2), 1e-5)  # a mean over two


# ------------------------------------------------------------------------------------------------- a minibatch


def minibatch_gradient(policy, experience, config, chosen=None):
    policy.zero_grad()
    figures = minibatch_backward(
        policy,
        experience,
        list(range(len(experience.episodes))) if chosen is None else chosen,
        TOKENIZER,
        config,
    )
    return gradients(policy), figures


def test_the_ratio_is_one_on_the_first_minibatch():
    for temperature in (1.0, 0.7):
        policy, config = random_policy(), replace(CONFIG, temperature=temperature)
        experience = collect(
            policy, random_policy(1), play(policy, 24, quota=2), TOKENIZER, 0.1, config
        )
        _, figures = minibatch_gradient(policy, experience, config, chosen=[17, 3, 8, 0, 21, 9])
        assert torch.expm1(figures["log_ratio"]).abs().max() < 1e-5
        assert (
            figures["decision"].any()
            and not figures["decision"].all()
            and figures["clip_fraction"].max() == 0
        )


@pytest.mark.parametrize("both", [False, True])
def test_the_gradient_of_a_minibatch_against_slow_loops(both):
    """Masked mean over the tokens of the minibatch, decisions twice, entropy bonuses; ratios inside and outside the clip."""
    old = random_policy()
    episodes = play(old, 12, Decoding(1.0, sample_decision=True, explore=0.1, both=both), quota=2)
    config = replace(CONFIG, temperature=0.9)
    experience = collect(old, random_policy(1), episodes, TOKENIZER, 0.1, config, paired=both)
    policy, chosen = perturbed(old), [7, 2, 11, 4, 5]
    fast, figures = minibatch_gradient(policy, experience, config, chosen)
    assert 0.05 < figures["clip_fraction"].mean() < 0.95

    policy.zero_grad()
    total, count = 0.0, 0
    for i in chosen:
        decisions = [
            d for d, mine in zip(episodes[i].decision_mask, episodes[i].action_mask) if mine
        ]
        for j, (log_prob, entropy, _) in enumerate(slow_scores(policy, episodes[i], 0.9)):
            at = experience.offsets[i] + j
            ratio, advantage = (
                (log_prob - experience.log_probs[at]).exp(),
                experience.advantages[at],
            )
            surrogate = experience.weight[at] * max(
                -advantage * ratio,
                -advantage * min(max(ratio, torch.tensor(0.8)), torch.tensor(1.2)),
            )
            total = total + (
                2.0 * surrogate - 0.02 * entropy if decisions[j] else surrogate - 0.01 * entropy
            )
            count += 1
    (total / count).backward()
    for name, gradient in gradients(policy).items():
        torch.testing.assert_close(
            fast[name], gradient, atol=1e-5, rtol=1e-3, msg=lambda m: f"{name}: {m}"
        )


def test_micro_batches_give_equal_gradients():
    old = random_policy()
    experience = collect(old, random_policy(1), play(old, 13, quota=2), TOKENIZER, 0.1, CONFIG)
    policy = perturbed(old)
    results = [
        minibatch_gradient(policy, experience, replace(CONFIG, micro_batches=n))
        for n in (1, 2, 4, 13, 50)
    ]
    for gradient, figures in results[1:]:
        for name in gradient:
            close(gradient[name], results[0][0][name], 1e-5)
        for name in figures:  # the same tokens, in another order
            close(
                figures[name].float().sort().values, results[0][1][name].float().sort().values, 1e-4
            )
    assert results[0][0]["embed_tokens.weight"].abs().max() > 1e-2


def test_groups_of_similar_length_lose_nobody():
    policy = random_policy()
    episodes = play(policy, 11)
    groups = by_length(episodes, 4)
    assert sorted(i for group in groups for i in group) == list(range(11)) and [
        len(group) for group in groups
    ] == [4, 4, 3]
    lengths = [len(episodes[i].tokens) for group in groups for i in group]
    assert lengths == sorted(lengths)


# ------------------------------------------------------------------------------------------------- an update


def weights_of(policy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def unchanged(policy, before) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())


@pytest.fixture
def update():
    """(policy, its experience, its optimizer)."""
    policy = random_policy()
    experience = collect(policy, copy.deepcopy(policy), play(policy, 24), TOKENIZER, 0.0, CONFIG)
    return policy, experience, torch.optim.SGD(policy.model.parameters(), lr=0.01)


def test_a_step_is_the_clipped_gradient_of_its_minibatch(update):
    policy, experience, optimizer = update
    config = replace(CONFIG, epochs=1, minibatch=24, max_grad_norm=0.05)
    gradient, _ = minibatch_gradient(copy.deepcopy(policy), experience, config)
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
    before = weights_of(policy)
    figures = ppo_update(
        policy, optimizer, experience, TOKENIZER, config, torch.Generator().manual_seed(0)
    )
    assert norm > 0.05 and figures["grad_norm"] == pytest.approx(norm, rel=1e-4)
    for name, parameter in policy.model.named_parameters():
        close(parameter, before[f"model.{name}"] - 0.01 * 0.05 / norm * gradient[name], 1e-6)
    assert all(
        torch.equal(tensor, before[f"value_head.{name}"])
        for name, tensor in policy.value_head.state_dict().items()
    )
    assert (figures["optimizer_steps"], figures["stopped_early"]) == (1, 0.0) and figures[
        "max_log_ratio"
    ] < 1e-5


@pytest.mark.parametrize("poison", ["advantages", "log_probs", "weight"])
def test_a_nan_stops_the_update_before_the_weights(update, poison):
    policy, experience, optimizer = update
    getattr(experience, poison)[3] = float("nan")
    before = weights_of(policy)
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        ppo_update(policy, optimizer, experience, TOKENIZER, replace(CONFIG, minibatch=24))
    assert unchanged(policy, before)


def test_an_infinite_gradient_stops_the_update(update):
    policy, experience, optimizer = update
    experience.advantages[0] = float("inf")
    before = weights_of(policy)
    with pytest.raises(FloatingPointError):
        ppo_update(policy, optimizer, experience, TOKENIZER, replace(CONFIG, minibatch=24))
    assert unchanged(policy, before)


def test_target_kl_stops_before_the_step_that_is_too_far(update):
    policy, experience, _ = update
    moved = perturbed(policy, 0.1)
    before = weights_of(moved)
    figures = ppo_update(
        moved, torch.optim.SGD(moved.model.parameters(), lr=0.01), experience, TOKENIZER, CONFIG
    )
    assert (
        figures["k3_old"] > CONFIG.target_kl
        and (figures["optimizer_steps"], figures["stopped_early"]) == (0, 1.0)
        and unchanged(moved, before)
    )


def test_target_kl_stops_in_the_middle(update):
    """Steps that are far too long: the first is taken (ratio 1, KL 0), the second minibatch sees the KL and stops everything."""
    policy, experience, _ = update
    long = torch.optim.SGD(policy.model.parameters(), lr=3.0)
    figures = ppo_update(policy, long, experience, TOKENIZER, replace(CONFIG, epochs=5))
    assert (figures["optimizer_steps"], figures["stopped_early"]) == (1, 1.0)


def test_without_reason_nothing_stops(update):
    policy, experience, optimizer = update
    figures = ppo_update(
        policy, optimizer, experience, TOKENIZER, replace(CONFIG, epochs=3, minibatch=10)
    )
    assert (figures["optimizer_steps"], figures["stopped_early"]) == (9, 0.0)


def test_minibatches_are_random_and_not_sorted_by_length(monkeypatch):
    """32 long and 32 short episodes, in order: minibatches of 16 mix them, epochs differ, everyone takes part once an epoch."""
    policy = random_policy()
    one = Episode(QUESTIONS[0], behaviour=[0.5])
    one.state([TOKENIZER.bos, 20])
    one.action([TOKENIZER.answer, *text("x")], 1.0)
    two = copy.deepcopy(one)
    two.tokens, two.action_mask, two.decision_mask, two.rewards = (
        [*x[:2], *[y] * 40, *x[2:]]
        for x, y in (
            (one.tokens, 20),
            (one.action_mask, False),
            (one.decision_mask, False),
            (one.rewards, 0.0),
        )
    )
    experience = collect(
        policy,
        policy,
        [copy.deepcopy(one) for _ in range(32)] + [copy.deepcopy(two) for _ in range(32)],
        TOKENIZER,
        0.0,
        CONFIG,
    )
    seen = []
    module = importlib.import_module("rl.ppo")
    backward = module.minibatch_backward
    monkeypatch.setattr(
        module,
        "minibatch_backward",
        lambda p, e, chosen, *rest: (seen.append(list(chosen)), backward(p, e, chosen, *rest))[1],
    )
    ppo_update(
        policy,
        torch.optim.SGD(policy.model.parameters(), lr=0.0),
        experience,
        TOKENIZER,
        replace(CONFIG, epochs=2, minibatch=16),
        torch.Generator().manual_seed(0),
    )
    assert [len(chosen) for chosen in seen] == [16] * 8
    first, second = (sum(seen[i : i + 4], []) for i in (0, 4))
    assert sorted(first) == sorted(second) == list(range(64)) and first != second
    assert all(4 <= sum(i >= 32 for i in chosen) <= 12 for chosen in seen)
    assert all(chosen != sorted(chosen) for chosen in seen)


def test_the_value_head_learns_its_replay_and_nothing_else_moves():
    policy = random_policy()
    for parameter in policy.value_head.down.parameters():
        parameter.data.zero_()
    features = torch.randn(200, 96)
    returns = features[:, 0].sign()
    before = weights_of(policy)
    optimizer = torch.optim.AdamW(policy.value_head.parameters(), lr=1e-2, weight_decay=0.0)
    losses = [
        update_value_head(
            policy.value_head,
            optimizer,
            features,
            returns,
            replace(CONFIG, value_steps=25, value_batch=64),
            torch.Generator().manual_seed(i),
        )
        for i in range(8)
    ]
    assert (
        0.3 < losses[0] < 0.55 and losses[-1] < 0.05
    )  # it starts at half the mean square of the returns
    with torch.no_grad():
        assert (policy.value_head(features) - returns).square().mean() < 0.1
    assert all(
        torch.equal(tensor, before[name])
        for name, tensor in policy.state_dict().items()
        if name.startswith("model.")
    )
    assert not policy.value_head.training


def test_one_update_of_the_value_head_stays_near_the_old_values():
    """The clipped loss: with targets far away the prediction gains nothing beyond .5 from where it was."""
    policy = random_policy()
    for parameter in policy.value_head.down.parameters():
        parameter.data.zero_()
    features, returns = torch.randn(100, 96), torch.full((100,), 50.0)
    optimizer = torch.optim.SGD(policy.value_head.down.parameters(), lr=1e-5)
    update_value_head(
        policy.value_head,
        optimizer,
        features,
        returns,
        replace(CONFIG, value_steps=400, value_batch=100),
    )
    with torch.no_grad():
        values = policy.value_head(features)
    assert 0.4 < values.mean() < 0.8


def test_a_nan_return_stops_the_value_head():
    policy = random_policy()
    before = weights_of(policy)
    with pytest.raises(FloatingPointError):
        update_value_head(
            policy.value_head,
            torch.optim.SGD(policy.value_head.parameters(), lr=1.0),
            torch.randn(4, 96),
            torch.full((4,), float("nan")),
            CONFIG,
        )
    assert unchanged(policy, before)


# ------------------------------------------------------------------------------------------------- it learns


def p_answer(policy) -> float:
    return 1 - rollout(policy, TOKENIZER, environment(), QUESTIONS[:1])[0].p_retrieve


@pytest.mark.parametrize("both", [False, True])
def test_ppo_learns_which_of_two_arms_pays(both):
    """Only [ANSWER] pays. From P([ANSWER]) = .02 the decision is sampled (or both are played) until it is nearly always taken."""
    policy = random_policy()
    with torch.no_grad():
        policy.model.embed_tokens.weight[TOKENIZER.retrieve] = policy.model.embed_tokens.weight[
            TOKENIZER.answer
        ]
    policy.eval()
    assert p_answer(policy) == pytest.approx(0.5, abs=1e-4)
    optimizer, draws = (
        torch.optim.AdamW(policy.model.parameters(), lr=3e-3, weight_decay=0.0),
        random.Random(0),
    )
    for iteration in range(20):
        p = 1 - p_answer(policy)
        episodes = []
        for i in range(32):
            b = 0.5 if both else 0.9 * p + 0.05
            retrieve = i % 2 == 0 if both else draws.random() < b
            e = branches(policy, (0.0, 1.0))[0 if retrieve else 1]
            e.behaviour = [b if retrieve else 1 - b]
            episodes.append(e)
        experience = collect(policy, policy, episodes, TOKENIZER, 0.0, CONFIG, paired=both)
        ppo_update(
            policy,
            optimizer,
            experience,
            TOKENIZER,
            replace(CONFIG, minibatch=16),
            torch.Generator().manual_seed(iteration),
        )
        if p_answer(policy) > 0.9:
            return
    pytest.fail(f"after 20 iterations P([ANSWER]) is {p_answer(policy):.2f}")


def test_ppo_learns_what_to_say():
    """Real rollouts; the reward is 1 where the answer opens with the token that was the fifth most likely of 340. With 256
    episodes a rollout, the first ones pay a few times, whatever the seed (from .01 to .69 - .98 over five); with 64, luck decides."""
    policy = random_policy(eos_bias=6.0)
    prompt = [TOKENIZER.bos, *TOKENIZER.encode(QUESTIONS[2].question), TOKENIZER.answer]

    def chance():
        with torch.no_grad():
            return policy(torch.tensor([prompt]))[0][0, -1].softmax(-1)

    target, optimizer = (
        int(chance().topk(5).indices[-1]),
        torch.optim.AdamW(policy.model.parameters(), lr=2e-3, weight_decay=0.0),
    )
    start = float(chance()[target])
    for iteration in range(20):
        episodes = rollout(
            policy,
            TOKENIZER,
            environment(),
            [QUESTIONS[2]] * 256,
            Decoding(1.0, force="answer"),
            torch.Generator().manual_seed(1000 + iteration),
        )
        for e in episodes:
            e.rewards = [0.0] * (len(e.rewards) - 1) + [float(e.tokens[len(prompt)] == target)]
        experience = collect(policy, policy, episodes, TOKENIZER, 0.0, CONFIG)
        ppo_update(
            policy,
            optimizer,
            experience,
            TOKENIZER,
            replace(CONFIG, epochs=2, minibatch=64, text_entropy=0.0),
            torch.Generator().manual_seed(iteration),
        )
    assert start < 0.05 and chance()[target] > 0.5
