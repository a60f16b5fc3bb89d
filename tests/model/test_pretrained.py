"""A pretrained checkpoint becomes a policy: tokens that it lacks, rows for them, and what
transformers makes of the result."""

import json
import unicodedata

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model import CheckpointError, save_policy
from model.pretrained import open_model, open_policy, open_pretrained
from model.pretrained.open import open_tokenizer
from model.tokenizer import SPECIAL

from .foreign import qwen_tokenizer, sentencepiece_tokenizer, write_foreign
from .tiny import TEXTS, tiny_policy, tiny_tokenizer

STRANGE = [
    *TEXTS,
    "",
    "x",
    " x",
    "  two  spaces\tand\nlines",
    "東京 🏳️‍🌈 e\u0301",
    "[ANSWER] <s> <|im_end|> <pad> </obs> <think>",
]
KINDS = {"byte-level": qwen_tokenizer, "sentencepiece": sentencepiece_tokenizer}


@pytest.fixture(params=KINDS)
def adapted(request, tmp_path):
    KINDS[request.param]().save(str(tmp_path / "tokenizer.json"))
    return open_tokenizer(tmp_path)


def test_added_tokens_come_behind_the_old_ones(adapted):
    tokenizer, new = adapted
    assert (
        new == list(range(len(tokenizer) - 8, len(tokenizer))) and tokenizer.names == SPECIAL
    )  # nothing was declared: all eight


def test_text_is_only_ever_text(adapted):
    tokenizer, new = adapted
    for text in [*STRANGE, *SPECIAL]:
        ids = tokenizer.encode(text)
        assert not set(new) & set(ids)
        assert unicodedata.normalize("NFC", tokenizer.decode(ids)) == unicodedata.normalize(
            "NFC", text.strip()
        )


def test_saved_loaded_and_adapted_again_it_is_the_same(adapted, tmp_path):
    tokenizer, _ = adapted
    tokenizer.save(tmp_path)
    again, new = open_tokenizer(tmp_path)
    assert not new and again.names == tokenizer.names
    assert again.backend.to_str() == tokenizer.backend.to_str()


@pytest.mark.parametrize(
    "family", ["Qwen2.5", "Qwen3", "Llama", "Llama 3.1 (rope scaling)", "Mistral"]
)
def test_autotokenizer_gives_the_same_ids(tmp_path, family):
    """With the config beside it: transformers chooses the class of the tokenizer by the family."""
    policy, tokenizer, _ = open_pretrained(
        write_foreign(tmp_path / "theirs", family), torch.float32, 128
    )
    save_policy(tmp_path / "ours", policy, tokenizer, {})
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (
        tokenizer.pad,
        tokenizer.bos,
        tokenizer.eos,
    )
    for text in STRANGE:
        assert theirs(text, add_special_tokens=False).input_ids == tokenizer.encode(text)
    ids = [
        tokenizer.bos,
        *tokenizer.encode(TEXTS[0]),
        tokenizer.answer,
        *tokenizer.encode(TEXTS[5]),
        tokenizer.eos,
    ]
    assert theirs.decode(ids, skip_special_tokens=True).strip() == tokenizer.decode(ids)


