"""A small sentence encoder trained from scratch on questions and the passages that answer them.

DPR (Karpukhin et al., 2020, arXiv 2004.04906): each step draws questions, one right and one hard
wrong passage for each, and asks every question to pick its own out of all of the batch: in-batch
negatives. One network reads both sides (DPR has two: with so few questions, what it learns about
the words of one side has to serve the other). Left out on purpose: distillation, cross-batch
negatives, dropout. Shapes: B questions of a step, 2 B passages, T tokens, D width.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F

from model.pretrained.encoder import Encoder, EncoderConfig, SentenceEncoder

SPECIAL = ("[PAD]", "[CLS]", "[SEP]")


@dataclass(frozen=True)
class BiEncoderConfig:
    vocab_size: int = 8192
    hidden_size: int = 128
    layers: int = 2
    heads: int = 4
    max_tokens: int = 128
    steps: int = 600
    questions: int = 64
    lr: float = 1e-3
    temperature: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """A question, passages that answer it, and ones that look as if they did (corpus rows)."""

    question: str
    right: tuple[int, ...]
    wrong: tuple[int, ...]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Backend:
    """Lower-case byte-level BPE between [CLS] and [SEP]: WordPiece's trainer is random."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    ends = [(token, backend.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    backend.post_processor = processors.BertProcessing(*ends)
    return backend


def contrastive_loss(
    questions: Tensor, passages: Tensor, also_right: Tensor, temperature: float
) -> Tensor:
    """Cross-entropy of picking passage i for question i; both of unit length, [B, D] and [P, D].

    also_right bool [B, P]: passages that answer the question too, neither its target nor wrong.
    """
    scores = (questions @ passages.T / temperature).masked_fill(also_right, -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(questions), device=scores.device))


def draw(
    examples: Sequence[Example], passages: int, config: BiEncoderConfig, step: int
) -> tuple[list[str], np.ndarray, Tensor]:
    """A step's questions, its passages int64 [2 B] (right ones first), also_right bool [B, 2 B]."""
    rng = np.random.default_rng([config.seed, step])
    count = min(config.questions, len(examples))
    chosen = [examples[i] for i in rng.choice(len(examples), count, replace=False)]
    right = [rng.choice(e.right) for e in chosen]
    wrong = [rng.choice(e.wrong) if e.wrong else rng.integers(passages) for e in chosen]
    rows = np.array(right + wrong)
    also = np.array([np.isin(rows, e.right) for e in chosen])
    also[range(count), range(count)] = False
    return [e.question for e in chosen], rows, torch.from_numpy(also)


def new_network(config: BiEncoderConfig, vocab_size: int) -> Encoder:
    """Random weights, a pure function of the config."""
    width, sizes = config.hidden_size, (config.layers, config.heads, config.max_tokens)
    network = Encoder(EncoderConfig(vocab_size, width, 4 * width, *sizes))
    generator = torch.Generator().manual_seed(config.seed)
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data = 0.02 * torch.randn(module.weight.shape, generator=generator)
        if isinstance(module, nn.Linear):
            module.bias.data.zero_()
    return network


def train_biencoder(
    examples: Sequence[Example],
    passages: Sequence[str],
    config: BiEncoderConfig = BiEncoderConfig(),
    device: str = "cpu",
    progress: Callable[[float], None] = lambda loss: None,
) -> SentenceEncoder:
    """Minutes on a CPU; a pure function of its arguments. `progress` gets the loss of each step."""
    backend = train_tokenizer([*passages, *(e.question for e in examples)], config.vocab_size)
    network = new_network(config, backend.get_vocab_size())
    encoder = SentenceEncoder(network.to(device).train(), backend)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=0.01)
    warmup = max(1, config.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, (config.steps - step) / (config.steps - warmup + 1)),
    )
    for step in range(config.steps):
        questions, rows, also_right = draw(examples, len(passages), config, step)
        asked = network(*encoder.batch(questions))
        answers = network(*encoder.batch([passages[i] for i in rows]))
        loss = contrastive_loss(asked, answers, also_right.to(device), config.temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(float(loss.detach()))
    network.eval()
    return encoder
