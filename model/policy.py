"""The policy: one decoder that decides, writes queries and answers, with a value head beside it.

The value head reads the trunk but never trains it: its inputs are detached. Sharing gradients would
let value errors of a 1M-parameter trunk disturb what it remembers; reading three depths gives the
head the plan of the last layers and the words of the question (the causal mean of the first).
Left out on purpose: files (checkpoint.py), adapters (attached from outside, pretrained/lora.py).

Shapes: B batch, T tokens, V vocabulary, D width, N selected positions.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import Config
from model.generation import Session
from model.transformer import Cache, TokenTable, Transformer


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

        logits[:, t] score token t + 1 and values[:, t] is V of the state before token t + 1.
        """
        states = self.model(tokens)
        return self.logits(states[-1]), self.value_head(self.value_features(states))

    def logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states [..., D] -> float32 [..., V], in the weights' dtype."""
        with torch.autocast(hidden.device.type, enabled=False):
            return (self.lm_head or self.model.embed_tokens).logits(hidden)

    def value_features(
        self, states: list[Tensor], at: tuple = (), last: Tensor | None = None
    ) -> Tensor:
        """Detached float32 [B, T, 3 D] of layer states: last, one before, mean of the first.

        With `at`, an index (rows [N], columns [N]), only there: [N, 3 D]; `last` [N, D] is the last
        state there, for a pass that computed no others.
        """
        last = states[-1][at] if last is None else last
        before, first = states[-2 if len(states) > 1 else -1][at], states[0].detach()
        count = torch.arange(1, first.shape[1] + 1, device=first.device)[:, None]
        mean = (first.float().cumsum(1) / count)[at]  # of the columns so far: causal
        parts = [x.detach().float() for x in (last, before, mean)]
        return torch.cat([F.layer_norm(x, x.shape[-1:]) for x in parts], -1)

    def session(self, prompts: list[list[int]]) -> Session:
        """Decoding whose rows begin with these tokens. ValueError beyond the context."""
        cache = Cache.empty(self.config, len(prompts), self.model.dtype, self.device)
        return Session(self, cache).feed(prompts)

    def for_inference(self) -> "Policy":
        """A frozen copy whose layers have the dtype of the autocast around this call, to be run
        without it: a tenth faster. Embedding and logits stay float32."""
        dtype = self.model.dtype
        layers = [*self.model.layers.parameters(), *self.model.norm.parameters()]
        if all(p.dtype == dtype for p in layers):
            return self
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        twin.model.layers.to(dtype)
        twin.model.norm.to(dtype)
        return twin

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the decoder's weights; the value head is float32 always."""
        return self.model.embed_tokens.weight.dtype

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def trunk_state(self) -> dict[str, Tensor]:
        """The decoder under the names of Hugging Face's Llama."""
        state = self.state_dict()
        return {name: x for name, x in state.items() if not name.startswith("value_head.")}

    def trunk_parameters(self) -> list[nn.Parameter]:
        """What a policy loss trains: all of the decoder that is not frozen, nothing of the head."""
        named = self.named_parameters()
        return [p for name, p in named if p.requires_grad and not name.startswith("value_head.")]
