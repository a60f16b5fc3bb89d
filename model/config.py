"""The shape of the policy: the fields of a Hugging Face Llama `config.json`, and nothing else.

The names are the field's own, so that `transformers` reads the file that we write (DESIGN: checkpoints).
"""
import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    vocab_size: int = 2048
    hidden_size: int = 128
    intermediate_size: int = 384  # SwiGLU: three matrices of hidden_size x intermediate_size
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2  # grouped-query attention: each key/value head serves two query heads
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}")
        if self.head_dim % 2:
            raise ValueError(f"the head dimension {self.head_dim} must be even: RoPE rotates pairs")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def save(self, path: Path, pad: int, bos: int, eos: int) -> None:
        """Write `config.json`; the token ids are for `transformers.generate`, our own code asks the tokenizer."""
        fields = asdict(self) | {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "tie_word_embeddings": True,
            "attention_bias": False, "mlp_bias": False, "dtype": "float32", "initializer_range": 0.02,
            "pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos}
        path.write_text(json.dumps(fields, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Read `config.json`. Raises ValueError, naming the file, for anything that this decoder does not compute."""
        try:
            fields = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: not a readable config.json ({error})") from None
        if not isinstance(fields, dict) or fields.get("model_type") != "llama":
            kind = fields.get("model_type") if isinstance(fields, dict) else type(fields).__name__
            raise ValueError(f"{path}: model_type is {kind!r}, expected 'llama'")
        rope = fields.get("rope_parameters")  # transformers 5 keeps theta and the scaling in here
        if isinstance(rope, dict):
            plain = rope.get("rope_type", "default") == "default"
            fields = {"rope_theta": rope.get("rope_theta", cls.rope_theta), **fields, "rope_scaling": None if plain else rope}
        for name, ours in (("tie_word_embeddings", True), ("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu"), ("rope_scaling", None)):
            if fields.get(name, ours) != ours:
                raise ValueError(f"{path}: {name} = {fields[name]!r} is not supported (only {ours!r})")
        missing = [name for name in cls.__dataclass_fields__ if name not in fields]
        if missing:
            raise ValueError(f"{path}: missing field {missing[0]!r}")
        for name in cls.__dataclass_fields__:
            whole = isinstance(getattr(cls, name), int)
            if type(fields[name]) not in ((int,) if whole else (int, float)) or not 0 < fields[name] < float("inf"):
                raise ValueError(f"{path}: {name} = {fields[name]!r} is not a positive {'whole ' if whole else ''}number")
        try:
            config = cls(**{name: fields[name] for name in cls.__dataclass_fields__})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if fields.get("head_dim") not in (None, config.head_dim):
            raise ValueError(f"{path}: head_dim = {fields['head_dim']!r} is not supported (only hidden_size / num_attention_heads = {config.head_dim})")
        return config
