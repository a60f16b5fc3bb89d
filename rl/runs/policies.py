"""The policy that a training starts with: a new one, a pretrained one, a warm-up's and its twin."""

import copy
from dataclasses import dataclass

import torch

from model import Config, Policy, Tokenizer
from model.pretrained import add_adapters, open_pretrained, without_adapters
from rl.runs.arguments import changed
from rl.runs.flags import UsageError, arg
from rl.runs.setting import Setting


@dataclass
class PolicyArgs:
    vocab_size: int = arg(4096, "entries of the tokenizer at most", "new policy", least=300)
    hidden_size: int = arg(128, "width", least=1, most=8192)
    layers: int = arg(4, "layers", least=1, most=1000)
    heads: int = arg(4, "attention heads; half as many key/value heads", least=1)
    context: int = arg(1024, "positions; with --init at most its own", least=1, most=1 << 20)
    init: str = arg("", "start from this Llama, Mistral, Qwen2 or Qwen3", "pretrained policy")
    weights_dtype: str = arg("fp32", "of the weights in memory", choices=("fp32", "bf16"))


def open_start(args, setting: Setting) -> tuple[Policy, Tokenizer]:
    """args: of train_sft.py. Raises UsageError, CheckpointError."""
    torch.manual_seed(args.seed)
    policy, tokenizer = open_init(args) if args.init else new_policy(args, setting)
    policy.to(args.device).model.gradient_checkpointing = args.checkpointing
    return policy, tokenizer


def open_init(args) -> tuple[Policy, Tokenizer]:
    dtype = torch.bfloat16 if args.weights_dtype == "bf16" else torch.float32
    policy, tokenizer, new = open_pretrained(args.init, dtype, args.context)
    positions = policy.config.max_position_embeddings
    if changed(args, "context") and positions < args.context:
        raise UsageError(f"--context {args.context}: {args.init} has {positions} positions")
    if args.lora_rank:
        add_adapters(policy, args.lora_rank, new)
    return policy, tokenizer


def new_policy(args, setting: Setting) -> tuple[Policy, Tokenizer]:
    texts = [p.full_text for p in setting.env.corpus]
    texts += [text for q in setting.questions for text in (q.question, q.answers[0])]
    tokenizer = Tokenizer.train(texts, args.vocab_size)
    try:
        config = Config(
            vocab_size=len(tokenizer),
            hidden_size=args.hidden_size,
            intermediate_size=3 * args.hidden_size,
            num_hidden_layers=args.layers,
            num_attention_heads=args.heads,
            num_key_value_heads=max(1, args.heads // 2),
            max_position_embeddings=args.context,
        )
    except ValueError as error:
        raise UsageError(error) from None
    return Policy(config), tokenizer


def with_reference(policy: Policy, args) -> Policy:
    """Prepare a warm-up for training; the frozen policy that it starts as. With --lora-rank the two
    share their weights."""
    policy.model.gradient_checkpointing = args.checkpointing
    if not args.lora_rank:
        return copy.deepcopy(policy).requires_grad_(False)
    torch.manual_seed(args.seed)
    add_adapters(policy, args.lora_rank, [])  # new tokens were trained by the warm-up
    return without_adapters(policy)
