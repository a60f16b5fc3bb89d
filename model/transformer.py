"""A Llama-type decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, and the options
of its relatives (biases, query/key norms), under the parameter names of Hugging Face's Llama.

One code path serves training and decoding with a cache. Left out on purpose: dropout, windows.

Shapes: B batch, T new tokens, A columns whose output is wanted, S cached slots, V vocabulary,
D width, H query heads, K key/value heads, G = H / K, E head dimension.
Sources: Llama (arXiv 2302.13971), RoPE (2104.09864), GQA (2305.13245), SwiGLU (2002.05202).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model.config import Config


class Cache(NamedTuple):
    """Keys and values of a ragged batch; the slot of a token is its position.

    So `slot <= position of the query` is the whole attention mask: slots that a row has not reached
    yet are never seen, and a row continues across turns by writing where it stopped.
    """

    keys: Tensor  # [layers, rows, S, K, E]
    values: Tensor
    length: Tensor  # int64 [B], tokens so far = the slot and position of the next one
    rows: Tensor | None = None  # int64 [B], the rows that the lengths belong to; None = all

    @classmethod
    def empty(cls, config: Config, rows: int, dtype: torch.dtype, device) -> "Cache":
        shape = (config.num_hidden_layers, rows, 0, config.num_key_value_heads, config.head_dim)
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        return cls(keys, values, torch.zeros(rows, dtype=torch.long, device=device))

    def select(self, rows: Tensor) -> "Cache":
        """The cache of some of its rows (int64 [b]), copied."""
        keys, values = (x.index_select(1, rows) for x in (self.keys, self.values))
        return Cache(keys, values, self.length[rows])

    def grow(self, slots: int) -> "Cache":
        """The same cache with at least `slots` slots."""
        extra = max(0, slots - self.keys.shape[2])
        keys, values = (F.pad(x, (0, 0, 0, 0, 0, extra)) for x in (self.keys, self.values))
        return Cache(keys, values, self.length)


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype == torch.float32:  # nothing of x's size is kept
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        # As a dot product: in bf16 on a CPU, forward and backward 2.2 times as fast as F.rms_norm.
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


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention as the papers write it: softmax(Q K' / sqrt(E)) V. The oracle of `attend`.

    q [B, H, T, E]; k, v [B, K, S, E]; mask bool [B or 1, 1, T, S], True where a query may look.
    """
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)  # [B, H, S, E]
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # [B, H, T, S]
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ v


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cached: bool = False) -> Tensor:
    """`attend_plainly`, faster. mask None = causal.

    Whole episodes in bf16 on a CPU take an explicit form: the backward pass of torch's fused kernel
    is ten times slower there, and with a group's G query heads as rows of one matmul no key is
    repeated in memory. Also without gradients, so that PPO's old and new log-probs round alike.
    """
    B, H, T, E = q.shape
    K, S = k.shape[1], k.shape[2]
    plain = cached or q.dtype == torch.float32  # on a CPU; nothing of size T x S is kept
    fused = plain if q.device.type == "cpu" else mask is None  # CUDA's has no mask for groups
    if fused:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
    q = (q * E**-0.5).reshape(B, K, H // K * T, E)  # a view: heads of a group lie together
    scores = (q @ k.transpose(-1, -2)).view(B, K, H // K, T, S)
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril()[None, None]
    bias = torch.zeros(mask.shape, dtype=scores.dtype, device=q.device)
    bias = bias.masked_fill_(~mask, -math.inf).unsqueeze(2)  # [B or 1, 1, 1, T, S]
    weights = (scores + bias).softmax(-1).view(B, K, H // K * T, S)
    return (weights.to(v.dtype) @ v).view(B, H, T, E)


class View(NamedTuple):
    """How queries and keys are turned, which keys a query may look at, and what came before."""

    queries: tuple[Tensor, Tensor]  # cos and sin, [B or 1, T or A, 1, E]
    keys: tuple[Tensor, Tensor]  # [B or 1, T, 1, E]
    mask: Tensor | None  # bool [B or 1, 1, T or A, S]; None = causal
    positions: Tensor  # int64 [B or 1, T], of the keys
    cache: Cache | None

    def with_cache(self, layer: int, keys: Tensor, values: Tensor) -> list[Tensor]:
        """New keys and values [B, T, K, E] behind the cached ones -> all of them, [B, S, K, E]."""
        if self.cache is None:
            return [keys, values]
        rows = self.cache.rows
        slots = torch.arange(len(keys), device=keys.device) if rows is None else rows
        held = []
        for cached, new in ((self.cache.keys, keys), (self.cache.values, values)):
            cached[layer][slots[:, None], self.positions] = new.to(cached.dtype)
            reached = cached[layer, :, : self.mask.shape[-1]]
            held.append((reached if rows is None else reached.index_select(0, rows)).to(new.dtype))
        return held


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        D, E, bias = config.hidden_size, config.head_dim, config.qkv_bias
        self.head_dim = E
        self.q_proj = nn.Linear(D, config.num_attention_heads * E, bias=bias)
        self.k_proj = nn.Linear(D, config.num_key_value_heads * E, bias=bias)
        self.v_proj = nn.Linear(D, config.num_key_value_heads * E, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * E, D, bias=config.attention_bias)
        self.q_norm = RMSNorm(E, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(E, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, context: Tensor, view: View, layer: int) -> Tensor:
        """Queries from x [B, A, D], keys and values from context [B, T, D] -> [B, A, D]."""
        q = self.q_proj(x).unflatten(-1, (-1, self.head_dim))  # [B, A, H, E]
        k = self.k_proj(context).unflatten(-1, (-1, self.head_dim))  # [B, T, K, E]
        v = self.v_proj(context).unflatten(-1, (-1, self.head_dim))
        q, k = rotate(self.q_norm(q), *view.queries), rotate(self.k_norm(k), *view.keys)
        k, v = view.with_cache(layer, k, v)  # [B, S, K, E]
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
        out = attend(q, k, v, view.mask, cached=view.cache is not None)  # [B, H, A, E]
        return self.o_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        D, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(D, inner, bias=bias)
        self.up_proj = nn.Linear(D, inner, bias=bias)
        self.down_proj = nn.Linear(inner, D, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, view: View, layer: int, columns: Tensor | None) -> Tensor:
        """x [B, T, D] -> [B, T, D]; with columns int64 [B, A] only these, [B, A, D]."""
        out = x if columns is None else take(x, columns)
        context = self.input_layernorm(x)
        queries = context if columns is None else take(context, columns)
        out = out + self.self_attn(queries, context, view, layer)
        return out + self.mlp(self.post_attention_layernorm(out))


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
        reads is left out. Raises ValueError beyond the context.
        """
        T, device = tokens.shape[1], tokens.device
        x = self.embed_tokens(tokens).to(self.dtype)
        positions = torch.arange(T, device=device)[None]
        if cache is not None:
            positions = cache.length[:, None] + positions  # [B, T]
        elif self.config.max_position_embeddings < T:
            limit = self.config.max_position_embeddings
            raise ValueError(f"{T} tokens exceed the context of {limit}")
        turn = rotation(positions, self.frequency, x.dtype)
        slots = torch.arange(T if cache is None else int(positions.max()) + 1, device=device)
        mask = None if cache is None else slots <= positions[:, None, :, None]  # [B, 1, T, S]
        view, states = View(turn, turn, mask, positions, cache), []
        for i, layer in enumerate(self.layers):
            chosen = columns if i == len(self.layers) - 1 else None
            if chosen is not None:
                at = take(positions, chosen)  # [B, A]
                mask = slots <= at[:, None, :, None]  # [B, 1, A, S]
                view = view._replace(queries=rotation(at, self.frequency, x.dtype), mask=mask)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, view, i, chosen, use_reentrant=False)
            else:
                x = layer(x, view, i, chosen)
            states.append(x)
        states[-1] = self.norm(x)
        return states
