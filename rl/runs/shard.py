"""--shard: a policy whose training does not fit one device lies in slices over all ranks (FSDP2;
ZeRO-3, Rajbhandari et al., arXiv 1910.02054).

Every rank holds its slice of each weight, gradient and moment. A pass gathers one layer at a time
and sums gradients as it deals them out again. The value head is whole on every rank, and so is what
plays. Functions that make slices whole are called by all ranks together. Left out: slices in the
CPU's memory, slices of activations.
"""

import warnings
from functools import partial

import torch
from torch import Tensor

from model import Policy
from model.pretrained.lora import without_adapters
from rl import ranks


def place(policy: Policy, args) -> Policy:
    """Move a policy to the device of a run, with --shard a slice of it. args: RunArgs."""
    if not args.shard:
        return policy.to(args.device)
    from torch.distributed import device_mesh, fsdp  # half a second

    mesh = device_mesh.init_device_mesh(args.device, (ranks.size(),))
    head = set(policy.value_head.to(args.device).parameters())
    for module in (*policy.model.layers, policy):
        # Layers are cast as by autocast, but before they are gathered; sums and logits are fp32.
        cast = args.dtype == "bf16" and module is not policy
        precision = fsdp.MixedPrecisionPolicy(*(torch.bfloat16, torch.float32) if cast else ())
        how = {"mesh": mesh, "mp_policy": precision, "reshard_after_forward": True}
        fsdp.fully_shard(module, **how, ignored_params=head)
        module.set_gradient_divide_factor(1.0)  # a sum, no mean
        module.set_force_sum_reduction_for_comms(True)
    fsdp.register_fsdp_forward_method(policy, "at")
    warnings.filterwarnings("ignore", ".*returned a view tensor")  # nobody changes it in place
    policy.for_inference = partial(copy_for_inference, policy)
    return policy


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # a DTensor


def copy_for_inference(policy: Policy) -> Policy:
    """A whole copy on every rank, as Policy.for_inference."""
    dtype, copied = policy.model.dtype, {}
    for name, tensor in policy.state_dict().items():
        is_layer = name.startswith(("model.layers.", "model.norm."))
        copied[name] = whole(tensor.to(dtype if is_layer else tensor.dtype))
    return without_adapters(policy, copied)


def on_first_rank(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole copies on the CPU, made one after the other, for rank 0; {} elsewhere."""
    made = ((name, whole(tensor.detach())) for name, tensor in tensors.items())
    return {name: x.cpu().contiguous().clone() for name, x in made if ranks.rank() == 0}


def sliced_like(tensor: Tensor, other: Tensor | None) -> Tensor:
    """This rank's slice of a whole tensor where `other`, of the same shape, lies in slices."""
    if not hasattr(other, "full_tensor") or other.shape != tensor.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    how = other.device_mesh, other.placements
    return distribute_tensor(tensor, *how, src_data_rank=None).clone()  # a view would keep it whole
