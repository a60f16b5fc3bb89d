"""The facts of the mini world: who and what exists, what is true of it, and what the corpus will
hide or contradict.

First stage of data/mini/generate.py. Left out on purpose: aliases of values, facts with several
values, dates.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from data.mini.text import WORDINGS, WORDS, Wording

WORKS = ("film", "song", "book")
RULES = json.loads(Path(__file__).with_name("relations.json").read_text(encoding="utf-8"))
RELATIONS = RULES["relations"]  # by kind; those of people are in _give_person
CREDITED = RULES["trades"]  # relation whose values are people -> trades that fit
POORLY_COVERED = ("place of birth", "mother", "producer")
ABSENT_POOR = 0.96  # share of the tail facts of these relations that no passage states
ABSENT_OTHER = 0.05  # of the others
STALE_PRESENT, STALE_ABSENT = 0.25, 0.60  # share of facts that a passage contradicts
ZIPF = 0.6  # popularity of the popular entities: rank ** -ZIPF
TAIL_POPULARITY = 1.0


class Scale(NamedTuple):
    """Sizes of a world, a row of sizes.json."""

    entities: dict[str, int]  # by kind
    popular: int  # entities that questions of every split are about
    unseen_dev: int  # entities of dev alone
    unseen_test: int  # of test alone; of train alone: all the others
    namesakes: int
    parts: int  # names use the first so many words of each list: the vocabulary grows with it
    popqa: dict[str, dict[str, int]]  # split -> slice -> questions
    groups: dict[str, dict]  # split -> what data/mini/groups.py needs


_FILE = json.loads(Path(__file__).with_name("sizes.json").read_text(encoding="utf-8"))
SCALES = {name: Scale(**fields) for name, fields in _FILE.items()}


@dataclass
class Entity:
    kind: str
    name: str
    group: str = "train"  # "popular", "train", "dev" or "test"
    popularity: float = TAIL_POPULARITY
    values: dict[str, str] = field(default_factory=dict)  # relation -> value

    def mention(self) -> str:
        """As questions and many passages name it; works with their kind: titles are shared."""
        if self.kind in WORKS:
            return f"the {self.kind} {self.name}"
        return {"city": "the city of ", "team": "the "}.get(self.kind, "") + self.name

    def short_mention(self) -> str:
        """As the other passages name it, whose title says the rest."""
        return self.name.split(" ", 1)[1] if self.kind == "person" else f"the {self.kind}"


@dataclass
class Fact:
    entity: Entity
    value: str
    wording: Wording
    present: bool  # whether the corpus states it
    stale_value: str | None  # what a contradicting passage says instead, where there is one
    gold_passages: tuple[str, ...] = ()  # set when the passages are written
    keywords: tuple[str, ...] = ()  # the wording's; once written, those of the gold passage first

    def __post_init__(self):
        self.keywords = tuple(self.wording.keywords)

    @property
    def relation(self) -> str:
        return self.wording.relation

    @property
    def slice(self) -> str:
        if not self.present:
            return "absent"
        return "popular" if self.entity.group == "popular" else "tail"


def full_names(parts: int) -> list[str]:
    """All names of people from the first so many first names of each sex and last names."""
    first_names = WORDS["women"][:parts] + WORDS["men"][:parts]
    return [f"{first} {last}" for first in first_names for last in WORDS["last name"][:parts]]


def titles(parts: int) -> list[str]:
    """All titles of works, without an article."""
    adjectives, nouns = WORDS["adjective"][:parts], WORDS["noun"][:parts]
    return [f"{adjective} {noun}" for adjective in adjectives for noun in nouns]


def make_entities(scale: Scale, rng: Random) -> list[Entity]:
    """All entities, named and grouped; every group has about the same mix of kinds."""
    of_works = [rng.choice(("The ", "")) + title for title in titles(scale.parts)]
    # Works of all kinds draw on three titles per film: one song or book in three shares its title
    # with a film.
    of_works = rng.sample(of_works, scale.entities["film"] * 3)
    adjectives = WORDS["adjective"][: scale.parts]
    names = {
        "person": full_names(scale.parts),
        **dict.fromkeys(WORKS, of_works),
        "city": WORDS["city"],
        "country": WORDS["country"],
        "team": [f"{adjective} {noun}" for adjective in adjectives for noun in WORDS["team noun"]],
    }
    entities = [
        Entity(kind, name)
        for kind, count in scale.entities.items()
        for name in rng.sample(names[kind], count)
    ]
    order = rng.sample(entities, len(entities))
    for rank, entity in enumerate(order[: scale.popular], start=1):
        entity.group, entity.popularity = "popular", round(1000 * rank**-ZIPF, 1)
    unseen = order[scale.popular :][: scale.unseen_dev + scale.unseen_test]
    for i, entity in enumerate(unseen):
        entity.group = "dev" if i < scale.unseen_dev else "test"
    return entities


def make_facts(entities: list[Entity], rng: Random) -> list[Fact]:
    """Every fact of every entity, with its value and whether passages state or contradict it."""
    _give_values(entities, rng)
    pools = defaultdict(list)  # a value as often as it occurs: errors are as likely as common
    for entity in entities:
        for relation, value in entity.values.items():
            pools[entity.kind, relation].append(value)
    facts = []
    for entity in entities:
        for relation, value in entity.values.items():
            absent_share = ABSENT_POOR if relation in POORLY_COVERED else ABSENT_OTHER
            present = entity.group == "popular" or rng.random() >= absent_share
            stale_value = None
            if rng.random() < (STALE_PRESENT if present else STALE_ABSENT):
                stale_value = _wrong_value(entity, relation, pools[entity.kind, relation], rng)
            wording = WORDINGS[entity.kind, relation]
            facts.append(Fact(entity, value, wording, present, stale_value))
    return facts


def _wrong_value(entity: Entity, relation: str, pool: list[str], rng: Random) -> str | None:
    for value in rng.choices(pool, k=10):
        if relation == "father":  # a false father, too, has the right surname
            value = f"{value.split()[0]} {entity.name.split()[1]}"
        if value != entity.values[relation]:
            return value
    return None  # in a tiny world all may have the same value


def _give_values(entities: list[Entity], rng: Random) -> None:
    """Fill in `values`, one relation after the other, because some follow from others."""
    by_kind = defaultdict(list)
    for entity in entities:
        by_kind[entity.kind].append(entity)
    people, cities, countries = by_kind["person"], by_kind["city"], by_kind["country"]
    for i, city in enumerate(cities):
        country = countries[i] if i < len(countries) else skewed(countries, rng)
        city.values["country"] = country.name
        country.values.setdefault("capital", city.name)
    for person in people:
        _give_person(person, cities, rng)
    _give_parents(people, rng)
    credited = {role: _fitting(people, trades) for role, trades in CREDITED.items()}
    places = {"country": [country.name for country in countries]}
    for entity in entities:
        for relation in RELATIONS.get(entity.kind, ()):
            role = "coach" if (entity.kind, relation) == ("team", "director") else relation
            if role in credited:
                entity.values[relation] = rng.choice(credited[role])
            else:
                entity.values[relation] = common_value(entity.kind, relation, places, rng)
    for capital in cities[: len(countries)]:  # the passage on the country's capital would tell
        del capital.values["country"]


def _fitting(people: list[Entity], trades: list[str]) -> list[str]:
    names = [person.name for person in people if person.values["occupation"] in trades]
    if len(names) < 4:  # in a tiny world nobody may have the occupation
        return [person.name for person in people]
    return names


def common_value(kind: str, relation: str, places: dict[str, list[str]], rng: Random) -> str:
    """A value that is no person, drawn for an entity of this kind. places: relation -> names."""
    if relation == "genre":
        return skewed(WORDS["music genre" if kind == "song" else "story genre"], rng)
    return skewed(places.get(relation) or WORDS[relation], rng)


def _give_person(person: Entity, cities: list[Entity], rng: Random) -> None:
    birthplace = skewed(cities, rng, exponent=0.4)
    occupation = skewed(WORDS["occupation"], rng)
    person.values = {"occupation": occupation, "place of birth": birthplace.name}
    if rng.random() < 0.6:
        person.values["country"] = birthplace.values["country"]
    if rng.random() < 0.7:
        person.values["religion"] = skewed(WORDS["religion"], rng)
    if occupation in ("composer", "singer"):
        person.values["genre"] = skewed(WORDS["music genre"], rng)
    elif occupation in ("writer", "poet", "actor", "director"):
        person.values["genre"] = skewed(WORDS["story genre"], rng)
    elif rng.random() < 0.5:
        person.values["sport"] = skewed(WORDS["sport"], rng)


def _give_parents(people: list[Entity], rng: Random) -> None:
    """A father of the same surname and a mother of any, neither with the name of an entity."""
    taken = {person.name for person in people}
    first_used = sorted({name.split()[0] for name in taken})
    last_used = sorted({name.split()[1] for name in taken})
    men = [name for name in first_used if name in WORDS["men"]]
    women = [name for name in first_used if name in WORDS["women"]]
    for person in people:
        own = [person.name.split()[1]]
        for parent, first_names, last_names in (("father", men, own), ("mother", women, last_used)):
            while (name := f"{rng.choice(first_names)} {rng.choice(last_names)}") in taken:
                pass
            person.values[parent] = name


def skewed(values: Sequence, rng: Random, exponent: float = 0.8):
    """One of the values, the earlier the likelier: guessing the first one is sometimes right."""
    return rng.choices(values, [rank**-exponent for rank in range(1, len(values) + 1)])[0]
