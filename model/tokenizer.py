"""A tokenizer with the eight tokens of the episode format: a byte-level BPE trained on the world.

Ours gives every piece of text a leading space, so that a name is the same tokens in a question, a
title, a query and an answer: copying is then one token for one token. A pretrained one keeps its
family's rule (pretrained/open.py). Text is never searched for special tokens: a passage that
contains "[ANSWER]" or "<eos>" is plain text, and cannot speak in the policy's name.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

SPECIAL = ("<pad>", "<bos>", "<eos>", "<obs>", "</obs>", "<sep>", "[RETRIEVE]", "[ANSWER]")
ROLES = ("pad_token", "bos_token", "eos_token")  # these may have other names in a pretrained one
CONFIG = "tokenizer_config.json"


class Tokenizer:
    def __init__(self, backend: Backend, names: tuple[str, ...] = SPECIAL):
        """names: what the backend calls the eight tokens of SPECIAL, in that order."""
        self.backend, self.names = backend, names
        self.backend.encode_special_tokens = True  # "special tokens in text are plain text"
        ids = [backend.token_to_id(token) for token in names]
        self.pad, self.bos, self.eos = ids[:3]
        self.obs, self.obs_end, self.sep = ids[3:6]
        self.retrieve, self.answer = ids[6:]
        for name, own in zip(names, ids, strict=True):
            if own in self.encode(name):
                raise ValueError(f"it turns the plain text {name!r} into the special token")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Byte-level BPE of at most vocab_size tokens; deterministic for the same texts."""
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        how = {"special_tokens": list(SPECIAL), "show_progress": False}
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, **how)
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    def __len__(self) -> int:
        """Rows that an embedding needs; ids may have gaps."""
        return max(self.backend.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [row.ids for row in self.backend.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """Text without special tokens and without the leading space."""
        return self.backend.decode(ids, skip_special_tokens=True).strip()

    def show(self, ids: list[int]) -> str:
        """Text with special tokens: an episode as a person reads it."""
        return self.backend.decode(ids, skip_special_tokens=False)

    def save(self, directory: Path) -> None:
        """tokenizer.json, and a tokenizer_config.json with which transformers agrees."""
        self.backend.save(str(directory / "tokenizer.json"))
        fields = dict(zip(ROLES, self.names[:3], strict=True)) | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "additional_special_tokens": list(self.names[3:]),
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
        }
        (directory / CONFIG).write_text(json.dumps(fields, indent=1) + "\n")
