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

from .config import Config, RopeScaling


class Cache(NamedTuple):
    """Keys and values of a ragged batch, one pair [B, K, S, E] per layer; the slot of a token is its position.

    Because slot == position, `slot <= position of the query` is the whole attention mask: whatever lies in slots
    that a row has not reached yet can never be seen, and a row continues across turns by writing where it stopped.
    """
    keys: list[Tensor]
    values: list[Tensor]

    @classmethod
    def empty(cls, config: Config, rows: int, slots: int, dtype: torch.dtype, device) -> "Cache":
        shape = (rows, config.num_key_value_heads, slots, config.head_dim)
        make = lambda: [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        return cls(make(), make())

    def select(self, rows: Tensor) -> "Cache":
        """The cache of some of its rows (int64 [b]), copied."""
        return Cache([k[rows] for k in self.keys], [v[rows] for v in self.values])

    def grow(self, slots: int) -> "Cache":
        """The same cache with at least `slots` slots."""
        extra = slots - self.keys[0].shape[2]
        if extra <= 0:
            return self
        return Cache([F.pad(k, (0, 0, 0, extra)) for k in self.keys], [F.pad(v, (0, 0, 0, extra)) for v in self.values])


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
    turns = frequency * scaling.original_max_position_embeddings / (2 * math.pi)  # within the original context
    keep = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
    return frequency * (keep + (1 - keep) / scaling.factor)


class Rope(nn.Module):
    """cos and sin of every position, made once; the half-split pairing of Llama (dimension i with i + E/2).

    Twice as long as the context: the padding of a ragged chunk may stand beyond it, though no real token does.
    """

    def __init__(self, config: Config):
        super().__init__()
        frequency = config.rope_theta ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)
        if config.rope_scaling:
            frequency = stretched(frequency, config.rope_scaling)
        angle = torch.outer(torch.arange(2 * config.max_position_embeddings).float(), frequency)  # [positions, E/2]
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], -1), persistent=False)
        self.register_buffer("sin", torch.cat([-angle.sin(), angle.sin()], -1), persistent=False)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, T, heads, E] turned by its position; cos, sin [B or 1, T, 1, E] with the sign inside sin."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention. q [B, H, T, E]; k, v [B, K, S, E]; mask bool [B or 1, 1, T, S], None = causal.

    On CPU the explicit form: the backward of bf16 SDPA is ten times slower there than matmul-softmax-matmul, and
    folding the G query heads of a group into the rows of one matmul means that no key is ever repeated in memory.
    """
    B, H, T, E = q.shape
    K, S = k.shape[1], k.shape[2]
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    q = (q * E**-0.5).reshape(B, K, H // K * T, E)  # heads h of group h // G lie together, so this is a view
    scores = (q @ k.transpose(-1, -2)).view(B, K, H // K, T, S)
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril()[None, None]
    bias = torch.zeros(mask.shape, dtype=scores.dtype, device=q.device).masked_fill_(~mask, -math.inf)
    weights = (scores + bias.unsqueeze(2)).softmax(-1).view(B, K, H // K * T, S)
    return (weights.to(v.dtype) @ v).view(B, H, T, E)


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=config.qkv_bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=config.attention_bias)
        if config.qk_norm:
            self.q_norm, self.k_norm = (RMSNorm(self.head_dim, config.rms_norm_eps) for _ in range(2))
        else:
            self.q_norm, self.k_norm = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, slots: Tensor | None, keys: Tensor | None,
                values: Tensor | None) -> Tensor:
        """x [B, T, D] -> [B, T, D]. With a cache, the new keys are written at `slots` int64 [B, T] first."""
        B, T, _ = x.shape
        q = rotate(self.q_norm(self.q_proj(x).view(B, T, self.heads, self.head_dim)), cos, sin).transpose(1, 2)
        k = rotate(self.k_norm(self.k_proj(x).view(B, T, self.kv_heads, self.head_dim)), cos, sin)
        v = self.v_proj(x).view(B, T, self.kv_heads, self.head_dim)
        if keys is not None:
            rows = torch.arange(B, device=x.device)[:, None]
            keys[rows, :, slots] = k.to(keys.dtype)  # [B, T, K, E] into slots of [B, K, S, E]
            values[rows, :, slots] = v.to(values.dtype)
            seen = mask.shape[-1]
            k, v = keys[:, :, :seen].to(q.dtype), values[:, :, :seen].to(q.dtype)
        else:
            k, v = k.transpose(1, 2), v.transpose(1, 2)
        return self.o_proj(attend(q, k, v, mask).transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, *context) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *context)
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
        self.gradient_checkpointing = False  # recompute a layer in the backward pass instead of keeping what is inside it
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, start: Tensor | None = None, cache: Cache | None = None) -> list[Tensor]:
        """tokens int64 [B, T] -> [h_1, ..., h_(L-1), norm(h_L)], each [B, T, D].

        Without a cache the rows start at position 0 and attend causally; rows are padded on the right, which a causal
        mask hides from every real token. With one, row b continues at position start[b] (int64 [B]).
        """
        T = tokens.shape[1]
        x = self.embed_tokens(tokens)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if cache is None:
            slots, mask = None, None
            if T > self.config.max_position_embeddings:
                raise ValueError(f"{T} tokens exceed the context of {self.config.max_position_embeddings}")
            cos, sin = self.rope.cos[None, :T, None], self.rope.sin[None, :T, None]
        else:
            slots = start[:, None] + torch.arange(T, device=tokens.device)  # [B, T]
            seen = int(slots.max()) + 1
            mask = torch.arange(seen, device=tokens.device) <= slots[:, None, :, None]  # [B, 1, T, seen]
            cos, sin = self.rope.cos[slots].unsqueeze(2), self.rope.sin[slots].unsqueeze(2)  # [B, T, 1, E]
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        states = []
        for i, layer in enumerate(self.layers):
            keys, values = (cache.keys[i], cache.values[i]) if cache is not None else (None, None)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, cos, sin, mask, slots, keys, values, use_reentrant=False)
            else:
                x = layer(x, cos, sin, mask, slots, keys, values)
            states.append(x)
        states[-1] = self.norm(x)
        return states
