"""The expected memory of a training step: one case by hand, and the activations against what autograd really keeps."""

import pytest
import torch

from model import Policy, training_memory
from model.memory import activation_bytes

from .tiny import tiny_config


def test_a_step_by_hand():
    """V 320, D 32, I 48, 2 layers, 4 query and 2 key/value heads of 8: float32 weights, AdamW, two micro-batches, no autocast."""
    policy = Policy(tiny_config())
    layer = (
        2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    )  # q and o, k and v, the MLP, two norms: 7744
    trunk = 320 * 32 + 2 * layer + 32  # 25760
    head = 3 * 32 * 96 + 96 + 96 + 1  # 9409
    memory = training_memory(
        policy,
        {"adamw": torch.optim.AdamW(policy.trunk_parameters())},
        [(2, 10, 5), (2, 20, 8)],
        bf16=False,
    )
    assert memory.weights == 4 * (trunk + head) == 140_676
    assert memory.gradients == 3 * 4 * trunk == 309_120  # one for each micro-batch, and the sum
    assert memory.optimizer == 2 * 4 * trunk == 206_080
    per_token_and_layer = 4 * (
        6 * 32 + 2 * 32 + 2 * 16 + 4 * 48 + 4 * 20
    )  # the longer micro-batch: 2240
    assert memory.activations == 2 * 20 * 2 * per_token_and_layer == 179_200
    assert memory.logits == 4 * 4 * 8 * 320 == 40_960
    assert memory.describe().startswith("expected peak memory 0.000816 GiB = weights 0.000131 + ")
    policy.model.gradient_checkpointing = True
    assert training_memory(policy, {}, [(2, 20, 8)], bf16=False).activations == 2 * 20 * (
        2 * 4 * 32 + per_token_and_layer
    )
    muon = torch.optim.Muon([p for p in policy.model.layers.parameters() if p.ndim == 2])
    assert training_memory(policy, {"muon": muon}, [(2, 20, 8)], bf16=True).optimizer == 4 * 2 * (
        layer - 64
    )
    assert training_memory(
        policy, {}, [(2, 20, 8)], bf16=True
    ).weights == memory.weights + 2 * 2 * (layer - 64)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        dict(hidden_size=64, intermediate_size=192),
        dict(hidden_size=128, intermediate_size=384, num_hidden_layers=3),
    ],
)
def test_activations_are_what_autograd_keeps(fields, bf16):
    policy, kept = Policy(tiny_config(**fields)), {}
    weights = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    shapes = {
        shape for p in policy.parameters() for shape in (p.shape, p.shape[::-1])
    }  # of their bf16 copies

    def remember(tensor):
        if tensor.untyped_storage().data_ptr() not in weights and tensor.shape not in shapes:
            kept[tensor.untyped_storage().data_ptr()] = (
                tensor.untyped_storage().nbytes(),
                tensor,
            )  # held, so that no address comes twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(remember, lambda x: x),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        policy.model(torch.randint(320, (4, 120)))
    measured = sum(size for size, _ in kept.values())
    expected = activation_bytes(policy.config, 4, 120, 2 if bf16 else 4, True, False)
    assert 0.9 < measured / expected < 1.1
