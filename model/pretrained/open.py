"""Any checkpoint becomes a policy: ours, adapters over a base, shards, a foreign one to start from.

A foreign tokenizer learns our tokens and the embedding gets their rows, each the mean of the old
ones (Hewitt, 2021, "Initializing new word embeddings for pretrained language models"): no new token
then outweighs the old ones in the softmax before it has been trained. Left out on purpose:
SentencePiece's own files (tokenizer.model), tokenizers that are Python code.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from torch import nn

from model.files import CheckpointError
from model.policy import Policy, ValueHead
from model.pretrained.families import read_decoder, read_tensors, stored_in
from model.pretrained.gguf import open_gguf
from model.pretrained.lora import read_adapted
from model.pretrained.reading import existing, read_json, reading
from model.tokenizer import CONFIG, ROLES, SPECIAL, Tokenizer

ATOM = re.compile(r"\\[pP]\{\w+\}|\\.|\[(?:\\.|[^\]\\])*\]")  # one character, however it is written
# A repeated group, four repetitions or nine options in a row: backtracking without end.
SLOW = re.compile(r"\)[*+{]|(?:[*+}][^|]*){4}|(?:\?[^|]*){9}")


def open_policy(directory: str | Path, device: str = "cpu") -> tuple[Policy, Tokenizer, dict]:
    """Open any checkpoint that holds a policy: plain, sharded, or adapters over a base.

    Policy (adapters merged), tokenizer, run.json ({} where absent). Raises CheckpointError.
    """
    policy, directory = open_model(directory, device), Path(directory)
    tokenizer, new = open_tokenizer(directory)
    with reading(directory / "tokenizer.json"):
        if new:
            raise ValueError(f"it lacks the token {tokenizer.backend.id_to_token(new[0])!r}")
        check_rows(tokenizer, policy.config.vocab_size)
    return policy, tokenizer, read_json(directory / "run.json", optional=True)


def open_model(directory: str | Path, device: str = "cpu", dtype=None) -> Policy:
    """The policy of `open_policy` alone: foreign tokenizers lack our tokens.

    dtype: of the decoder's weights; None keeps bf16 and turns all else into float32.
    """
    directory = existing(directory)
    read = read_adapted if (directory / "adapter_config.json").exists() else read_decoder
    return complete(read(directory, dtype), directory, device)


def complete(policy: Policy, directory: Path, device: str) -> Policy:
    """Add to a decoder the value head of its directory, or one that starts at 0."""
    policy.model.frequency = policy.config.rope_frequency()
    policy.value_head = head = ValueHead(policy.config.hidden_size)
    path = directory / "value_head.safetensors"
    if path.exists():
        own = head.state_dict()
        head.load_state_dict(read_tensors(path, stored_in(path), own, torch.float32))
    return policy.to(device).eval()


def open_pretrained(
    directory: str | Path, dtype: torch.dtype, context: int
) -> tuple[Policy, Tokenizer, list[int]]:
    """Policy on the CPU with at most `context` positions, its tokenizer, ids of the new tokens.

    `directory`: a checkpoint of a family of families.py, or a GGUF file. Raises CheckpointError.
    """
    path = Path(directory)
    if path.is_file():
        decoder, backend, declared = open_gguf(path, dtype)
        policy = complete(decoder, path, "cpu")
        tokenizer, new = add_tokens(backend, declared)
    else:
        policy = open_model(path, dtype=dtype)
        tokenizer, new = open_tokenizer(path)
    with reading(path):
        check_rows(tokenizer, policy.config.vocab_size, spare=2**10)
    if new:
        resize(policy, max(len(tokenizer), policy.config.vocab_size), new)
    rows = policy.model.embed_tokens.num_embeddings
    context = min(context, policy.config.max_position_embeddings)
    config = replace(policy.config, vocab_size=rows, max_position_embeddings=context)
    policy.config = policy.model.config = config
    return policy, tokenizer, new


def check_rows(tokenizer: Tokenizer, rows: int, spare: int = 0) -> None:
    if len(tokenizer) > rows + spare:
        raise ValueError(f"{len(tokenizer)} tokens do not fit the {rows} rows of the embedding")


def resize(policy: Policy, rows: int, new: list[int]) -> None:
    """Give the embedding (and the untied head) `rows` rows; the new ones are the mean of those
    before them: unused rows, which families keep behind their vocabulary, are no part of it."""
    for module in filter(None, (policy.model.embed_tokens, policy.lm_head)):
        old = module.weight.data
        mean = old[: min(new)].float().mean(0).to(old.dtype)
        weight = torch.cat([old, mean.repeat(rows - len(old), 1)])
        weight[new] = mean
        module.weight, module.num_embeddings = nn.Parameter(weight), rows


def open_tokenizer(directory: Path) -> tuple[Tokenizer, list[int]]:
    """The tokenizer of a checkpoint directory and the ids of the tokens that were added to it."""
    path = directory / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(
            f"{path}: not found, and tokenizer.model, vocab.json, ... are not opened; have "
            "transformers write it: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    content, declared = read_json(path), read_json(directory / CONFIG, optional=True)
    with reading(path):
        rules = [content.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")]
        check_rules(json.dumps(rules))
        backend = Backend.from_file(str(path))
        backend.no_truncation()
        backend.no_padding()
        return add_tokens(backend, declared)


def check_rules(text: str) -> None:
    """ValueError for rules of a tokenizer, as JSON, that explode a text or take for ever."""
    if len(text) > 2**14:
        raise ValueError("more than 16 kB of rules")

    def check(rule: dict) -> dict:
        found = rule.get("pattern")
        if SLOW.search(ATOM.sub("x", str(rule.get("Regex", "")))):
            raise ValueError(f"the pattern {rule['Regex']!r:.80} may take for ever")
        whole = str(found.get("String", "")) if isinstance(found, dict) else ""
        if rule.get("type") == "Replace" and len(str(rule.get("content"))) > len(whole):
            raise ValueError("its rules make texts longer")
        return rule

    json.loads(text, object_hook=check)


def add_tokens(backend: Backend, declared: dict) -> tuple[Tokenizer, list[int]]:
    """A tokenizer with our eight tokens, and the ids of those that were added.

    declared: the fields pad_token, bos_token and eos_token of a tokenizer_config.json, where they
    name three different tokens that the tokenizer has; new ones are added instead of others.
    """
    names, old = list(SPECIAL), backend.get_vocab()
    for i, role in reversed(list(enumerate(ROLES))):  # a family is surest about the end of a text
        token = declared.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token in old and token not in names:
            names[i] = token
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    new = [backend.token_to_id(name) for name in names if name not in old]
    return Tokenizer(backend, tuple(names)), new
