"""The mini world: a fictional encyclopedia, generated from a seed, in which retrieving is a real decision.

Where "I don't know it" always means "retrieve it", a supervised label does as well as reinforcement learning. Here it
does not, because of what the generator puts in on purpose:
- popular entities (asked Zipf-often, always in the corpus), training-tail entities, and unseen ones for dev and test;
- facts that no passage states, mostly of three relations, so that the question gives it away, imperfectly;
- stale passages that contradict the truth, namesakes, works that share a title, and values that are easy to guess;
- questions worded unlike the passages, so that the raw question is a poor query and the right keywords a good one.

Stages: facts -> passages -> questions, each with a random stream of its own, so that a set added later leaves the
others as they are. Left out on purpose: multi-hop sets, aliases of answers. `properties` measures what came out.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from data import mini_text as text
from data.metrics import exact_match
from data.world import Passage, Question, World, WorldError

POORLY_COVERED = ("place of birth", "mother", "producer")  # 96 % of their tail facts are in no passage
ABSENT_POOR, ABSENT_OTHER = 0.96, 0.05
STALE_PRESENT, STALE_ABSENT = 0.25, 0.60  # share of facts that a passage contradicts
ZIPF = 0.6  # popularity of the popular entities: rank ** -ZIPF
TAIL_POPULARITY = 1.0

# Weights of the weak teacher's queries (FEASIBILITY: its fair quality leaves reinforcement learning something to find).
TEACHER = {"raw": 0.35, "subject": 0.30, "one keyword": 0.20, "two keywords": 0.15}


@dataclass(frozen=True)
class Scale:
    """Sizes of a world."""

    entities: dict[str, int]  # kind -> count
    popular: int
    unseen_dev: int
    unseen_test: int
    namesakes: int
    rows: dict[str, dict[str, int]]  # split -> slice -> questions
    parts: int  # names use the first `parts` words of each list: the vocabulary grows with it


SCALES = {
    "mini": Scale({"person": 800, "film": 350, "song": 160, "book": 60, "city": 60, "country": 20, "team": 50},
                  popular=120, unseen_dev=100, unseen_test=300, namesakes=280, parts=1000,
                  rows={"dev": {"popular": 300, "tail": 400, "absent": 200},
                        "test": {"popular": 1000, "tail": 1200, "absent": 1000}}),
    "tiny": Scale({"person": 38, "film": 16, "song": 8, "book": 3, "city": 4, "country": 3, "team": 3},
                  popular=7, unseen_dev=8, unseen_test=16, namesakes=12, parts=20,
                  rows={"dev": {"popular": 30, "tail": 40, "absent": 30},
                        "test": {"popular": 40, "tail": 60, "absent": 50}}),
}


@dataclass
class Entity:
    kind: str
    name: str
    group: str = "train"  # "popular", "train", "dev" or "test": where its questions are asked
    popularity: float = TAIL_POPULARITY
    values: dict[str, str] = field(default_factory=dict)  # relation -> value

    def mention(self) -> str:
        """As questions name it, and one half of the passages: works with their kind, because titles are shared."""
        prefix = {"film": "the film ", "song": "the song ", "book": "the book ", "city": "the city of ", "team": "the "}
        return prefix.get(self.kind, "") + self.name

    def short_mention(self) -> str:
        """As the other half of the passages name it; the title says the rest."""
        return self.name.split(" ", 1)[1] if self.kind == "person" else f"the {self.kind}"


@dataclass
class Fact:
    entity: Entity
    relation: str
    value: str
    wording: text.Wording
    present: bool  # whether the corpus states it
    stale_value: str | None  # what a contradicting passage says instead, where there is one
    gold_passages: tuple[str, ...] = ()  # set when the passages are written

    @property
    def slice(self) -> str:
        if not self.present:
            return "absent"
        return "popular" if self.entity.group == "popular" else "tail"

    def query(self, keywords: int) -> str:
        """The subject's name and the first `keywords` words that passages use for this relation."""
        return " ".join((self.entity.name, *self.wording.keywords[:keywords]))


