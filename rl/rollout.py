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
from torch import Tensor

from data.world import Question
from model import Policy, Tokenizer
from rl import ranks
from rl.environment import Action, RagEnv
from rl.episode import Episode

FORCED = ("answer", "retrieve", "question")


@dataclass(frozen=True)
class Decoding:
    """How actions are chosen. Training samples text and decision; evaluation is greedy."""

    temperature: float = 0.0  # of text; 0 is greedy
    sample_decision: bool = False  # else [RETRIEVE] when its probability exceeds `threshold`
    threshold: float = 0.5
    explore: float = 0.0  # the decision is sampled from (1 - explore) pi + explore / 2
    both: bool = False  # questions come in pairs: the first retrieves first, the second answers
    force: str | None = None  # the first decision: "answer", "retrieve", or "question": retrieve,
    # with the question as the query

    def __post_init__(self):
        if self.force not in (None, *FORCED):
            raise ValueError(f"force must be {', '.join(FORCED)}, not {self.force!r}")


GREEDY = Decoding()


@torch.no_grad()
def rollout(
    policy: Policy,
    tokenizer: Tokenizer,
    env: RagEnv,
    questions: Sequence[Question],
    decoding: Decoding = GREEDY,
    generator: torch.Generator | None = None,
    batch_size: int = 0,
    progress: Callable[[int], None] = lambda finished: None,
) -> list[Episode]:
    """One episode per question, in order, the same on all ranks; each rank plays some of the
    batches.

    batch_size: episodes at once, even; 0: 256, on CUDA 1,024. Each batch has a generator of its
    own, seeded from `generator`. `progress` is called with the number of episodes that were
    finished since its last call. Raises RetrieverError, ContextError.
    """
    batch_size = batch_size or (256 if policy.device.type == "cpu" else 1024)
    if decoding.both:
        check_pairs(questions, env, batch_size)
    policy = policy.for_inference()
    context = policy.config.max_position_embeddings
    size = min(
        batch_size, 2 * -(-len(questions) // (2 * ranks.size()))
    )  # even, and some for every rank
    batches = [questions[i : i + size] for i in range(0, len(questions), max(1, size))]
    seeds = torch.randint(2**62, (len(batches),), generator=generator).tolist()

    def play(job: tuple[Sequence[Question], int]) -> list[Episode]:
        batch, seed = job
        episodes = env.reset(batch, tokenizer, context)
        random = torch.Generator().manual_seed(seed)
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
    generator: torch.Generator,
) -> None:
    """Play new episodes to their end, in place."""
    session = policy.session([e.tokens for e in episodes])
    for retrievals in range(env.quota + 1):
        is_open = retrievals < env.quota
        force = decoding.force if retrievals == 0 else None
        retrieve, free = decide(
            session.logits, tokenizer, decoding, episodes, is_open, force, generator
        )
        if force == "question" and is_open:
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
    logits: Tensor,
    tokenizer: Tokenizer,
    decoding: Decoding,
    episodes: Sequence[Episode],
    is_open: bool,
    force: str | None,
    generator: torch.Generator,
) -> tuple[Tensor, bool]:
    """Which rows of the logits [B, V] retrieve (bool [B]), and whether they were free to.

    The decision is the softmax over the two action tokens alone, at temperature 1. A free
    decision's probability, as it was sampled, is kept in its episode's `behaviour`. Raises
    FloatingPointError.
    """
    p = logits[:, [tokenizer.retrieve, tokenizer.answer]].softmax(-1)[:, 0]  # P([RETRIEVE]), [B]
    if not torch.isfinite(p).all():
        raise FloatingPointError("the policy's decision is NaN: its weights are ruined")
    first = not episodes[0].turns
    if first:
        for episode, value in zip(episodes, p.tolist(), strict=True):
            episode.p_retrieve = value
    if not is_open or force:
        return torch.full_like(p, is_open and force != "answer", dtype=torch.bool), False
    if decoding.both and first:
        retrieve = torch.arange(len(p), device=p.device) % 2 == 0
        behaviour = torch.full_like(p, 0.5)  # each branch is one of the two episodes
    elif decoding.sample_decision:
        mixed = (1 - decoding.explore) * p + decoding.explore / 2
        uniform = torch.rand(len(p), generator=generator, device=generator.device)
        retrieve = uniform.to(p.device) < mixed
        behaviour = torch.where(retrieve, mixed, 1 - mixed)
    else:
        retrieve = p > decoding.threshold
        behaviour = torch.where(retrieve, p, 1 - p)
    for episode, value in zip(episodes, behaviour.tolist(), strict=True):
        episode.behaviour.append(value)
    return retrieve, True


def check_pairs(questions: Sequence[Question], env: RagEnv, batch_size: int) -> None:
    """Raises ValueError unless both branches of every question can be played."""
    pairs = zip(questions[::2], questions[1::2], strict=True)
    if batch_size % 2 or any(a is not b for a, b in pairs):
        raise ValueError("both branches: questions come twice in a row, batches of an even size")
    if env.quota < 1:
        raise ValueError("both branches: a quota of 0 leaves no decision to learn")
