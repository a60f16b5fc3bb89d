"""Checkpoints of the Llama, Mistral, Qwen2 and Qwen3 families against transformers, sharded as
they come, and refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from benchmarks.parity import FAMILIES, compare, random_model
from model import CheckpointError, Policy
from model.pretrained import open_model
from model.pretrained.families import read_config

from .tiny import tiny_config, tiny_policy


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_gradients_and_greedy_text_are_those_of_transformers(name, tmp_path):
    figures = compare(name, tmp_path)
    assert figures["spread"] > 0.5  # the comparison is not one of zeros
    assert (
        figures["logits"] < 1e-4
        and figures["back"] < 1e-4
        and figures["gradient"] < 1e-4
        and figures["greedy"] == 4
    )
    assert (
        figures["bf16"] < 2 * figures["bf16_theirs"] < 1.0
    )  # as far from float32 as theirs is, within a factor of 2


@pytest.fixture
def sharded(tmp_path):
    random_model("Qwen2, untied").save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    return tmp_path


def refusal(directory) -> str:
    with pytest.raises(CheckpointError) as error:
        open_model(directory)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_shard_is_named(sharded):
    lost = sorted(sharded.glob("model-*.safetensors"))[1]
    lost.unlink()
    assert refusal(sharded) == f"{lost}: not found"


def test_a_shard_without_its_tensor_is_named(sharded):
    file = sorted(sharded.glob("model-*.safetensors"))[1]
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors.pop(name)
    save_file(tensors, file)
    index = sharded / "model.safetensors.index.json"
    assert refusal(sharded) == f"{index}: missing tensor {name!r}"


@pytest.mark.parametrize(
    "change, problem",
    [
        (
            lambda index: index["weight_map"].pop("lm_head.weight"),
            "missing tensor 'lm_head.weight'",
        ),
        (
            lambda index: index["weight_map"].update(
                {"model.layers.9.x": "model-00001.safetensors"}
            ),
            "not found",
        ),
        (lambda index: index.pop("weight_map"), "missing field 'weight_map'"),
    ],
)
def test_a_damaged_index_is_named(sharded, change, problem):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    assert problem in refusal(sharded) and refusal(sharded).startswith(str(sharded))


@pytest.mark.parametrize(
    "stored, opened",
    [
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_types_of_weights(tmp_path, stored, opened):
    random_model("Qwen3").to(stored).save_pretrained(tmp_path)
    policy, as_asked = open_model(tmp_path), open_model(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in policy.trunk_parameters()} == {opened} and policy.dtype == opened
    assert (
        {p.dtype for p in as_asked.parameters()}
        == {p.dtype for p in policy.value_head.parameters()}
        == {torch.float32}
    )
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(as_asked.state_dict()[name], tensor.float())


def test_integer_weights_are_refused(tmp_path):
    random_model("Qwen3").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        tensors | {"model.norm.weight": tensors["model.norm.weight"].to(torch.int8)},
        tmp_path / "model.safetensors",
    )
    assert "'model.norm.weight' has the unsupported type torch.int8" in refusal(tmp_path)


def test_a_table_of_frequencies_that_old_files_hold_is_skipped(tmp_path):
    random_model("Llama").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)},
        tmp_path / "model.safetensors",
    )
    assert torch.equal(open_model(tmp_path).lm_head.weight, tensors["lm_head.weight"])


@pytest.mark.parametrize(
    "fields, context",
    [
        ({"model_type": "mistral", "sliding_window": 32}, 32),
        ({"model_type": "mistral", "sliding_window": None}, 256),
        ({"model_type": "mistral", "sliding_window": 4096}, 256),
        ({"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": False}, 256),
        ({"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": True}, 32),
    ],
)
def test_the_context_ends_where_a_sliding_window_does(tmp_path, fields, context):
    path = tmp_path / "config.json"
    tiny_config().save(path, 0, 1, 2)
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    config = read_config(path)
    assert config.max_position_embeddings == context
    policy = Policy(config)
    with pytest.raises(ValueError, match=f"{context + 1} tokens exceed the context of {context}"):
        policy(torch.zeros(1, context + 1, dtype=torch.long))


@pytest.mark.parametrize(
    "family, given, expected",
    [
        ("llama", {"num_key_value_heads": None}, {"num_key_value_heads": 4}),
        ("qwen3", {"head_dim": None}, {"head_dim": 128}),
        ("mistral", {"tie_word_embeddings": None}, {"tie_word_embeddings": False}),
        ("llama", {"rope_theta": None}, {"rope_theta": 10000.0}),
    ],
)
def test_a_field_that_a_file_leaves_out_has_the_value_of_its_family(
    tmp_path, family, given, expected
):
    """The oracle is the config class of transformers."""
    tiny_config().save(tmp_path / "config.json", 0, 1, 2)
    fields = json.loads((tmp_path / "config.json").read_text()) | {
        "model_type": family,
        "sliding_window": None,
    }
    (tmp_path / "config.json").write_text(
        json.dumps({name: value for name, value in fields.items() if name not in given})
    )
    theirs, ours = AutoConfig.from_pretrained(tmp_path), read_config(tmp_path / "config.json")
    for name, value in expected.items():
        assert (
            getattr(ours, name)
            == value
            == (theirs.rope_parameters[name] if name == "rope_theta" else getattr(theirs, name))
        )


def test_checkpointing_changes_memory_not_gradients():
    tokens = torch.randint(320, (2, 30))
    gradients, kept = [], []
    for checkpointing in (False, True):
        policy, sizes = tiny_policy(), []
        policy.model.gradient_checkpointing = checkpointing
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: (sizes.append(x.numel()), x)[1], lambda x: x
        ):
            loss = policy(tokens)[0].square().mean()
        loss.backward()
        gradients.append([p.grad for p in policy.trunk_parameters()])
        kept.append(sum(sizes))
    assert (
        all(torch.equal(a, b) for a, b in zip(*gradients, strict=True)) and kept[1] < 0.5 * kept[0]
    )
