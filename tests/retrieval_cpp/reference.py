"""The slow twin: BM25, tokens and top-k in the fewest obvious lines.  Oracle of every fast path.

Arithmetic is float32 in the kernel's order (terms as they first appear in the query), so that
scores can be compared for equality, not only to a tolerance.
"""

import math
import unicodedata
from collections import Counter

import numpy as np

f32 = np.float32


def is_ideograph(c: str) -> bool:
    return any(
        a <= ord(c) <= b
        for a, b in ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x3FFFF))
    )


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
    """Every passage scored for every query, from a [V, N] matrix of term frequencies."""

    def __init__(self, texts, k1=0.9, b=0.4, stopwords=(), stem=lambda word: word):
        self.clean = lambda text: [stem(word) for word in tokens(text) if word not in stopwords]
        documents = [Counter(self.clean(text)) for text in texts]
        self.terms = {
            term: row
            for row, term in enumerate(dict.fromkeys(term for d in documents for term in d))
        }
        self.tf = np.zeros((len(self.terms), len(documents)), f32)
        for i, document in enumerate(documents):
            for term, count in document.items():
                self.tf[self.terms[term], i] = count
        lengths = [d.total() for d in documents]
        mean = sum(lengths) / max(1, len(lengths))
        k1, b = float(f32(k1)), float(f32(b))
        self.norms = np.array(
            [k1 * (1.0 - b + b * (n / mean if mean else 1.0)) for n in lengths], f32
        )

    def idf(self, term):
        n, df = self.tf.shape[1], np.count_nonzero(self.tf[self.terms[term]])
        return f32(math.log1p((n - df + 0.5) / (df + 0.5)))

    def scores(self, query):
        """Scores [N], and which passages share a term with the query."""
        out, shares = np.zeros(self.tf.shape[1], f32), np.zeros(self.tf.shape[1], bool)
        for term, count in Counter(self.clean(query)).items():
            if term in self.terms:
                tf = self.tf[self.terms[term]]
                impact = np.divide(tf, tf + self.norms, out=np.zeros_like(tf), where=tf > 0)
                out += f32(count) * self.idf(term) * impact
                shares |= tf > 0
        return out, shares

    def search(self, queries, k):
        shape = (len(queries), min(k, self.tf.shape[1]))
        ids, scores = np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32)
        for q, query in enumerate(queries):
            score, shares = self.scores(query)
            best = [i for i in np.lexsort((np.arange(len(score)), -score)) if shares[i]][:k]
            ids[q, : len(best)], scores[q, : len(best)] = best, score[best]
        return ids, scores
