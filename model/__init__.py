"""What thinks: the transformer policy, its tokenizer, decoding and checkpoints.

Imports no other package. Other people's weights, adapters and encoders: model.pretrained.
"""

from model.checkpoint import is_checkpoint, load_policy, save_policy
from model.config import Config
from model.files import CheckpointError, atomic_write, read_json, write_json
from model.generation import Session, sample
from model.policy import Policy
from model.state import load_state, peek_facts, save_state, weights_sha256
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
