"""The entities behind the mini world's other question sets, by split, and their passages.

Nothing that a test question needs is asked about in training, as subject or on the way: every split
has a group of entities of its own. Values (countries, genres, ...) are shared. Every fact is in the
corpus; some are contradicted by a passage that says that it is wrong.
"""

from random import Random

from data.mini.facts import (
    RULES,
    STALE_PRESENT,
    Draft,
    Entity,
    Fact,
    common_value,
    draft_facts,
    full_names,
    titles,
)
from data.mini.text import WORDINGS, WORDS, capitalized, clause

HOTPOT_CREDITS = ("director", "composer", "author")
HOTPOT_FACTS = ("occupation", "place of birth", "country")
WIKI_CREDITS, WIKI_FACTS = ("producer", "screenwriter"), ("religion", "sport")
CREDIT_RELATIONS = (*HOTPOT_CREDITS, *WIKI_CREDITS)  # whose values are people
CREDITS, PROFILES = RULES["credits"], RULES["profiles"]  # by kind
PAIRS = RULES["pairs"]  # kinds that share a name, what is asked about them
ALIAS, ALIAS_SHARE = "the Republic of ", 0.3  # how passages on pairs write some countries


class Names:
    """What new entities are called: in random order, and as nothing of the world is called yet."""

    def __init__(self, entities: list[Entity], facts: list[Fact], parts: int, rng: Random):
        taken = {entity.name for entity in entities}
        taken |= {name for fact in facts for name in (fact.value, fact.stale_value)}
        people = [name for name in full_names(parts) if name not in taken]
        free = [title for title in titles(parts) if not {title, f"The {title}"} & taken]
        with_article = [rng.choice(("The ", "")) + title for title in rng.sample(free, len(free))]
        self.people = iter(rng.sample(people, len(people)))
        self.titles = iter(with_article)
        self.places = {
            "place of birth": [entity.name for entity in entities if entity.kind == "city"],
            "country": [entity.name for entity in entities if entity.kind == "country"],
        }


class Group:
    """The entities of one split, as their facts:

    people, works, pairs (the same relation of two entities of a name) and profiles (four facts
    each, in the order of their one passage).
    """

    def __init__(self, split: str, sizes: dict[str, int], names: Names, rng: Random):
        """New entities. sizes: how many of each use, from sizes.json."""
        self.names, self.rng = names, rng
        # Works are credited to them, whatever their trade is: a credit gives no trade away.
        self.credited = [next(names.people) for _ in range(sizes["people"])]
        self.people, self.works, self.pairs, self.profiles = [], [], [], []
        tested = split == "test"
        for person in (Entity("person", name, split) for name in self.credited):
            relations = (*HOTPOT_FACTS, "year", *(WIKI_FACTS if tested else ()))
            self.people += [self._fact(person, relation) for relation in relations]
        for i in range(sizes["works"]):
            work = Entity(tuple(CREDITS)[i % 3], next(names.titles), split)
            relations = [name for name in CREDITS[work.kind] if tested or name in HOTPOT_CREDITS]
            relations += ["genre", "country"] if tested else []
            self.works += [self._fact(work, relation) for relation in relations]
        for i in range(sizes["pairs"]):
            kinds, relations = PAIRS[i % len(PAIRS)]
            name = next(names.people if "person" in kinds else names.titles)
            trades = rng.sample(WORDS["occupation"], 2) if "person" in kinds else ("", "")
            both = [Entity(kinds[j], name, split, trade=trades[j]) for j in (0, 1)]
            for relation in relations:
                first = self._fact(both[0], relation)
                self.pairs.append((first, self._fact(both[1], relation, first.value)))
        for row in (row for pair in self.pairs for row in pair if row.relation == "country"):
            if rng.random() < ALIAS_SHARE:
                row.value = ALIAS + row.value
        for i in range(sizes["profiles"]):
            kind = tuple(PROFILES)[i % 2]
            entity = Entity(kind, next(names.people if kind == "person" else names.titles), split)
            order = rng.sample(PROFILES[kind], 4)
            self.profiles.append([self._fact(entity, relation) for relation in order])

    def _fact(self, entity: Entity, relation: str, other_than: str = "") -> Fact:
        value = self._value(entity.kind, relation, other_than)
        stale = self.rng.random() < STALE_PRESENT
        stale_value = self._value(entity.kind, relation, value) if stale else None
        return Fact(entity, value, WORDINGS[entity.kind, relation], True, stale_value)

    def _value(self, kind: str, relation: str, other_than: str) -> str:
        value = other_than
        while value == other_than:
            if relation in CREDIT_RELATIONS or relation == "year":
                value = self.rng.choice(WORDS["year"] if relation == "year" else self.credited)
            else:
                value = common_value(kind, relation, self.names.places, self.rng)
        return value

    def drafts(self, rng: Random) -> list[Draft]:
        """The passages: one for each fact and each stale value; one for the facts of a profile."""
        paired = [fact for pair in self.pairs for fact in pair]
        drafts = draft_facts([*self.people, *self.works, *paired], rng)
        for profile in self.profiles:
            entity, sentences = profile[0].entity, []
            for fact in profile:
                subject = entity.short_mention() if sentences else entity.mention()
                said = clause(subject, fact.wording, fact.value, rng)
                sentences.append(capitalized(said) + ".")
            # Questions ask for the facts in the middle.
            drafts.append((entity.name, " ".join(sentences), profile[1:-1]))
            drafts += [draft for draft in draft_facts(profile, rng) if not draft[2]]
        return drafts
