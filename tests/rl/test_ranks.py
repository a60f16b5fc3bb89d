"""Ranks that are real processes (gloo): 2 and 3 of them compute what one computes.

Everything is computed once per number of ranks, in processes of its own, and compared here.
"""

import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

import train_sft
from rl import Decoding, PPOConfig, ppo_update, ranks, rollout, score_rollout
from rl.ppo import penalised_rewards, with_advantages

from .tiny import QUESTIONS, TOKENIZER, environment, random_policy

SIZES = (1, 2, 3)
KEEN = Decoding(temperature=1.0, sample_decision=True, explore=0.9)
ARGS = train_sft.Args(
    world="tiny",
    vocab_size=400,
    hidden_size=32,
    layers=2,
    context=512,
    episodes=14,
    micro_tokens=200,
    read_steps=20,
    probe=40,
    dtype="fp32",
)


def square(number: int) -> int:
    return number * number


def basics() -> dict:
    counts = range(11)
    tensors = [torch.full((n,), float(1 + ranks.rank())) for n in (1, 7, 3, 0)]
    tensors.append(torch.full((2, 2), 10 + ranks.rank()))  # of another type
    ranks.reduce(tensors)
    used, unused = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    used.grad, unused.grad = torch.zeros(2), torch.zeros(2)
    if ranks.rank() == ranks.size() - 1:
        used.grad = torch.tensor([1.0, 2.0])
    norm = ranks.clip_gradients([used, unused], 1e9)
    return {
        "place": (ranks.rank(), ranks.size()),
        "shares": [ranks.share(range(n)) for n in counts],
        "map": [ranks.map(square, range(n)) for n in counts],
        "gather": sorted(ranks.gather(map(str, ranks.share(range(8))))),
        "most": ranks.most(ranks.rank() + 5),
        "reduced": tensors,
        "gradients": [used.grad, unused.grad],
        "norm": norm,
    }


def played(decoding: Decoding, **options) -> list:
    random = torch.Generator().manual_seed(3)
    env, questions = environment(quota=2), QUESTIONS * 6
    episodes = rollout(random_policy(2), TOKENIZER, env, questions, decoding, random, **options)
    return [(e.question.id, e.tokens, e.parts, e.rewards, e.behaviour) for e in episodes]


def updated() -> dict:
    """One step of PPO on a rollout: its gradient, its weights, its figures."""
    policy, reference = random_policy(2), random_policy(1)
    config = PPOConfig(minibatch=24, micro_tokens=150, target_kl=1e9)
    random = torch.Generator().manual_seed(3)
    env, questions = environment(quota=2), QUESTIONS * 6
    episodes = rollout(policy, TOKENIZER, env, questions, KEEN, random, batch_size=4)
    experience = score_rollout(policy, reference, episodes, TOKENIZER, config)
    experience = with_advantages(experience, penalised_rewards(experience, 0.1), config)
    optimizer = torch.optim.SGD(policy.trunk_parameters(), lr=0.01)
    moved = copy.deepcopy(policy)
    figures = ppo_update(policy, optimizer, experience, TOKENIZER, config, random)
    both = moved.parameters(), policy.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(*both, strict=True))
    return {
        "gradient": [p.grad for p in policy.trunk_parameters()],
        "weights": list(policy.state_dict().values()),
        "experience": [experience.log_probs, experience.advantages, experience.returns],
        "figures": figures,
    }


def warmed_up() -> dict:
    """Demonstrations of some steps, and the gradient and figures of one step."""
    warm_up = train_sft.WarmUp(ARGS)
    warm_up.build()
    curriculum = warm_up.curriculum
    curriculum.knows = {q: i % 2 == 0 for i, q in enumerate(curriculum.probed)}
    demonstrations = {}
    for phase, step in (("read", 0), ("read", 3), ("read", 15), ("mix", 0), ("mix", 3)):
        episodes = curriculum.demonstrations(warm_up.demonstrator, phase, step)
        own = [(e.question.id, e.tokens, e.parts) for e in episodes]
        everybody = [own]
        if ranks.size() > 1:
            everybody = [None] * ranks.size()
            dist.all_gather_object(everybody, own)
        demonstrations[phase, step] = sorted(x for part in everybody for x in part)
    figures = warm_up.step(3)
    return {
        "demonstrations": demonstrations,
        "gradient": [p.grad for p in warm_up.policy.trunk_parameters()],
        "weights": list(warm_up.policy.state_dict().values()),
        "figures": figures,
    }


def everything() -> dict:
    return {
        "basics": basics(),
        "sampled": played(KEEN, batch_size=4),
        "greedy": played(Decoding()),
        "default batches": played(KEEN),
        "updated": updated(),
        "warmed up": warmed_up(),
    }


