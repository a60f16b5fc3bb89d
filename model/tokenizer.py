"""A tokenizer with the eight tokens of the episode format: a byte-level BPE trained on the world it will speak about, or
that of a pretrained checkpoint, to which the tokens that it lacks are added.

Ours gives every piece of text a leading space, so that a name is the same tokens in a question, a title, a query and an
answer: copying is then one token for one token. A pretrained one keeps its family's rule: transformers knows Qwen2's by
heart and would not read another from the file. Text is never searched for special tokens: a passage that contains
"[ANSWER]" or "<eos>" is plain text, and cannot speak in the policy's name.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from model.config import CheckpointError

SPECIAL = ("<pad>", "<bos>", "<eos>", "<obs>", "</obs>", "<sep>", "[RETRIEVE]", "[ANSWER]")
CONFIG = "tokenizer_config.json"
ROLES = (
    "pad_token",
    "bos_token",
    "eos_token",
)  # the first three may have other names in a pretrained checkpoint


class Tokenizer:
    def __init__(self, backend: Backend, names: tuple[str, ...] = SPECIAL):
        """names: what the backend calls the eight tokens of SPECIAL, in that order."""
        self.backend, self.names = backend, names
        self.backend.encode_special_tokens = True  # "special tokens in text are plain text"
        ids = [backend.token_to_id(token) for token in names]
        if None in ids:
            raise CheckpointError(f"the tokenizer lacks the token {names[ids.index(None)]!r}")
        (
            self.pad,
            self.bos,
            self.eos,
            self.obs,
            self.obs_end,
            self.sep,
            self.retrieve,
            self.answer,
        ) = ids
        for name, own in zip(names, ids):
            if own in self.encode(name):
                raise CheckpointError(
                    f"the tokenizer turns the plain text {name!r} into the special token"
                )

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Byte-level BPE of at most vocab_size tokens; deterministic for the same texts."""
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        backend.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=vocab_size,
                special_tokens=list(SPECIAL),
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
        return cls(backend)

    @classmethod
    def adapt(cls, directory: str | Path) -> tuple["Tokenizer", list[int]]:
        """The tokenizer of a pretrained checkpoint and the ids of the tokens that were added to it.

        <pad>, <bos> and <eos> are the ones that its files declare, if they are three different ones; new ones otherwise.
        """
        backend = open_backend(directory)
        backend.no_truncation()
        backend.no_padding()
        declared, names = declared_tokens(Path(directory), backend), list(SPECIAL)
        for i, role in reversed(
            list(enumerate(ROLES))
        ):  # the end of a text is what a family is surest about
            names[i] = declared[role] if declared.get(role) not in (None, *names) else names[i]
        old = backend.get_vocab()
        backend.add_special_tokens(
            [AddedToken(name, special=True, normalized=False) for name in names]
        )
        return cls(backend, tuple(names)), [
            backend.token_to_id(name) for name in names if name not in old
        ]

    def __len__(self) -> int:
        """Rows that an embedding needs; ids may have gaps."""
        return max(self.backend.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [
            encoding.ids for encoding in self.backend.encode_batch(texts, add_special_tokens=False)
        ]

    def decode(self, ids: list[int]) -> str:
        """Text without special tokens and without the leading space."""
        return self.backend.decode(ids, skip_special_tokens=True).strip()

    def show(self, ids: list[int]) -> str:
        """Text with special tokens: an episode as a person reads it."""
        return self.backend.decode(ids, skip_special_tokens=False)

    def save(self, directory: Path) -> None:
        """tokenizer.json, and tokenizer_config.json, with which transformers' AutoTokenizer gives the same ids."""
        self.backend.save(str(directory / "tokenizer.json"))
        fields = dict(zip(ROLES, self.names)) | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "additional_special_tokens": list(self.names[len(ROLES) :]),
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
        }
        (directory / CONFIG).write_text(json.dumps(fields, indent=1) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        backend = open_backend(directory)
        declared = (
            declared_tokens(Path(directory), backend) if (Path(directory) / CONFIG).exists() else {}
        )
        try:
            return cls(
                backend,
                tuple(declared.get(role, name) for role, name in zip(ROLES, SPECIAL))
                + SPECIAL[len(ROLES) :],
            )
        except CheckpointError as error:
            raise CheckpointError(f"{Path(directory) / 'tokenizer.json'}: {error}") from None


def open_backend(directory: str | Path) -> Backend:
    """Raises CheckpointError that names the file."""
    path = Path(directory) / "tokenizer.json"
    try:
        return Backend.from_file(str(path))
    except Exception as error:  # the backend raises bare Exception for missing and foreign files
        raise CheckpointError(f"{path}: not a readable tokenizer.json ({error})") from None


def declared_tokens(directory: Path, backend: Backend) -> dict[str, str]:
    """Role -> the token that a checkpoint's files give it, by name or by id; tokenizer_config.json knows best."""
    found: dict[str, str] = {}
    special = {
        i: token.content for i, token in backend.get_added_tokens_decoder().items() if token.special
    }
    for path in (directory / name for name in (CONFIG, "config.json", "generation_config.json")):
        try:
            fields = dict(json.loads(path.read_text())) if path.exists() else {}
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: not a readable JSON object ({error})") from None
        for role in ROLES:
            token, ids = fields.get(role), fields.get(f"{role}_id")
            token = token.get("content") if isinstance(token, dict) else token
            if token is None:  # an id that is no special token is a default that nobody meant
                token = special.get(
                    ids[0]
                    if isinstance(ids, list) and ids
                    else ids
                    if isinstance(ids, int)
                    else None
                )
            if isinstance(token, str) and backend.token_to_id(token) is not None:
                found.setdefault(role, token)
    return found
