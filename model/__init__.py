"""What thinks: the transformer policy, its tokenizer, decoding and checkpoints. Imports no other room."""

from model.checkpoint import (
    load_policy,
    load_state,
    peek_facts,
    save_policy,
    save_state,
    weights_sha256,
    write_json,
)
from model.config import CheckpointError, Config
from model.generation import Session, sample
from model.memory import training_memory
from model.policy import Policy, is_checkpoint
from model.pretrained.encoder import SentenceEncoder
from model.pretrained.hub import open_pretrained
from model.pretrained.lora import adapters_off, add_adapters, trained_modules
from model.tokenizer import Tokenizer

__all__ = [
    "CheckpointError",
    "Config",
    "Policy",
    "SentenceEncoder",
    "Session",
    "Tokenizer",
    "adapters_off",
    "add_adapters",
    "is_checkpoint",
    "load_policy",
    "load_state",
    "open_pretrained",
    "peek_facts",
    "sample",
    "save_policy",
    "save_state",
    "trained_modules",
    "training_memory",
    "weights_sha256",
    "write_json",
]
