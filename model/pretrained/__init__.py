"""Other people's weights: opening, resizing, LoRA, sentence encoders. The core knows none of it."""

from model.pretrained.encoder import SentenceEncoder
from model.pretrained.lora import add_adapters, save_policy, trained_modules, without_adapters
from model.pretrained.open import open_model, open_policy, open_pretrained

__all__ = [
    "SentenceEncoder",
    "add_adapters",
    "open_model",
    "open_policy",
    "open_pretrained",
    "save_policy",
    "trained_modules",
    "without_adapters",
]
