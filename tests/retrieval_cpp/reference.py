"""The slow twin: BM25, tokens and top-k in the fewest obvious lines.  Oracle of every fast path.

Arithmetic is float32 in the kernel's order (terms as they first appear in the query), so that scores can be compared
for equality, not only to a tolerance.
"""

import math
import unicodedata
from collections import Counter

import numpy as np

f32 = np.float32


def is_ideograph(c: str) -> bool:
    return any(a <= ord(c) <= b for a, b in ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x3FFFF)))


def tokens(text: str) -> list[str]:
    """Runs of letters and numbers after NFKD, case folding, NFKD and the removal of marks."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    out = []
    for c in text:
        if unicodedata.category(c) == "Mn" or unicodedata.combining(c):
            continue
        if unicodedata.category(c)[0] not in "LNM":
            out.append(" ")
        else:
            out.append(f" {c} " if is_ideograph(c) else c)
    return "".join(out).split()


class BM25Twin:
    def __init__(self, texts, k1=0.9, b=0.4, stopwords=(), stem=lambda word: word):
        self.clean = lambda text: [stem(w) for w in tokens(text) if w not in stopwords]
        self.documents = [Counter(self.clean(text)) for text in texts]
        lengths = [d.total() for d in self.documents]
        mean = sum(lengths) / max(1, len(lengths))
        k1, b = float(f32(k1)), float(f32(b))
        self.norms = [f32(k1 * (1.0 - b + b * (n / mean if mean else 1.0))) for n in lengths]
        self.df = Counter(term for d in self.documents for term in d)

    def idf(self, term):
        return f32(math.log1p((len(self.documents) - self.df[term] + 0.5) / (self.df[term] + 0.5)))

    def scores(self, query):
        """{passage: score} for the passages that share a term with the query."""
        out = {}
        for term, count in Counter(self.clean(query)).items():
            if term not in self.df:
                continue
            weight = f32(count) * self.idf(term)
            for i, document in enumerate(self.documents):
                if tf := f32(document[term]):
                    out[i] = out.get(i, f32(0)) + weight * (tf / (tf + self.norms[i]))
        return out

    def search(self, queries, k):
        ids = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for q, query in enumerate(queries):
            best = sorted(self.scores(query).items(), key=lambda item: (-item[1], item[0]))[:k]
            for i, (passage, score) in enumerate(best):
                ids[q, i], scores[q, i] = passage, score
        return ids, scores
