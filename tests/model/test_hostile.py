"""Checkpoints that claim too much, point elsewhere, or are something else: one line, at once."""

import json
import resource
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from benchmarks.parity import random_model
from model import CheckpointError, save_policy
from model.pretrained import open_model, open_policy, open_pretrained
from model.pretrained.lora import add_adapters
from model.pretrained.lora import save_policy as save_adapted
from model.pretrained.open import open_tokenizer

from .foreign import write_foreign
from .tiny import TEXTS, tiny_policy, tiny_tokenizer

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 1234567\n"
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def saved(tmp_path):
    save_policy(tmp_path / "saved", tiny_policy(), tiny_tokenizer(), {"script": "test"})
    return tmp_path / "saved"


def change_json(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rename_tensors(directory, rename):
    path = directory / "model.safetensors"
    save_file({rename(name): x for name, x in load_file(path).items()}, path)


def refusal(opener, directory) -> str:
    """The one line of the error, which comes within seconds and without much memory."""
    start, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as error:
        opener(directory)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000  # kB
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    return text


@pytest.mark.parametrize(
    "field, value, problem",
    [
        ("num_hidden_layers", 100_000, "num_hidden_layers = 100000 is not a positive whole number"),
        ("num_hidden_layers", 1000, "num_hidden_layers = 1000 is not a positive whole number"),
        ("num_hidden_layers", 1, "unknown tensor 'model.layers.1.input_layernorm.weight'"),
        ("head_dim", 10**9, "has shape [32, 32], expected [4000000000, 32]"),
        ("head_dim", 10**8, "400000000"),
        ("hidden_size", 2**29, "536870912"),
        ("intermediate_size", 2**29, "has shape [48, 32], expected [536870912, 32]"),
        ("vocab_size", 2**29, "has shape [320, 32], expected [536870912, 32]"),
        ("vocab_size", 10**4000, "vocab_size = 1000"),
        ("max_position_embeddings", 10**30, "max_position_embeddings = 1000"),
        ("rope_theta", 1e300, "rope_theta = 1e+300 is not a positive number"),
        ("rope_theta", float("nan"), "rope_theta = nan is not a positive number"),
        ("num_attention_heads", [[4]], "num_attention_heads = [[4]] is not a positive"),
        ("model_type", {"a": 1}, "model_type is {'a': 1}"),
        ("hidden_act", ["silu"], "hidden_act = ['silu'] is not supported"),
    ],
)
def test_sizes_are_compared_before_anything_is_built(saved, field, value, problem):
    change_json(saved / "config.json", **{field: value})
    assert problem in refusal(open_policy, saved)


def test_a_long_context_costs_nothing(saved):
    change_json(saved / "config.json", max_position_embeddings=2**29)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    open_policy(saved)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000  # kB


@pytest.mark.parametrize("name", ["config.json", "run.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content, problem",
    [
        (DEEP, "not readable here"),
        ("[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        ("9" * 5000, "4300 digits"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        (" " * (2**26 + 1), "larger than 64 MB"),
        ('{"a": "\ud800"}'.encode("utf-8", "surrogatepass").decode("latin-1"), ""),
        (LFS, "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    ],
    ids=["deep", "levels", "number", "list", "null", "large", "surrogate", "lfs"],
)
def test_json_from_outside_is_bounded(saved, name, content, problem):
    (saved / name).write_text(content, encoding="latin-1")
    if name == "tokenizer_config.json" and not problem:
        return
    if problem:
        text = refusal(open_policy, saved)
        assert problem in text and text.startswith(f"{saved / name}: ")


@pytest.mark.parametrize("name", ["model.safetensors", "value_head.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named(saved, name):
    (saved / name).write_text(LFS)
    expected = f"{saved / name}: a Git LFS pointer, not the file itself"
    assert refusal(open_policy, saved).startswith(expected)


# --------------------------------------------------------------------------------- tokenizers


def change_tokenizer(directory, **fields):
    change_json(directory / "tokenizer.json", **fields)


def test_padding_and_cutting_of_a_file_do_not_count(saved):
    expected = open_policy(saved)[1].encode_batch(TEXTS)
    change_tokenizer(
        saved,
        padding={
            "strategy": {"Fixed": 10**9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    )
    assert open_policy(saved)[1].encode_batch(TEXTS) == expected


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def test_rules_that_explode_or_never_end_are_refused(saved):
    path = saved / "tokenizer.json"
    original = path.read_text()
    doubled = [replace({"String": "a"}, "aa") for _ in range(30)]
    for normalizer, problem in (
        (replace({"String": "e"}, "e" * 100), "make texts longer"),
        ({"type": "Sequence", "normalizers": doubled}, "make texts longer"),
        (replace({"Regex": ""}, "x" * 20), "make texts longer"),
        (replace({"Regex": "(a+)+$"}, ""), "the pattern '(a+)+$' may take for ever"),
        (replace({"Regex": ".*.*.*.*[^a]"}, ""), "the pattern '.*.*.*.*[^a]' may take for ever"),
        (replace({"Regex": "a?" * 24 + "[^a]"}, ""), "a?a?a?[^a]' may take for ever"),
        ({"type": "Prepend", "prepend": "x" * 10**6}, "more than 16 kB of rules"),
    ):
        path.write_text(original)
        change_tokenizer(saved, normalizer=normalizer)
        assert problem in refusal(open_policy, saved)
        assert problem in refusal(open_tokenizer, saved)
    path.write_text(original)
    change_tokenizer(saved, decoder={"type": "Sequence", "decoders": doubled})
    assert "make texts longer" in refusal(open_policy, saved)
    path.write_text(original)
    change_tokenizer(saved, normalizer=replace({"String": " "}, "\u2581"))  # Llama's
    open_policy(saved)


# GPT-4o's and DeepSeek's: published patterns that take no longer than a text is long.
GPT_4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize("pattern", [GPT_4O, DEEPSEEK])
def test_patterns_of_families_are_taken(saved, pattern):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    original = json.loads((saved / "tokenizer.json").read_text())["pre_tokenizer"]
    both = [{**split, "invert": False}, original]
    change_tokenizer(saved, pre_tokenizer={"type": "Sequence", "pretokenizers": both})
    assert open_policy(saved)[1].encode("Ada's road")


def test_an_id_beyond_all_rows_is_refused(tmp_path):
    directory = write_foreign(tmp_path)
    content = json.loads((directory / "tokenizer.json").read_text())
    content["model"]["vocab"]["far"] = 2**31
    (directory / "tokenizer.json").write_text(json.dumps(content))
    problem = refusal(lambda d: open_pretrained(d, torch.float32, 256), directory)
    assert "tokens do not fit the 320 rows of the embedding" in problem


def test_only_sentencepiece_is_named(tmp_path):
    directory = write_foreign(tmp_path)
    (directory / "tokenizer.json").rename(directory / "tokenizer.model")
    problem = refusal(lambda d: open_pretrained(d, torch.float32, 256), directory)
    assert problem.startswith(f"{directory}/tokenizer.json: not found, and tokenizer.model, voc")


# ------------------------------------------------------------------ other people's weights


@pytest.fixture
def sharded(tmp_path):
    random_model("Qwen2, untied").save_pretrained(tmp_path / "a", max_shard_size="20KB")
    return tmp_path / "a"


@pytest.mark.parametrize("inside", ["../elsewhere.safetensors", "/elsewhere.safetensors", ".."])
def test_shards_lie_in_the_directory(sharded, inside):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = inside
    change_json(sharded / "model.safetensors.index.json", **index)
    problem = f"the shard {inside!r} is no file of this directory"
    assert problem in refusal(open_model, sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "last.ckpt"])
def test_pickled_weights_are_named(sharded, name):
    for path in sharded.glob("*.safetensors*"):
        path.unlink()
    (sharded / name).write_bytes(b"PK")
    problem = refusal(open_model, sharded)
    assert problem.startswith(f"{sharded}/{name}: pickled weights are not opened")


@pytest.mark.parametrize(
    "rename, problem",
    [
        (lambda name: name.removeprefix("model."), "'embed_tokens.weight' for 'model.embed_tokens"),
        (lambda name: f"_orig_mod.{name}", "inside a wrapper (torch.compile, DDP, peft); save the"),
        (lambda name: f"module.{name}", "'module.model.embed_tokens.weight' for 'model.embed"),
        (lambda name: f"base_model.model.{name}", "'base_model.model.model.embed_tokens.weight'"),
        (lambda name: name.replace("norm", "nrm"), "missing tensor"),
    ],
)
def test_names_that_need_a_word(saved, rename, problem):
    rename_tensors(saved, rename)
    assert f"{saved}/model.safetensors: " in refusal(open_policy, saved)
    assert problem in refusal(open_policy, saved)


@pytest.mark.parametrize("same", [True, False])
def test_a_tied_config_beside_a_head_computes_what_transformers_does(tmp_path, same):
    model = random_model("Qwen2.5")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    tensors["lm_head.weight"] = head if same else head.flip(0)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    ours, theirs = open_model(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (ours.lm_head is None) == ours.config.tie_word_embeddings == same
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert (ours(tokens)[0] - theirs(tokens).logits).abs().max() < 1e-4


def test_an_untied_config_without_a_head_is_refused(tmp_path):
    random_model("Qwen2.5").save_pretrained(tmp_path)
    change_json(tmp_path / "config.json", tie_word_embeddings=False)
    assert "missing tensor 'lm_head.weight'" in refusal(open_model, tmp_path)


# ----------------------------------------------------------------------------- adapters


@pytest.fixture
def adapters(tmp_path):
    out = tmp_path / "run"
    policy, tokenizer, new = open_pretrained(write_foreign(tmp_path / "x"), torch.float32, 256)
    save_policy(out / "base", policy, tokenizer, {})
    add_adapters(policy, 2, new)
    save_adapted(out, policy, tokenizer, {}, out / "base")
    save_adapted(out / "best", policy, tokenizer, {}, out / "base")
    return out


def test_a_moved_run_finds_its_own_base(adapters, tmp_path):
    expected = open_policy(adapters)[0].state_dict()
    shutil.move(adapters, tmp_path / "elsewhere" / "run")
    for directory in (tmp_path / "elsewhere" / "run", tmp_path / "elsewhere" / "run" / "best"):
        found = open_policy(directory)[0].state_dict()
        assert all(torch.equal(expected[name], x) for name, x in found.items())


def test_a_base_lies_inside_or_beside(adapters, tmp_path):
    shutil.move(adapters / "base", tmp_path / "far" / "base")
    for base in (tmp_path / "far" / "base", "../far/base", "/", "..", "."):
        change_json(adapters / "adapter_config.json", base_model_name_or_path=str(base))
        assert "holds no checkpoint of that name" in refusal(open_policy, adapters)


def test_a_base_that_is_its_own_adapter_ends(adapters):
    shutil.copy(adapters / "base" / "config.json", adapters / "config.json")
    change_json(adapters / "adapter_config.json", base_model_name_or_path=adapters.name)
    assert "model.safetensors: not found" in refusal(open_policy, adapters)


@pytest.mark.parametrize("fields", [{"r": 10**9}, {"r": "4"}, {"trainable_token_indices": [1]}])
def test_absurd_adapters_are_refused(adapters, fields):
    change_json(adapters / "adapter_config.json", **fields)
    assert refusal(open_policy, adapters).startswith(f"{adapters}/adapter_config.json: ")


@pytest.mark.parametrize("ids", [[10**6], [-1], ["x"], [True], [0] * 10**5])
def test_absurd_rows_of_adapters_are_refused(adapters, ids):
    rows = {"embed_tokens": ids}
    change_json(adapters / "adapter_config.json", trainable_token_indices=rows)
    assert "adapter" in refusal(open_policy, adapters)