def test_autotokenizer_opens_our_own(tmp_path):
    tokenizer = tiny_tokenizer()
    save_policy(tmp_path, tiny_policy(), tokenizer, {})
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert all(theirs(text).input_ids == tokenizer.encode(text) for text in STRANGE)
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (
        tokenizer.pad,
        tokenizer.bos,
        tokenizer.eos,
    )


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, ("<pad>", "<bos>", "<eos>")),
        (
            {
                "tokenizer_config.json": {
                    "eos_token": "<|im_end|>",
                    "pad_token": "<|endoftext|>",
                    "bos_token": None,
                }
            },
            ("<|endoftext|>", "<bos>", "<|im_end|>"),
        ),
        (
            {"tokenizer_config.json": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}},
            ("<pad>", "<bos>", "<|endoftext|>"),
        ),
        (
            {
                "tokenizer_config.json": {
                    "eos_token": {"content": "<|im_end|>"},
                    "bos_token": "<|nowhere|>",
                }
            },
            ("<pad>", "<bos>", "<|im_end|>"),
        ),
    ],
)
def test_a_familys_own_tokens_are_found_where_its_files_name_them(tmp_path, files, expected):
    backend = qwen_tokenizer()
    assert [backend.token_to_id(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] == [
        300,
        301,
        302,
    ]
    backend.save(str(tmp_path / "tokenizer.json"))
    for name, fields in files.items():
        (tmp_path / name).write_text(json.dumps(fields))
    tokenizer, new = open_tokenizer(tmp_path)
    assert tokenizer.names[:3] == expected and len(new) == 5 + sum(
        name in SPECIAL for name in expected
    )
    (tmp_path / "ours").mkdir()
    tokenizer.save(tmp_path / "ours")
    assert open_tokenizer(tmp_path / "ours")[0].names == tokenizer.names


def test_a_torn_tokenizer_config_is_named(tmp_path):
    qwen_tokenizer().save(str(tmp_path / "tokenizer.json"))
    for text in ("{", "[1]"):
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(
            CheckpointError, match=r"tokenizer_config.json: not (readable here|a JSON object)"
        ):
            open_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "family, eos, rows, added",
    [
        ("Qwen2.5", "<|im_end|>", 304, 7),
        ("Qwen3, biases, untied", "<|im_end|>", 304, 7),
        ("Qwen2.5", "<|im_end|>", 320, 7),
        ("Mistral", "</s>", 301, 7),
    ],
)
def test_new_rows_are_the_mean_of_the_old_ones(tmp_path, family, eos, rows, added):
    """Behind the old rows, or on rows that the family keeps unused."""
    old = open_model(write_foreign(tmp_path, family, rows, eos_token=eos))
    policy, tokenizer, new = open_pretrained(tmp_path, torch.float32, 1024)
    assert (
        len(new) == added
        and tokenizer.eos not in new
        and policy.config.max_position_embeddings == 256
    )
    for mine, theirs in zip(
        *([p.model.embed_tokens, *filter(None, [p.lm_head])] for p in (policy, old)), strict=True
    ):
        assert (
            mine.weight.shape[0] == policy.config.vocab_size == max(rows, len(tokenizer))
            and mine.weight.requires_grad
        )
        assert torch.equal(mine.weight[: min(new)], theirs.weight[: min(new)])
        torch.testing.assert_close(
            mine.weight[new], theirs.weight[: min(new)].mean(0).expand(added, -1)
        )
    text = torch.tensor([tokenizer.encode(TEXTS[0])])
    with torch.no_grad():
        torch.testing.assert_close(
            policy(text)[0][..., : min(new)], old(text)[0][..., : min(new)]
        )  # old tokens keep their logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_we_write_opens_in_transformers(tmp_path, dtype):
    policy, tokenizer, _ = open_pretrained(
        write_foreign(tmp_path / "theirs", "Llama 3.1 (rope scaling)", bos_token="<|im_start|>"),
        dtype,
        64,
    )
    save_policy(tmp_path / "ours", policy, tokenizer, {})
    theirs, opened = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "ours"),
        open_policy(tmp_path / "ours")[0],
    )
    assert (
        theirs.dtype == opened.dtype == dtype
        and opened.config == policy.config
        and opened.config.max_position_embeddings == 64
    )
    assert (
        theirs.config.eos_token_id == tokenizer.eos and theirs.config.pad_token_id == tokenizer.pad
    )
    ids = torch.tensor([tokenizer.encode(TEXTS[2])])
    with torch.no_grad():
        assert torch.equal(opened(ids)[0], policy(ids)[0])
        assert (theirs(ids).logits - policy(ids)[0]).abs().max() < (
            1e-4 if dtype == torch.float32 else 0.2
        )
