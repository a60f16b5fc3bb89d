"""Pretrained policies on several ranks (gloo, real processes): whole, with adapters, sharded.

Losses, gradients and trained weights are those of one rank, and what goes on from a saved state
gives the same bits. Everything is computed once per number of ranks and compared here.
"""

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.distributed.tensor import DTensor

import train_sft
from model.pretrained.lora import trained_modules, without_adapters
from rl import Decoding, PPOConfig, ppo_update, ranks, rollout, score_rollout
from rl.ppo import penalised_rewards, with_advantages
from rl.runs.shard import place, whole
from rl.runs.state import load_state, save_state
from tests.model.foreign import write_foreign
from tests.rl.test_ranks import close
from tests.rl.tiny import QUESTIONS, environment

SIZES = (2, 4)
FAMILIES = ("Llama", "Mistral", "Qwen2.5", "Qwen3")
WAYS = ("whole", "LoRA", "sharded")
CASES = [(family, way) for family in FAMILIES for way in WAYS]
KEEN = Decoding(temperature=1.0, sample_decision=True, explore=0.9)


def small() -> train_sft.Args:
    args = train_sft.Args(
        world="tiny", passage_tokens=20, episodes=6, micro_tokens=150, dtype="fp32"
    )
    args.read_steps, args.probe = 20, 8
    return args


def learnt(policy) -> dict:
    parameters = policy.trunk_parameters()
    return {
        "gradient": [whole(p.grad) for p in parameters],
        "weights": [whole(p.detach()) for p in parameters],
        "held": sum(p.to_local().numel() for p in parameters if isinstance(p, DTensor)),
    }


def trained(warm_up: train_sft.WarmUp, folder: Path) -> dict:
    """Four steps of the warm-up; the last two once more from what was saved after two."""
    warm_up.build()
    figures = [warm_up.step(i) for i in (0, 1)]
    save_state(folder, trained_modules(warm_up.policy), warm_up.optimizers, {}, {})
    figures += [warm_up.step(i) for i in (2, 3)]
    found = {"figures": figures} | learnt(warm_up.policy)
    warm_up.build()
    load_state(folder, trained_modules(warm_up.policy), warm_up.optimizers, {})
    found["figures again"] = figures[:2] + [warm_up.step(i) for i in (2, 3)]
    return found | {"weights again": learnt(warm_up.policy)["weights"]}


def updated(warm_up: train_sft.WarmUp) -> dict:
    """One update of PPO; the reference of adapters is the policy without them."""
    args, shard = warm_up.args, warm_up.args.shard
    args.shard = False
    warm_up.build()
    policy, tokenizer = warm_up.policy.eval(), warm_up.tokenizer
    reference = copy.deepcopy(policy)
    if args.lora_rank:
        reference = without_adapters(policy)
    random = torch.Generator().manual_seed(3)
    for parameter in policy.trunk_parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=random)
    args.shard = shard
    policy, reference = (place(each, args) for each in (policy, reference))
    config = PPOConfig(minibatch=7, micro_tokens=250, target_kl=1e9)  # the last one has 2 episodes
    questions = QUESTIONS * 4  # batches of 4 on any number of ranks
    episodes = rollout(policy, tokenizer, environment(), questions, KEEN, random, batch_size=4)
    experience = score_rollout(policy, reference, episodes, tokenizer, config)
    experience = with_advantages(experience, penalised_rewards(experience, 0.1), config)
    optimizer = torch.optim.SGD(policy.trunk_parameters(), lr=0.01)
    figures = ppo_update(policy, optimizer, experience, tokenizer, config, random)
    assert len(episodes) % config.minibatch == 2
    return {"figures": [figures]} | learnt(policy)


def everything(inits: Path, folder: Path) -> dict:
    """(family, way, stage) -> what it came to; alone, "sharded" is whole."""
    warm_up, found = train_sft.WarmUp(small()), {}
    for family, way in CASES:
        warm_up.args.init, warm_up.args.lora_rank = str(inits / family), 4 * (way == "LoRA")
        warm_up.args.shard = way == "sharded" and ranks.size() > 1
        warm_up.args.checkpointing = way == "sharded"
        found[family, way, "warm-up"] = trained(warm_up, folder)
        found[family, way, "ppo"] = updated(warm_up)
    return found


def work(rank: int, size: int, inits: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    torch.save(everything(inits, folder), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, list[dict]]:
    """Number of ranks -> what each of them computed."""
    inits = tmp_path_factory.mktemp("inits")
    for family in FAMILIES:
        write_foreign(inits / family, family, 304)
    found = {1: [everything(inits, tmp_path_factory.mktemp("ranks1"))]}
    for size in SIZES:
        folder = tmp_path_factory.mktemp(f"ranks{size}")
        multiprocessing.spawn(work, (size, inits, folder), nprocs=size)
        files = [folder / f"{rank}.pt" for rank in range(size)]
        found[size] = [torch.load(file, weights_only=False) for file in files]
    return found


@pytest.mark.parametrize("stage", ["warm-up", "ppo"])
@pytest.mark.parametrize("family, way", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_losses_gradients_and_weights_are_those_of_one_rank(results, size, family, way, stage):
    [one] = [result[family, way, stage] for result in results[1]]
    for result in results[size]:
        several = result[family, way, stage]
        for field in ("gradient", "weights"):
            close(several[field], one[field], 1e-5)
        for mine, theirs in zip(several["figures"], one["figures"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert max(g.abs().max() for g in one["gradient"]) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", SIZES)
def test_each_rank_holds_a_slice(results, size, family):
    found = [result[family, "sharded", "ppo"] for result in results[size]]
    total = sum(weight.numel() for weight in found[0]["weights"])
    assert sum(x["held"] for x in found) == total
    assert all(abs(x["held"] / total - 1 / size) < 0.02 for x in found)


@pytest.mark.parametrize("family, way", CASES)
@pytest.mark.parametrize("size", (1, *SIZES))
def test_a_run_that_goes_on_from_its_state_gives_the_same_bits(results, size, family, way):
    for result in results[size]:
        found = result[family, way, "warm-up"]
        assert found["figures again"] == found["figures"]
        for a, b in zip(found["weights again"], found["weights"], strict=True):
            assert torch.equal(a, b)
