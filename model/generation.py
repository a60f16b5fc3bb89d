"""Decoding of ragged batches with a KV cache that is continued across the turns of an episode.

A `Session` is a batch of token sequences together with their cache. `feed` appends a ragged chunk to every row and
yields the logits after it; `generate` looks ahead from there without moving the session, so that a turn that was
written is fed back with the observation that answers it, in one chunk. Nothing here knows what the tokens mean.

Shapes: B rows, T longest chunk, S cache slots, V vocabulary.
"""

import torch
from torch import Tensor

from model.policy import Policy
from model.transformer import Cache

FEED_ROWS = 64  # rows of one forward pass that reads; on one core 16 and 256 are a sixth slower


def sample(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Next tokens int64 [B] from float32 [B, V]; temperature 0 is greedy. No top-k or top-p: PPO scores what it sampled."""
    if temperature == 0:
        return logits.max(-1).indices  # three times as fast as argmax on a CPU
    # One uniform number per row against the cumulative distribution; torch.multinomial draws one per token of the vocabulary.
    cumulative = (logits / temperature).softmax(-1, dtype=torch.float64).cumsum(-1)
    uniform = torch.rand(
        len(logits),
        1,
        dtype=torch.float64,
        generator=generator,
        device=generator.device if generator else logits.device,
    )
    return torch.searchsorted(
        cumulative, uniform.to(logits.device) * cumulative[:, -1:], right=True
    ).squeeze(-1)


class Session:
    def __init__(self, policy: Policy, cache: Cache, length: Tensor, logits: Tensor | None):
        self.policy, self.cache = policy, cache
        self.length = length  # int64 [B], tokens so far = the next free slot
        self.logits = logits  # float32 [B, V] after the last token

    @classmethod
    def start(cls, policy: Policy, chunks: list[list[int]]) -> "Session":
        """A session whose rows begin with these tokens."""
        device = policy.device
        cache = Cache.empty(policy.config, len(chunks), 0, policy.model.dtype, device)
        session = cls(
            policy, cache, torch.zeros(len(chunks), dtype=torch.long, device=device), None
        )
        return session.feed(chunks)

    def select(self, rows: Tensor) -> "Session":
        """The session of some of its rows (int64 [b])."""
        return Session(self.policy, self.cache.select(rows), self.length[rows], self.logits[rows])

    def feed(self, chunks: list[list[int]]) -> "Session":
        """The session after appending one non-empty chunk to every row. Raises ValueError beyond the context."""
        device = self.length.device
        count = torch.tensor([len(chunk) for chunk in chunks], device=device)
        if int((self.length + count).max()) > self.policy.config.max_position_embeddings:
            raise ValueError(
                f"an episode exceeds the context of {self.policy.config.max_position_embeddings} tokens"
            )
        # Rows of similar length together: little padding, and activations that fit into a core's cache. The padding on the
        # right writes into slots that the row has not reached: never seen, later overwritten.
        order = count.argsort(stable=True)
        cache = self.cache.grow(int(self.length.max()) + int(count.max()))
        logits = []
        for rows in order.split(FEED_ROWS):
            group = [chunks[row] for row in rows.tolist()]
            width = max(map(len, group))
            tokens = torch.tensor(
                [chunk + [0] * (width - len(chunk)) for chunk in group], device=device
            )
            logits.append(
                self.policy.continue_from(tokens, self.length[rows], cache, rows, count[rows] - 1)
            )
        return Session(self.policy, cache, self.length + count, torch.cat(logits)[order.argsort()])

    def generate(
        self,
        first: Tensor,
        budget: int,
        temperature: float,
        eos: int,
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """What every row writes after its `first` token (int64 [B]): at most `budget` tokens, <eos> included if reached.

        The session itself does not move (slots beyond `length` are scratch space).
        """
        written = torch.full((len(first), budget), eos, device=first.device)
        rows, last, length = None, first, self.length
        cache = self.cache.grow(int(length.max()) + budget)
        for step in range(budget):
            last = sample(
                self.policy.continue_from(last[:, None], length, cache, rows),
                temperature,
                generator,
            )
            length = length + 1
            written[slice(None) if rows is None else rows, step] = last
            going = (last != eos).nonzero().squeeze(-1)
            if not len(going):
                break
            if len(going) < len(
                last
            ):  # the finished rows are dropped at once: the cache stays, its rows are picked
                rows, last, length = (
                    going if rows is None else rows[going],
                    last[going],
                    length[going],
                )
        texts = written.tolist()
        return [text[: text.index(eos) + 1] if eos in text else text for text in texts]
