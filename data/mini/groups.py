"""The entities behind the mini world's other question sets, by split, and their passages.

Nothing that a test question needs is asked about in training, as subject or on the way: every split
has a group of entities of its own. Values (countries, genres, ...) are shared. Every fact is in the
corpus; some are contradicted by a passage that says that it is wrong.
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from data.mini import text
from data.mini.facts import STALE_PRESENT, Entity, Fact, common_value, full_names, titles
from data.mini.passages import Draft, draft_facts
from data.mini.text import WORDINGS, WORDS

HOTPOT_CREDITS = ("director", "composer", "author")
HOTPOT_FACTS = ("occupation", "place of birth", "country")
WIKI_CREDITS, WIKI_FACTS = ("producer", "screenwriter"), ("religion", "sport")
CREDIT_RELATIONS = (*HOTPOT_CREDITS, *WIKI_CREDITS)  # whose values are people
CREDITS = {
    "film": ("director", "composer", "producer", "screenwriter"),
    "song": ("composer", "author", "producer"),
    "book": ("author",),
}
PAIRS = (  # kinds that share a name, what is asked about them
    (("film", "song"), ("composer", "producer", "country")),
    (("song", "book"), ("author", "genre", "country")),
    (("person", "person"), ("country", "religion", "sport")),
)
PROFILES = {
    "person": ("occupation", "country", "religion", "sport"),
    "film": ("director", "composer", "genre", "country"),
}
ALIAS, ALIAS_SHARE = "the Republic of ", 0.3  # how passages on pairs write some countries


class Homonym(Entity):
    """One of two people of a name: texts tell them apart by the trade."""

    def mention(self) -> str:
        return f"the {self.values['occupation']} {self.name}"

    def short_mention(self) -> str:
        return f"the {self.values['occupation']}"


class Group(NamedTuple):
    """The entities of one split, as their facts."""

    people: list[Fact]
    works: list[Fact]
    pairs: list[tuple[Fact, Fact]]  # the same relation of two entities of a name
    profiles: list[list[Fact]]  # four facts each, in the order of their one passage

    def drafts(self, rng: Random) -> list[Draft]:
        """The passages: one for each fact and each stale value; of a profile one for its four
        facts.
        """
        paired = [fact for pair in self.pairs for fact in pair]
        drafts = draft_facts([*self.people, *self.works, *paired], rng)
        for profile in self.profiles:
            drafts.append(_profile(profile, rng))
            drafts += [draft for draft in draft_facts(profile, rng) if not draft.facts]
        return drafts


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
        self.cities = [entity.name for entity in entities if entity.kind == "city"]
        self.countries = [entity.name for entity in entities if entity.kind == "country"]


def make_group(split: str, sizes: dict[str, int], names: Names, rng: Random) -> Group:
    """New entities with their facts. sizes: how many of each use, from sizes.json."""
    people = [next(names.people) for _ in range(sizes["people"])]
    fact = _fact_maker(people, names, rng)
    tested = split == "test"
    of_person = (*HOTPOT_FACTS, "year", *(WIKI_FACTS if tested else ()))
    of_people = []
    for name in people:
        person = Entity("person", name, split)
        of_people += [fact(person, relation) for relation in of_person]
    of_works = []
    for i in range(sizes["works"]):
        work = Entity(tuple(CREDITS)[i % 3], next(names.titles), split)
        relations = [name for name in CREDITS[work.kind] if tested or name in HOTPOT_CREDITS]
        relations += ["genre", "country"] if tested else []
        of_works += [fact(work, relation) for relation in relations]
    pairs = []
    for i in range(sizes["pairs"]):
        kinds, relations = PAIRS[i % len(PAIRS)]
        both = _pair(kinds, next(names.people if "person" in kinds else names.titles), split, rng)
        for relation in relations:
            first = fact(both[0], relation)
            pairs.append((first, fact(both[1], relation, other_than=first.value)))
    for row in (row for pair in pairs for row in pair if row.relation == "country"):
        if rng.random() < ALIAS_SHARE:
            row.value = ALIAS + row.value
    profiles = []
    for i in range(sizes["profiles"]):
        kind = tuple(PROFILES)[i % 2]
        entity = Entity(kind, next(names.people if kind == "person" else names.titles), split)
        profiles.append([fact(entity, relation) for relation in rng.sample(PROFILES[kind], 4)])
    return Group(of_people, of_works, pairs, profiles)


def _pair(kinds: tuple[str, str], name: str, split: str, rng: Random) -> list[Entity]:
    """Two entities of one name."""
    if "person" not in kinds:
        return [Entity(kind, name, split) for kind in kinds]
    trades = rng.sample(WORDS["occupation"], 2)
    return [Homonym("person", name, split, values={"occupation": trade}) for trade in trades]


def _fact_maker(people: list[str], names: Names, rng: Random) -> Callable[..., Fact]:
    """fact(entity, relation, other_than="") draws a value and perhaps a stale one.

    Works are credited to these people, whatever their trade is: a credit gives no trade away.
    """
    places = {"place of birth": names.cities, "country": names.countries}

    def draw(kind: str, relation: str) -> str:
        if relation in CREDIT_RELATIONS:
            return rng.choice(people)
        if relation == "year":
            return rng.choice(WORDS["year"])
        return common_value(kind, relation, places, rng)

    def draw_other(kind: str, relation: str, than: str) -> str:
        while (value := draw(kind, relation)) == than:
            pass
        return value

    def fact(entity: Entity, relation: str, other_than: str = "") -> Fact:
        value = draw_other(entity.kind, relation, other_than)
        stale = rng.random() < STALE_PRESENT
        stale_value = draw_other(entity.kind, relation, value) if stale else None
        return Fact(entity, value, WORDINGS[entity.kind, relation], True, stale_value)

    return fact


def _profile(facts: list[Fact], rng: Random) -> Draft:
    """One passage of all these facts; questions ask for those in the middle."""
    entity = facts[0].entity
    sentences = []
    for i, fact in enumerate(facts):
        subject = entity.short_mention() if i else entity.mention()
        clause = text.clause(subject, fact.wording, fact.value, rng)
        sentences.append(text.capitalized(clause) + ".")
    return Draft(entity.name, " ".join(sentences), tuple(facts[1:-1]))
