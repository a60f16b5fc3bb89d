"""The scripts on somebody else's checkpoint: full and LoRA training, both ways out, a stop in the
middle, and flags that contradict."""

import json
import os
import shlex
import signal

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import train_ppo
from data.world import World
from model.pretrained import open_model, open_policy
from tests.model.foreign import write_foreign
from tests.test_resume import finish, kill_at, same, start_until
from tests.test_scripts import call, message

SHORT = shlex.split(
    "--passage-tokens 20 --read-steps 3 --mix-steps 2 --episodes 4 --micro-tokens 150 --probe 8"
    " --ranks 1 --dtype fp32"
)
LORA = [*SHORT, "--lora-rank", "2", "--lr", "0.02"]
PPO = shlex.split(
    "--iterations 2 --value-warmup 1 --episodes 8 --minibatch 8 --eval-every 1 --eval-rows 4"
    " --lr 1e-2 --ranks 1 --dtype fp32 --lora-rank 2"
)


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    return write_foreign(
        tmp_path_factory.mktemp("init") / "qwen",
        "Qwen2.5",
        304,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The tiny world with 4 dev questions: a policy that has learnt nothing writes up to its budget
    each time."""
    path = tmp_path_factory.mktemp("world") / "tiny"
    World.open("tiny").save(path)
    dev = path / "questions" / "popqa.dev.jsonl"
    dev.write_text("".join(dev.read_text().splitlines(keepends=True)[:4]))
    return path


@pytest.fixture(scope="module")
def adapters(world, init, tmp_path_factory):
    """A finished LoRA warm-up."""
    out = tmp_path_factory.mktemp("lora") / "sft"
    result = call("sft", "--world", world, "--init", init, *LORA, "--out", out)
    assert result.code == 0, result.err
    return out


def logits_of(directory, tokens):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(directory)(tokens).logits


def tokens_of(directory):
    tokenizer = open_policy(directory)[1]
    text = "Who wrote The Salt Road?"
    assert AutoTokenizer.from_pretrained(directory)(
        text, add_special_tokens=False
    ).input_ids == tokenizer.encode(text)
    return torch.tensor(
        [
            [
                tokenizer.bos,
                *tokenizer.encode(text),
                tokenizer.retrieve,
                tokenizer.obs,
                tokenizer.answer,
            ]
        ]
    )


def test_all_weights_in_bf16_with_checkpointing(world, init, tmp_path):
    result = call(
        "sft",
        "--world",
        world,
        "--init",
        init,
        *SHORT,
        "--lr",
        "1e-2",
        "--weights-dtype",
        "bf16",
        "--checkpointing",
        "--out",
        tmp_path / "sft",
    )
    assert result.code == 0, result.err
    policy, tokenizer, run = open_policy(tmp_path / "sft")
    assert (
        policy.dtype == torch.bfloat16
        and policy.config.model_type == "qwen2"
        and tokenizer.names[2] == "<|im_end|>"
    )
    assert run["arguments"]["weights_dtype"] == "bf16" and "init" not in run["arguments"]
    assert not torch.equal(
        policy.model.layers[0].mlp.up_proj.weight,
        open_model(init, dtype=torch.bfloat16).model.layers[0].mlp.up_proj.weight,
    )
    tokens = tokens_of(tmp_path / "sft")
    with torch.no_grad():
        assert (logits_of(tmp_path / "sft", tokens) - policy(tokens)[0]).abs().max() < 0.2


def test_adapters_open_in_peft_and_leave_their_base_alone(init, adapters):
    assert {p.name for p in adapters.glob("*.safetensors")} == {
        "adapter_model.safetensors",
        "value_head.safetensors",
    }
    tokens, policy = tokens_of(adapters), open_policy(adapters)[0]
    theirs = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(adapters / "base"), adapters
    )
    with torch.no_grad():
        mine = policy(tokens)[0]
        assert (theirs(tokens).logits - mine).abs().max() < 1e-4 and (
            logits_of(adapters, tokens) - mine
        ).abs().max() < 1e-4
        assert (logits_of(adapters / "base", tokens) - mine).abs().max() > 1e-2
    old, base = (open_model(d).model.embed_tokens.weight for d in (init, adapters / "base"))
    assert torch.equal(base[:304], old)


def test_merged_is_the_same_policy(world, init, adapters, tmp_path):
    assert (
        call(
            "sft", "--world", world, "--init", init, *LORA, "--merge", "--out", tmp_path / "sft"
        ).code
        == 0
    )
    assert {p.name for p in (tmp_path / "sft").glob("*.safetensors")} == {
        "model.safetensors",
        "value_head.safetensors",
    }
    tokens = tokens_of(adapters)
    with torch.no_grad():
        torch.testing.assert_close(
            open_policy(tmp_path / "sft")[0](tokens)[0], open_policy(adapters)[0](tokens)[0]
        )
    assert (logits_of(tmp_path / "sft", tokens) - logits_of(adapters, tokens)).abs().max() < 1e-4


def test_a_killed_run_of_adapters_goes_on(world, init, adapters, tmp_path):
    argv = [
        "--world",
        world,
        "--init",
        init,
        *LORA,
        "--save-seconds",
        "0",
        "--out",
        tmp_path / "sft",
    ]
    kill_at("rl.runs.run Run.save 2 after", "sft", argv)
    state = (tmp_path / "sft" / "training.safetensors").stat().st_size
    assert (
        state < (tmp_path / "sft" / "base" / "model.safetensors").stat().st_size + 400_000
    )  # not the frozen weights
    assert call("sft", *argv).code == 0
    paths = [
        json.loads((out / "adapter_config.json").read_text())
        for out in (adapters, tmp_path / "sft")
    ]
    assert [p.pop("base_model_name_or_path") for p in paths] == [
        str(out / "base") for out in (adapters, tmp_path / "sft")
    ] and paths[0] == paths[1]
    for config in ("adapter_config.json", "read/adapter_config.json"):  # they name different bases
        (tmp_path / "sft" / config).write_bytes((adapters / config).read_bytes())
    same(tmp_path / "sft", adapters)


def test_ppo_of_adapters_has_the_warm_up_as_reference(adapters, tmp_path, monkeypatch):
    """Before the first policy step the KL is exactly 0, afterwards it is not; the reference is no
    second model."""
    seen, real = [], train_ppo.Trainer.iterate

    def watched(self, iteration):
        pair = [p.model.layers[1].mlp.up_proj.weight for p in (self.reference, self.policy)]
        seen.append((pair, real(self, iteration)))
        return seen[-1][1]

    monkeypatch.setattr(train_ppo.Trainer, "iterate", watched)
    result = call("ppo", "--init", adapters, *PPO, "--iterations", "3", "--out", tmp_path / "ppo")
    assert result.code == 0, result.err
    assert all(frozen.data_ptr() == own.data_ptr() for (frozen, own), _ in seen)  # one storage
    assert seen[0][1]["k3"] == seen[1][1]["k3"] == 0 < seen[2][1]["k3"]
    tokens, warm_up = tokens_of(adapters), open_policy(adapters)[0]
    with torch.no_grad():
        assert torch.equal(open_model(tmp_path / "ppo" / "base")(tokens)[0], warm_up(tokens)[0])
        mine = open_policy(tmp_path / "ppo")[0](tokens)[0]
    assert (logits_of(tmp_path / "ppo", tokens) - mine).abs().max() < 1e-4 and (
        tmp_path / "ppo" / "best" / "adapter_config.json"
    ).exists()
    argv = ["--checkpoint", tmp_path / "ppo", "--rows", 4, "--dtype", "fp32"]
    assert call("evaluate", *argv).code == 0


@pytest.mark.parametrize(
    "flags, problem",
    [
        (["--vocab-size", "999"], "--vocab-size is for a new policy; --init brings its own"),
        (["--muon-lr", ".1"], "--muon-lr is for a new policy"),
        (["--context", "5000"], "--context 5000: "),
        (["--merge"], "--merge needs --lora-rank"),
        (["--out", "INIT"], "is --init: the checkpoint would be overwritten"),
    ],
)
def test_flags_that_contradict_init(world, init, tmp_path, flags, problem):
    argv = [
        "--world",
        world,
        "--init",
        init,
        *SHORT,
        "--out",
        tmp_path / "out",
        *[init if f == "INIT" else f for f in flags],
    ]
    assert problem in message("sft", *argv) and not (tmp_path / "out").exists()


def test_what_shard_needs(world, init, tmp_path):
    argv = ["--world", world, "--init", init, *SHORT, "--shard", "--out", tmp_path / "out"]
    several = "--shard needs several ranks, one per device: --ranks, or torchrun"
    assert message("sft", *argv) == several
    adapters = "--shard is for full training; adapters are small, give --lora-rank alone"
    assert message("sft", *argv, "--lora-rank", "2") == adapters
    assert message("ppo", "--init", init, *PPO, "--shard", "--out", tmp_path / "out") == adapters
    assert not (tmp_path / "out").exists()


def test_sharded_runs_are_killed_and_go_on(world, init, tmp_path):
    """Rank 0 of 2 gets a SIGKILL; the same command goes on, to the bits of runs that were never
    interrupted. PPO has begun to average its policies by then."""
    ppo = "--iterations 5 --value-warmup 1 --average .8 --episodes 8 --minibatch 5 --eval-every 9"
    sharded = ["--ranks", 2, "--shard"]
    runs = {
        "sft": ["--world", world, "--init", init, *SHORT, "--lr", "1e-2"],
        "ppo": ["--init", tmp_path / "sft", *shlex.split(ppo), "--eval-rows", 4, "--dtype", "bf16"],
    }
    for script, flags in runs.items():
        argv, out = [*flags, *sharded, "--checkpointing"], tmp_path / f"killed-{script}"
        finish(script, argv, tmp_path / script)
        launcher = start_until(4, script, argv, out)
        os.kill(json.loads((out / "lock").read_text())["process"], signal.SIGKILL)
        launcher.communicate(timeout=60)
        assert "resuming" in finish(script, argv, out)
        same(out, tmp_path / script)
    tokens, policy = tokens_of(out), open_policy(out)[0]
    with torch.no_grad():
        assert (logits_of(out, tokens) - policy(tokens)[0]).abs().max() < 1e-4


def test_a_sharded_run_goes_on_alone(world, init, tmp_path):
    """The files are whole: what two ranks began one finishes, to nearly the same weights."""
    argv = ["--world", world, "--init", init, *SHORT]
    assert call("sft", *argv, "--out", tmp_path / "one").code == 0
    launcher = start_until(3, "sft", [*argv, "--ranks", 2, "--shard"], tmp_path / "begun")
    os.kill(launcher.pid, signal.SIGINT)
    assert launcher.wait(60) == 130
    assert call("sft", *argv, "--out", tmp_path / "begun").code == 0
    ours, theirs = (open_policy(tmp_path / name)[0] for name in ("begun", "one"))
    for a, b in zip(ours.trunk_parameters(), theirs.trunk_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("flags", [["--lora-rank", "4"], ["--weights-dtype", "bf16"], ["--shard"]])
def test_flags_that_need_init(flags, tmp_path):
    assert message("sft", *SHORT, *flags, "--out", tmp_path / "out") == f"{flags[0]} needs --init"


def test_an_init_that_does_not_open_is_named(world, init, tmp_path):
    write_foreign(tmp_path / "bad", "Qwen2.5")
    (tmp_path / "bad" / "config.json").write_text(
        (init / "config.json").read_text().replace('"qwen2"', '"gemma"')
    )
    assert message(
        "sft", "--world", world, "--init", tmp_path / "bad", *SHORT, "--out", tmp_path / "out"
    ) == (
        f"{tmp_path}/bad/config.json: model_type is 'gemma', expected one of llama, mistral, qwen2,"
        " qwen3"
    )
