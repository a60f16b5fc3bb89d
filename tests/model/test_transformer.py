"""The decoder against transformers' Llama: logits, gradients, greedy text, and checkpoints both
ways."""

import json

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from model import CheckpointError, Config, Policy
from model.files import save_tensors
from model.pretrained import open_model
from model.transformer import attend, attend_plainly, bias_of

from .tiny import tiny_config, tiny_policy

SHAPES = {
    "grouped": {},
    "multi-head": {"num_key_value_heads": 4},
    "multi-query": {"num_key_value_heads": 1},
    "one layer": {"num_hidden_layers": 1, "intermediate_size": 20},
    "deep, long context": {
        "num_hidden_layers": 4,
        "rope_theta": 500.0,
        "rms_norm_eps": 1e-3,
        "max_position_embeddings": 512,
    },
    "wide heads": {"hidden_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1},
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def written(policy, directory, pad=0, bos=1, eos=2):
    """Our checkpoint's two files that transformers reads."""
    save_tensors(policy.trunk_state(), directory / "model.safetensors")
    policy.config.save(directory / "config.json", pad, bos, eos)
    return directory


@pytest.fixture(params=SHAPES, ids=lambda name: name.replace(" ", "-"))
def pair(request, tmp_path):
    ours = tiny_policy(tiny_config(**SHAPES[request.param]), seed=len(request.param))
    theirs = AutoModelForCausalLM.from_pretrained(written(ours, tmp_path))
    return ours, theirs


def test_logits_are_those_of_transformers(pair):
    ours, theirs = pair
    assert type(theirs) is LlamaForCausalLM and theirs.dtype == torch.float32
    tokens = torch.randint(320, (3, 90))
    with torch.no_grad():
        mine, other = ours(tokens)[0], theirs(tokens).logits
    assert mine.shape == other.shape == (3, 90, 320) and mine.dtype == torch.float32
    assert (mine - other).abs().max() < 1e-4
    assert mine.std() > 0.5  # the comparison is not one of zeros


def test_gradients_are_those_of_transformers(pair):
    ours, theirs = pair
    tokens = torch.randint(1, 320, (3, 40))  # without <pad>, whose embedding transformers freezes
    for logits in (ours(tokens)[0], theirs(tokens).logits):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    others = dict(theirs.named_parameters())
    mine = {f"model.{name}": parameter.grad for name, parameter in ours.model.named_parameters()}
    assert mine.keys() == others.keys()
    for name, gradient in mine.items():
        assert others[name].grad.abs().max() > 0
        torch.testing.assert_close(
            gradient,
            others[name].grad,
            rtol=1e-3,
            atol=1e-6,
            msg=lambda m, name=name: f"{name}: {m}",
        )


def test_greedy_text_is_that_of_generate(pair):
    ours, theirs = pair
    prompts = torch.randint(3, 320, (4, 12))
    other = theirs.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=30
    )[:, 12:].tolist()
    session = ours.session(prompts[:, :-1].tolist())
    with torch.no_grad():
        mine = session.generate(prompts[:, -1], 30, 0.0, eos=2)

    def cut(row):
        return row[: row.index(2) + 1] if 2 in row else row

    assert mine == [cut(row) for row in other]


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_on_a_cpu_is_the_one_used_elsewhere(kv_heads, masked):
    """The explicit form against torch's own, which every other device runs."""
    q, k, v = torch.randn(2, 6, 9, 8), *torch.randn(2, 2, kv_heads, 13 if masked else 9, 8)
    mask = (
        (torch.rand(2, 1, 9, 13) < 0.5).index_fill(-1, torch.tensor([0]), True) if masked else None
    )
    other = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )
    bias = None if mask is None else bias_of(mask, q.dtype)
    torch.testing.assert_close(attend(q, k, v, bias), other, atol=1e-5, rtol=1e-5)
    if bias is None:
        bias = bias_of(torch.ones(1, 1, 9, 9, dtype=torch.bool).tril(), q.dtype)
    torch.testing.assert_close(attend_plainly(q, k, v, bias), other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held", [None, [0, 0, 0], [40, 3, 11]])
def test_blocks_of_queries_see_what_all_of_them_see(dtype, held):
    """300 queries, more than any block, causal or behind a cache of rows of unlike length."""
    torch.manual_seed(0)
    before = torch.tensor(held or [0, 0, 0])
    S = 300 + int(before.max())
    q, k, v = (torch.randn(3, n, T, 8, dtype=dtype) for n, T in ((4, 300), (2, S), (2, S)))
    positions = before[:, None] + torch.arange(300)
    bias = bias_of(torch.arange(S) <= positions[:, None, :, None], dtype)
    found = attend(q, k, v, bias if held else None, cached=bool(held))
    whole = attend_plainly(*(x.float() for x in (q, k, v, bias)))
    error = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(found.float(), whole, atol=error, rtol=error)


@pytest.mark.parametrize("layers", [1, 3])
def test_chosen_columns_are_those_of_the_whole_pass(layers):
    """The last layer at some columns alone, in any order and repeated: values and every
    gradient."""
    model = tiny_policy(tiny_config(num_hidden_layers=layers)).model
    tokens, at = torch.randint(320, (3, 20)), torch.tensor([[0, 5, 19], [7, 7, 2], [18, 1, 0]])
    pick, weight = (torch.arange(3)[:, None], at), torch.randn(3, 3, 32)
    whole, part = model(tokens), model(tokens, columns=at)
    assert all(torch.equal(a, b) for a, b in zip(whole[:-1], part[:-1], strict=True)) and part[
        -1
    ].shape == (3, 3, 32)
    torch.testing.assert_close(part[-1], whole[-1][pick], atol=1e-5, rtol=1e-5)
    gradients = [
        torch.autograd.grad((last * weight).sum(), list(model.parameters()))
        for last in (whole[-1][pick], part[-1])
    ]
    for name, one, other in zip(dict(model.named_parameters()), *gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(
            one, other, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("heads", [4, 2, 1])
def test_a_checkpoint_that_transformers_saved_opens_here(tmp_path, heads):
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=heads,
            max_position_embeddings=128,
            rope_theta=777.0,
            tie_word_embeddings=True,
            initializer_range=0.3,
        )
    ).eval()
    theirs.save_pretrained(tmp_path)
    ours = open_model(tmp_path)
    assert ours.config.rope_theta == 777.0
    tokens = torch.randint(300, (2, 100))
    with torch.no_grad():
        logits, values = ours(tokens)
        assert (logits - theirs(tokens).logits).abs().max() < 1e-4
    assert torch.equal(values, torch.zeros(2, 100))  # no value head came along


def test_the_older_way_to_write_theta_opens_too(tmp_path):
    policy = tiny_policy()
    fields = json.loads((written(policy, tmp_path) / "config.json").read_text())
    assert fields["rope_theta"] == 10000.0 and "rope_parameters" not in fields
    (tmp_path / "config.json").write_text(json.dumps(fields | {"rope_scaling": None}))
    assert torch.equal(
        open_model(tmp_path).model.embed_tokens.weight, policy.model.embed_tokens.weight
    )


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1 is neither true nor false"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        (
            {"quantization_config": {"bits": 4}},
            "quantization_config = {'bits': 4} is not supported",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "missing field 'low_freq_factor'",
        ),
        (
            {"rope_scaling": LLAMA3 | {"factor": 0}},
            "rope_scaling: factor = 0 is not a positive number",
        ),
        (
            {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 64.0}},
            "original_max_position_embeddings = 64.0 is not a positive whole number",
        ),
        (
            {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}},
            "high_freq_factor must exceed low_freq_factor",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 8.0}},
            "rope_scaling = {'type': 'yarn', 'factor': 8.0} is not supported",
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_scaling = ",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor = 0.5 is not supported",
        ),
        (
            {"model_type": "mistral", "sliding_window": 0},
            "max_position_embeddings = 0 is not a positive whole number",
        ),
        ({"model_type": "mistral", "sliding_window": "wide"}, "'str'"),
        ({"rope_scaling": "linear"}, "rope_scaling = 'linear' is not supported"),
        ({"head_dim": 7}, "the head dimension 7 must be even"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0 is not a positive whole number"),
        ({"hidden_size": "32"}, "hidden_size = '32' is not a positive whole number"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers = 2.0 is not a positive whole number"),
        ({"vocab_size": -1}, "vocab_size = -1 is not a positive whole number"),
        ({"rms_norm_eps": None}, "missing field 'rms_norm_eps'"),
        (
            {"hidden_size": 33, "head_dim": None},
            "hidden_size 33 is not a multiple of num_attention_heads 4",
        ),
        (
            {"num_key_value_heads": 3},
            "num_attention_heads 4 is not a multiple of num_key_value_heads 3",
        ),
        ({"hidden_size": 36, "head_dim": None}, "the head dimension 9 must be even"),
    ],
)
def test_what_this_decoder_does_not_compute_is_refused(tmp_path, change, problem):
    path = written(tiny_policy(), tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError) as error:
        open_model(tmp_path)
    assert (
        str(error.value).startswith(f"{path}: ")
        and problem in str(error.value)
        and "\n" not in str(error.value)
    )


