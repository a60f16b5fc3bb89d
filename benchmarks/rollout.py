"""Episodes per second: our rollout against the same two-turn loop around transformers' `generate`.

    python -m benchmarks.rollout [--checkpoint DIR]

Same weights, world, questions (the checkpoint's first set), passages and threads; every episode
retrieves once, then answers. Without a checkpoint: the mini world, random weights of the default
size, and --tokens tokens a turn on both sides. Rounds are interleaved, so that a slow minute hits
everyone; the first one warms up. The peer is tuned before, one option after the other (TUNED). Ours
runs with the defaults of the scripts: training samples, evaluation is greedy. Left out: GPUs.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from unittest import mock

import torch
import transformers
from torch import Tensor

from data.world import Question, World
from model import Config, Policy, Session, Tokenizer, save_policy
from model.pretrained import open_policy
from model.pretrained.reading import read_json
from rl import Decoding, RagEnv, rollout
from rl.environment import observation
from rl.runs.launch import precision
from rl.runs.retrievers import RetrieverArgs, open_world
from rl.runs.setting import RunInfo, run_info

TUNED = {  # option of the peer -> its values
    "dtype": ("float32", "bfloat16"),
    "attention": ("sdpa", "eager"),
    "second_turn": ("continue", "again", "again, static cache"),
    "batch_size": (256, 64, 128, 512, 1024),
}


def random_checkpoint(world: World, directory: Path) -> None:
    """A policy of the default size that has learnt nothing, with a real tokenizer."""
    torch.manual_seed(0)
    t = Tokenizer.train((p.full_text for p in world.corpus), 2048)
    policy = Policy(Config(vocab_size=len(t)))
    # Tied weights echo their input, and an echoed [RETRIEVE] is an empty query: no episode.
    special = [t.pad, t.bos, t.eos, t.obs, t.obs_end, t.sep, t.retrieve, t.answer]
    with torch.no_grad():
        policy.model.embed_tokens.weight[special] = 0
    save_policy(directory, policy, t, {})


def fixed_length(tokens: int) -> mock._patch:
    """Our turns have `tokens` tokens, the last one <eos>: min_new_tokens of the peer."""
    generate = Session.generate

    def fixed(session, first, budgets, temperature, eos, generator=None):
        texts = generate(session, first, tokens, temperature, -1, generator)
        return [[*text[:-1], eos] for text in texts]

    return mock.patch.object(Session, "generate", fixed)


def play(policy: Policy, tokenizer: Tokenizer, env: RagEnv, temperature, dtype, questions):
    """Query and answer of our episodes."""
    decoding, generator = Decoding(temperature, force="retrieve"), torch.Generator().manual_seed(0)
    size = 0 if temperature else 512
    with precision("cpu", dtype):
        episodes = rollout(policy, tokenizer, env, questions, decoding, generator, size)
    return [(e.turns[0].query if e.turns else "", e.answer) for e in episodes]


@dataclass
class Peer:
    """The loop that a user of transformers writes; tokens: of a turn, 0 where <eos> ends it."""

    checkpoint: Path
    tokenizer: Tokenizer
    env: RagEnv
    tokens: int
    temperature: float
    dtype: str = "float32"
    attention: str = "sdpa"
    second_turn: str = "continue"  # the cache of the first, or read everything again
    batch_size: int = 256

    def __post_init__(self):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            self.checkpoint, dtype=self.dtype, attn_implementation=self.attention
        ).eval()
        self.options = {"min_new_tokens": self.tokens, "return_dict_in_generate": True}
        if self.temperature:
            sampled = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
            self.options |= sampled
        if "static" in self.second_turn:
            self.options["cache_implementation"] = "static"

    @torch.inference_mode()
    def __call__(self, questions: list[Question]) -> list[tuple[str, str]]:
        if len(questions) > self.batch_size:
            return self(questions[: self.batch_size]) + self(questions[self.batch_size :])
        t, env = self.tokenizer, self.env
        prompts = t.encode_batch([q.question for q in questions])
        prompts = [[t.bos, *ids, t.retrieve] for ids in prompts]
        tokens, mask = self.padded(prompts)
        out, queries = self.turn(tokens, mask, env.query_budget)
        texts = [t.decode(row) for row in queries]
        found = [[env.corpus[row].full_text for row in turn.passages] for turn in env.search(texts)]
        seen = [observation(passages, t, env.passage_tokens) for passages in found]
        second = [[t.eos, *tokens, t.answer] for tokens in seen]
        if self.second_turn == "continue":
            chunk, chunk_mask = self.padded(second)  # begins with the <eos> of the query
            width = out.sequences.shape[1] - tokens.shape[1]
            kept = torch.tensor([[1] * len(q) + [0] * (width - len(q)) for q in queries])
            tokens = torch.cat([out.sequences, chunk], 1)
            mask = torch.cat([mask, kept, chunk_mask], 1)
            _, answers = self.turn(tokens, mask, env.answer_budget, out.past_key_values)
        else:
            rows = zip(prompts, queries, second, strict=True)
            tokens, mask = self.padded([[*a, *b, *c] for a, b, c in rows])
            _, answers = self.turn(tokens, mask, env.answer_budget)
        return list(zip(texts, [t.decode(row) for row in answers], strict=True))

    def padded(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Tokens and attention mask int64 [B, T], padded on the left."""
        width, pad = max(map(len, rows)), self.tokenizer.pad
        tokens = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        return tokens, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])

    def turn(self, tokens: Tensor, mask: Tensor, budget: int, past=None):
        """What generate returns, and what every row wrote, without its <eos>."""
        options = {"past_key_values": past, "max_new_tokens": self.tokens or budget, **self.options}
        out = self.model.generate(tokens, attention_mask=mask, **options)
        end = -1 if self.tokens else None  # ours has its <eos> there
        written, eos = out.sequences[:, tokens.shape[1] : end].tolist(), self.tokenizer.eos
        return out, [row[: row.index(eos)] if eos in row else row for row in written]


