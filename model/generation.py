"""Decoding of ragged batches with a KV cache that is continued across the turns of an episode.

A `Session` is a batch of token sequences with their cache. `feed` appends a ragged chunk to every
row; `generate` looks ahead from there without moving the session, so that a turn is fed back with
the observation that answers it, in one chunk. Nothing here knows what the tokens mean.
Left out on purpose: top-k, top-p, beams (PPO has to score what was sampled).

Shapes: B rows, T longest chunk, S cache slots, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.transformer import Cache

FEED_ROWS = 64  # rows of one forward pass that reads; on one core 16 and 256 are a sixth slower


def sample(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Next tokens int64 [B] from float32 [B, V]; temperature 0 is greedy."""
    if temperature == 0:
        return logits.max(-1).indices  # three times as fast as argmax on a CPU
    # One uniform number a row against the cumulative distribution; multinomial draws V of them.
    cumulative = (logits / temperature).softmax(-1).double().cumsum(-1)
    device = generator.device if generator else logits.device
    uniform = torch.rand(len(logits), 1, dtype=torch.float64, generator=generator, device=device)
    threshold = uniform.to(logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)


@dataclass(frozen=True)
class Session:
    policy: Any  # a Policy
    cache: Cache
    logits: Tensor | None = None  # float32 [B, V] after the last token

    @property
    def length(self) -> Tensor:
        """int64 [B], tokens so far."""
        return self.cache.length

    def select(self, rows: Tensor) -> "Session":
        """The session of some of its rows (int64 [b])."""
        return Session(self.policy, self.cache.select(rows), self.logits[rows])

    def feed(self, chunks: list[list[int]]) -> "Session":
        """The session after one more non-empty chunk a row. ValueError beyond the context."""
        device, context = self.length.device, self.policy.config.max_position_embeddings
        count = torch.tensor([len(chunk) for chunk in chunks], device=device)
        if int((self.length + count).max()) > context:
            raise ValueError(f"an episode exceeds the context of {context} tokens")
        # Rows of similar length together: little padding, and activations that fit into a core's
        # cache. Padding writes into slots that the row has not reached: unseen, overwritten later.
        order = count.argsort(stable=True)
        cache = self.cache.grow(int(self.length.max()) + int(count.max()))
        logits = []
        for rows in order.split(FEED_ROWS if device.type == "cpu" else len(order)):
            width = int(count[rows].max())
            padded = [chunks[row] + [0] * (width - len(chunks[row])) for row in rows.tolist()]
            past = cache._replace(length=self.length[rows], rows=rows)
            last = count[rows, None] - 1
            logits.append(self._logits(torch.tensor(padded, device=device), past, last))
        cache = cache._replace(length=self.length + count)
        return Session(self.policy, cache, torch.cat(logits)[order.argsort()])

    def generate(
        self,
        first: Tensor,
        budgets: int | Tensor,
        temperature: float,
        eos: int,
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """What every row writes after its `first` token (int64 [B]), <eos> included where reached.

        A row writes at most `budgets` tokens: one number, or one a row (int64 [B], at least 1).
        The session itself does not move: slots beyond `length` are scratch space.
        """
        rows, last, length = torch.arange(len(first), device=first.device), first, self.length
        budgets = torch.as_tensor(budgets, device=first.device).expand(len(first))
        longest = int(budgets.max())
        written = torch.full((len(first), longest), eos, device=first.device)
        cache = self.cache.grow(int(length.max()) + longest)
        for step in range(longest):
            everyone = len(rows) == len(first)
            past = cache._replace(length=length, rows=None if everyone else rows)
            last = sample(self._logits(last[:, None], past), temperature, generator)
            written[rows, step] = last
            going = (last != eos) & (budgets[rows] > step + 1)
            if not going.any():
                break
            # Rows that have finished go at once: the cache stays, the others' rows are picked.
            rows, last, length = rows[going], last[going], length[going] + 1
        texts = zip(written.tolist(), budgets.tolist(), strict=True)
        texts = [text[:budget] for text, budget in texts]
        return [text[: text.index(eos) + 1] if eos in text else text for text in texts]

    def _logits(self, tokens: Tensor, past: Cache, last: Tensor | None = None) -> Tensor:
        """float32 [B, V] after tokens [B, T] behind a past; after column last [B, 1] of them."""
        return self.policy.logits(self.policy.model(tokens, last, past)[-1][:, 0])