class MiniWorld(World):
    """A generated World that remembers which fact each question asks for: the oracle of `properties`."""

    facts: list[Fact]
    asked: dict[str, Fact]  # question id -> fact


def generate(scale_name: str, seed: int) -> MiniWorld:
    """The world "mini" or "tiny" of this seed; the same bits on every machine. About 1 s for "mini"."""
    if scale_name not in SCALES:
        raise WorldError(f"no generated world {scale_name!r}; there are: {', '.join(SCALES)}")
    scale = SCALES[scale_name]
    stream = {stage: Random(f"{scale_name}/{seed}/{stage}") for stage in ("facts", "passages", "questions")}
    entities = make_entities(scale, stream["facts"])
    facts = make_facts(entities, stream["facts"])
    corpus = write_passages(facts, entities, scale, stream["passages"])
    questions, asked = write_questions(facts, scale, stream["questions"])
    world = MiniWorld(
        name=scale_name if seed == 0 else f"{scale_name}-{seed}", corpus=corpus, questions=questions, k=2, quota=1,
        description=f"Fictional encyclopedia generated by data/mini.py, seed {seed}", license="MIT", source="generated")
    world.facts, world.asked = facts, asked
    return world


# ---------------------------------------------------------------------------------------------- stage 1: facts


def make_entities(scale: Scale, rng: Random) -> list[Entity]:
    """All entities, named and grouped; kinds are spread over the groups as they are over the world."""
    parts = {name: getattr(text, name)[: scale.parts] for name in ("FIRST_NAMES", "LAST_NAMES", "ADJECTIVES", "NOUNS")}
    people = [f"{first} {last}" for first in parts["FIRST_NAMES"] for last in parts["LAST_NAMES"]]
    titles = [f"{adjective} {noun}" for adjective in parts["ADJECTIVES"] for noun in parts["NOUNS"]]
    teams = [f"{adjective} {noun}" for adjective in parts["ADJECTIVES"] for noun in text.TEAM_NOUNS]
    names = {"person": people, "city": text.CITY_NAMES, "country": text.COUNTRY_NAMES, "team": teams}
    entities = []
    # Works draw from a common list of titles half as long again as the films: some film, song and book share one.
    shared = rng.sample([rng.choice(("The ", "")) + title for title in titles], scale.entities["film"] * 3 // 2)
    for kind, count in scale.entities.items():
        entities += [Entity(kind, name) for name in rng.sample(list(names.get(kind, shared)), count)]
    order = rng.sample(entities, len(entities))
    for rank, entity in enumerate(order[: scale.popular], start=1):
        entity.group, entity.popularity = "popular", round(1000 * rank**-ZIPF, 1)
    unseen = order[scale.popular : scale.popular + scale.unseen_dev + scale.unseen_test]
    for i, entity in enumerate(unseen):
        entity.group = "dev" if i < scale.unseen_dev else "test"
    return entities


def make_facts(entities: list[Entity], rng: Random) -> list[Fact]:
    """Every fact of every entity, with its value and whether the corpus will state or contradict it."""
    _give_values(entities, rng)
    pools = defaultdict(list)  # values as often as they occur: a wrong value is as likely as it is common
    for entity in entities:
        for relation, value in entity.values.items():
            pools[entity.kind, relation].append(value)
    wordings = {(kind, w.relation): w for w in text.WORDINGS for kind in w.kinds.split()}
    facts = []
    for entity in entities:
        for relation, value in entity.values.items():
            absent = ABSENT_POOR if relation in POORLY_COVERED else ABSENT_OTHER
            present = entity.group == "popular" or rng.random() >= absent
            stale_value = None
            if rng.random() < (STALE_PRESENT if present else STALE_ABSENT):
                stale_value = _wrong_value(entity, relation, pools[entity.kind, relation], rng)
            facts.append(Fact(entity, relation, value, wordings[entity.kind, relation], present, stale_value))
    return facts


def _wrong_value(entity: Entity, relation: str, pool: list[str], rng: Random) -> str | None:
    for value in rng.choices(pool, k=10):
        if relation == "father":  # a false father, too, has the right surname
            value = f"{value.split()[0]} {entity.name.split()[1]}"
        if value != entity.values[relation]:
            return value
    return None  # in a tiny world all may have the same value


def _give_values(entities: list[Entity], rng: Random) -> None:
    by_kind = defaultdict(list)
    for entity in entities:
        by_kind[entity.kind].append(entity)
    people, cities = by_kind["person"], by_kind["city"]
    countries = [country.name for country in by_kind["country"]]
    for country, capital in zip(by_kind["country"], cities):
        country.values = {"capital": capital.name}
        capital.values = {"country": country.name}
    for city in cities:
        city.values.setdefault("country", _skewed(countries, rng))
    for person in people:
        _give_person(person, cities, rng)
    taken = {person.name for person in people}
    firsts = sorted({name.split()[0] for name in taken})
    lasts = sorted({name.split()[1] for name in taken})
    for person in people:  # parents share no name with an entity, and the father passes his surname on
        person.values["father"] = _untaken(lambda: f"{rng.choice(firsts)} {person.name.split()[1]}", taken)
        person.values["mother"] = _untaken(lambda: f"{rng.choice(firsts)} {rng.choice(lasts)}", taken)

    def credit(*occupations: str) -> str:
        fitting = [person.name for person in people if person.values["occupation"] in occupations]
        return rng.choice(fitting if len(fitting) >= 4 else [person.name for person in people])

    for entity in entities:
        values = entity.values
        if entity.kind == "film":
            values |= {"director": credit("director", "actor"), "producer": credit("producer", "banker"),
                       "screenwriter": credit("writer", "poet"), "composer": credit("composer", "singer"),
                       "genre": _skewed(text.STORY_GENRES, rng), "country": _skewed(countries, rng)}
        elif entity.kind == "song":
            values |= {"composer": credit("composer", "singer"), "producer": credit("producer", "banker"),
                       "author": credit("writer", "poet"), "genre": _skewed(text.MUSIC_GENRES, rng),
                       "country": _skewed(countries, rng)}
        elif entity.kind == "book":
            values |= {"author": credit("writer", "poet"), "genre": _skewed(text.STORY_GENRES, rng),
                       "country": _skewed(countries, rng)}
        elif entity.kind == "team":
            values |= {"sport": _skewed(text.SPORTS, rng), "country": _skewed(countries, rng),
                       "color": _skewed(text.COLORS, rng), "director": credit("athlete", "director")}
        elif entity.kind in ("city", "country"):
            values |= {"religion": _skewed(text.RELIGIONS, rng), "sport": _skewed(text.SPORTS, rng),
                       "color": _skewed(text.COLORS, rng)}
            if entity.kind == "country":
                values["composer"] = credit("composer", "singer")
    for capital in cities[: len(countries)]:  # not asked, because the passage on the country's capital would tell
        del capital.values["country"]


def _give_person(person: Entity, cities: list[Entity], rng: Random) -> None:
    birthplace = _skewed(cities, rng, 0.4)
    occupation = _skewed(text.OCCUPATIONS, rng)
    values = {"occupation": occupation, "place of birth": birthplace.name}
    if rng.random() < 0.6:
        values["country"] = birthplace.values["country"]
    if rng.random() < 0.7:
        values["religion"] = _skewed(text.RELIGIONS, rng)
    if occupation in ("composer", "singer"):
        values["genre"] = _skewed(text.MUSIC_GENRES, rng)
    elif occupation in ("writer", "poet", "actor", "director"):
        values["genre"] = _skewed(text.STORY_GENRES, rng)
    elif rng.random() < 0.5:
        values["sport"] = _skewed(text.SPORTS, rng)
    person.values = values


def _skewed(values: Sequence, rng: Random, exponent: float = 0.8):
    """One of the values, the earlier the likelier: guessing the first one is sometimes right."""
    return rng.choices(values, [rank**-exponent for rank in range(1, len(values) + 1)])[0]


def _untaken(draw: Callable[[], str], taken: set[str]) -> str:
    while (name := draw()) in taken:
        pass
    return name


# ---------------------------------------------------------------------------------------------- stage 2: passages


def write_passages(facts: list[Fact], entities: list[Entity], scale: Scale, rng: Random) -> list[Passage]:
    """One passage for each present fact, each stale value and each fact of a namesake, in random order."""
    drafts = []  # (title, text, the fact that it states or None)
    for fact in facts:
        if fact.present:
            drafts.append((fact.entity.name, _state(fact.entity, fact.wording, fact.value, text.TRUE_FORMS, rng), fact))
        if fact.stale_value:
            stale = _state(fact.entity, fact.wording, fact.stale_value, text.STALE_FORMS, rng)
            drafts.append((fact.entity.name, stale, None))
    by_name = defaultdict(list)
    for fact in facts:
        if fact.entity.kind == "person" and fact.relation not in ("father", "mother"):
            by_name[fact.entity.name].append(fact)
    for name in rng.sample(sorted(by_name), scale.namesakes):
        namesake = Entity("person", f"{name} Jr")
        for fact in rng.sample(by_name[name], 2):
            value = rng.choice([other.value for other in rng.sample(facts, 400) if other.relation == fact.relation]
                               or [fact.value])
            drafts.append((namesake.name, _state(namesake, fact.wording, value, text.TRUE_FORMS, rng), None))
    rng.shuffle(drafts)
    corpus = []
    for number, (title, sentence, fact) in enumerate(drafts):
        corpus.append(Passage(f"p{number}", title, sentence))
        if fact:
            fact.gold_passages = (f"p{number}",)
    return corpus


def _state(entity: Entity, wording: text.Wording, value: str, forms: Sequence[str], rng: Random) -> str:
    subject = entity.mention() if rng.random() < 0.5 else entity.short_mention()
    article = "an " if value[0] in "aeiou" else "a "
    clause = rng.choice(wording.clauses).format(s=subject, v=value, a=article + value)
    ending = rng.choice(text.ENDINGS) if rng.random() < 0.15 else ""
    return _capitalized(rng.choice(forms).format(c=clause)) + ending


def _capitalized(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


# ---------------------------------------------------------------------------------------------- stage 3: questions


def write_questions(facts: list[Fact], scale: Scale,
                    rng: Random) -> tuple[dict[str, list[Question]], dict[str, Fact]]:
    """The set "popqa" as {"popqa.<split>": questions}, and what each question id asks for.

    Popular facts are asked in every split, in wordings that no other split uses; the others in their group's split.
    """
    pairs = {split: defaultdict(list) for split in ("train", "dev", "test")}  # split -> slice -> (fact, wording)
    for fact in facts:
        wordings = rng.sample(ask(fact), len(ask(fact)))
        if fact.slice == "popular":
            parts = {"train": wordings[:6], "dev": wordings[6:8], "test": wordings[8:]}
        elif fact.entity.group == "train":
            parts = {"train": wordings[: rng.choice((2, 3))]}
        else:
            parts = {fact.entity.group: wordings}
        for split, part in parts.items():
            pairs[split][fact.slice] += [(i, fact, wording) for i, wording in enumerate(part)]
    questions, asked = {}, {}
    for split, slices in pairs.items():
        chosen = []
        for slice_name, candidates in slices.items():
            count = len(candidates) if split == "train" else scale.rows[split][slice_name]
            if slice_name == "popular" and split != "train":  # Zipf-often: weighted sample without replacement
                candidates.sort(key=lambda c: rng.random() ** (1 / c[1].entity.popularity), reverse=True)
            elif split != "train":  # every fact once before any fact twice
                candidates.sort(key=lambda c: (c[0], rng.random()))
            chosen += candidates[:count]
        rng.shuffle(chosen)
        rows = questions[f"popqa.{split}"] = []
        for number, (_, fact, wording) in enumerate(chosen):
            rows.append(Question(f"{split}{number}", wording, (fact.value,), fact.slice, fact.relation,
                                 fact.entity.popularity, fact.gold_passages))
            asked[rows[-1].id] = fact
    return questions, asked


def ask(fact: Fact) -> list[str]:
    """All wordings of the question that asks for a fact."""
    phrased = [carrier.format(p=phrase) for phrase in fact.wording.phrases for carrier in text.CARRIERS]
    return [_capitalized(form.format(s=fact.entity.mention())) for form in [*fact.wording.questions, *phrased]]


# ---------------------------------------------------------------------------------------------- what came out


def properties(world: MiniWorld, search: Callable[[list[str], int], Sequence[Sequence[int]]]) -> dict:
    """Measure a generated world with a retriever. All figures on the test split, fractions.

    search(queries, k) -> corpus positions [Q, k]. Returns
    sizes      {"entities", "facts", "passages", "questions": {split: {slice: rows}}}
    absent     {"tail", then each relation}: share of the tail facts, train and unseen, that no passage states
    hit        {query kind: {slice: hit@k}}; "teacher" is the mean over TEACHER, "best" the subject with all keywords
    guess      {slice: EM of always answering the relation's most frequent train value}
    """
    test = world.questions("popqa", "test")
    facts = [world.asked[question.id] for question in test]
    queries = {"raw": [question.question for question in test],
               "subject": [fact.query(0) for fact in facts],
               "one keyword": [fact.query(1) for fact in facts],
               "two keywords": [fact.query(2) for fact in facts],
               "best": [f"{fact.entity.mention()} {' '.join(fact.wording.keywords)}" for fact in facts]}
    hits = {}
    for kind, texts in queries.items():
        found = search(texts, world.k)
        hits[kind] = [float(any(world.corpus[i].id in question.gold_passages for i in row if i >= 0))
                      for question, row in zip(test, found)]
    hits["teacher"] = [sum(weight * hits[kind][i] for kind, weight in TEACHER.items()) for i in range(len(test))]

    values = defaultdict(Counter)
    for question in world.questions("popqa", "train"):
        values[question.relation][question.answers[0]] += 1
    guesses = [exact_match(values[q.relation].most_common(1)[0][0], q.answers) for q in test]

    tail = [fact for fact in world.facts if fact.entity.group != "popular"]
    absent = {"tail": _mean([not fact.present for fact in tail])}
    for relation in sorted({fact.relation for fact in tail}):
        absent[relation] = _mean([not fact.present for fact in tail if fact.relation == relation])
    sizes = {"entities": len({id(fact.entity) for fact in world.facts}), "facts": len(world.facts),
             "passages": len(world.corpus),
             "questions": {split.split(".")[1]: dict(Counter(q.slice for q in world.questions(*split.split("."))))
                           for split in world.splits}}
    return {"world": world.name, "k": world.k, "sizes": sizes, "absent": absent, "guess": _by_slice(test, guesses),
            "hit": {kind: _by_slice(test, hits[kind]) for kind in ("raw", "subject", "teacher", "best")}}


def _by_slice(questions: list[Question], figures: list[float]) -> dict[str, float]:
    return {name: _mean([figure for question, figure in zip(questions, figures) if question.slice == name])
            for name in ("popular", "tail", "absent")}


def _mean(figures: Sequence[float]) -> float:
    return sum(figures) / len(figures)


def format_properties(figures: dict) -> str:
    """The properties as a compact table."""
    sizes = figures["sizes"]
    lines = [f"world {figures['world']}: {sizes['entities']:,} entities, {sizes['facts']:,} facts, "
             f"{sizes['passages']:,} passages, k = {figures['k']}"]
    for split in ("train", "dev", "test"):
        rows = sizes["questions"][split]
        lines.append(f"  {split + ' questions':<18}" + "".join(f"{name} {rows[name]:,}   " for name in
                                                             ("popular", "tail", "absent")).rstrip())
    lines.append(f"  {'':<18}{'popular':>8}{'tail':>8}{'absent':>8}")
    for kind, by_slice in figures["hit"].items():
        cells = "".join(f"{by_slice[name]:>8.3f}" for name in ("popular", "tail"))
        lines.append(f"  {f'hit@k, {kind}':<18}{cells}{'-':>8}")
    lines.append(f"  {'EM of a guess':<18}" + "".join(f"{figures['guess'][name]:>8.3f}"
                                                     for name in ("popular", "tail", "absent")))
    absent = figures["absent"]
    lines.append("  absent from the corpus: " + ", ".join(f"{name} {share:.0%}" for name, share in absent.items()))
    return "\n".join(lines)
