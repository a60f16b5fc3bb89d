"""The warm-up teacher: what a demonstration asks the retriever, and which training questions a step sees.

The teacher is weak on purpose (the paper's warm-up is imperfect as well): it knows capitalised words and which words
passages use where *training* questions are worded alike, not how the retriever scores, and most of its queries use no
such word at all. PPO has to find out by itself which kind of query pays.
Left out: token sequences and masks (rl/episode.py) and decision labels (train_sft.py probes the model for those).
"""
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from .metrics import contains_answer, missing_gold
from .world import MULTI_HOP, Passage, Question

# What the teacher asks, with its share: the raw question, the subject, the subject and 1 or 2 keywords.
TEACHER = (("question", 0.35), ("subject", 0.30), ("one keyword", 0.20), ("two keywords", 0.15))

# The usual function words, of questions and of passages.
STOP_WORDS = frozenset("""a about after all also an and any are as at be been before but by can could did do does for from
had has have he her him his how i if in into is it its know me my now of on one or our out over said say she so some such
tell than that the their them then there these they this to up us was we were what when where which who whom whose why
will with wondering would you your formerly happen please""".split())

_WORD = re.compile(r"\w+(?:[-.]\w+)*", re.UNICODE)


def subject_of(question: str) -> str:
    """The longest run of capitalised words, the first word aside: who or what a question is probably about.

    Small words inside a title ("The Mayor of Casterbridge") do not end the run; a question's options ("... (A) one (B) other")
    are not looked at. "" where there is no such run.
    """
    words = _WORD.findall(question.partition(" (A) ")[0].replace("'s", ""))
    best, run = [], []
    for i, word in enumerate(words):
        if i and (word[0].isupper() or word[0].isdigit()):
            run.append(word)
        elif run and word.lower() in ("of", "the", "and", "in", "de", "a", "to", "for"):
            run.append(word)
        else:
            run = []
        while_capitalised = run[:max((j + 1 for j, w in enumerate(run) if not w.islower()), default=0)]
        if len(while_capitalised) > len(best):
            best = list(while_capitalised)
    return " ".join(best)


def template_of(question: Question) -> tuple[str, str]:
    """What is asked, of what kind of subject: the relation where it is known, else the question without its subject; and
    the word before the subject ("film", "city of"). Questions with the same template are answered by like passages."""
    before, subject, after = question.question.partition(subject_of(question.question) or "\0")
    kind = (_WORD.findall(before) or [""])[-1]
    return question.relation or f"{before}{{}}{after}", kind


def keywords_of(passage: Passage, question: Question) -> list[str]:
    """Content words of a passage that name neither its subject nor the answer: what a query may add to the subject."""
    taken = {p for text in (passage.title, question.question, *question.answers) for w in _WORD.findall(text) for p in _parts(w)}
    words = dict.fromkeys(w.lower() for w in _WORD.findall(passage.text.replace("'s", "")))
    return [w for w in words if w not in STOP_WORDS and not _parts(w) & taken]


def _parts(word: str) -> set[str]:
    """A word, its parts and their union: "Caldis-born" names Caldis, "U.N." is "UN"."""
    word = word.lower()
    return {word, re.sub("[-.]", "", word), *re.split("[-.]", word)}


