"""A Llama-type decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, and the options of its relatives
(biases, query/key norms, Llama 3's rope scaling; see config.py).

Parameter names are those of Hugging Face's Llama, so checkpoints travel both ways. Left out on purpose: dropout,
sliding windows. One code path serves training (no cache) and decoding (with a cache).

Shapes: B batch, T new tokens, S cached slots, V vocabulary, D width, H query heads, K key/value heads,
G = H / K query heads per key/value head, E head dimension.

Sources: Llama (arXiv 2302.13971), RoPE (2104.09864), GQA (2305.13245), SwiGLU (2002.05202), Llama 3 (2407.21783), Qwen3 (2505.09388).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model.config import Config, RopeScaling


class Cache(NamedTuple):
    """Keys and values of a ragged batch, one pair [B, S, K, E] per layer; the slot of a token is its position.

    Because slot == position, `slot <= position of the query` is the whole attention mask: whatever lies in slots
    that a row has not reached yet can never be seen, and a row continues across turns by writing where it stopped.
    """

    keys: list[Tensor]
    values: list[Tensor]

    @classmethod
    def empty(cls, config: Config, rows: int, slots: int, dtype: torch.dtype, device) -> "Cache":
        shape = (rows, slots, config.num_key_value_heads, config.head_dim)
        make = lambda: [
            torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)
        ]
        return cls(make(), make())

    def select(self, rows: Tensor) -> "Cache":
        """The cache of some of its rows (int64 [b]), copied."""
        return Cache(*([x.index_select(0, rows) for x in side] for side in self))

    def grow(self, slots: int) -> "Cache":
        """The same cache with at least `slots` slots."""
        extra = slots - self.keys[0].shape[1]
        if extra <= 0:
            return self
        return Cache(*([F.pad(x, (0, 0, 0, 0, 0, extra)) for x in side] for side in self))


class Place(NamedTuple):
    """Where the new tokens of a batch stand: the same for every layer, but for `mask` and `at` of the last."""

    cos: Tensor  # [B or 1, T, 1, E]
    sin: Tensor
    mask: Tensor | None  # bool [B or 1, 1, T or A, S], None = causal
    slots: (
        tuple[Tensor, Tensor] | None
    )  # int64 rows [B, 1] and positions [B, T] in the cache; None = no cache
    rows: Tensor | None  # int64 [B], rows of the cache; None = all of them, in order
    at: Tensor | None  # int64 [B, A], the columns whose output is wanted; None = all T


def take(x: Tensor, at: Tensor | None) -> Tensor:
    """Columns at [B, A] of x [B or 1, T, ...] -> [B, A, ...]; x itself where at is None."""
    return (
        x
        if at is None
        else x.expand(len(at), *x.shape[1:])[torch.arange(len(at), device=at.device)[:, None], at]
    )


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # As a dot product: 2.2 times as fast on CPU in bf16, forward and backward, as F.rms_norm, which is a chain there.
        scale = torch.rsqrt(torch.linalg.vecdot(x, x).unsqueeze(-1) / x.shape[-1] + self.eps)
        return x * (scale * self.weight.to(x.dtype))


def stretched(frequency: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3: rotations slower than the original context are divided by `factor`, fast ones kept, those between interpolated."""
    turns = (
        frequency * scaling.original_max_position_embeddings / (2 * math.pi)
    )  # within the original context
    keep = (
        (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    ).clamp(0, 1)
    return frequency * (keep + (1 - keep) / scaling.factor)


class Rope(nn.Module):
    """cos and sin of every position, made once; the half-split pairing of Llama (dimension i with i + E/2).

    Twice as long as the context: the padding of a ragged chunk may stand beyond it, though no real token does.
    """

    def __init__(self, config: Config):
        super().__init__()
        frequency = config.rope_theta ** (
            -torch.arange(0, config.head_dim, 2).float() / config.head_dim
        )
        if config.rope_scaling:
            frequency = stretched(frequency, config.rope_scaling)
        angle = torch.outer(
            torch.arange(2 * config.max_position_embeddings).float(), frequency
        )  # [positions, E/2]
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], -1), persistent=False)
        self.register_buffer("sin", torch.cat([-angle.sin(), angle.sin()], -1), persistent=False)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, T, heads, E] turned by its position; cos, sin [B or 1, T, 1, E] with the sign inside sin."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cached: bool = False) -> Tensor:
    """Grouped-query attention. q [B, H, T, E]; k, v [B, K, S, E]; mask bool [B or 1, 1, T, S], None = causal.

    Whole episodes on a CPU take the explicit form: the backward of bf16 SDPA is ten times slower there than
    matmul-softmax-matmul, and folding the G query heads of a group into the rows of one matmul means that no key is ever
    repeated in memory. It holds without gradients as well, so that PPO's old and new log-probs are rounded alike.
    """
    B, H, T, E = q.shape
    K, S = k.shape[1], k.shape[2]
    if q.device.type != "cpu" or cached:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
    q = (q * E**-0.5).reshape(
        B, K, H // K * T, E
    )  # heads h of group h // G lie together, so this is a view
    scores = (q @ k.transpose(-1, -2)).view(B, K, H // K, T, S)
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril()[None, None]
    bias = torch.zeros(mask.shape, dtype=scores.dtype, device=q.device).masked_fill_(
        ~mask, -math.inf
    )
    weights = (scores + bias.unsqueeze(2)).softmax(-1).view(B, K, H // K * T, S)
    return (weights.to(v.dtype) @ v).view(B, H, T, E)


def write_and_read(cached: Tensor, new: Tensor, place: Place) -> Tensor:
    """Put new [B, T, K, E] into its slots of the cache; all that the rows can see, [B, seen, K, E]."""
    cached[place.slots] = new.to(cached.dtype)
    seen = cached[:, : place.mask.shape[-1]]
    return (seen if place.rows is None else seen.index_select(0, place.rows)).to(new.dtype)


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.q_proj = nn.Linear(
            config.hidden_size, self.heads * self.head_dim, bias=config.qkv_bias
        )
        self.k_proj = nn.Linear(
            config.hidden_size, self.kv_heads * self.head_dim, bias=config.qkv_bias
        )
        self.v_proj = nn.Linear(
            config.hidden_size, self.kv_heads * self.head_dim, bias=config.qkv_bias
        )
        self.o_proj = nn.Linear(
            self.heads * self.head_dim, config.hidden_size, bias=config.attention_bias
        )
        if config.qk_norm:
            self.q_norm, self.k_norm = (
                RMSNorm(self.head_dim, config.rms_norm_eps) for _ in range(2)
            )
        else:
            self.q_norm, self.k_norm = nn.Identity(), nn.Identity()

    def forward(
        self, x: Tensor, place: Place, keys: Tensor | None, values: Tensor | None
    ) -> Tensor:
        """x [B, T, D] -> [B, T or A, D]. With a cache, the new keys and values are written first."""
        split = lambda projected: projected.unflatten(-1, (-1, self.head_dim))  # [B, T, heads, E]
        q = rotate(
            self.q_norm(split(self.q_proj(take(x, place.at)))),
            take(place.cos, place.at),
            take(place.sin, place.at),
        )
        k = rotate(self.k_norm(split(self.k_proj(x))), place.cos, place.sin)
        v = split(self.v_proj(x))
        if keys is not None:
            k, v = (write_and_read(cached, new, place) for cached, new in ((keys, k), (values, v)))
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
        return self.o_proj(
            attend(q, k, v, place.mask, cached=keys is not None).transpose(1, 2).flatten(2)
        )


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.gate_proj = nn.Linear(
            config.hidden_size, config.intermediate_size, bias=config.mlp_bias
        )
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(
            config.intermediate_size, config.hidden_size, bias=config.mlp_bias
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, place: Place, keys: Tensor | None, values: Tensor | None
    ) -> Tensor:
        x = take(x, place.at) + self.self_attn(self.input_layernorm(x), place, keys, values)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Embedding, layers, final norm. Returns the residual stream of every layer: the value head reads several."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rope = Rope(config)
        self.gradient_checkpointing = (
            False  # recompute a layer in the backward pass instead of keeping what is inside it
        )
        self.apply(self._initialise)

    @property
    def dtype(self) -> torch.dtype:
        """What the layers compute in: the autocast dtype where autocast is on, else that of their weights."""
        weight = self.norm.weight
        return (
            torch.get_autocast_dtype(weight.device.type)
            if torch.is_autocast_enabled(weight.device.type)
            else weight.dtype
        )

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(
        self,
        tokens: Tensor,
        start: Tensor | None = None,
        cache: Cache | None = None,
        rows: Tensor | None = None,
        at: Tensor | None = None,
    ) -> list[Tensor]:
        """tokens int64 [B, T] -> [h_1, ..., h_(L-1), norm(h_L)], each [B, T, D].

        Without a cache the rows start at position 0 and attend causally; rows are padded on the right, which a causal
        mask hides from every real token. With one, row b continues row rows[b] of it at position start[b] (int64 [B]).
        `at` int64 [B, A]: the last layer computes these columns alone (its keys and values, all), [B, A, D].
        """
        (B, T), device = tokens.shape, tokens.device
        x = self.embed_tokens(tokens)
        x = x.to(self.dtype)
        positions = torch.arange(T, device=device)[None]
        if cache is not None:
            positions = start[:, None] + positions  # [B, T]
        elif T > self.config.max_position_embeddings:
            raise ValueError(
                f"{T} tokens exceed the context of {self.config.max_position_embeddings}"
            )
        cos, sin = (
            table[positions].unsqueeze(2).to(x.dtype) for table in (self.rope.cos, self.rope.sin)
        )
        seen = torch.arange(T if cache is None else int(positions.max()) + 1, device=device)
        mask = None if cache is None else seen <= positions[:, None, :, None]  # [B, 1, T, seen]
        slots = (
            None
            if cache is None
            else ((torch.arange(B, device=device) if rows is None else rows)[:, None], positions)
        )
        place = Place(cos, sin, mask, slots, rows, None)
        states = []
        for i, layer in enumerate(self.layers):
            if at is not None and i == len(self.layers) - 1:
                place = place._replace(at=at, mask=seen <= take(positions, at)[:, None, :, None])
            cached = (cache.keys[i], cache.values[i]) if cache is not None else (None, None)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, place, *cached, use_reentrant=False)
            else:
                x = layer(x, place, *cached)
            states.append(x)
        states[-1] = self.norm(x)
        return states
