"""A byte-level BPE with the eight tokens of the episode format, trained on the world it will speak about.

Every piece of text gets a leading space, so that a name is the same tokens in a question, a title, a query and an
answer: copying is then one token for one token. Text is never searched for special tokens: a passage that contains
"[ANSWER]" or "<eos>" is plain text, and cannot speak in the policy's name.
"""
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from .policy import CheckpointError

SPECIAL = ("<pad>", "<bos>", "<eos>", "<obs>", "</obs>", "<sep>", "[RETRIEVE]", "[ANSWER]")


class Tokenizer:
    def __init__(self, backend: Backend):
        self.backend = backend
        self.backend.encode_special_tokens = True  # "special tokens in text are plain text"
        ids = [backend.token_to_id(token) for token in SPECIAL]
        if None in ids:
            raise CheckpointError(f"the tokenizer lacks the token {SPECIAL[ids.index(None)]!r}")
        self.pad, self.bos, self.eos, self.obs, self.obs_end, self.sep, self.retrieve, self.answer = ids

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Byte-level BPE of at most vocab_size tokens; deterministic for the same texts."""
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        backend.train_from_iterator(texts, trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        return cls(backend)

    def __len__(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.backend.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """Text without special tokens and without the leading space."""
        return self.backend.decode(ids, skip_special_tokens=True).strip()

    def show(self, ids: list[int]) -> str:
        """Text with special tokens: an episode as a person reads it."""
        return self.backend.decode(ids, skip_special_tokens=False)

    def save(self, directory: Path) -> None:
        self.backend.save(str(directory / "tokenizer.json"))

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        path = Path(directory) / "tokenizer.json"
        try:
            return cls(Backend.from_file(str(path)))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except Exception as error:  # the backend raises bare Exception for missing and foreign files
            raise CheckpointError(f"{path}: not a readable tokenizer.json ({error})") from None