def rate(player, questions: list[Question]) -> float:
    start = time.perf_counter()
    player(questions)
    return len(questions) / (time.perf_counter() - start)


def tune(peer: partial, questions: list[Question]) -> dict:
    """The peer's best options, chosen one after the other by the faster of two passes."""
    best = {}
    for name, values in TUNED.items():
        peers = {value: peer(temperature=0.0, **best, **{name: value}) for value in values}
        rates = {value: max(rate(p, questions) for _ in range(2)) for value, p in peers.items()}
        best[name] = max(rates, key=rates.get)
    return best


def compare(checkpoint: Path, env: RagEnv, questions: list[Question], tokens: int, rounds: int):
    """Print whether both sides play the same episodes, then the table."""
    policy, tokenizer, _ = open_policy(checkpoint)
    ours = partial(play, policy, tokenizer, env)
    peer = partial(Peer, checkpoint, tokenizer, env, tokens)
    mine, theirs = ours(0.0, "fp32", questions[:64]), peer(0.0)(questions[:64])
    same = [a == b for a, b in zip(mine, theirs, strict=True)]
    print(f"greedy fp32 episodes word for word alike: {sum(same)} of {len(same)}")
    best = tune(peer, questions)
    print("transformers with " + ", ".join(f"{name} {value}" for name, value in best.items()))
    players = {}
    for kind, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        players["ours, bf16", kind] = partial(ours, temperature, "bf16")
        players["ours, fp32", kind] = partial(ours, temperature, "fp32")
        players["transformers", kind] = peer(temperature, **best)
    passes = [{n: rate(p, questions) for n, p in players.items()} for _ in range(rounds + 1)]
    print(f"\n{'episodes/s':<26}{'median':>8}{'least':>8}{'most':>8}{'ratio':>8}")
    for name, kind in players:
        values, others = ([x[n, kind] for x in passes[1:]] for n in (name, "transformers"))
        cells = "".join(f"{x:>8.0f}" for x in (median(values), min(values), max(values)))
        print(f"{f'{name}, {kind}':<26}{cells}{median(values) / median(others):>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, help="a trained one; without it: random weights")
    parser.add_argument("--questions", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=8, help="of a turn, with random weights")
    parser.add_argument("--threads", type=int, default=0, help="of both sides, 0 = all")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    info = RunInfo("mini", "popqa")
    if args.checkpoint:
        info = run_info(read_json(args.checkpoint / "run.json"), args.checkpoint)
    world, index, _ = open_world("", RetrieverArgs(), info)
    questions = world.questions(info.dataset.partition(",")[0], "test")[: args.questions]
    env = replace(info, quota=1).environment(world, index)
    if args.checkpoint:
        return compare(args.checkpoint, env, questions, 0, args.rounds)
    with tempfile.TemporaryDirectory() as directory, fixed_length(args.tokens):
        random_checkpoint(world, Path(directory))
        compare(Path(directory), env, questions, args.tokens, args.rounds)


if __name__ == "__main__":
    main()
