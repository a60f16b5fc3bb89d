"""The tokenizer of a pretrained checkpoint, to which the tokens of the episode format are added."""

from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from model.files import read_json
from model.tokenizer import CONFIG, ROLES, SPECIAL, Tokenizer, open_backend


def adapt_tokenizer(directory: str | Path) -> tuple[Tokenizer, list[int]]:
    """The tokenizer of a checkpoint directory and the ids of the tokens that were added to it.

    <pad>, <bos> and <eos> are those that its files declare, if they are three different ones; new
    ones otherwise. Raises CheckpointError that names the file.
    """
    directory = Path(directory)
    backend = open_backend(directory / "tokenizer.json")
    backend.no_truncation()
    backend.no_padding()
    return add_tokens(backend, declared_tokens(directory, backend))


def add_tokens(backend: Backend, declared: dict[str, str]) -> tuple[Tokenizer, list[int]]:
    """`declared`: role (pad_token, bos_token, eos_token) -> the backend's name for it."""
    names = list(SPECIAL)
    for i, role in reversed(list(enumerate(ROLES))):  # a family is surest about the end of a text
        if declared.get(role) not in (None, *names):
            names[i] = declared[role]
    old = backend.get_vocab()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    new = [backend.token_to_id(name) for name in names if name not in old]
    return Tokenizer(backend, tuple(names)), new


def declared_tokens(directory: Path, backend: Backend) -> dict[str, str]:
    """Role -> the token that a checkpoint's files give it; tokenizer_config.json knows best."""
    found: dict[str, str] = {}
    for path in (directory / name for name in (CONFIG, "config.json", "generation_config.json")):
        fields = read_json(path) if path.exists() else {}
        for role in ROLES:
            token = _named(fields.get(role)) or _numbered(fields.get(f"{role}_id"), backend)
            if token is not None and backend.token_to_id(token) is not None:
                found.setdefault(role, token)
    return found


def _named(token) -> str | None:
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _numbered(ids, backend: Backend) -> str | None:
    """An id that is no special token is a default that nobody meant."""
    first = ids[0] if isinstance(ids, list) and ids else ids
    token = backend.get_added_tokens_decoder().get(first) if isinstance(first, int) else None
    return token.content if token and token.special else None