@pytest.mark.parametrize("family, field", [("mistral", "mlp_bias"), ("qwen2", "attention_bias")])
def test_biases_that_a_family_does_not_have_are_missed(tmp_path, family, field):
    path = written(tiny_policy(), tmp_path) / "config.json"
    fields = json.loads(path.read_text()) | {"model_type": family, field: True}
    path.write_text(json.dumps(fields | {"sliding_window": None}))
    with pytest.raises(CheckpointError, match=r"model.safetensors: missing tensor '.*bias'"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("{", "not readable here"),
        ("[]", "not a JSON object"),
        ('{"model_type": "llama"}', "missing field 'vocab_size'"),
        ("\x80", "not readable here"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path, text, problem):
    path = written(tiny_policy(), tmp_path) / "config.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError) as error:
        open_model(tmp_path)
    assert str(error.value).startswith(f"{path}: ") and problem in str(error.value)


def test_more_tokens_than_the_context_are_refused():
    policy = tiny_policy(tiny_config(max_position_embeddings=16))
    policy(torch.zeros(1, 16, dtype=torch.long))
    with pytest.raises(ValueError, match="17 tokens exceed the context of 16"):
        policy(torch.zeros(1, 17, dtype=torch.long))


def test_default_size_is_about_a_million():
    policy = Policy(Config())
    trunk = (
        2048 * 128 + 4 * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 384 + 2 * 128) + 128
    )  # counted by hand, tied embedding once
    head = 3 * 128 * 96 + 96 + 96 + 1
    count = sum(p.numel() for p in policy.parameters())
    assert count == trunk + head and 0.9e6 < count < 1.2e6