def work(rank: int, size: int, directory: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{directory}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    torch.manual_seed(0)
    torch.save(everything(), f"{directory}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, list[dict]]:
    """Number of ranks -> what each of them computed."""
    torch.manual_seed(0)
    found = {1: [everything()]}
    for size in SIZES[1:]:
        directory = tmp_path_factory.mktemp(f"ranks{size}")
        multiprocessing.spawn(work, (size, str(directory)), nprocs=size)
        files = [directory / f"{rank}.pt" for rank in range(size)]
        found[size] = [torch.load(file, weights_only=False) for file in files]
    return found


@pytest.fixture(params=SIZES)
def size(request) -> int:
    return request.param


def test_every_item_has_one_owner(results, size):
    """Dealt out in turns, first to last and last to first: of 7 items and 3 ranks 0 5 6, 1 4, 2
    3."""
    basics = [result["basics"] for result in results[size]]
    assert [x["place"] for x in basics] == [(rank, size) for rank in range(size)]
    for n in range(11):
        shares = [x["shares"][n] for x in basics]
        assert sorted(i for share in shares for i in share) == list(range(n))
        lengths = [len(share) for share in shares]
        assert max(lengths) - min(lengths) <= 1
    by_hand = {
        1: [[0, 1, 2, 3, 4, 5, 6]],
        2: [[0, 3, 4], [1, 2, 5, 6]],
        3: [[0, 5, 6], [1, 4], [2, 3]],
    }
    assert [x["shares"][7] for x in basics] == by_hand[size]


def test_results_come_in_the_order_of_the_items(results, size):
    for result in results[size]:
        for n, squares in enumerate(result["basics"]["map"]):
            assert squares == [i * i for i in range(n)]
        assert result["basics"]["gather"] == list("01234567")
        assert result["basics"]["most"] == size + 4


def test_sums(results, size):
    """1 + 2 + ... in every tensor, whatever its size, shape and type."""
    total = size * (size + 1) / 2
    for result in results[size]:
        *floats, whole = result["basics"]["reduced"]
        assert [x.tolist() for x in floats] == [[total] * n for n in (1, 7, 3, 0)]
        assert whole.tolist() == [[int(total) + 9 * size] * 2] * 2 and whole.dtype == torch.long
        used, unused = result["basics"]["gradients"]
        assert (used.tolist(), unused.tolist()) == ([1.0, 2.0], [0.0, 0.0])
        assert result["basics"]["norm"] == pytest.approx(5**0.5)


def test_all_ranks_have_the_episodes_of_one(results, size):
    (one,) = results[1]
    for result in results[size]:
        assert result["greedy"] == one["greedy"]
        assert result["sampled"] == one["sampled"]
        assert result["default batches"] == results[size][0]["default batches"]
    assert len({len(tokens) for _, tokens, *_ in one["sampled"]}) > 5


def close(a, b, tolerance: float) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=tolerance, rtol=tolerance)


def test_one_step_of_ppo_is_that_of_one_rank(results, size):
    (one,) = results[1]
    for result in results[size]:
        for field in ("experience", "gradient", "weights"):
            close(result["updated"][field], one["updated"][field], 1e-5)
        expected = pytest.approx(one["updated"]["figures"], rel=1e-4, abs=1e-5)
        assert result["updated"]["figures"] == expected
    assert max(g.abs().max() for g in one["updated"]["gradient"]) > 1e-2


def test_one_step_of_the_warm_up_has_the_gradient_of_one_rank(results, size):
    (one,) = results[1]
    for result in results[size]:
        close(result["warmed up"]["gradient"], one["warmed up"]["gradient"], 1e-5)
        figures = result["warmed up"]["figures"]
        assert figures == pytest.approx(one["warmed up"]["figures"], rel=1e-5)
    assert max(g.abs().max() for g in one["warmed up"]["gradient"]) > 1e-3


def test_all_ranks_have_the_same_bits(results, size):
    first = results[size][0]
    for result in results[size][1:]:
        for stage in ("updated", "warmed up"):
            for a, b in zip(first[stage]["weights"], result[stage]["weights"], strict=True):
                assert torch.equal(a, b)


def test_demonstrations_do_not_depend_on_the_number_of_ranks(results, size):
    """Pure functions of (seed, phase, step)."""
    (one,) = results[1]
    for result in results[size]:
        assert result["warmed up"]["demonstrations"] == one["warmed up"]["demonstrations"]
    steps = list(one["warmed up"]["demonstrations"].values())
    assert [len(step) for step in steps] == [ARGS.episodes] * 5
    assert all(a != b for i, a in enumerate(steps) for b in steps[:i])
