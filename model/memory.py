"""What a training step holds at its peak, in bytes, before anything is computed: a formula, not a measurement.

weights      every parameter in its own type, and bf16 copies of float32 projections under bf16 autocast
gradients    of what is trained, once for each micro-batch, and their sum
optimizer    AdamW two, Muon one tensor per trained one
activations  per token and layer, kept for the backward pass, with c bytes a number (2 in bf16):
             c (6 D + 2 H E + 2 K E + 4 I)  two norms, queries, keys, values, attention's output, the gated MLP
             c H T on a CPU                 attention weights; a GPU's fused kernel keeps none
             With gradient checkpointing c D per layer, and the above for one layer at a time.
logits       float32, four tables of scored tokens x V: log-softmax, its exponential, their gradients
Left out: the allocator's slack, rank-sized activations of adapters, the caches of a rollout.

Shapes: B rows, T tokens, N scored tokens, V vocabulary, D width, H query heads, K key/value heads, E head dimension, I of the MLP.
"""

from typing import NamedTuple

import torch

from model.policy import Policy


class Memory(NamedTuple):
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    def describe(self) -> str:
        parts = " + ".join(f"{name} {size / 2**30:.3g}" for name, size in zip(self._fields, self))
        return f"expected peak memory {sum(self) / 2**30:.3g} GiB = {parts}"


def activation_bytes(
    config, B: int, T: int, number: int, attention_weights: bool, checkpointing: bool
) -> int:
    """Kept by the layers for the backward pass of B rows of T tokens; `number` bytes each."""
    D, I, E = config.hidden_size, config.intermediate_size, config.head_dim
    H, K = config.num_attention_heads, config.num_key_value_heads
    layer = number * (6 * D + 2 * H * E + 2 * K * E + 4 * I + (H * T if attention_weights else 0))
    return (
        B
        * T
        * (
            config.num_hidden_layers * number * D + layer
            if checkpointing
            else config.num_hidden_layers * layer
        )
    )


def training_memory(
    policy: Policy,
    optimizers: dict[str, torch.optim.Optimizer],
    micro_batches: list[tuple[int, int, int]],
    workers: int = 1,
    bf16: bool = True,
) -> Memory:
    """micro_batches: (B, T, N) of each in one step; `workers` of them are in flight at once. bf16: autocast is on."""
    size = lambda parameters: sum(p.numel() * p.element_size() for p in parameters)
    cast = (
        sum(
            p.numel()
            for p in policy.model.layers.parameters()
            if p.ndim == 2 and p.dtype == torch.float32
        )
        if bf16
        else 0
    )
    states = sum(
        (2 if isinstance(optimizer, torch.optim.AdamW) else 1)
        * size(p for group in optimizer.param_groups for p in group["params"])
        for optimizer in optimizers.values()
    )
    number = 2 if bf16 or policy.dtype == torch.bfloat16 else 4
    largest = sorted(
        (
            activation_bytes(
                policy.config,
                B,
                T,
                number,
                policy.device.type == "cpu",
                policy.model.gradient_checkpointing,
            )
            for B, T, _ in micro_batches
        ),
        reverse=True,
    )
    logits = sorted(
        (4 * 4 * N * policy.config.vocab_size for _, _, N in micro_batches), reverse=True
    )
    copies = len(micro_batches) + 1 if len(micro_batches) > 1 else 1
    return Memory(
        size(policy.parameters()) + 2 * cast,
        copies * size(policy.trunk_parameters()),
        states,
        sum(largest[:workers]),
        sum(logits[:workers]),
    )
