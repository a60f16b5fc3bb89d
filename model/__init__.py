"""What thinks: the transformer policy, its tokenizer, decoding and checkpoints. Imports no other room."""
from .checkpoint import load_policy, load_state, peek_facts, save_policy, save_state, weights_sha256, write_json
from .config import CheckpointError, Config
from .encoder import SentenceEncoder
from .generation import Session, sample
from .lora import adapters_off, add_adapters, trained_modules
from .memory import training_memory
from .policy import Policy, is_checkpoint
from .pretrained import open_pretrained
from .tokenizer import Tokenizer

__all__ = ["CheckpointError", "Config", "Policy", "SentenceEncoder", "Session", "Tokenizer", "adapters_off", "add_adapters", "is_checkpoint", "load_policy",
           "load_state", "open_pretrained", "peek_facts", "sample", "save_policy", "save_state", "trained_modules", "training_memory",
           "weights_sha256", "write_json"]
