"""Algorithm 1 of the paper for many questions at once: decide, write, step, on one continued KV
cache.

    o = [], n = 0
    loop:  a ~ policy([question, o])    a[0] in {[RETRIEVE], [ANSWER]}, only [ANSWER] when n = N
           if a[0] is [RETRIEVE]:  o += retriever(a[1:]), n += 1      else: return a[1:]

The same function serves training (sampled), evaluation (greedy) and every baseline (forced
decisions). Left out: who plays which part where several policies play (rl/study/roles.py: one
policy-like object).

Shapes: B episodes of a batch that are still going, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from data.world import Question
from model import Policy, Tokenizer
from rl import ranks
from rl.environment import Action, RagEnv
from rl.episode import Episode

# First decisions that can be forced -> whether it is [RETRIEVE]; "question": with that as query.
FORCED = {"answer": False, "retrieve": True, "question": True}


@dataclass(frozen=True)
class Decoding:
    """How actions are chosen. Training samples text and decision; evaluation is greedy."""

    temperature: float = 0.0  # of text; 0 is greedy
    sample_decision: bool = False  # else [RETRIEVE] when its probability exceeds `threshold`
    threshold: float = 0.5
    explore: float = 0.0  # the decision is sampled from (1 - explore) pi + explore / 2
    both: bool = False  # each question is played twice: retrieve first, and answer at once
    force: str | None = None  # the first decision, one of FORCED


GREEDY = Decoding()


@torch.no_grad()
def rollout(
    policy: Policy,
    tokenizer: Tokenizer,
    env: RagEnv,
    questions: Sequence[Question],
    decoding: Decoding = GREEDY,
    generator: Generator | None = None,
    batch_size: int = 0,
    progress: Callable[[int], None] = lambda finished: None,
) -> list[Episode]:
    """One episode per question, in order (decoding.both: two, one after the other), the same on
    all ranks; each rank plays some of the batches.

    batch_size: episodes at once; 0: 256, fewer of a wide policy, on CUDA 1,024. Each batch has a
    generator of its own, seeded from `generator`. `progress` is called with the number of episodes
    that were finished since its last call. Raises RetrieverError, ContextError.
    """
    if decoding.both and env.quota < 1:
        raise ValueError("both branches: a quota of 0 leaves no decision to learn")
    branches = 2 if decoding.both else 1
    policy = policy.for_inference()
    few = min(256, 50_000 // policy.config.hidden_size)  # their caches have to fit into memory
    batch_size = batch_size or (few if policy.device.type == "cpu" else 1024)
    size = max(1, min(batch_size // branches, -(-len(questions) // ranks.size())))
    batches = [questions[i : i + size] for i in range(0, len(questions), size)]
    seeds = torch.randint(2**62, (len(batches),), generator=generator).tolist()

    def play(job: tuple[Sequence[Question], int]) -> list[Episode]:
        batch, seed = job
        batch = [question for question in batch for _ in range(branches)]
        episodes = env.reset(batch, tokenizer, policy.config.max_position_embeddings)
        random = Generator().manual_seed(seed)
        with torch.inference_mode(), torch.autocast(policy.device.type, enabled=False):
            play_batch(policy, tokenizer, env, episodes, decoding, random)
        progress(len(batch))
        return episodes

    jobs = list(zip(batches, seeds, strict=True))
    return [episode for batch in ranks.map(play, jobs) for episode in batch]


def play_batch(
    policy: Policy,
    tokenizer: Tokenizer,
    env: RagEnv,
    episodes: list[Episode],
    decoding: Decoding,
    generator: Generator,
) -> None:
    """Play new episodes to their end, in place."""
    session = policy.session([e.tokens for e in episodes])
    for n in range(env.quota + 1):
        is_open = n < env.quota
        both_actions = session.logits[:, [tokenizer.retrieve, tokenizer.answer]]
        p = both_actions.softmax(-1)[:, 0]  # P([RETRIEVE]), [B]
        retrieve, free = decide(p, episodes, decoding, is_open, generator)
        if n == 0 and is_open and decoding.force == "question":
            actions = [Action(True, [], free, given=e.question.question) for e in episodes]
        else:
            first = torch.where(retrieve, tokenizer.retrieve, tokenizer.answer)
            budget = torch.where(retrieve, env.query_budget, env.answer_budget)
            texts = session.generate(first, budget, decoding.temperature, tokenizer.eos, generator)
            actions = [Action(*x, free) for x in zip(retrieve.tolist(), texts, strict=True)]
        going = env.step(episodes, actions, tokenizer)
        if not going:
            return
        # The session still stands before the action: feed the action and its observation at once.
        lengths = session.length.tolist()
        session = session.select(torch.tensor(going, device=session.length.device))
        session = session.feed([episodes[i].tokens[lengths[i] :] for i in going])
        episodes = [episodes[i] for i in going]


def decide(
    p: Tensor, episodes: list[Episode], decoding: Decoding, is_open: bool, generator: Generator
) -> tuple[Tensor, bool]:
    """Which episodes retrieve (bool [B]), and whether they were free to. p: P([RETRIEVE]) [B], the
    softmax over the two action tokens alone, at temperature 1. The probability of a free decision,
    as it was sampled, is kept in its episode's `behaviour`. Raises FloatingPointError."""
    if not torch.isfinite(p).all():
        raise FloatingPointError("the policy's decision is NaN: its weights are ruined")
    first = not episodes[0].turns
    if first:
        for episode, value in zip(episodes, p.tolist(), strict=True):
            episode.p_retrieve = value
    force = decoding.force if first else None
    if not is_open or force:
        return torch.full_like(p, is_open and FORCED[force], dtype=torch.bool), False
    if first and decoding.both:
        chance = torch.full_like(p, 0.5)  # each branch is one of the two episodes
        retrieve = torch.arange(len(p), device=p.device) % 2 == 0
    elif decoding.sample_decision:
        chance = (1 - decoding.explore) * p + decoding.explore / 2
        uniform = torch.rand(len(p), generator=generator, device=generator.device)
        retrieve = uniform.to(p.device) < chance
    else:
        chance, retrieve = p, p > decoding.threshold
    behaviour = torch.where(retrieve, chance, 1 - chance).tolist()
    for episode, value in zip(episodes, behaviour, strict=True):
        episode.behaviour.append(value)
    return retrieve, True
