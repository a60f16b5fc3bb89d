"""LoRA adapters against peft: the same logits and gradients, opened there from our files, and
merged."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from model import CheckpointError, Policy
from model.pretrained import open_model, open_policy, open_pretrained
from model.pretrained.lora import add_adapters, save_policy, trained_modules, without_adapters

from .foreign import write_foreign

TOKENS = torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(0))


def train_a_little(policy: Policy) -> None:
    """Adapters far from their start, where they change nothing."""
    generator = torch.Generator().manual_seed(3)
    for parameter in policy.trunk_parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(params=["Qwen2.5", "Qwen3, biases, untied", "Llama, all biases, tied", "Mistral"])
def saved(request, tmp_path):
    """(base directory, adapter directory, the policy with its adapters, ids of the new tokens,
    tokens of a batch)"""
    torch.manual_seed(0)
    policy, tokenizer, new = open_pretrained(
        write_foreign(tmp_path / "theirs", request.param, vocab_size=304), torch.float32, 256
    )
    save_policy(tmp_path / "out" / "base", policy, tokenizer, {})
    with torch.no_grad():
        before = policy(TOKENS)[0]
    add_adapters(policy, 4, new)
    with torch.no_grad():
        assert torch.equal(policy(TOKENS)[0], before)  # B is 0
    train_a_little(policy)
    save_policy(tmp_path / "out", policy, tokenizer, {}, base=tmp_path / "out" / "base")
    tokens = TOKENS.clone()
    tokens[0, 3:7] = torch.tensor(new[-4:])  # not <pad>, whose embedding transformers freezes
    return tmp_path / "out" / "base", tmp_path / "out", policy, new, tokens


def peft_model(base, out, **how):
    return peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out, **how)


def test_logits_are_those_of_peft(saved):
    base, out, policy, _, tokens = saved
    with torch.no_grad():
        mine, plain = policy(tokens)[0], open_model(base)(tokens)[0]
        assert (mine - plain).abs().max() > 0.1  # the adapters do something
        for theirs in (
            peft_model(base, out),
            AutoModelForCausalLM.from_pretrained(out),
            open_model(out),
        ):
            other = theirs(tokens)[0] if isinstance(theirs, Policy) else theirs(tokens).logits
            assert (mine - other).abs().max() < 1e-4
        assert torch.equal(without_adapters(policy)(tokens)[0], plain)
        assert torch.equal(policy(tokens)[0], mine)


def test_gradients_are_those_of_peft(saved):
    base, out, policy, _new, tokens = saved
    theirs = peft_model(base, out, is_trainable=True)
    for logits in (policy(tokens)[0], theirs(tokens).logits):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    others = {
        name.replace(".default", ""): p.grad
        for name, p in theirs.named_parameters()
        if p.requires_grad
    }
    for name, parameter in policy.named_parameters():
        if not name.startswith("value_head."):
            assert (
                parameter.requires_grad
                == (".lora_" in name or name.endswith(".rows"))
                == (parameter.grad is not None)
            )
        if ".lora_" in name:
            torch.testing.assert_close(
                parameter.grad, others[f"base_model.model.{name}"], atol=1e-6, rtol=1e-3
            )
    rows = next(
        grad
        for name, grad in others.items()
        if name.endswith("embed_tokens.token_adapter.trainable_tokens_delta")
    )
    torch.testing.assert_close(policy.model.embed_tokens.rows.grad, rows, atol=1e-6, rtol=1e-3)


def test_a_merged_checkpoint_is_a_plain_one(saved, tmp_path):
    _, out, policy, _, tokens = saved
    tokenizer = open_policy(out)[1]
    save_policy(out, policy, tokenizer, {})
    assert not list(out.glob("adapter*")) and (out / "model.safetensors").exists()
    plain = open_policy(out)[0]
    with torch.no_grad():
        assert (plain(tokens)[0] - policy(tokens)[0]).abs().max() < 1e-4
        assert (
            AutoModelForCausalLM.from_pretrained(out)(tokens).logits - policy(tokens)[0]
        ).abs().max() < 1e-4
    assert all(p.requires_grad for p in plain.parameters())


def test_only_what_is_trained_is_part_of_a_runs_state(saved):
    _, out, policy, new, _ = saved
    modules = trained_modules(policy)

    def count(module):
        return sum(p.numel() for p in module.parameters())

    rows = len(new) * 32 * (2 if policy.lm_head else 1)
    config = policy.config
    q, kv = (
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    )
    by_hand = (
        3 * 4 * ((32 + q) + 2 * (32 + kv) + (q + 32) + 3 * (32 + 48)) + rows
    )  # layers x rank x (in + out)
    assert count(modules["adapters"]) == by_hand and set(modules) == {"adapters", "value_head"}
    assert trained_modules(open_model(out)).keys() == {"policy"}


def test_in_bf16_the_adapters_stay_float32(tmp_path):
    policy, tokenizer, new = open_pretrained(
        write_foreign(tmp_path / "theirs"), torch.bfloat16, 256
    )
    save_policy(tmp_path / "base", policy, tokenizer, {})
    add_adapters(policy, 4, new)
    train_a_little(policy)
    assert {p.dtype for p in policy.trunk_parameters()} == {torch.float32}
    save_policy(tmp_path / "out", policy, tokenizer, {}, base=tmp_path / "base")
    opened = open_model(tmp_path / "out")
    exact = open_model(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        expected = exact(TOKENS)[0]
        assert (
            opened.dtype == torch.bfloat16
            and (policy(TOKENS)[0] - expected).abs().max() < 0.5
            and (opened(TOKENS)[0] - expected).abs().max() < 0.5
        )


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3' is not supported"),
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"lora_alpha": 5}, "lora_alpha = 5 is not supported"),
        ({"target_modules": ["q_proj"]}, "target_modules = ['q_proj'] is not supported"),
        (
            {"base_model_name_or_path": "nowhere"},
            "base_model_name_or_path = 'nowhere' holds no checkpoint",
        ),
        ({"r": None}, "r = None is not a rank"),
    ],
)
def test_an_adapter_that_is_not_ours_is_refused_by_name(tmp_path, change, problem):
    policy, tokenizer, new = open_pretrained(write_foreign(tmp_path / "theirs"), torch.float32, 256)
    add_adapters(policy, 2, new)
    save_policy(tmp_path / "out", policy, tokenizer, {}, base=tmp_path / "theirs")
    path = tmp_path / "out" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError) as error:
        open_policy(tmp_path / "out")
    assert (
        str(error.value).startswith(f"{path}: ")
        and problem in str(error.value)
        and "\n" not in str(error.value)
    )


def test_damaged_adapters_are_refused_by_name(saved):
    _, out, *_ = saved
    path = out / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    for damaged, problem in (
        ({k: v for k, v in tensors.items() if k != name}, f"missing tensor {name!r}"),
        (tensors | {"extra": torch.zeros(1)}, "unknown tensor 'extra'"),
        (tensors | {name: torch.zeros(3, 3)}, f"{name!r} has shape"),
    ):
        save_file(damaged, path)
        with pytest.raises(CheckpointError) as error:
            open_model(out)
        assert str(error.value).startswith(f"{path}: {problem}")