class Teacher:
    """Demonstration queries for training questions: deterministic up to the generator that is passed in."""

    def __init__(self, questions: Sequence[Question], gold: Sequence[Passage | None], most: int = 2):
        """gold: a gold passage of each question, or None. A template's keywords are the `most` words that tell the gold
        passages of its questions best from all gold passages: by share x log(share / overall share)."""
        counts: dict[tuple, Counter] = {}
        totals: Counter = Counter()
        overall: Counter = Counter()
        for question, passage in zip(questions, gold, strict=True):
            if passage is not None:
                words, template = keywords_of(passage, question), template_of(question)
                counts.setdefault(template, Counter()).update(words)
                totals[template] += 1
                overall.update(words)
        everything = sum(totals.values())
        self.keywords: dict[tuple, tuple[list[str], np.ndarray]] = {}  # template -> words and their probabilities
        for template, counter in counts.items():
            share = {w: n / totals[template] for w, n in counter.items() if n > 1}
            telling = {w: x * np.log(x * everything / overall[w]) for w, x in share.items()}
            best = sorted((w for w in telling if telling[w] > 0), key=lambda w: (-telling[w], w))[:most]
            if best:
                self.keywords[template] = best, np.array([telling[w] for w in best]) / sum(telling[w] for w in best)

    def query(self, question: Question, rng: np.random.Generator, subject: str = "") -> str:
        """One query. Where nobody asked in these words before, there are no keywords and the subject stands alone.

        subject: what a follow-up query is about, where that is not what the question names; it never is the raw question."""
        kind = rng.choice([name for name, _ in TEACHER], p=[share for _, share in TEACHER])
        if kind == "question" and subject:
            kind = "subject"
        subject = subject or subject_of(question.question)
        if kind == "question" or not subject:
            return question.question
        count = {"subject": 0, "one keyword": 1, "two keywords": 2}[kind]
        words, shares = self.keywords.get(template_of(question), ([], None))
        chosen = rng.choice(words, min(count, len(words)), replace=False, p=shares) if count and words else []
        answer = {w.lower() for text in question.answers for w in _WORD.findall(text)}  # never given away, whoever else used the word
        return " ".join([subject, *(w for w in chosen if w not in answer)])


def gold_passage(question: Question, rows: dict[str, int]) -> int | None:
    """Corpus row of the first gold passage, None where none is known; `rows` maps passage id to row."""
    return next((rows[i] for i in question.gold_passages or () if i in rows), None)


def stated(passages: Sequence[Passage], question: Question) -> tuple[int, str] | None:
    """(position, answer) of the first passage that states an accepted answer, None without one. Gold passages count where
    they are known: a stale passage or one about a namesake may hold the same words by accident."""
    known = question.gold_passages
    for position, passage in enumerate(passages):
        if known is None or passage.id in known:
            for answer in question.answers:
                if contains_answer(passage.full_text, [answer]):
                    return position, answer
    return None


def answerable(passages: Sequence[Passage], question: Question) -> bool:
    """Whether a reader could find the answer in these passages: it is stated, or all that it follows from is there."""
    if question.type in MULTI_HOP and question.gold_passages:
        return not missing_gold(passages, question)
    return stated(passages, question) is not None


class QuestionSampler:
    """Training questions of step t, a pure function of (seed, t): a resumed run sees what an uninterrupted one saw.

    A share of each draw is popular questions, asked in proportion to their popularity; the others are uniform, an equal
    part from each question set. Where the world has no slices, there are only others.
    """

    def __init__(self, sets: Sequence[Sequence[Question]], popular_share: float, seed: int):
        """sets: the questions of each question set."""
        self.questions, self.seed = [q for questions in sets for q in questions], seed
        popular = np.array([q.slice == "popular" for q in self.questions])
        self.popular = np.flatnonzero(popular)
        member = np.repeat(np.arange(len(sets)), [len(questions) for questions in sets])
        self.others = [rows for i in range(len(sets)) if len(rows := np.flatnonzero(~popular & (member == i)))]
        self.share = popular_share if len(self.popular) and self.others else float(not self.others)
        weights = np.array([self.questions[i].popularity or 1.0 for i in self.popular])
        self.weights = weights / weights.sum() if len(weights) else weights

    def draw(self, count: int, step: int, stream: int = 0) -> list[Question]:
        """`count` questions for one step; popular ones first (shuffle for order). `stream` separates phases."""
        rng = np.random.default_rng([self.seed, stream, step])
        popular = round(count * self.share)
        rows = [*rng.choice(self.popular, popular, p=self.weights)] if popular else []
        left = count - popular
        for i, others in enumerate(self.others):
            rows += [*rng.choice(others, left * (i + 1) // len(self.others) - left * i // len(self.others))]
        return [self.questions[i] for i in rows]
