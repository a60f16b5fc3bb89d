"""The policy: one decoder that decides, writes queries and answers, with a value head beside it.

The value head reads the trunk but never trains it: its inputs are detached. Sharing gradients would
let value errors of a 1M-parameter trunk disturb what it remembers; reading three depths gives the
head the plan of the last layers and the words of the question (the causal mean of the first).

Decoding goes on across the turns of an episode: a `Session` is a ragged batch of token sequences
with their KV cache. Left out on purpose: top-k, top-p, beams (PPO has to score what was sampled),
files (files.py), adapters (attached from outside, pretrained/lora.py).

Shapes: B rows, T tokens, S cache slots, V vocabulary, D width, N places, A of a row at most.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import Config
from model.transformer import Cache, TokenTable, Transformer

SPARE = 32  # slots of a cache behind what was fed


class ValueHead(nn.Module):
    """V(state) from value features [N, 3 D] -> [N]; starts at exactly 0 (last layer zero)."""

    def __init__(self, width: int, hidden: int = 96, dropout: float = 0.1):
        super().__init__()
        self.up = nn.Linear(3 * width, hidden)
        self.down = nn.Linear(hidden, 1)
        self.dropout = dropout
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            hidden = F.dropout(F.gelu(self.up(features)), self.dropout, self.training)
            return self.down(hidden).squeeze(-1)


class Policy(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = Transformer(config)
        self.lm_head = None  # tied: the embedding is the head
        if not config.tie_word_embeddings:
            self.lm_head = TokenTable(config.vocab_size, config.hidden_size)
        self.value_head = ValueHead(config.hidden_size)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B, T] -> logits float32 [B, T, V], values float32 [B, T].

        logits[:, t] score token t + 1 and values[:, t] is V of the state before token t + 1."""
        states = self.model(tokens)
        return self.logits(states[-1]), self.value_head(self.value_features(states))

    def at(
        self, tokens: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Callable[[], Tensor]]:
        """Logits float32 [N, V] of the states at some places (rows int64 [N], ascending; columns
        int64 [N]) of tokens int64 [B, T], and what makes their value features, float32 [N, 3 D].

        The last layer is computed there alone. Sizes are rounded up, because oneDNN compiles a
        matmul for every shape that it has not met of late, a fifth of an update on a CPU."""
        length = tokens.shape[1]
        width = max(length, min(round_up(length, 8), self.config.max_position_embeddings))
        tokens = F.pad(tokens, (0, width - length))
        counts = torch.bincount(rows, minlength=len(tokens))[:, None]  # [B, 1]
        slots = torch.arange(round_up(int(counts.max()), 4), device=tokens.device)
        wanted = slots < counts  # bool [B, A]
        if len(self.model.layers) == 1:  # its only layer is also the value features' first
            states = self.model(tokens)
            hidden = states[-1][rows, columns]
        else:
            places = torch.zeros_like(wanted, dtype=torch.long).masked_scatter(wanted, columns)
            states = self.model(tokens, columns=places)  # [B, T, D] each, the last one [B, A, D]
            hidden = states[-1][wanted]  # [N, D]
        padded = F.pad(hidden, (0, 0, 0, round_up(len(hidden), 32) - len(hidden)))
        logits = self.logits(padded)[: len(hidden)]
        return logits, partial(self.value_features, states, (rows, columns), hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states [..., D] -> float32 [..., V], in the weights' dtype."""
        with torch.autocast(hidden.device.type, enabled=False):
            return (self.lm_head or self.model.embed_tokens).logits(hidden)

    def value_features(
        self, states: list[Tensor], at: tuple = (), last: Tensor | None = None
    ) -> Tensor:
        """Detached float32 [B, T, 3 D] of layer states: last, one before, mean of the first.

        With `at`, an index (rows [N], columns [N]), only there: [N, 3 D]; `last` [N, D] is the last
        state there, for a pass that computed no others."""
        last = states[-1][at] if last is None else last
        before, first = states[-2 if len(states) > 1 else -1][at], states[0].detach()
        count = torch.arange(1, first.shape[1] + 1, device=first.device)[:, None]
        mean = (first.float().cumsum(1) / count)[at]  # of the columns so far: causal
        parts = [x.detach().float() for x in (last, before, mean)]
        return torch.cat([F.layer_norm(x, x.shape[-1:]) for x in parts], -1)

    def session(self, prompts: list[list[int]]) -> "Session":
        """Decoding whose rows begin with these tokens. ValueError beyond the context."""
        layers, K, E = len(self.model.layers), self.config.num_key_value_heads, self.config.head_dim
        shape, length = (2, layers, len(prompts), 0, K, E), torch.zeros(len(prompts)).long()
        states = torch.zeros(shape, dtype=self.model.dtype, device=self.device)
        return Session(self, states, length.to(self.device)).feed(prompts)

    def for_inference(self) -> "Policy":
        """A frozen twin whose layers have the dtype of the autocast around this call, to be run
        without it: a tenth faster. Embedding and logits stay float32, and are shared."""
        dtype = self.model.dtype
        layers = [*self.model.layers.parameters(), *self.model.norm.parameters()]
        if all(p.dtype == dtype for p in layers):
            return self
        twins = {id(p): nn.Parameter(p.detach(), False) for p in self.parameters()}
        twins |= {id(p): nn.Parameter(p.detach().to(dtype), False) for p in layers}
        return copy.deepcopy(self, twins).eval()

    @property
    def micro_tokens(self) -> int:
        """Tokens of a pass that trains, padding included, unless a flag says otherwise."""
        return 2800 if self.device.type == "cpu" else 1 << 14

    @property
    def read_tokens(self) -> int:
        """Tokens of a pass that only reads, padding included: on a CPU what its cache holds. At
        width 576 and 350 tokens a row, 32 rows are scored at a third of the speed of 8."""
        return 1_600_000 // self.config.hidden_size if self.device.type == "cpu" else 1 << 16

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the decoder's weights; the value head is float32 always."""
        return self.model.embed_tokens.weight.dtype

    def trunk_state(self) -> dict[str, Tensor]:
        """The decoder under the names of Hugging Face's Llama."""
        return {k: x for k, x in self.state_dict().items() if not k.startswith("value_head.")}

    def trunk_parameters(self) -> list[nn.Parameter]:
        """What a policy loss trains: all of the decoder that is not frozen, nothing of the head."""
        named = self.named_parameters()
        return [p for name, p in named if p.requires_grad and not name.startswith("value_head.")]


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
    """`feed` appends a ragged chunk to every row; `generate` looks ahead from there without moving,
    so that a turn is fed back with the observation that answers it, in one chunk."""

    policy: Policy
    states: Tensor  # keys and values, [2, layers, B, S, K, E]
    length: Tensor  # int64 [B], tokens so far
    logits: Tensor | None = None  # float32 [B, V] after the last token

    def select(self, rows: Tensor) -> "Session":
        """The session of some of its rows (int64 [b])."""
        states = self.states.index_select(2, rows)
        return Session(self.policy, states, self.length[rows], self.logits[rows])

    def grown(self, tokens: int) -> Tensor:
        """The states, copied, with room for that many tokens behind those of every row, and some:
        what is written after them then needs no copy of its own."""
        extra = max(0, int(self.length.max()) + tokens + SPARE - self.states.shape[3])
        return F.pad(self.states, (0, 0, 0, 0, 0, extra))

    def feed(self, chunks: list[list[int]]) -> "Session":
        """The session after one more non-empty chunk a row. ValueError beyond the context."""
        device, context = self.length.device, self.policy.config.max_position_embeddings
        count = torch.tensor([len(chunk) for chunk in chunks], device=device)
        if int((self.length + count).max()) > context:
            raise ValueError(f"an episode exceeds the context of {context} tokens")
        # Rows of similar length together: little padding, and activations that fit into a core's
        # cache. Padding writes into slots that the row has not reached: unseen, overwritten later.
        order = count.argsort(stable=True)
        states, logits = self.grown(int(count.max())), []
        for rows in order.split(max(1, self.policy.read_tokens // int(count.max()))):
            ragged = [torch.tensor(chunks[row], dtype=torch.long) for row in rows.tolist()]
            padded = nn.utils.rnn.pad_sequence(ragged, batch_first=True).to(device)
            past, last = Cache(states, self.length[rows], rows), count[rows, None] - 1
            logits.append(self._logits(padded, past, last))
        logits = torch.cat(logits)[order.argsort()]
        return Session(self.policy, states, self.length + count, logits)

    def generate(
        self, first: Tensor, budgets: Tensor, temperature: float, eos: int, generator=None
    ) -> list[list[int]]:
        """What every row writes after its `first` token (int64 [B]), <eos> included where reached.

        A row writes at most `budgets` tokens: int64 [B], or one number for all, at least 1.
        The session itself does not move: slots beyond `length` are scratch space."""
        rows, last, length = torch.arange(len(first), device=first.device), first, self.length
        budgets = torch.as_tensor(budgets, device=first.device).expand(len(first))
        longest = int(budgets.max())
        written = torch.full((len(first), longest), eos, device=first.device)
        room = self.states.shape[3] - int(self.length.max())
        states = self.states if room >= longest else self.grown(longest)
        for step in range(longest):
            past = Cache(states, length, rows if len(rows) < len(first) else None)
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


def round_up(n: int, step: int) -> int:
    return -(-n // step) * step
