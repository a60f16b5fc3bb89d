"""What a warm-up policy can do so far, found by letting it play.

    dev_figures(play, questions)     what the warm-up must have taught
    known_by_heart(play, questions)  which questions its own direct answer is right for

`play(questions, force, update)` gives the greedy episodes of questions whose first decision is
`force`. Left out: the labels that follow (curriculum.py).
"""

from collections.abc import Callable, Sequence

from data.world import Question
from rl.episode import Episode
from rl.report.summary import mean, summarize
from rl.runs.progress import progress

Play = Callable[..., list[Episode]]


def dev_figures(play: Play, questions: Sequence[Question]) -> dict[str, float]:
    """EM of popular questions answered at once; EM after a retrieval, and given a hit; hit@k; the
    share of malformed episodes."""
    direct, retrieved = play(questions, "answer"), play(questions, "retrieve")
    both = [*direct, *retrieved]
    return {
        "direct_em": mean([e.exact_match for e in direct if e.question.slice in ("popular", None)]),
        "retrieve_em": mean([e.exact_match for e in retrieved]),
        "hit": summarize(retrieved)["hit"],
        "em_given_hit": mean([e.exact_match for e in retrieved if e.hit]),
        "malformed": mean([e.malformed for e in both]),
    }


def known_by_heart(play: Play, questions: Sequence[Question]) -> dict[Question, bool]:
    """Whether the direct answer of each question is right, word for word."""
    with progress(len(questions), "probe", "question") as bar:
        episodes = play(questions, "answer", bar.update)
    return {e.question: e.exact_match == 1.0 for e in episodes}
