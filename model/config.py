"""The shape of the policy: the fields of a Hugging Face `config.json` of the Llama, Mistral, Qwen2 and Qwen3 families.

The names are the field's own, so that `transformers` reads the file that we write (DESIGN: checkpoints).
A sliding window is not computed: the context ends where the window does, and up to there the two are the same.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
BIASES = {
    "llama": ("attention_bias", "mlp_bias"),
    "qwen3": ("attention_bias",),
}  # flags that a family has; Qwen2's biases are no flag


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one line that names the file."""


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretch of the slow rotations (arXiv 2407.21783): rope_type "llama3"."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class Config:
    vocab_size: int = 2048
    hidden_size: int = 128
    intermediate_size: int = 384  # SwiGLU: three matrices of hidden_size x intermediate_size
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = (
        2  # grouped-query attention: each key/value head serves two query heads
    )
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    head_dim: int = 0  # 0: hidden_size / num_attention_heads
    tie_word_embeddings: bool = True  # else `lm_head` is a matrix of its own
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_scaling: RopeScaling | None = None
    model_type: str = "llama"

    def __post_init__(self):
        if not self.head_dim:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"the head dimension {self.head_dim} must be even: RoPE rotates pairs")

    @property
    def qkv_bias(self) -> bool:
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def qk_norm(self) -> bool:
        """RMSNorm of every query and key head before its rotation."""
        return self.model_type == "qwen3"

    def save(self, path: Path, pad: int, bos: int, eos: int, dtype: str = "float32") -> None:
        """Write `config.json`; the token ids are for `transformers.generate`, our own code asks the tokenizer."""
        fields = asdict(self) | {
            "architectures": [ARCHITECTURES[self.model_type]],
            "hidden_act": "silu",
            "dtype": dtype,
            "initializer_range": 0.02,
            "pad_token_id": pad,
            "bos_token_id": bos,
            "eos_token_id": eos,
        }
        if self.rope_scaling:
            fields["rope_scaling"]["rope_type"] = "llama3"
        if self.model_type != "llama":
            fields |= {"sliding_window": None, "use_sliding_window": False}
        path.write_text(json.dumps(fields, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Read `config.json`. Raises CheckpointError, naming the file, for anything that this decoder does not compute."""
        try:
            fields = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not a readable config.json ({error})") from None
        family = fields.get("model_type") if isinstance(fields, dict) else type(fields).__name__
        if family not in ARCHITECTURES:
            raise CheckpointError(
                f"{path}: model_type is {family!r}, expected one of {', '.join(ARCHITECTURES)}"
            )
        try:
            return cls(**_translate(fields, family))
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None


def _translate(fields: dict, family: str) -> dict:
    """The fields of Config from those of a file, with the family's own defaults. Raises ValueError."""
    given = {name: value for name, value in fields.items() if value is not None}
    unsupported = {"hidden_act": "silu", "partial_rotary_factor": 1.0, "quantization_config": None}
    unsupported |= {
        name: False for name in ("attention_bias", "mlp_bias") if name not in BIASES.get(family, ())
    }
    for name, ours in unsupported.items():
        if given.get(name, ours) != ours:
            raise ValueError(
                f"{name} = {given[name]!r} is not supported for model_type {family!r} (only {ours!r})"
            )
    rope = {
        "rope_theta": Config.rope_theta
    } | given  # transformers 5 keeps theta and the scaling in rope_parameters
    scaling = rope.get("rope_scaling")
    if isinstance(rope.get("rope_parameters"), dict):
        scaling = rope["rope_parameters"]
        rope["rope_theta"] = given.get("rope_theta", scaling.get("rope_theta", Config.rope_theta))
    family_defaults = {"tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}
    family_defaults |= {"head_dim": 128} if family == "qwen3" else {}
    family_defaults |= (
        {"num_key_value_heads": given.get("num_attention_heads")} if family == "llama" else {}
    )
    given = (
        family_defaults
        | given
        | {
            "rope_theta": rope["rope_theta"],
            "rope_scaling": _read_scaling(scaling),
            "model_type": family,
        }
    )
    values = {}
    for name in Config.__dataclass_fields__:
        default = getattr(Config, name)
        if name not in given and name != "head_dim":
            raise ValueError(f"missing field {name!r}")
        values[name] = given.get(name, default)
        if isinstance(default, bool):
            if not isinstance(values[name], bool):
                raise ValueError(f"{name} = {values[name]!r} is neither true nor false")
        elif isinstance(default, (int, float)) and name in given:
            _check_positive(name, values[name], whole=isinstance(default, int))
    window = (
        fields.get("sliding_window", 4096)
        if family == "mistral" or fields.get("use_sliding_window")
        else None
    )
    if window is not None:
        _check_positive("sliding_window", window, whole=True)
        values["max_position_embeddings"] = min(values["max_position_embeddings"], window)
    return values


def _read_scaling(rope) -> RopeScaling | None:
    if not isinstance(rope, dict):
        rope = {} if rope is None else {"rope_type": rope}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default" and rope.get("partial_rotary_factor") in (None, 1.0):
        return None
    if kind != "llama3":
        raise ValueError(
            f"rope_scaling = {rope!r} is not supported (only rope_type 'llama3' or none)"
        )
    for name, field in RopeScaling.__dataclass_fields__.items():
        if name not in rope:
            raise ValueError(f"rope_scaling = {rope!r} lacks {name!r}")
        _check_positive(f"rope_scaling: {name}", rope[name], whole=field.type is int)
    if rope["high_freq_factor"] <= rope["low_freq_factor"]:
        raise ValueError(f"rope_scaling = {rope!r}: high_freq_factor must exceed low_freq_factor")
    return RopeScaling(**{name: rope[name] for name in RopeScaling.__dataclass_fields__})


def _check_positive(name: str, value, whole: bool) -> None:
    if type(value) not in ((int,) if whole else (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"{name} = {value!r} is not a positive {'whole ' if whole else ''}number")
