"""Algorithm 1 of the paper for many questions at once: decide, query, read, answer, on one continued KV cache.

The same function serves training (sampled), evaluation (greedy) and every baseline (forced decisions).
Malformed = empty text, or no <eos> within the turn's budget; it ends the episode and costs `reward.malformed`.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.metrics import hit
from data.world import Question
from model import Policy, Session, Tokenizer

from .environment import RagEnv
from .episode import Episode


@dataclass(frozen=True)
class Decoding:
    """How actions are chosen. Training samples text and decision; evaluation is greedy."""
    temperature: float = 0.0  # of text; 0 is greedy
    sample_decision: bool = False  # else [RETRIEVE] when its probability exceeds `threshold`
    threshold: float = 0.5
    explore: float = 0.0  # the decision is sampled from (1 - explore) pi + explore / 2
    both: bool = False  # questions come in pairs; the first of a pair retrieves first, the second answers at once
    force: str | None = None  # "answer": never retrieve; "retrieve": always; "question": always, with the question as query

    def __post_init__(self):
        if self.force not in (None, "answer", "retrieve", "question"):
            raise ValueError(f"force must be answer, retrieve or question, not {self.force!r}")


GREEDY = Decoding()


@torch.no_grad()
def rollout(policy: Policy, tokenizer: Tokenizer, env: RagEnv, questions: Sequence[Question], decoding: Decoding = GREEDY,
            generator: torch.Generator | None = None, batch_size: int = 256, progress: Callable[[int], None] | None = None,
            spread: Callable = map) -> list[Episode]:
    """One episode per question, in order. `progress` is called with the number of episodes finished by each batch.

    `spread` plays the batches (`Workers.map` in parallel); each has a generator of its own, seeded from `generator`.
    """
    room = env.question_room(policy.config.max_position_embeddings)
    if decoding.both and (batch_size % 2 or any(a is not b for a, b in zip(questions[::2], questions[1::2], strict=True))):
        raise ValueError("both branches: every question must come twice in a row, and the batch size be even")
    if decoding.both and env.quota < 1:
        raise ValueError("both branches: a quota of 0 leaves no decision to learn")
    policy = policy.for_inference()
    starts = range(0, len(questions), batch_size)
    seeds = torch.randint(2**62, (len(starts),), generator=generator).tolist() if generator else [None] * len(starts)

    def play(start: int, seed: int | None) -> list[Episode]:
        batch = [Episode(question) for question in questions[start:start + batch_size]]
        for episode, ids in zip(batch, tokenizer.encode_batch([e.question.question for e in batch])):
            episode.truncated = len(ids) > room
            episode.state([tokenizer.bos, *ids[:room]])
        with torch.inference_mode(), torch.autocast(policy.device.type, enabled=False):
            _run(policy, tokenizer, env, batch, decoding, seed and torch.Generator().manual_seed(seed))
        if progress:
            progress(len(batch))
        return batch
    return [episode for batch in spread(play, starts, seeds) for episode in batch]


def _run(policy: Policy, tokenizer: Tokenizer, env: RagEnv, episodes: list[Episode], decoding: Decoding, generator) -> None:
    """Play a batch to its end, in place."""
    session = Session.start(policy, [e.tokens for e in episodes])
    for used in range(env.quota + 1):
        retrieve, free = _decide(session.logits, tokenizer, decoding, episodes, quota_left=used < env.quota, first=used == 0, generator=generator)
        texts = _write(session, tokenizer, env, retrieve, decoding, generator)
        queries = [_finish_action(env, tokenizer, e, text, wants, free, decoding)
                   for e, text, wants in zip(episodes, texts, retrieve.tolist())]
        going = [i for i, query in enumerate(queries) if query is not None]
        if not going:
            return
        turns = env.search([queries[i] for i in going])
        for i, turn in zip(going, turns):
            episodes[i].turns.append(turn)
            episodes[i].hit |= hit([env.corpus[row] for row in turn.passages], episodes[i].question)
            episodes[i].state(env.observe(turn, tokenizer))
        # The session still stands before the action: feed the action and its observation in one chunk.
        lengths = session.length.tolist()
        session = session.select(torch.tensor(going, device=session.length.device)).feed([episodes[i].tokens[lengths[i]:] for i in going])
        episodes = [episodes[i] for i in going]


def _decide(logits: Tensor, tokenizer: Tokenizer, decoding: Decoding, episodes: list[Episode], quota_left: bool, first: bool, generator) -> tuple[Tensor, bool]:
    """Which rows retrieve (bool [B]), and whether they were free to choose. Softmax over the two action tokens only."""
    p = logits[:, [tokenizer.retrieve, tokenizer.answer]].softmax(-1)[:, 0]
    if first:
        for episode, value in zip(episodes, p.tolist()):
            episode.p_retrieve = value
    if not quota_left or decoding.force == "answer":
        return torch.zeros_like(p, dtype=torch.bool), False
    if decoding.force:
        return torch.ones_like(p, dtype=torch.bool), False
    if decoding.both and first:
        retrieve = torch.arange(len(p), device=p.device) % 2 == 0
        behaviour = torch.full_like(p, 0.5)  # each branch is one of the two episodes
    elif not decoding.sample_decision:
        retrieve = p > decoding.threshold
        behaviour = torch.where(retrieve, p, 1 - p)
    else:
        mixed = (1 - decoding.explore) * p + decoding.explore / 2
        retrieve = torch.rand(len(p), generator=generator, device=generator.device if generator else p.device).to(p.device) < mixed
        behaviour = torch.where(retrieve, mixed, 1 - mixed)
    for episode, value in zip(episodes, behaviour.tolist()):
        episode.behaviour.append(value)
    return retrieve, True


def _write(session: Session, tokenizer: Tokenizer, env: RagEnv, retrieve: Tensor, decoding: Decoding, generator) -> list[list[int]]:
    """The text after each row's decision, without the decision token."""
    first = torch.where(retrieve, tokenizer.retrieve, tokenizer.answer)
    if decoding.force == "question" and bool(retrieve.all()):
        return [[] for _ in first]  # the environment supplies the query
    texts = session.generate(first, max(env.query_budget, env.answer_budget), decoding.temperature, tokenizer.eos, generator)
    return [text[:env.query_budget if wants else env.answer_budget] for text, wants in zip(texts, retrieve.tolist())]


def _finish_action(env: RagEnv, tokenizer: Tokenizer, episode: Episode, text: list[int], retrieve: bool, free: bool, decoding: Decoding) -> str | None:
    """Append the action with its reward; the query if the episode goes on, None if it has ended."""
    if retrieve and decoding.force == "question":
        query = episode.question.question
        episode.action([tokenizer.retrieve, *tokenizer.encode(query)[:env.query_budget - 1], tokenizer.eos], env.reward.retrieval, False, text=False)
        return query
    decision = [tokenizer.retrieve if retrieve else tokenizer.answer]
    words = tokenizer.decode(text)
    if not words or text[-1] != tokenizer.eos:
        episode.malformed = True
        episode.action(decision + text, env.reward.malformed, free)
        return None
    if retrieve:
        episode.action(decision + text, env.reward.retrieval, free)
        return words
    episode.action(decision + text, 0.0, free)
    episode.rewards[-1] = env.judge(episode, words)
    return None
