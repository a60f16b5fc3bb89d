"""Episodes per second: our rollout against the same two-turn loop written with transformers' `generate`.

    python -m benchmarks.rollout                    a randomly initialised policy of the default size
    python -m benchmarks.rollout --checkpoint DIR   a trained one

Same weights, questions of the mini world, index, passages, number of threads; every episode retrieves once and then
answers. Random weights never write <eos>, so both sides write exactly --tokens tokens per turn there; a trained policy
stops by itself. Rounds are interleaved: one of each contender, again and again, so that a slow minute hits all of them.

The peer is tuned first, one choice after the other: dtype, attention, cache, batch size, and whether the second turn
continues the first one's cache (prompts padded on the left, observations padded in between) or reads everything again.
Ours runs with the defaults of the scripts: training samples in batches of 256, evaluation is greedy in batches of 512.
Left out: GPUs, beams, speculative decoding.
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch

import evaluate
from data.world import Question, World
from model import Config, Policy, Session, Tokenizer, load_policy, save_policy
from retrieval_cpp import BM25Index
from rl import Decoding, RagEnv, rollout
from rl.episode import observation
from rl.runs.precision import precision


def random_checkpoint(world: World, directory: Path) -> Path:
    """A policy of the default size that has learnt nothing, with a real tokenizer."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train((p.full_text for p in world.corpus), 2048)
    policy = Policy(Config(vocab_size=len(tokenizer)))
    # Tied random weights echo their input, and an echoed [RETRIEVE] is an empty query, which ends an episode of ours:
    # without embeddings the special tokens are never written, and every episode goes its whole way on both sides.
    special = [
        tokenizer.pad,
        tokenizer.bos,
        tokenizer.eos,
        tokenizer.obs,
        tokenizer.obs_end,
        tokenizer.sep,
        tokenizer.retrieve,
        tokenizer.answer,
    ]
    with torch.no_grad():
        policy.model.embed_tokens.weight[special] = 0
    save_policy(directory, policy, tokenizer, {})
    return directory


@contextmanager
def fixed_length(tokens: int | None):
    """Our generate writes exactly `tokens` tokens, the last of them <eos>: what min_new_tokens does for the peer."""
    real = Session.generate
    if tokens:

        def generate(self, first, budget, temperature, eos, generator=None):
            return [
                text[:-1] + [eos] for text in real(self, first, tokens, temperature, -1, generator)
            ]

        Session.generate = generate
    try:
        yield
    finally:
        Session.generate = real


class Ours:
    def __init__(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        env: RagEnv,
        dtype: str,
        temperature: float,
        tokens: int | None,
    ):
        self.policy, self.tokenizer, self.env, self.dtype, self.tokens = (
            policy,
            tokenizer,
            env,
            dtype,
            tokens,
        )
        self.decoding = Decoding(temperature, force="retrieve")
        self.options = (
            {} if temperature else {"batch_size": evaluate.Args.batch_size}
        )  # training samples, evaluation is greedy

    def play(self, questions: list[Question]) -> list[tuple[str, str]]:
        with fixed_length(self.tokens), precision("cpu", self.dtype):
            episodes = rollout(
                self.policy,
                self.tokenizer,
                self.env,
                questions,
                self.decoding,
                torch.Generator().manual_seed(0),
                **self.options,
            )
        return [(e.turns[0].query if e.turns else "", e.answer) for e in episodes]


