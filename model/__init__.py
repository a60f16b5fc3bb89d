"""What thinks: the transformer policy, its tokenizer, decoding and checkpoints.

Imports no other package. Other people's weights, adapters and encoders: model.pretrained.
"""

from model.checkpoint import (
    atomic_write,
    is_checkpoint,
    load_policy,
    save_policy,
    weights_sha256,
    write_json,
)
from model.config import CheckpointError, Config, read_json
from model.generation import Session, sample
from model.policy import Policy
from model.state import load_state, peek_facts, save_state
from model.tokenizer import Tokenizer

__all__ = [
    "CheckpointError",
    "Config",
    "Policy",
    "Session",
    "Tokenizer",
    "atomic_write",
    "is_checkpoint",
    "load_policy",
    "load_state",
    "peek_facts",
    "read_json",
    "sample",
    "save_policy",
    "save_state",
    "weights_sha256",
    "write_json",
]
