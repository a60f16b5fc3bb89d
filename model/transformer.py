"""A Llama-type decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, and the options
of its relatives (biases, query/key norms), under the parameter names of Hugging Face's Llama.

One code path serves training and decoding with a cache. Left out on purpose: dropout, windows.

Shapes: B batch, T new tokens, A columns whose output is wanted, S cached slots, V vocabulary,
D width, H query heads, K key/value heads, G = H / K, E head dimension.
Sources: Llama (arXiv 2302.13971), RoPE (2104.09864), GQA (2305.13245), SwiGLU (2002.05202).
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model.config import Config


class Cache(NamedTuple):
    """Keys and values of a ragged batch; the slot of a token is its position.

    So `slot <= position of the query` is the whole attention mask: slots that a row has not reached
    yet are never seen, and a row continues across turns by writing where it stopped."""

    states: Tensor  # keys and values, [2, layers, rows, S, K, E]
    length: Tensor  # int64 [B], tokens so far = the slot and position of the next one
    rows: Tensor | None = None  # int64 [B], the rows that the lengths belong to; None = all

    def extend(self, layer: int, positions: Tensor, slots: int, new: Tensor) -> Tensor:
        """Write keys and values [2, B, T, K, E] at int64 [B, T] -> all of them, [2, B, S, K, E]."""
        everyone, held = torch.arange(len(positions), device=new.device), self.states[:, layer]
        rows = everyone if self.rows is None else self.rows
        held[:, rows[:, None], positions] = new.to(held.dtype)
        held = held[:, :, :slots]
        return (held if self.rows is None else held.index_select(1, rows)).to(new.dtype)


class RMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype == torch.float32:  # nothing of x's size is kept
            return super().forward(x)
        # As a dot product: in bf16 on a CPU, forward and backward 2.2 times as fast as torch's.
        scale = torch.rsqrt(torch.linalg.vecdot(x, x).unsqueeze(-1) / x.shape[-1] + self.eps)
        return x * (scale * self.weight.to(x.dtype))


def rotation(positions: Tensor, frequency: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and signed sin, [B or 1, T, 1, E], at int64 [B or 1, T]; frequency in radians, [E/2]."""
    angle = (positions.float().unsqueeze(-1) * frequency).unsqueeze(2)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], -1).to(dtype), torch.cat([-sin, sin], -1).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, T, heads, E] turned by its position; Llama's pairing: dimension i with i + E/2."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def bias_of(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: 0 where bool `seen` lets a query look, else -inf."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -math.inf)


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention as the papers write it, softmax(Q K' / sqrt(E)) V: the oracle of `attend`.

    q [B, H, T, E]; k, v [B, K, S, E]; bias [B or 1, 1, T, S], in q's dtype. A group's G query
    heads are rows of one matmul, so that no key is repeated in memory."""
    (B, H, T, E), K, S = q.shape, *k.shape[1:3]
    q = (q * E**-0.5).reshape(B, K, H // K * T, E)  # a view: heads of a group lie together
    scores = (q @ k.transpose(-1, -2)).view(B, K, H // K, T, S)
    weights = (scores + bias.unsqueeze(2)).softmax(-1).view(B, K, H // K * T, S)
    return (weights.to(v.dtype) @ v).view(B, H, T, E)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cached: bool = False) -> Tensor:
    """`attend_plainly` by torch's fused kernel where that is faster. bias None = causal.

    On a CPU its backward pass is ten times slower in bf16: there whole episodes take the plain
    form, without gradients too, so that PPO's old and new log-probs round alike. In blocks of
    queries, which see no later keys and fit into a CPU's cache, 350 tokens take the plain form
    half of the time, and the fused one, behind a cache, 70 %."""
    plain = cached or q.dtype == torch.float32  # on a CPU; nothing of size T x S is kept
    fused = plain if q.device.type == "cpu" else bias is None  # CUDA's has none for groups
    T, S, attention = q.shape[2], k.shape[2], attend_plainly
    in_order = cached or bias is None  # query t sees no key beyond S - T + t
    if fused:
        options = {"is_causal": bias is None, "enable_gqa": True}
        attention = partial(F.scaled_dot_product_attention, **options)
    elif bias is None:
        seen = torch.ones(T, S, dtype=torch.bool, device=q.device).tril()
        bias = bias_of(seen[None, None], q.dtype)
    block = 64 if fused else 128
    if bias is None or block >= T or not in_order:
        return attention(q, k, v, bias)
    done = []
    for end, queries in zip(range(block, T + block, block), q.split(block, 2), strict=True):
        now, past = slice(end - block, end), slice(S - T + end)
        done.append(attention(queries, k[:, :, past], v[:, :, past], bias[:, :, now, past]))
    return torch.cat(done, 2)


class View(NamedTuple):
    """How queries and keys are turned, which keys a query may look at, and what came before."""

    queries: tuple[Tensor, Tensor]  # cos and sin, [B or 1, T or A, 1, E]
    keys: tuple[Tensor, Tensor]  # [B or 1, T, 1, E]
    bias: Tensor | None  # of the scores, [B or 1, 1, T or A, S]; None = causal
    positions: Tensor  # int64 [B or 1, T], of the keys
    cache: Cache | None
    columns: Tensor | None = None  # int64 [B, A], of the queries; None = all T


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        D, E, eps = config.hidden_size, config.head_dim, config.rms_norm_eps
        bias = config.attention_bias or config.model_type == "qwen2"
        normed = config.model_type == "qwen3"  # every query and key head, before it is turned
        self.head_dim = E
        self.q_proj = nn.Linear(D, config.num_attention_heads * E, bias=bias)
        self.k_proj = nn.Linear(D, config.num_key_value_heads * E, bias=bias)
        self.v_proj = nn.Linear(D, config.num_key_value_heads * E, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * E, D, bias=config.attention_bias)
        self.q_norm = RMSNorm(E, eps) if normed else nn.Identity()
        self.k_norm = RMSNorm(E, eps) if normed else nn.Identity()

    def forward(self, x: Tensor, context: Tensor, view: View, layer: int) -> Tensor:
        """Queries from x [B, A, D], keys and values from context [B, T, D] -> [B, A, D]."""
        q = self.q_proj(x).unflatten(-1, (-1, self.head_dim))  # [B, A, H, E]
        k = self.k_proj(context).unflatten(-1, (-1, self.head_dim))  # [B, T, K, E]
        v = self.v_proj(context).unflatten(-1, (-1, self.head_dim))
        q, k = rotate(self.q_norm(q), *view.queries), rotate(self.k_norm(k), *view.keys)
        if view.cache is not None:
            slots = view.bias.shape[-1]
            k, v = view.cache.extend(layer, view.positions, slots, torch.stack([k, v]))
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))  # k, v [B, K, S, E]
        out = attend(q, k, v, view.bias, cached=view.cache is not None)  # [B, H, A, E]
        return self.o_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        D, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(D, inner, bias=bias)
        self.up_proj = nn.Linear(D, inner, bias=bias)
        self.down_proj = nn.Linear(inner, D, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        if torch.is_grad_enabled():  # else nothing is kept, and new memory costs page faults
            return self.down_proj(F.silu(gate) * self.up_proj(x))
        return self.down_proj(F.silu(gate, inplace=True).mul_(self.up_proj(x)))


class Layer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, view: View, layer: int) -> Tensor:
        """x [B, T, D] -> [B, T, D]; where the view has columns only these, [B, A, D]."""
        context = queries = self.input_layernorm(x)
        if view.columns is not None:
            x, queries = take(x, view.columns), take(context, view.columns)
        x = x + self.self_attn(queries, context, view, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


def take(x: Tensor, columns: Tensor) -> Tensor:
    """Columns int64 [B, A] of x [B or 1, T, ...] -> [B, A, ...]."""
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    return x.expand(len(columns), *x.shape[1:])[rows, columns]


class TokenTable(nn.Embedding):
    """A row [D] per token, used both ways: embedding of a token, and weights of its logit."""

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> float32 [..., V], multiplied in the dtype of the weights."""
        return F.linear(hidden.to(self.weight.dtype), self.weight).float()


class Transformer(nn.Module):
    """Embedding, layers, final norm. Returns every layer's residual stream, for the value head."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = TokenTable(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.register_buffer("frequency", config.rope_frequency(), persistent=False)
        self.gradient_checkpointing = False  # recompute layers in the backward pass
        self.apply(self._initialise)

    @property
    def dtype(self) -> torch.dtype:
        """What the layers compute in: autocast's dtype where it is on, else their weights'."""
        device = self.norm.weight.device.type
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        return self.norm.weight.dtype

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(
        self, tokens: Tensor, columns: Tensor | None = None, cache: Cache | None = None
    ) -> list[Tensor]:
        """tokens int64 [B, T] -> [h_1, ..., h_(L-1), norm(h_L)], each [B, T, D].

        Without a cache rows start at position 0 and attend causally; padding on the right is hidden
        from every real token. With one, row b continues its row b. `columns` int64 [B, A]: of the
        last layer only these are computed (of its keys and values, all), [B, A, D]; what nobody
        reads is left out. Raises ValueError beyond the context."""
        T, device, limit = *tokens.shape[1:], tokens.device, self.config.max_position_embeddings
        x = self.embed_tokens(tokens).to(self.dtype)
        positions = torch.arange(T, device=device)[None]
        if cache is not None:
            positions = cache.length[:, None] + positions  # [B, T]
        elif limit < T:
            raise ValueError(f"{T} tokens exceed the context of {limit}")
        slots = torch.arange(T if cache is None else int(positions.max()) + 1, device=device)
        turn = rotation(positions, self.frequency, x.dtype)
        bias = None if cache is None else bias_of(slots <= positions[:, None, :, None], x.dtype)
        view = last = View(turn, turn, bias, positions, cache)
        if columns is not None:
            at = take(positions, columns)  # [B, A]
            turn = rotation(at, self.frequency, x.dtype)
            bias = bias_of(slots <= at[:, None, :, None], x.dtype)
            last = View(turn, view.keys, bias, positions, cache, columns)
        states = []
        for i, layer in enumerate(self.layers):
            seen = last if layer is self.layers[-1] else view
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, seen, i, use_reentrant=False)
            else:
                x = layer(x, seen, i)
            states.append(x)
        states[-1] = self.norm(x)
        return states
