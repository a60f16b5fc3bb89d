"""Checkpoints opened, ours and other people's: resizing, LoRA, GGUF, sentence encoders."""

from model.pretrained.open import open_model, open_policy, open_pretrained

__all__ = ["open_model", "open_policy", "open_pretrained"]
