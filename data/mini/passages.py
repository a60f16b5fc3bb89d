"""The passages of the mini world: how facts, stale values and namesakes become sentences of the corpus.

Second stage of data/mini.py. Left out on purpose: passages on several entities (triviaqa's hold several facts
of one: data/mini_sets.py), duplicates.
"""

from collections import defaultdict
from collections.abc import Sequence
from random import Random

from data.mini import text
from data.mini.facts import Entity, Fact, Scale
from data.world import Passage

Draft = tuple[
    str, str, tuple[Fact, ...]
]  # title, text, the facts that it states and that questions ask for


def write_passages(facts: list[Fact], scale: Scale, rng: Random) -> list[Passage]:
    """One passage for each present fact, each stale value and each fact of a namesake, in random order."""
    drafts = draft_facts(facts, rng)
    of_person, values = defaultdict(list), defaultdict(list)
    for fact in facts:
        if fact.entity.kind == "person" and fact.relation not in ("father", "mother"):
            of_person[fact.entity.name].append(fact)
            values[fact.relation].append(fact.value)
    for name in rng.sample(list(of_person), scale.namesakes):
        namesake = Entity("person", f"{name} Jr")
        for fact in rng.sample(of_person[name], 2):
            sentence = _state(
                namesake, fact.wording, rng.choice(values[fact.relation]), text.TRUE_FORMS, rng
            )
            drafts.append((namesake.name, sentence, ()))
    return publish(drafts, "p", rng)


def draft_facts(facts: list[Fact], rng: Random) -> list[Draft]:
    """A sentence for each present fact and for each stale value."""
    drafts = []
    for fact in facts:
        if fact.present:
            sentence = _state(fact.entity, fact.wording, fact.value, text.TRUE_FORMS, rng)
            drafts.append((fact.entity.name, sentence, (fact,)))
        if fact.stale_value is not None:
            stale = _state(fact.entity, fact.wording, fact.stale_value, text.STALE_FORMS, rng)
            drafts.append((fact.entity.name, stale, ()))
    return drafts


def publish(drafts: list[Draft], prefix: str, rng: Random) -> list[Passage]:
    """Shuffle, number, and tell each fact where it is stated and which of its keywords are used there."""
    rng.shuffle(drafts)
    corpus = []
    for number, (title, sentence, facts) in enumerate(drafts):
        corpus.append(Passage(f"{prefix}{number}", title, sentence))
        for fact in facts:
            fact.gold_passages = (f"{prefix}{number}",)
            fact.keywords = tuple(
                sorted(fact.wording.keywords, key=lambda word: word not in sentence.split())
            )
    return corpus


def _state(
    entity: Entity, wording: text.Wording, value: str, forms: Sequence[str], rng: Random
) -> str:
    # Truths name their subject more often, so that the subject alone finds them before it finds a stale passage.
    named = 0.7 if forms is text.TRUE_FORMS else 0.2
    subject = entity.mention() if rng.random() < named else entity.short_mention()
    article = "an " if value[0] in "aeiou" else "a "
    clause = rng.choice(wording.clauses).format(s=subject, v=value, a=article + value)
    ending = rng.choice(text.ENDINGS) if rng.random() < 0.15 else ""
    return text.capitalized(rng.choice(forms).format(c=clause)) + ending
