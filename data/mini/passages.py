"""The passages of the mini world: how facts, stale values and namesakes become sentences of the
corpus.

Second stage of data/mini/generate.py. Left out on purpose: passages on several entities (triviaqa's
hold several facts of one: data/mini/sets.py), duplicates.
"""

from collections import defaultdict
from random import Random
from typing import NamedTuple

from data.mini import text
from data.mini.facts import Entity, Fact, Scale
from data.world import Passage


class Draft(NamedTuple):
    """A passage without an id, and the facts that it is the gold passage of."""

    title: str
    text: str
    facts: tuple[Fact, ...] = ()


def write_passages(facts: list[Fact], scale: Scale, rng: Random) -> list[Passage]:
    """One passage for each present fact, each stale value and each fact of a namesake, shuffled."""
    drafts = draft_facts(facts, rng)
    of_person, values = defaultdict(list), defaultdict(list)
    for fact in facts:
        if fact.entity.kind == "person" and fact.relation not in ("father", "mother"):
            of_person[fact.entity.name].append(fact)
            values[fact.relation].append(fact.value)
    for name in rng.sample(list(of_person), scale.namesakes):
        namesake = Entity("person", f"{name} Jr")
        for fact in rng.sample(of_person[name], 2):
            value = rng.choice(values[fact.relation])
            drafts.append(Draft(namesake.name, _sentence(namesake, fact, value, "truth", rng)))
    return publish(drafts, "p", rng)


def draft_facts(facts: list[Fact], rng: Random) -> list[Draft]:
    """A sentence for each present fact and for each stale value."""
    drafts = []
    for fact in facts:
        name = fact.entity.name
        if fact.present:
            truth = _sentence(fact.entity, fact, fact.value, "truth", rng)
            drafts.append(Draft(name, truth, (fact,)))
        if fact.stale_value is not None:
            drafts.append(Draft(name, _sentence(fact.entity, fact, fact.stale_value, "stale", rng)))
    return drafts


def publish(drafts: list[Draft], prefix: str, rng: Random) -> list[Passage]:
    """Shuffle and number; tell each fact its passage and which of its keywords are used there."""
    rng.shuffle(drafts)
    corpus = []
    for number, draft in enumerate(drafts):
        corpus.append(Passage(f"{prefix}{number}", draft.title, draft.text))
        words = set(draft.text.split())
        for fact in draft.facts:
            fact.gold_passages = (f"{prefix}{number}",)
            used_first = sorted(fact.keywords, key=words.__contains__, reverse=True)
            fact.keywords = tuple(used_first)
    return corpus


def _sentence(entity: Entity, fact: Fact, value: str, form: str, rng: Random) -> str:
    """What is said of the entity, as the truth or as a stale value."""
    # Truths name their subject more often: it alone finds them before it finds a stale passage.
    named = rng.random() < (0.7 if form == "truth" else 0.2)
    subject = entity.mention() if named else entity.short_mention()
    clause = text.clause(subject, fact.wording, value, rng)
    ending = rng.choice(text.FORMS["endings"]) if rng.random() < 0.15 else ""
    return text.capitalized(rng.choice(text.FORMS[form]).format(c=clause)) + ending