class Peer:
    """The loop that a user of transformers writes."""

    def __init__(
        self,
        checkpoint: Path,
        tokenizer: Tokenizer,
        env: RagEnv,
        temperature: float,
        tokens: int | None,
        dtype: str = "fp32",
        attention: str = "sdpa",
        cache: str = "dynamic",
        batch_size: int = 256,
        again: bool = False,
    ):
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype],
            attn_implementation=attention,
        ).eval()
        self.tokenizer, self.env, self.batch_size, self.again = tokenizer, env, batch_size, again
        self.options = {
            "do_sample": temperature > 0,
            "pad_token_id": tokenizer.pad,
            "eos_token_id": tokenizer.eos,
            "bos_token_id": tokenizer.bos,
            "return_dict_in_generate": True,
            "use_cache": True,
        }
        if temperature > 0:
            self.options |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
        if cache == "static":
            self.options["cache_implementation"] = "static"
        self.budgets = (
            [{"min_new_tokens": tokens, "max_new_tokens": tokens}] * 2
            if tokens
            else [{"max_new_tokens": env.query_budget}, {"max_new_tokens": env.answer_budget}]
        )

    def left_padded(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width, pad = max(map(len, rows)), self.tokenizer.pad
        return torch.tensor([[pad] * (width - len(r)) + r for r in rows]), torch.tensor(
            [[0] * (width - len(r)) + [1] * len(r) for r in rows]
        )

    def turn(self, tokens: torch.Tensor, mask: torch.Tensor, budget: dict, cache=None):
        out = self.model.generate(
            tokens, attention_mask=mask, past_key_values=cache, **budget, **self.options
        )
        written = out.sequences[:, tokens.shape[1] :]
        ids = [
            row[: row.index(self.tokenizer.eos)]
            if self.tokenizer.eos in row
            else row[:-1]
            if "min_new_tokens" in budget
            else row
            for row in written.tolist()
        ]
        return out, [self.tokenizer.decode(row) for row in ids], ids

    @torch.inference_mode()
    def play(self, questions: list[Question]) -> list[tuple[str, str]]:
        results = []
        for start in range(0, len(questions), self.batch_size):
            batch = questions[start : start + self.batch_size]
            prompts = [
                [self.tokenizer.bos, *ids, self.tokenizer.retrieve]
                for ids in self.tokenizer.encode_batch([q.question for q in batch])
            ]
            tokens, mask = self.left_padded(prompts)
            out, queries, query_ids = self.turn(tokens, mask, self.budgets[0])
            observed = [
                observation(self.env.passage_ids(turn.passages, self.tokenizer), self.tokenizer)
                for turn in self.env.search(queries)
            ]
            second = [[self.tokenizer.eos, *o, self.tokenizer.answer] for o in observed]
            if self.again:
                tokens, mask = self.left_padded(
                    [p + q + s for p, q, s in zip(prompts, query_ids, second)]
                )
                _, answers, _ = self.turn(tokens, mask, self.budgets[1])
            else:
                chunk, chunk_mask = self.left_padded(second)
                kept = out.sequences.shape[1] - tokens.shape[1]
                query_mask = torch.tensor(
                    [[1] * len(q) + [0] * (kept - len(q)) for q in query_ids]
                )  # its <eos> is in the chunk
                tokens, mask = (
                    torch.cat([out.sequences, chunk], 1),
                    torch.cat([mask, query_mask, chunk_mask], 1),
                )
                _, answers, _ = self.turn(tokens, mask, self.budgets[1], out.past_key_values)
            results += zip(queries, answers)
        return results


def rate(contender, questions: list[Question]) -> float:
    start = time.perf_counter()
    contender.play(questions)
    return len(questions) / (time.perf_counter() - start)


def tune(make, questions: list[Question]) -> dict:
    """The peer's best options, chosen one after the other: each choice is the fastest of two passes over the questions."""
    best: dict = {}
    for name, values in (
        ("dtype", ("fp32", "bf16")),
        ("attention", ("sdpa", "eager")),
        ("again", (False, True)),
        ("cache", ("dynamic", "static")),
        ("batch_size", (256, 64, 128, 512, 1024)),
    ):
        rates = {}
        for value in values:
            if name == "cache" and value == "static" and not best["again"]:
                continue  # a static cache is made for one call and cannot be continued
            try:
                contender = make(**best, **{name: value})
                rates[value] = max(rate(contender, questions) for _ in range(2))
            except Exception as error:  # an option that this version does not have
                print(f"  {name} = {value}: {type(error).__name__}: {str(error).splitlines()[0]}")
        best[name] = max(rates, key=rates.get)
        print(f"  {name:<11}" + "   ".join(f"{value}: {r:.0f}/s" for value, r in rates.items()))
    return best


def time_split(ours: Ours, questions: list[Question]) -> dict[str, float]:
    """Seconds of one pass of ours: prompts read, tokens written, searched, observations read, and the rest (Python, tokenizer)."""
    spent, inside = Counter(), []

    def timed(owner, name: str, label: str):
        real = getattr(owner, name)

        def wrapped(*args, **kwargs):
            if inside:  # Session.start reads its prompts by Session.feed
                return real(*args, **kwargs)
            inside.append(label)
            start = time.perf_counter()
            try:
                return real(*args, **kwargs)
            finally:
                spent[label] += time.perf_counter() - start
                inside.pop()

        setattr(owner, name, staticmethod(wrapped) if name == "start" else wrapped)
        return owner, name, real

    with fixed_length(ours.tokens):
        patched = [
            timed(Session, "start", "prefill"),
            timed(Session, "generate", "decode"),
            timed(Session, "feed", "observation"),
            timed(ours.env, "search", "search"),
        ]
        try:
            start = time.perf_counter()
            with precision("cpu", ours.dtype):
                rollout(
                    ours.policy,
                    ours.tokenizer,
                    ours.env,
                    questions,
                    ours.decoding,
                    torch.Generator().manual_seed(0),
                )
            whole = time.perf_counter() - start
        finally:
            for owner, name, real in reversed(patched):
                setattr(owner, name, real)
    return dict(spent) | {"rest": whole - sum(spent.values())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", default="", help="a trained checkpoint; empty: random weights"
    )
    parser.add_argument("--questions", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--tokens", type=int, default=8, help="tokens of a turn, with random weights"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="torch threads of both sides, 0 = all"
    )
    args = parser.parse_args()
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    world = World.open("mini")
    questions = world.questions("popqa", "test")[: args.questions]
    env = RagEnv(world, BM25Index.build(p.full_text for p in world.corpus))
    tokens = None if args.checkpoint else args.tokens
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = (
            Path(args.checkpoint) if args.checkpoint else random_checkpoint(world, Path(temporary))
        )
        policy, tokenizer, _ = load_policy(checkpoint)
        print(
            f"rollout: {policy.parameter_count():,} parameters ({args.checkpoint or 'random weights'}), {len(questions)} questions of {world.name}, k = {env.k}, "
            f"one retrieval each, {f'{tokens} tokens per turn' if tokens else 'turns end by themselves'}; {torch.get_num_threads()} threads, "
            f"torch {torch.__version__}, transformers {transformers.__version__}"
        )
        make = lambda temperature=0.0, **options: Peer(
            checkpoint, tokenizer, env, temperature, tokens, **options
        )
        # The same loop, or the comparison is void: greedy fp32 must give the same queries and answers.
        sample = questions[:64]
        agree = {
            again: [
                a == b
                for a, b in zip(
                    Ours(policy, tokenizer, env, "fp32", 0.0, tokens).play(sample),
                    make(again=again).play(sample),
                )
            ]
            for again in (False, True)
        }
        print(
            f"greedy fp32 episodes that are word for word the same on both sides: {sum(agree[False])} of {len(sample)} (cache continued), {sum(agree[True])} (read again)"
        )
        print("tuning the peer")
        best = tune(make, questions[:1024])
        contenders = {
            f"{name}, {kind}": contender
            for kind, t in (("greedy", 0.0), ("sampled", 1.0))
            for name, contender in (
                ("ours bf16", Ours(policy, tokenizer, env, "bf16", t, tokens)),
                ("ours fp32", Ours(policy, tokenizer, env, "fp32", t, tokens)),
                ("transformers", make(t, **best)),
                ("transformers, plain", make(t, **best | {"again": True})),
            )
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(args.rounds + 1):
            for name, contender in contenders.items():
                r = rate(contender, questions)
                if turn:  # the first round warms up
                    rates[name].append(r)
        print(f"\n{'episodes/s':<30}{'median':>8}{'range':>16}{'ratio':>8}")
        for name, values in rates.items():
            peer = statistics.median(rates["transformers, " + name.rpartition(", ")[2]])
            print(
                f"{name:<30}{statistics.median(values):>8.0f}{f'{min(values):.0f} - {max(values):.0f}':>16}{statistics.median(values) / peer:>8.2f}"
            )
        print(
            "transformers with "
            + ", ".join(f"{k} {v}" for k, v in best.items())
            + "; plain: with a second turn that reads everything again"
        )
        for dtype in ("bf16", "fp32"):
            split = time_split(Ours(policy, tokenizer, env, dtype, 1.0, tokens), questions)
            print(
                f"time of ours, {dtype}, sampled: "
                + ", ".join(
                    f"{name} {100 * s / sum(split.values()):.0f} %" for name, s in split.items()
                )
            )


if __name__ == "__main__":
    main()
