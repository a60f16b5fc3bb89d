"""Algorithm 1 of the paper for many questions at once: decide, query, read, answer, on one continued KV cache.

The same function serves training (sampled), evaluation (greedy) and every baseline: forced decisions, and `Roles` that
separately trained policies play.
Malformed = empty text, or no <eos> within the turn's budget; it ends the episode and costs `reward.malformed`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data.metrics import hit
from data.world import Question
from model import Policy, Session, Tokenizer
from rl.environment import RagEnv
from rl.episode import Episode
from rl.warmup.renaming import rename


@dataclass(frozen=True)
class Decoding:
    """How actions are chosen. Training samples text and decision; evaluation is greedy."""

    temperature: float = 0.0  # of text; 0 is greedy
    sample_decision: bool = False  # else [RETRIEVE] when its probability exceeds `threshold`
    threshold: float = 0.5
    explore: float = 0.0  # the decision is sampled from (1 - explore) pi + explore / 2
    both: bool = False  # questions come in pairs; the first of a pair retrieves first, the second answers at once
    force: str | None = (
        None  # the first decision: "answer", "retrieve", or "question": retrieve, with the question as the query
    )

    def __post_init__(self):
        if self.force not in (None, "answer", "retrieve", "question"):
            raise ValueError(f"force must be answer, retrieve or question, not {self.force!r}")


GREEDY = Decoding()
PARTS = ("decision", "query", "answer")


class Roles(NamedTuple):
    """Who plays which part of an episode. One Policy in the place of Roles plays them all, as in the paper. They share a tokenizer."""

    decision: Policy
    query: Policy
    reader: Policy  # answers after an observation
    direct: Policy  # answers at once
    learn: tuple[str, ...] = (
        PARTS  # the parts whose tokens are actions to learn from; the others belong to the environment
    )

    @property
    def players(self) -> tuple[Policy, ...]:
        return self[:4]


@torch.no_grad()
def rollout(
    policy: Policy | Roles,
    tokenizer: Tokenizer,
    env: RagEnv,
    questions: Sequence[Question],
    decoding: Decoding = GREEDY,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
    spread: Callable = map,
    names: Sequence[dict[str, str]] = (),
) -> list[Episode]:
    """One episode per question, in order, each under its `names` where they are given (rl/renaming.py).

    `progress` is called with the number of episodes finished by each batch.
    `spread` plays the batches (`Workers.map` in parallel); each has a generator of its own, seeded from `generator`.
    """
    roles = policy if isinstance(policy, Roles) else Roles(policy, policy, policy, policy)
    room = env.question_room(min(player.config.max_position_embeddings for player in roles.players))
    if decoding.both and (
        batch_size % 2
        or any(a is not b for a, b in zip(questions[::2], questions[1::2], strict=True))
    ):
        raise ValueError(
            "both branches: every question must come twice in a row, and the batch size be even"
        )
    if decoding.both and env.quota < 1:
        raise ValueError("both branches: a quota of 0 leaves no decision to learn")
    for_inference = {player: player.for_inference() for player in dict.fromkeys(roles.players)}
    roles = Roles(*(for_inference[player] for player in roles.players), roles.learn)
    starts = range(0, len(questions), batch_size)
    seeds = (
        torch.randint(2**62, (len(starts),), generator=generator).tolist()
        if generator
        else [None] * len(starts)
    )

    def play(start: int, seed: int | None) -> list[Episode]:
        batch = [Episode(question) for question in questions[start : start + batch_size]]
        for episode, exchanged in zip(batch, names[start : start + batch_size]):
            episode.names = exchanged
        for episode, ids in zip(
            batch, tokenizer.encode_batch([rename(e.question.question, e.names) for e in batch])
        ):
            episode.truncated = len(ids) > room
            episode.state([tokenizer.bos, *ids[:room]])
        with torch.inference_mode(), torch.autocast(roles.decision.device.type, enabled=False):
            _run(
                roles, tokenizer, env, batch, decoding, seed and torch.Generator().manual_seed(seed)
            )
        if progress:
            progress(len(batch))
        return batch

    return [episode for batch in spread(play, starts, seeds) for episode in batch]


def _run(
    roles: Roles,
    tokenizer: Tokenizer,
    env: RagEnv,
    episodes: list[Episode],
    decoding: Decoding,
    generator,
) -> None:
    """Play a batch to its end, in place."""
    sessions = {
        player: Session.start(player, [e.tokens for e in episodes])
        for player in dict.fromkeys(roles.players)
    }
    for used in range(env.quota + 1):
        first, force = used == 0, decoding.force if used == 0 else None
        retrieve, free = _decide(
            sessions[roles.decision].logits,
            tokenizer,
            decoding,
            force,
            quota_left=used < env.quota,
            first=first,
            learn="decision" in roles.learn,
            episodes=episodes,
            generator=generator,
        )
        given = force == "question" and used < env.quota  # the environment supplies the query
        texts = (
            [[] for _ in episodes]
            if given
            else _write(
                sessions,
                roles.query,
                roles.direct if first else roles.reader,
                tokenizer,
                env,
                retrieve,
                decoding,
                generator,
            )
        )
        queries = [
            _finish_action(env, tokenizer, e, text, wants, free, given, roles.learn)
            for e, text, wants in zip(episodes, texts, retrieve.tolist())
        ]
        going = [i for i, query in enumerate(queries) if query is not None]
        if not going:
            return
        turns = env.search([rename(queries[i], episodes[i].names) for i in going])
        for i, turn in zip(going, turns):
            episodes[i].turns.append(turn)
            episodes[i].hit = hit(
                [env.corpus[row] for t in episodes[i].turns for row in t.passages],
                episodes[i].question,
            )
            episodes[i].state(env.observe(turn, tokenizer, episodes[i].names))
        # The sessions still stand before the action: feed the action and its observation in one chunk.
        session = sessions[roles.decision]
        lengths, rows = session.length.tolist(), torch.tensor(going, device=session.length.device)
        chunks = [episodes[i].tokens[lengths[i] :] for i in going]
        sessions = {
            player: sessions[player].select(rows).feed(chunks)
            for player in dict.fromkeys(roles[:3])
        }  # nobody answers at once any more
        episodes = [episodes[i] for i in going]


def _decide(
    logits: Tensor,
    tokenizer: Tokenizer,
    decoding: Decoding,
    force: str | None,
    quota_left: bool,
    first: bool,
    learn: bool,
    episodes: list[Episode],
    generator,
) -> tuple[Tensor, bool]:
    """Which rows retrieve (bool [B]), and whether that is theirs to learn. Softmax over the two action tokens only."""
    p = logits[:, [tokenizer.retrieve, tokenizer.answer]].softmax(-1)[:, 0]
    if first:
        for episode, value in zip(episodes, p.tolist()):
            episode.p_retrieve = value
    if not quota_left or force == "answer":
        return torch.zeros_like(p, dtype=torch.bool), False
    if force:
        return torch.ones_like(p, dtype=torch.bool), False
    if decoding.both and first:
        retrieve = torch.arange(len(p), device=p.device) % 2 == 0
        behaviour = torch.full_like(p, 0.5)  # each branch is one of the two episodes
    elif not decoding.sample_decision:
        retrieve = p > decoding.threshold
        behaviour = torch.where(retrieve, p, 1 - p)
    else:
        mixed = (1 - decoding.explore) * p + decoding.explore / 2
        retrieve = (
            torch.rand(
                len(p), generator=generator, device=generator.device if generator else p.device
            ).to(p.device)
            < mixed
        )
        behaviour = torch.where(retrieve, mixed, 1 - mixed)
    if learn:
        for episode, value in zip(episodes, behaviour.tolist()):
            episode.behaviour.append(value)
    return retrieve, learn


def _write(
    sessions: dict[Policy, Session],
    asker: Policy,
    answerer: Policy,
    tokenizer: Tokenizer,
    env: RagEnv,
    retrieve: Tensor,
    decoding: Decoding,
    generator,
) -> list[list[int]]:
    """The text after each row's decision, without the decision token."""
    first = torch.where(retrieve, tokenizer.retrieve, tokenizer.answer)
    write = lambda session, first, budget: session.generate(
        first, budget, decoding.temperature, tokenizer.eos, generator
    )
    if asker is answerer:
        texts = write(sessions[asker], first, max(env.query_budget, env.answer_budget))
        return [
            text[: env.query_budget if wants else env.answer_budget]
            for text, wants in zip(texts, retrieve.tolist())
        ]
    texts = [[]] * len(first)
    for player, wants, budget in (
        (asker, retrieve, env.query_budget),
        (answerer, ~retrieve, env.answer_budget),
    ):
        rows = wants.nonzero().squeeze(-1)
        if len(rows):
            for row, text in zip(
                rows.tolist(), write(sessions[player].select(rows), first[rows], budget)
            ):
                texts[row] = text
    return texts


def _finish_action(
    env: RagEnv,
    tokenizer: Tokenizer,
    episode: Episode,
    text: list[int],
    retrieve: bool,
    free: bool,
    given: bool,
    learn: tuple[str, ...],
) -> str | None:
    """Append the action with its reward; the query if the episode goes on, None if it has ended."""
    if given:
        query = rename(episode.question.question, episode.names)
        episode.action(
            [tokenizer.retrieve, *tokenizer.encode(query)[: env.query_budget - 1], tokenizer.eos],
            env.reward.retrieval,
            False,
            text=False,
        )
        return query
    decision, own = (
        [tokenizer.retrieve if retrieve else tokenizer.answer],
        ("query" if retrieve else "answer") in learn,
    )
    words = tokenizer.decode(text)
    if not words or text[-1] != tokenizer.eos:
        episode.malformed = True
        episode.action(decision + text, env.reward.malformed, free, own)
        return None
    if retrieve:
        episode.action(decision + text, env.reward.retrieval, free, own)
        return words
    episode.action(decision + text, 0.0, free, own)
    episode.rewards[-1] = env.judge(episode, words)
    return None
