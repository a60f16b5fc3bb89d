"""Checkpoints of every supported family: as `transformers` computes them, and as we do.

    python -m benchmarks.parity         tiny models with random weights; needs transformers

`logits` and `gradient` are the largest absolute differences in float32 over a batch of ragged use;
`greedy` counts the rows whose continuation by our KV cache is that of `generate`; `back` is the
difference after we save and they open. In bf16 both round: the columns are each side's largest
distance from the float32 logits.
"""

import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

from model import Policy
from model.files import save_tensors
from model.pretrained import open_model

VOCAB = 320
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {  # name -> (class of the config, its fields)
    "Llama": ("LlamaConfig", {"tie_word_embeddings": False}),
    "Llama, all biases, tied": (
        "LlamaConfig",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "Llama 3.1 (rope scaling)": (
        "LlamaConfig",
        {"rope_parameters": LLAMA3, "tie_word_embeddings": False},
    ),
    "Mistral": ("MistralConfig", {"sliding_window": None, "num_key_value_heads": 1}),
    "Mistral, head_dim, window": ("MistralConfig", {"sliding_window": 128, "head_dim": 12}),
    "Qwen2.5": ("Qwen2Config", {"tie_word_embeddings": True, "rms_norm_eps": 1e-6}),
    "Qwen2, untied": ("Qwen2Config", {"num_key_value_heads": 4}),
    "Qwen3": ("Qwen3Config", {"tie_word_embeddings": True, "head_dim": 16}),
    "Qwen3, biases, untied": ("Qwen3Config", {"attention_bias": True, "head_dim": 16}),
}


def random_model(name: str, seed: int = 0, **changes):
    """A transformers model of that family, float32, far from its initialisation."""
    import transformers

    kind, fields = FAMILIES[name]
    model = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, kind)(**SHAPE | fields | changes)
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in model.named_parameters():
        centre = 1.0 if "norm" in parameter_name else 0.0
        parameter.data = centre + 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@torch.no_grad()
def greedy_rows_equal(ours: Policy, theirs, prompts: torch.Tensor, budget: int) -> int:
    """Rows of int64 [B, T] that our cache continues exactly as `generate` does."""
    other = theirs.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=budget
    )[:, prompts.shape[1] :].tolist()
    rows = list(zip(prompts.tolist(), (5, 11, 3, 8), strict=True))
    session = ours.session([row[:length] for row, length in rows])  # in two ragged chunks
    session = session.feed([row[length:-1] for row, length in rows])
    mine = session.generate(prompts[:, -1], budget, 0.0, eos=2)
    return sum(
        row == (o[: o.index(2) + 1] if 2 in o else o) for row, o in zip(mine, other, strict=True)
    )


def gradient_difference(ours: Policy, theirs, tokens: torch.Tensor) -> float:
    """Largest absolute difference over all gradients of the mean next-token loss; every tensor must
    have one on both sides."""
    for logits in (ours(tokens)[0], theirs(tokens).logits):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    others = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    mine = {
        name: parameter.grad
        for name, parameter in ours.named_parameters()
        if not name.startswith("value_head.")
    }
    assert mine.keys() == others.keys() and all(
        gradient.abs().max() > 0 for gradient in others.values()
    )
    return max(float((mine[name] - others[name]).abs().max()) for name in others)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference, in float32."""
    return float((a.float() - b.float()).abs().max())


def compare(name: str, directory: Path) -> dict[str, float]:
    """All figures of one family; writes checkpoints below `directory`."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    theirs = random_model(name)
    theirs.save_pretrained(directory / "theirs", max_shard_size="20KB")
    ours = open_model(directory / "theirs")
    tokens, prompts = torch.randint(3, VOCAB, (3, 100)), torch.randint(3, VOCAB, (4, 12))
    with torch.no_grad():
        expected = theirs(tokens).logits
        figures = {"spread": float(expected.std()), "logits": difference(ours(tokens)[0], expected)}
        figures["greedy"] = greedy_rows_equal(ours, theirs, prompts, 30)
        (directory / "ours").mkdir()
        save_tensors(ours.trunk_state(), directory / "ours" / "model.safetensors")
        ours.config.save(directory / "ours" / "config.json", 0, 1, 2)
        figures["back"] = difference(
            AutoModelForCausalLM.from_pretrained(directory / "ours")(tokens).logits, expected
        )
        half = AutoModelForCausalLM.from_pretrained(directory / "theirs", dtype=torch.bfloat16)
        figures["bf16"] = difference(
            open_model(directory / "theirs", dtype=torch.bfloat16)(tokens)[0], expected
        )
        figures["bf16_theirs"] = difference(half(tokens).logits, expected)
    figures["gradient"] = gradient_difference(ours, theirs, tokens)
    return figures


def main() -> None:
    try:
        import transformers
    except ImportError:
        raise SystemExit("error: transformers is missing (pip install transformers)") from None
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__};"
        f" {SHAPE['num_hidden_layers']} layers, 3 x 100 tokens"
    )
    print(
        f"{'family':<28}{'logits std':>11}{'logits':>10}{'gradient':>10}{'greedy':>8}"
        f"{'back':>10}{'bf16 ours':>11}{'theirs':>8}"
    )
    for name in FAMILIES:
        with tempfile.TemporaryDirectory() as directory:
            f = compare(name, Path(directory))
        print(
            f"{name:<28}{f['spread']:>11.2f}{f['logits']:>10.1e}{f['gradient']:>10.1e}"
            f"{f['greedy']:>6}/4{f['back']:>10.1e}{f['bf16']:>11.3f}{f['bf16_theirs']:>8.3f}"
        )


if __name__ == "__main__":
    main()
