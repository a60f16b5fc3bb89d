"""What thinks: the transformer policy, its tokenizer, decoding and checkpoints.

Imports no other package. Opening checkpoints, adapters and sentence encoders: model.pretrained.
"""

from model.config import Config
from model.files import CheckpointError, save_policy
from model.policy import Policy, Session
from model.tokenizer import Tokenizer

__all__ = ["CheckpointError", "Config", "Policy", "Session", "Tokenizer", "save_policy"]
