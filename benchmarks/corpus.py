"""A deterministic text collection with the statistics that decide how fast a search engine is.

Natural document frequencies: a Zipf-Mandelbrot vocabulary of 500,000 words headed by the English
function words, which make 44 % of all tokens; passage lengths lognormal around 83 words.  Terms
co-occur: each passage has a topic (2,000 topics of 400 words) and a few subjects of its own that it
repeats.  Queries are words of one passage in its order, every other one behind "who was the" or the
like, so that half of a query's words are the long posting lists of "the", "of", "was".

Left out: grammar and meaning; nothing here says anything about the quality of a ranking.

  N passages, V vocabulary, T tokens of a chunk; word numbers are frequency ranks
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FUNCTION_WORDS = """
the of and in to a was is for as on with by he that at from his it an were are which this be had
or also first has have not one their but its who they her she been new two other after all
during when into some more time may can most him only many years over such than would about
there no made used between later known world these while up under out became where then city
part three being both through if will state before s until being them what how did i you we so
do each since because my now your me our against
""".split()  # noqa: SIM905 a list would be 109 lines
VOCABULARY, TOPICS, TOPIC_WORDS, SUBJECTS = 500_000, 2_000, 400, 6
CHUNK = 10_000
OPENINGS = (
    "who was the",
    "what is the",
    "in which",
    "what was the name of the",
    "when did the",
    "who is the",
)


def vocabulary() -> list[str]:
    """Function words, then pronounceable made-up ones, the longer the rarer."""
    words = list(dict.fromkeys(FUNCTION_WORDS))
    taken = set(words)
    syllables = [c + v for c in [*"bcdfghjklmnprstvwz", "ch", "st"] for v in "aeiou"]
    number = 0
    while len(words) < VOCABULARY:
        number, rest, word = number + 1, number, ""
        for _ in range(2 if number < 10_000 else 3):
            word += syllables[rest % 100]
            rest //= 100
        if word not in taken:
            words.append(word)
    return words


def zipf_mandelbrot(size: int, exponent: float, shift: float) -> np.ndarray:
    """Cumulative distribution over ranks."""
    weights = 1.0 / (np.arange(size) + shift) ** exponent
    return np.cumsum(weights / weights.sum())


def draw(rng: np.random.Generator, cumulative: np.ndarray, shape, low: float = 0.0) -> np.ndarray:
    """Ranks drawn from the part of the distribution above the quantile `low`."""
    return np.minimum(
        np.searchsorted(cumulative, rng.uniform(low, 1.0, shape)), len(cumulative) - 1
    )


class Generator:
    """Draws passages as arrays of word numbers."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.functions = len(set(FUNCTION_WORDS))
        self.function = zipf_mandelbrot(self.functions, exponent=1.0, shift=1.5)
        self.content = zipf_mandelbrot(VOCABULARY - self.functions, exponent=1.1, shift=60)
        self.within_topic = zipf_mandelbrot(TOPIC_WORDS, exponent=1.0, shift=10)
        self.topics = draw(self.rng, self.content, (TOPICS, TOPIC_WORDS))

    def chunk(self, count: int) -> list[np.ndarray]:
        """Passages of 44 % function words, 26 % general, 20 % topical, 10 % their own subjects."""
        rng = self.rng
        lengths = np.clip(rng.lognormal(np.log(78), 0.35, count), 10, 400).astype(np.int64)
        passage = np.repeat(np.arange(count), lengths)  # [T]
        tokens = len(passage)
        topic = rng.integers(0, TOPICS, count)
        subjects = self.topics[topic[:, None], rng.integers(0, TOPIC_WORDS, (count, SUBJECTS))]
        rare = draw(rng, self.content, (count, SUBJECTS), low=0.4)
        subjects = np.where(rng.random((count, SUBJECTS)) < 0.5, rare, subjects)

        kind = rng.random(tokens)
        words = draw(rng, self.content, tokens)
        topical = self.topics[topic[passage], draw(rng, self.within_topic, tokens)]
        own = subjects[passage, rng.integers(0, SUBJECTS, tokens)]
        words = np.where(kind < 0.70, words, np.where(kind < 0.90, topical, own)) + self.functions
        words = np.where(kind < 0.44, draw(rng, self.function, tokens), words)
        return np.split(words, np.cumsum(lengths)[:-1])


def passages(count: int, seed: int = 0) -> Iterator[str]:
    """`count` passages of text, with capitals and full stops."""
    words, generator = vocabulary(), Generator(seed)
    for start in range(0, count, CHUNK):
        for ranks in generator.chunk(min(CHUNK, count - start)):
            text = [words[rank] for rank in ranks.tolist()]
            for i in range(0, len(text), 14):
                text[i] = text[i].capitalize()
                text[i - 1] += "."
            yield " ".join(text)


def corpus_file(count: int, directory: Path) -> Path:
    """The corpus as a file of one passage a line, written once."""
    path = directory / f"corpus-{count}.txt"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with open(temporary, "w") as file:
            file.writelines(text + "\n" for text in passages(count))
        os.replace(temporary, path)
    return path


def lines(path: Path, numbers: list[int]) -> list[list[str]]:
    """The words of some passages, in the order of `numbers`."""
    wanted = set(numbers)
    with open(path) as file:
        found = {i: line for i, line in enumerate(file) if i in wanted}
    return [found[i].lower().replace(".", " ").split() for i in numbers]


def queries(path: Path, least: int, most: int, count: int, seed: int = 1) -> list[str]:
    """Words of a passage in its order, every other query behind a question's opening."""
    rng = np.random.default_rng(seed)
    total = int(path.stem.split("-")[1])
    out = []
    for n, text in enumerate(lines(path, rng.choice(total, count, replace=False).tolist())):
        opening = OPENINGS[rng.integers(len(OPENINGS))].split() if n % 2 else []
        size = int(rng.integers(least, most + 1 - len(opening)))
        keep = sorted(rng.choice(len(text), size, replace=False))
        out.append(" ".join(opening + [text[i] for i in keep]))
    return out


def long_queries(path: Path, least: int, most: int, count: int, seed: int = 2) -> list[str]:
    """The first distinct words of a passage, and of others behind it where it is too short."""
    rng = np.random.default_rng(seed)
    total = int(path.stem.split("-")[1])
    texts = lines(path, rng.choice(total, count + 40, replace=False).tolist())
    out = []
    for n in range(count):
        words, size, passage = {}, int(rng.integers(least, most + 1)), n
        while len(words) < size:
            words |= dict.fromkeys(texts[passage % len(texts)])
            passage += 1
        out.append(" ".join(list(words)[:size]))
    return out
