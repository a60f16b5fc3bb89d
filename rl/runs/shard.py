"""--shard: a policy whose training does not fit one device lies in slices over all ranks (FSDP2;
ZeRO-3, Rajbhandari et al., arXiv 1910.02054).

Every rank holds its slice of each weight, gradient and moment. A forward or backward pass gathers
the weights of one layer at a time, in the dtype that it multiplies, and gradients are summed as
they are dealt out again. The value head is whole on every rank, and so is what plays. Left out:
slices on the CPU of a GPU's rank, slices of activations.
"""

import warnings

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from model import Policy
from model.pretrained.lora import without_adapters
from rl import ranks


class ShardedPolicy(Policy):
    def for_inference(self) -> Policy:
        """A whole copy on every rank, as Policy.for_inference; all ranks call it together."""
        dtype, copied = self.model.dtype, {}
        for name, tensor in self.state_dict().items():
            layered = name.startswith(("model.layers.", "model.norm."))
            copied[name] = ranks.whole(tensor.to(dtype if layered else tensor.dtype))
        return without_adapters(self, copied)

    def whole(self) -> Policy | None:
        """The policy that is written, on rank 0; all ranks call it together."""
        found = on_first_rank(self.state_dict())
        return without_adapters(self, found) if found else None


def place(policy: Policy, args) -> Policy:
    """Move a policy to the device of a run: all of it, or with --shard this rank's slices. args:
    RunArgs."""
    if not args.shard:
        return policy.to(args.device)
    policy.__class__ = ShardedPolicy
    mesh = init_device_mesh(torch.device(args.device).type, (ranks.size(),))
    # As autocast would cast them, but before they are gathered; logits are computed in fp32.
    dtype = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
    how = MixedPrecisionPolicy(**dtype) if args.dtype == "bf16" else MixedPrecisionPolicy()
    head = set(policy.value_head.to(args.device).parameters())
    for layer in policy.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=how)
    fully_shard(policy, mesh=mesh, reshard_after_forward=True, ignored_params=head)
    for module in (*policy.model.layers, policy):  # gradients are summed, not averaged
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(policy, "at")
    warnings.filterwarnings("ignore", ".*returned a view tensor")  # nobody changes it in place
    return policy


def on_first_rank(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole copies on the CPU, one tensor after the other, for rank 0; {} elsewhere. All ranks call
    it together where tensors are sliced."""
    found = {}
    for name, tensor in tensors.items():
        whole = ranks.whole(tensor.detach())
        if ranks.rank() == 0:
            found[name] = whole.cpu().contiguous().clone()
    return found


def sliced_like(tensor: Tensor, other: Tensor | None) -> Tensor:
    """This rank's slice of a whole tensor where `other`, of the same shape, lies in slices."""
    if not isinstance(other, DTensor) or other.shape != tensor.shape:
        return tensor
    how = other.device_mesh, other.placements
    return distribute_tensor(tensor, *how, src_data_rank=None).clone()  # a view would keep it whole
