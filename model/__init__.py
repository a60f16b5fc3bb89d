"""What thinks: the transformer policy, its tokenizer, decoding and checkpoints. Imports no other room."""
from .checkpoint import load_policy, load_state, peek_facts, save_policy, save_state, write_json
from .config import Config
from .encoder import SentenceEncoder
from .generation import Session, sample
from .policy import CheckpointError, Policy
from .tokenizer import Tokenizer

__all__ = ["CheckpointError", "Config", "Policy", "SentenceEncoder", "Session", "Tokenizer", "load_policy", "load_state", "peek_facts", "sample",
           "save_policy", "save_state", "write_json"]
