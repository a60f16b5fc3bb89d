"""Tiny checkpoints as the families publish them: random weights, and a tokenizer of the family's
kind."""

import json
from pathlib import Path

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import BertConfig, BertModel

from benchmarks.parity import random_model

from .tiny import TEXTS

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen_tokenizer() -> Tokenizer:
    """NFC, then byte-level BPE without a leading space; Llama 3 has the same without NFC and with
    <bos> put in front."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=300,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    backend.post_processor = processors.TemplateProcessing(
        "<|im_start|> $A", special_tokens=[("<|im_start|>", backend.token_to_id("<|im_start|>"))]
    )
    backend.enable_truncation(4)
    backend.enable_padding()
    return backend


def sentencepiece_tokenizer() -> Tokenizer:
    """The BPE with byte fall-back of Llama 2 and Mistral: the leading space is a normalizer's."""
    special = ["<unk>", "<s>", "</s>"]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    alphabet = sorted(set("".join(TEXTS)) | {"▁"})
    vocab = {
        token: i
        for i, token in enumerate([*special, *bytes_, *alphabet, "▁t", "▁th", "▁the", "▁S"])
    }
    backend.model = models.BPE(
        vocab=vocab,
        merges=[("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "S")],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(special)
    return backend


def write_foreign(
    directory: Path, family: str = "Qwen2.5", vocab_size: int = 320, **tokens
) -> Path:
    """A checkpoint directory of that family of benchmarks/parity.py; tokens go into
    tokenizer_config.json."""
    random_model(family, vocab_size=vocab_size).save_pretrained(directory)
    (
        qwen_tokenizer() if family.startswith(("Qwen", "Llama 3")) else sentencepiece_tokenizer()
    ).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(tokens))
    return directory


BERT_WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "who",
    "wrote",
    "the",
    "salt",
    "road",
    "ada",
    "quill",
    "##s",
    "in",
    "1907",
    ".",
    "?",
    "query",
    "passage",
    ":",
]


def bert_directory(
    directory: Path, tokenizer: str = "tokenizer.json", words: list[str] | None = None, **fields
) -> Path:
    """A tiny random BertModel as Hugging Face writes it, far from its initialisation, and its
    tokenizer; words: what it has tokens for, beside the special ones."""
    vocabulary = BERT_WORDS if words is None else [*BERT_WORDS[:5], *words]
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 40,
        "layer_norm_eps": 1e-6,
    }
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(vocabulary), **(shape | fields)))
    for parameter in model.parameters():
        parameter.data = (1.0 if parameter.ndim == 1 else 0.0) + 0.3 * torch.randn(parameter.shape)
    model.save_pretrained(directory)
    words_file = directory / "vocab.txt"
    words_file.write_text("\n".join(vocabulary) + "\n")
    if tokenizer == "tokenizer.json":
        BertWordPieceTokenizer(str(words_file)).save(str(directory / "tokenizer.json"))
        words_file.unlink()
    return directory
