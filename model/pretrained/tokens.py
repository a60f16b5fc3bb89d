"""Other people's tokenizers: checked, and taught the tokens of the episode format.

Left out on purpose: SentencePiece's own files (tokenizer.model), tokenizers that are Python code.
"""

import json
import re
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from model.files import CheckpointError, read_json
from model.tokenizer import CONFIG, ROLES, SPECIAL, Tokenizer, open_backend

ATOM = re.compile(r"\\[pP]\{\w+\}|\\.|\[(?:\\.|[^\]\\])*\]")  # one character, however it is written
# A repeated group, four repetitions or nine options in a row: backtracking without end.
SLOW = re.compile(r"\)[*+{]|(?:[*+}][^|]*){4}|(?:\?[^|]*){9}")


def adapt_tokenizer(directory: str | Path) -> tuple[Tokenizer, list[int]]:
    """The tokenizer of a checkpoint directory and the ids of the tokens that were added to it.

    <pad>, <bos> and <eos> are those that its files declare, if they are three different ones; new
    ones otherwise. Raises CheckpointError that names the file.
    """
    directory = Path(directory)
    check_tokenizer(directory)
    backend = open_backend(directory / "tokenizer.json")
    return add_tokens(backend, declared_tokens(directory, backend))


def check_tokenizer(directory: Path) -> None:
    """CheckpointError for a tokenizer.json whose rules make texts explode or take for ever."""
    path = directory / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(
            f"{path}: not found, and tokenizer.model, vocab.json, ... are not opened; have "
            "transformers write it: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    content = read_json(path)
    rules = [content.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")]
    if len(json.dumps(rules)) > 2**14:
        raise CheckpointError(f"{path}: more than 16 kB of rules")
    growth = 1.0
    for rule in rules:  # grows: every rule inside a sequence follows
        inner = rule.values() if isinstance(rule, dict) else rule
        rules += [x for x in inner if isinstance(x, (dict, list))] if inner else []
        if not isinstance(rule, dict):
            continue
        pattern = str(rule.get("Regex", ""))
        if SLOW.search(ATOM.sub("x", pattern)):
            raise CheckpointError(f"{path}: the pattern {pattern!r:.80} may take for ever")
        if rule.get("type") == "Replace":
            found = rule.get("pattern")
            whole = found.get("String") if isinstance(found, dict) else None
            growth *= max(1, len(str(rule.get("content"))) / (len(whole) if whole else 0.5))
    if growth > 8:
        raise CheckpointError(f"{path}: its rules make texts {growth:.3g} times as long")


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
    added = backend.get_added_tokens_decoder()
    special = {i: token.content for i, token in added.items() if token.special}
    found: dict[str, str] = {}
    for path in (directory / name for name in (CONFIG, "config.json", "generation_config.json")):
        fields = read_json(path) if path.exists() else {}
        for role in ROLES:
            named, ids = fields.get(role), fields.get(f"{role}_id")
            named = named.get("content") if isinstance(named, dict) else named
            first = ids[0] if isinstance(ids, list) and ids else ids
            # An id that is no special token is a default that nobody meant.
            numbered = special.get(first) if isinstance(first, int) else None
            token = named if isinstance(named, str) else numbered
            if token is not None and backend.token_to_id(token) is not None:
                found.setdefault(role, token)
    return found
