"""The warm-up teacher: what a demonstration asks the retriever.

It is weak on purpose (the paper's warm-up is imperfect as well): it knows capitalised words and
which words passages use where *training* questions are worded alike, not how the retriever scores,
and most of its queries use no such word at all. PPO has to find out by itself which kind pays.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from data.world import Passage, Question

MOST = 2  # keywords of a template
# What the teacher asks, with its share. Keywords are added to the subject.
TEACHER = (("question", 0.35), ("subject", 0.30), ("one keyword", 0.20), ("two keywords", 0.15))

# The usual function words, of questions and of passages.
_STOP_WORDS = """
a about after all also an and any are as at be been before but by can could did do does for from
had has have he her him his how i if in into is it its know me my now of on one or our out over
said say she so some such tell than that the their them then there these they this to up us was
we were what when where which who whom whose why will with wondering would you your formerly
happen please
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

SMALL_WORDS = ("of", "the", "and", "in", "de", "a", "to", "for")  # inside a title
_WORD = re.compile(r"\w+(?:[-.]\w+)*")


def subject_of(question: str) -> str:
    """The longest run of capitalised words, the first word aside: who or what a question is
    probably about, "" where there is none. Small words inside a title ("The Mayor of Casterbridge")
    do not end the run; options ("... (A) one (B) other") are not looked at."""
    words = _WORD.findall(question.partition(" (A) ")[0].replace("'s", ""))
    best, run = [], []
    for i, word in enumerate(words):
        begins = i > 0 and (word[0].isupper() or word[0].isdigit())
        goes_on = run and word.lower() in SMALL_WORDS
        run = [*run, word] if begins or goes_on else []
        end = max((j + 1 for j, w in enumerate(run) if not w.islower()), default=0)
        if end > len(best):
            best = run[:end]
    return " ".join(best)


def template_of(question: Question) -> tuple[str, str]:
    """What is asked, the relation or else the question without its subject; and of what kind of
    subject, the word before it ("film"). Questions alike in both are answered by like passages."""
    before, _, after = question.question.partition(subject_of(question.question) or "\0")
    kind = (_WORD.findall(before) or [""])[-1]
    return question.relation or f"{before}{{}}{after}", kind


def keywords_of(passage: Passage, question: Question) -> list[str]:
    """Content words of a passage that name neither its subject nor the answer: what a query may add
    to the subject."""
    named = _WORD.findall(" ".join((passage.title, question.question, *question.answers)))
    taken = set().union(*map(_parts, named))
    words = dict.fromkeys(w.lower() for w in _WORD.findall(passage.text.replace("'s", "")))
    return [w for w in words if w not in STOP_WORDS and not _parts(w) & taken]


def _parts(word: str) -> set[str]:
    """A word, its parts and their union: "Caldis-born" names Caldis, "U.N." is "UN"."""
    word = word.lower()
    return {word, re.sub("[-.]", "", word), *re.split("[-.]", word)}


class Teacher:
    def __init__(self, gold: Sequence[tuple[Question, Passage]]):
        """gold: questions, each with a gold passage. A template's keywords are the MOST words that
        tell the gold passages of its questions best from all gold passages: by share x
        log(share / overall share)."""
        said: dict[tuple, list[list[str]]] = {}  # template -> the words of each gold passage
        for question, passage in gold:
            said.setdefault(template_of(question), []).append(keywords_of(passage, question))
        overall = Counter(w for passages in said.values() for words in passages for w in words)
        # template -> words and their probabilities
        self.keywords: dict[tuple, tuple[list[str], np.ndarray]] = {}
        for template, passages in said.items():
            counts = Counter(w for words in passages for w in words)
            share = {w: n / len(passages) for w, n in counts.items() if n > 1}
            telling = {w: x * np.log(x * len(gold) / overall[w]) for w, x in share.items()}
            best = sorted((w for w in telling if telling[w] > 0), key=lambda w: (-telling[w], w))
            if best:
                weights = np.array([telling[w] for w in best[:MOST]])
                self.keywords[template] = best[:MOST], weights / weights.sum()

    def query(self, question: Question, rng: Generator, subject: str = "") -> str:
        """One query. Where nobody asked in these words before, the subject stands alone. subject:
        what a follow-up query is about, which never is the raw question."""
        kind = rng.choice([name for name, _ in TEACHER], p=[share for _, share in TEACHER])
        follows = bool(subject)
        subject = subject or subject_of(question.question)
        if not subject or (kind == "question" and not follows):
            return question.question
        words, shares = self.keywords.get(template_of(question), ([], None))
        count = min(len(words), {"one keyword": 1, "two keywords": 2}.get(kind, 0))
        chosen = rng.choice(words, count, replace=False, p=shares) if count else []
        # The answer is never given away, whoever else used the word.
        answer = {w.lower() for text in question.answers for w in _WORD.findall(text)}
        return " ".join([subject, *(w for w in chosen if w not in answer)])
