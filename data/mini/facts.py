"""The facts of the mini world: who and what exists, what is true of it, and what the corpus will hide or contradict.

First stage of data/mini.py. Left out on purpose: aliases of values, facts with several values, dates.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from data.mini import text

POORLY_COVERED = ("place of birth", "mother", "producer")
ABSENT_POOR, ABSENT_OTHER = (
    0.96,
    0.05,
)  # share of tail facts that no passage states: of these relations, of the others
STALE_PRESENT, STALE_ABSENT = 0.25, 0.60  # share of facts that a passage contradicts
ZIPF = 0.6  # popularity of the popular entities: rank ** -ZIPF
TAIL_POPULARITY = 1.0


@dataclass(frozen=True)
class Scale:
    """Sizes of a world."""

    entities: dict[str, int]  # kind -> count
    popular: int  # entities asked about in every split
    unseen_dev: int  # entities asked about in dev only
    unseen_test: int  # in test only; in train only: all the others
    namesakes: int
    rows: dict[str, dict[str, int]]  # split -> slice -> questions
    parts: int  # names use the first so many words of each list: the vocabulary grows with it


SCALES = {
    "mini": Scale(
        {
            "person": 800,
            "film": 350,
            "song": 160,
            "book": 60,
            "city": 60,
            "country": 20,
            "team": 50,
        },
        popular=120,
        unseen_dev=100,
        unseen_test=300,
        namesakes=280,
        parts=1000,
        rows={
            "dev": {"popular": 300, "tail": 400, "absent": 200},
            "test": {"popular": 1000, "tail": 1200, "absent": 1000},
        },
    ),
    "tiny": Scale(
        {"person": 38, "film": 16, "song": 8, "book": 3, "city": 4, "country": 3, "team": 3},
        popular=7,
        unseen_dev=8,
        unseen_test=16,
        namesakes=12,
        parts=10,
        rows={
            "dev": {"popular": 30, "tail": 40, "absent": 30},
            "test": {"popular": 40, "tail": 60, "absent": 50},
        },
    ),
}


@dataclass
class Entity:
    kind: str
    name: str
    group: str = "train"  # "popular", "train", "dev" or "test"
    popularity: float = TAIL_POPULARITY
    values: dict[str, str] = field(default_factory=dict)  # relation -> value

    def mention(self) -> str:
        """As questions and many passages name it; works always with their kind, because titles are shared."""
        prefix = {
            "film": "the film ",
            "song": "the song ",
            "book": "the book ",
            "city": "the city of ",
            "team": "the ",
        }
        return prefix.get(self.kind, "") + self.name

    def short_mention(self) -> str:
        """As the other passages name it, whose title says the rest."""
        return self.name.split(" ", 1)[1] if self.kind == "person" else f"the {self.kind}"


@dataclass
class Fact:
    entity: Entity
    relation: str
    value: str
    wording: text.Wording
    present: bool  # whether the corpus states it
    stale_value: str | None  # what a contradicting passage says instead, where there is one
    keywords: tuple[
        str, ...
    ]  # of the relation; once the passages are written, the gold passage's word comes first
    gold_passages: tuple[str, ...] = ()  # set when the passages are written

    @property
    def slice(self) -> str:
        if not self.present:
            return "absent"
        return "popular" if self.entity.group == "popular" else "tail"


def make_entities(scale: Scale, rng: Random) -> list[Entity]:
    """All entities, named and grouped; every group has about the same mix of kinds."""
    women, men, last_names, adjectives, nouns = (
        words[: scale.parts]
        for words in (text.WOMEN, text.MEN, text.LAST_NAMES, text.ADJECTIVES, text.NOUNS)
    )
    titles = [
        rng.choice(("The ", "")) + f"{adjective} {noun}"
        for adjective in adjectives
        for noun in nouns
    ]
    # Works of all kinds draw on three titles per film, so that one song or book in three shares its title with a film.
    titles = rng.sample(titles, scale.entities["film"] * 3)
    names = {
        "person": [f"{first} {last}" for first in women + men for last in last_names],
        "film": titles,
        "song": titles,
        "book": titles,
        "city": text.CITY_NAMES,
        "country": text.COUNTRY_NAMES,
        "team": [f"{adjective} {noun}" for adjective in adjectives for noun in text.TEAM_NOUNS],
    }
    entities = [
        Entity(kind, name)
        for kind, count in scale.entities.items()
        for name in rng.sample(names[kind], count)
    ]
    order = rng.sample(entities, len(entities))
    for rank, entity in enumerate(order[: scale.popular], start=1):
        entity.group, entity.popularity = "popular", round(1000 * rank**-ZIPF, 1)
    for i, entity in enumerate(
        order[scale.popular : scale.popular + scale.unseen_dev + scale.unseen_test]
    ):
        entity.group = "dev" if i < scale.unseen_dev else "test"
    return entities


def make_facts(entities: list[Entity], rng: Random) -> list[Fact]:
    """Every fact of every entity, with its value and whether the corpus will state or contradict it."""
    _give_values(entities, rng)
    pools = defaultdict(
        list
    )  # values as often as they occur: a wrong value is as likely as it is common
    for entity in entities:
        for relation, value in entity.values.items():
            pools[entity.kind, relation].append(value)
    wordings = {
        (kind, wording.relation): wording
        for wording in text.WORDINGS
        for kind in wording.kinds.split()
    }
    facts = []
    for entity in entities:
        for relation, value in entity.values.items():
            wording = wordings[entity.kind, relation]
            absent_share = ABSENT_POOR if relation in POORLY_COVERED else ABSENT_OTHER
            present = entity.group == "popular" or rng.random() >= absent_share
            stale_value = None
            if rng.random() < (STALE_PRESENT if present else STALE_ABSENT):
                stale_value = _wrong_value(entity, relation, pools[entity.kind, relation], rng)
            facts.append(
                Fact(entity, relation, value, wording, present, stale_value, wording.keywords)
            )
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
    draws = _draws(people, countries, rng)
    for entity in entities:
        for relation, draw in draws.get(entity.kind, {}).items():
            entity.values[relation] = draw()
    for capital in cities[
        : len(countries)
    ]:  # not asked, because the passage on the country's capital would tell
        del capital.values["country"]


def _give_person(person: Entity, cities: list[Entity], rng: Random) -> None:
    birthplace = skewed(cities, rng, exponent=0.4)
    occupation = skewed(text.OCCUPATIONS, rng)
    person.values = {"occupation": occupation, "place of birth": birthplace.name}
    if rng.random() < 0.6:
        person.values["country"] = birthplace.values["country"]
    if rng.random() < 0.7:
        person.values["religion"] = skewed(text.RELIGIONS, rng)
    if occupation in ("composer", "singer"):
        person.values["genre"] = skewed(text.MUSIC_GENRES, rng)
    elif occupation in ("writer", "poet", "actor", "director"):
        person.values["genre"] = skewed(text.STORY_GENRES, rng)
    elif rng.random() < 0.5:
        person.values["sport"] = skewed(text.SPORTS, rng)


def _give_parents(people: list[Entity], rng: Random) -> None:
    """A father of the same surname and a mother of any, neither with the name of an entity."""
    taken = {person.name for person in people}
    used_first, used_last = (sorted({name.split()[part] for name in taken}) for part in (0, 1))
    men, women = (
        [name for name in used_first if name in names] for names in (text.MEN, text.WOMEN)
    )
    for person in people:
        own = [person.name.split()[1]]
        for parent, first_names, last_names in (("father", men, own), ("mother", women, used_last)):
            while (name := f"{rng.choice(first_names)} {rng.choice(last_names)}") in taken:
                pass
            person.values[parent] = name


def _draws(
    people: list[Entity], countries: list[Entity], rng: Random
) -> dict[str, dict[str, Callable[[], str]]]:
    """kind -> relation -> how to draw a value; people are credited for work that fits their occupation."""

    def credit(*occupations: str) -> Callable[[], str]:
        fitting = [person.name for person in people if person.values["occupation"] in occupations]
        if len(fitting) < 4:  # in a tiny world nobody may have the occupation
            fitting = [person.name for person in people]
        return lambda: rng.choice(fitting)

    def draw(values: list[str]) -> Callable[[], str]:
        return lambda: skewed(values, rng)

    country = draw([country.name for country in countries])
    producer, composer, author = (
        credit("producer", "banker"),
        credit("composer", "singer"),
        credit("writer", "poet"),
    )
    public = {
        "religion": draw(text.RELIGIONS),
        "sport": draw(text.SPORTS),
        "color": draw(text.COLORS),
    }
    return {
        "film": {
            "director": credit("director", "actor"),
            "producer": producer,
            "screenwriter": author,
            "composer": composer,
            "genre": draw(text.STORY_GENRES),
            "country": country,
        },
        "song": {
            "composer": composer,
            "producer": producer,
            "author": author,
            "genre": draw(text.MUSIC_GENRES),
            "country": country,
        },
        "book": {"author": author, "genre": draw(text.STORY_GENRES), "country": country},
        "team": {
            "sport": draw(text.SPORTS),
            "country": country,
            "color": draw(text.COLORS),
            "director": credit("athlete", "director"),
        },
        "city": public,
        "country": {**public, "composer": composer},
    }


def skewed(values: Sequence, rng: Random, exponent: float = 0.8):
    """One of the values, the earlier the likelier: guessing the first one is sometimes right."""
    return rng.choices(values, [rank**-exponent for rank in range(1, len(values) + 1)])[0]
