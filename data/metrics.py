"""Answer metrics: exact match, token F1, and whether retrieved passages hold the answer.

Pure functions after the official SQuAD v1.1 script (Rajpurkar et al., 2016), best of the aliases.
Left out on purpose: HotpotQA's special case, F1 0 where exactly one side is "yes" or "no".
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from data.world import MULTI_HOP, Passage, Question

_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as in the official script
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _forms(s: str) -> list[str]:
    """Without punctuation and articles; with articles; with both. Lower-case, single blanks."""
    lowered = unicodedata.normalize("NFC", s).lower()
    bare = lowered.translate(_PUNCTUATION)
    return [" ".join(form.split()) for form in (_ARTICLES.sub(" ", bare), bare, lowered)]


def normalize_answer(s: str) -> str:
    """Lower-case, without punctuation, articles and extra white space: "The U.S." -> "us". Unlike
    the official script, what would leave nothing is kept: "The" -> "the", "!!!" -> "!!!"."""
    return next(filter(None, _forms(s)), "")


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 when the prediction equals any of the answers after normalisation, else 0.0."""
    return float(normalize_answer(prediction) in map(normalize_answer, answers))


def f1_score(prediction: str, answers: Sequence[str]) -> float:
    """Harmonic mean of token precision and recall, in [0, 1]; of the best answer."""
    best, predicted = 0.0, normalize_answer(prediction).split()
    for answer in answers:
        gold = normalize_answer(answer).split()
        if common := (Counter(predicted) & Counter(gold)).total():
            precision, recall = common / len(predicted), common / len(gold)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def contains_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether the tokens of any answer occur in `text` one after the other, both normalised: "art"
    is not in "artist". Never found are a single letter and an article alone: the label of an option
    is no fact that a passage could state."""
    texts = _forms(text)
    for answer in answers:
        pairs = zip(_forms(answer), texts, strict=True)
        wanted, held = next((pair for pair in pairs if pair[0]), ("", ""))
        if not re.fullmatch("[a-z]?|an|the", wanted) and f" {wanted} " in f" {held} ":
            return True
    return False


def missing_gold(passages: Sequence[Passage], question: Question) -> list[str]:
    """Ids of gold passages still to be found: of a multi-hop question all that are not among
    `passages`; of any other none once one was found."""
    gold, found = question.gold_passages or (), {passage.id for passage in passages}
    missing = [i for i in gold if i not in found]
    return missing if question.type in MULTI_HOP or len(missing) == len(gold) else []


def hit(passages: Sequence[Passage], question: Question) -> bool:
    """Whether no gold passage is missing, False where there is none; where they are unknown,
    whether any passage holds an answer. The word "no" in a passage is no answer."""
    if question.gold_passages is not None:
        return bool(question.gold_passages) and not missing_gold(passages, question)
    answers = [one for one in question.answers if normalize_answer(one) not in ("yes", "no")]
    return any(contains_answer(passage.full_text, answers) for passage in passages)


def gold_passage(question: Question, rows: dict[str, int]) -> int | None:
    """Corpus row of the first gold passage, None where none is known; `rows`: passage id -> row."""
    return next((rows[i] for i in question.gold_passages or () if i in rows), None)


def stated(passages: Sequence[Passage], question: Question) -> tuple[int, str] | None:
    """(position, answer) of the first passage that states an accepted answer, None without one.
    Where gold passages are known they alone count: others may hold the same words by accident."""
    known = question.gold_passages
    for position, passage in enumerate(passages):
        if known is None or passage.id in known:
            for answer in question.answers:
                if contains_answer(passage.full_text, [answer]):
                    return position, answer
    return None


def answerable(passages: Sequence[Passage], question: Question) -> bool:
    """Whether these passages state the answer, or all that it follows from."""
    if question.type in MULTI_HOP and question.gold_passages:
        return not missing_gold(passages, question)
    return stated(passages, question) is not None
