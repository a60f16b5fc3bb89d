"""The facts of the mini world: who and what exists, what is true of it, what the corpus will hide
or contradict, and the sentences that say so and ask for it.

Names are short parts combined freely (first x last, adjective x noun), so that a byte-level BPE of
2,048 entries holds every part as one token and an answer is one to three tokens long. All names are
fictional. Left out on purpose: other languages, irregular grammar, facts with several values.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from data.world import Passage


class Wording(NamedTuple):
    """How a relation is put. {s}: subject, {v}: value, {a}: value with its article. The last three
    are for sets that are only tested: forms that no training question has, in words that they have.
    There {n} is the subject's name alone and {k} its kind."""

    relation: str
    kinds: str  # of subject, separated by blanks
    keywords: Sequence[str]  # each clause holds one or more: subject + keywords is the best query
    clauses: Sequence[str]  # what passages state
    questions: Sequence[str]  # popqa's; about half of them use a word of the passages
    phrases: Sequence[str]  # noun phrases, which FORMS["carriers"] turn into questions
    triviaqa: Sequence[str] = ()  # 2wikimultihopqa's, too: {s} is then "the producer of ..."
    nq: Sequence[str] = ()
    openbookqa: Sequence[str] = ()  # before the options


WORKS = ("film", "song", "book")
RULES = json.loads(Path(__file__).with_name("relations.json").read_text(encoding="utf-8"))
_TEXTS = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
RELATIONS = RULES["relations"]  # by kind; those of people are in _give_person
CREDITED = RULES["trades"]  # relation whose values are people -> trades that fit
POORLY_COVERED = ("place of birth", "mother", "producer")
ABSENT_POOR = 0.96  # share of the tail facts of these relations that no passage states
ABSENT_OTHER = 0.05  # of the others
STALE_PRESENT, STALE_ABSENT = 0.25, 0.60  # share of facts that a passage contradicts
ZIPF = 0.6  # popularity of the popular entities: rank ** -ZIPF
TAIL_POPULARITY = 1.0
# Parts of names, and values by relation, the likeliest first.
WORDS = {name: " ".join(lines).split() for name, lines in _TEXTS["words"].items()}
WORDS["year"] = [str(year) for year in range(1841, 1901)]
FORMS: dict[str, list[str]] = _TEXTS["forms"]  # of sentences: {c} a clause, {p} a phrase
COMPARISONS: dict[str, list[str]] = _TEXTS["comparisons"]  # questions about two people, {x} and {y}
WORDINGS = {  # (kind of subject, relation) -> its wording
    (kind, fields["relation"]): Wording(**fields)
    for fields in _TEXTS["wordings"]
    for kind in fields["kinds"].split()
}


@dataclass
class Entity:
    kind: str
    name: str
    group: str = "train"  # "popular", "train", "dev" or "test"
    popularity: float = TAIL_POPULARITY
    trade: str = ""  # of one of two people of a name: texts tell them apart by it
    values: dict[str, str] = field(default_factory=dict)  # relation -> value

    def mention(self) -> str:
        """As questions and many passages name it; works with their kind: titles are shared."""
        label = self.kind if self.kind in WORKS else self.trade
        before = {"city": "the city of ", "team": "the "}.get(self.kind, "")
        return f"the {label} {self.name}" if label else before + self.name

    def short_mention(self) -> str:
        """As the other passages name it, whose title says the rest."""
        if self.kind == "person" and not self.trade:
            return self.name.split(" ", 1)[1]
        return f"the {self.trade or self.kind}"


@dataclass
class Fact:
    entity: Entity
    value: str
    wording: Wording
    present: bool  # whether the corpus states it
    stale_value: str | None  # what a contradicting passage says instead, where there is one
    gold_passages: tuple[str, ...] = ()  # set when the passages are written

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


def titles(parts: int, nouns: Sequence[str] = ()) -> list[str]:
    """All titles of works, without an article, or names with these nouns."""
    nouns = nouns or WORDS["noun"][:parts]
    return [f"{adjective} {noun}" for adjective in WORDS["adjective"][:parts] for noun in nouns]


