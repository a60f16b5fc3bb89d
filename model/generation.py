"""Decoding of ragged batches with a KV cache that is continued across the turns of an episode.

A `Session` is a batch of token sequences together with their cache. `feed` appends a ragged chunk to every row and
yields the logits after it; `generate` looks ahead from there without moving the session, so that a turn that was
written is fed back with the observation that answers it, in one chunk. Nothing here knows what the tokens mean.

Shapes: B rows, T longest chunk, S cache slots, V vocabulary.
"""
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .policy import Policy
from .transformer import Cache


def sample(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Next tokens int64 [B] from float32 [B, V]; temperature 0 is greedy. No top-k or top-p: PPO scores what it sampled."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits / temperature).softmax(-1)
    if generator is not None:  # drawn where the generator lives: the CPU, also for a policy on a GPU
        probabilities = probabilities.to(generator.device)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1).to(logits.device)


class Session:
    def __init__(self, policy: Policy, cache: Cache, length: Tensor, logits: Tensor | None):
        self.policy, self.cache = policy, cache
        self.length = length  # int64 [B], tokens so far = the next free slot
        self.logits = logits  # float32 [B, V] after the last token

    @classmethod
    def start(cls, policy: Policy, chunks: list[list[int]]) -> "Session":
        """A session whose rows begin with these tokens. The cache has the autocast dtype where autocast is on, else the weights'."""
        device = policy.device
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else policy.dtype
        cache = Cache.empty(policy.config, len(chunks), 0, dtype, device)
        session = cls(policy, cache, torch.zeros(len(chunks), dtype=torch.long, device=device), None)
        return session.feed(chunks)

    def select(self, rows: Tensor) -> "Session":
        """The session of some of its rows (int64 [b])."""
        return Session(self.policy, self.cache.select(rows), self.length[rows], self.logits[rows])

    def feed(self, chunks: list[list[int]]) -> "Session":
        """The session after appending one non-empty chunk to every row. Raises ValueError beyond the context."""
        device = self.length.device
        count = torch.tensor([len(chunk) for chunk in chunks], device=device)
        tokens = pad_sequence([torch.tensor(chunk) for chunk in chunks], batch_first=True).to(device)
        if int((self.length + count).max()) > self.policy.config.max_position_embeddings:
            raise ValueError(f"an episode exceeds the context of {self.policy.config.max_position_embeddings} tokens")
        # The padding on the right writes into slots that the row has not reached: never seen, later overwritten.
        cache = self.cache.grow(int(self.length.max()) + tokens.shape[1])
        logits = self.policy.continue_from(tokens, self.length, cache, count - 1)
        return Session(self.policy, cache, self.length + count, logits)

    def generate(self, first: Tensor, budget: int, temperature: float, eos: int, generator: torch.Generator | None = None) -> list[list[int]]:
        """What every row writes after its `first` token (int64 [B]): at most `budget` tokens, <eos> included if reached.

        The session itself does not move (slots beyond `length` are scratch space).
        """
        written = [[] for _ in range(len(first))]
        rows, last = torch.arange(len(first), device=first.device), first
        policy, length, cache = self.policy, self.length, self.cache.grow(int(self.length.max()) + budget)
        for _ in range(budget):
            logits = policy.continue_from(last[:, None], length, cache, torch.zeros_like(rows))
            last, length = sample(logits, temperature, generator), length + 1
            for row, token in zip(rows.tolist(), last.tolist()):
                if not written[row] or written[row][-1] != eos:
                    written[row].append(token)
            going = torch.tensor([written[row][-1] != eos for row in rows.tolist()], device=first.device)
            if not going.any():
                break
            if going.float().mean() < 0.5:  # drop the finished rows: a copy of the cache, so not at every step
                keep = going.nonzero().squeeze(-1)
                rows, last, length, cache = rows[keep], last[keep], length[keep], cache.select(keep)
        return written
