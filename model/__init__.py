"""What thinks: the transformer policy, its tokenizer, decoding and checkpoints.

Imports no other package. Other people's weights, adapters and encoders: model.pretrained.
"""

from model.checkpoint import is_checkpoint, load_policy, save_policy
from model.config import Config
from model.files import CheckpointError, atomic_write, read_json, weights_sha256, write_json
from model.generation import Session, sample
from model.policy import Policy
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
    "read_json",
    "sample",
    "save_policy",
    "weights_sha256",
    "write_json",
]