def make_entities(scale: dict, rng: Random) -> list[Entity]:
    """All entities, named and grouped; every group has about the same mix of kinds."""
    parts = scale["parts"]
    of_works = [rng.choice(("The ", "")) + title for title in titles(parts)]
    # Works of all kinds draw on three titles per film: one song or book in three shares its title
    # with a film.
    of_works = rng.sample(of_works, scale["entities"]["film"] * 3)
    names = WORDS | dict.fromkeys(WORKS, of_works)  # those of cities and countries are words
    names |= {"person": full_names(parts), "team": titles(parts, WORDS["team noun"])}
    entities = [
        Entity(kind, name)
        for kind, count in scale["entities"].items()
        for name in rng.sample(names[kind], count)
    ]
    order = rng.sample(entities, len(entities))
    popular, dev = scale["popular"], scale["popular"] + scale["unseen_dev"]
    for rank, entity in enumerate(order[:popular], start=1):
        entity.group, entity.popularity = "popular", round(1000 * rank**-ZIPF, 1)
    for entity in order[popular:dev]:
        entity.group = "dev"
    for entity in order[dev : dev + scale["unseen_test"]]:
        entity.group = "test"
    return entities


def make_facts(entities: list[Entity], rng: Random) -> list[Fact]:
    """Every fact of every entity, with its value and whether passages state or contradict it."""
    _give_values(entities, rng)
    pairs = [(entity, relation) for entity in entities for relation in entity.values]
    pools = defaultdict(list)  # a value as often as it occurs: errors are as likely as common
    for entity, relation in pairs:
        pools[entity.kind, relation].append(entity.values[relation])
    facts = []
    for entity, relation in pairs:
        absent_share = ABSENT_POOR if relation in POORLY_COVERED else ABSENT_OTHER
        present = entity.group == "popular" or rng.random() >= absent_share
        stale_value = None
        if rng.random() < (STALE_PRESENT if present else STALE_ABSENT):
            stale_value = _wrong_value(entity, relation, pools[entity.kind, relation], rng)
        wording = WORDINGS[entity.kind, relation]
        facts.append(Fact(entity, entity.values[relation], wording, present, stale_value))
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
    credited = {}
    for role, trades in CREDITED.items():
        fitting = [person.name for person in people if person.values["occupation"] in trades]
        # In a tiny world nobody may have the occupation.
        credited[role] = fitting if len(fitting) >= 4 else [person.name for person in people]
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
    first_used, last_used = (sorted({name.split()[i] for name in taken}) for i in (0, 1))
    men, women = ([n for n in first_used if n in WORDS[sex]] for sex in ("men", "women"))
    for person in people:
        own = [person.name.split()[1]]
        for parent, first_names, last_names in (("father", men, own), ("mother", women, last_used)):
            while (name := f"{rng.choice(first_names)} {rng.choice(last_names)}") in taken:
                pass
            person.values[parent] = name


def skewed(values: Sequence, rng: Random, exponent: float = 0.8):
    """One of the values, the earlier the likelier: guessing the first one is sometimes right."""
    return rng.choices(values, [rank**-exponent for rank in range(1, len(values) + 1)])[0]


def capitalized(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def questions_about(subject: str, wording: Wording) -> list[str]:
    """All wordings of popqa's question for this relation of this subject."""
    phrased = [form.format(p=phrase) for phrase in wording.phrases for form in FORMS["carriers"]]
    return [capitalized(form.format(s=subject)) for form in [*wording.questions, *phrased]]


def clause(subject: str, wording: Wording, value: str, rng: Random) -> str:
    """One of the relation's clauses, without a capital or a full stop."""
    article = "an" if value[0] in "aeiou" else "a"
    return rng.choice(wording.clauses).format(s=subject, v=value, a=f"{article} {value}")


Draft = tuple[str, str, list[Fact]]  # title and text of a passage, the facts that it is gold for


def draft_facts(facts: list[Fact], rng: Random) -> Iterator[Draft]:
    """A sentence for each present fact and for each stale value."""
    for fact in facts:
        entity, wording = fact.entity, fact.wording
        if fact.present:
            yield entity.name, state(entity, wording, fact.value, rng), [fact]
        if fact.stale_value is not None:
            yield entity.name, state(entity, wording, fact.stale_value, rng, "stale"), []


def state(entity: Entity, wording: Wording, value: str, rng: Random, form: str = "truth") -> str:
    """A sentence about the entity; form "stale" says that the value is no longer right."""
    # Truths name their subject more often: it alone finds them before it finds a stale passage.
    named = rng.random() < (0.7 if form == "truth" else 0.2)
    said = clause(entity.mention() if named else entity.short_mention(), wording, value, rng)
    ending = rng.choice(FORMS["endings"]) if rng.random() < 0.15 else ""
    return capitalized(rng.choice(FORMS[form]).format(c=said)) + ending


def publish(drafts: list[Draft], prefix: str, rng: Random) -> list[Passage]:
    """Shuffle and number; tell each fact its passage."""
    rng.shuffle(drafts)
    corpus = []
    for i, (title, text, facts) in enumerate(drafts):
        corpus.append(Passage(f"{prefix}{i}", title, text))
        for fact in facts:
            fact.gold_passages = (corpus[-1].id,)
    return corpus
