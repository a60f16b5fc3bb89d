"""The other question sets of the mini world, each about entities of its own: what popqa asks stays as it is.

trained and tested  ambignq          a name that two entities share; two questions in three do not say which, either is right
                    hotpotqa         bridge ("What is the trade of the author of ...?") and comparison (older, same country)
only tested         triviaqa         other wordings; the fact stands in the middle of a passage of four sentences
                    2wikimultihopqa  other pairs of relations, comparison of trade and faith
                    nq               lower case, as typed into a search engine
                    openbookqa       four options

Entities come in groups: nothing that a test question needs is asked about in training, as subject or on the way. Values
(countries, genres, ...) are shared. Every fact is in the corpus; some are contradicted by a passage that says that it is
wrong. Left out on purpose: "who is younger", questions of three facts, facts that are absent.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import combinations, islice
from random import Random
from typing import NamedTuple

from data.mini import text
from data.mini.facts import SCALES, STALE_PRESENT, TAIL_POPULARITY, Entity, Fact, skewed
from data.mini.passages import Draft, draft_facts, publish
from data.world import Passage, Question, choice

TEST_ONLY = ("triviaqa", "2wikimultihopqa", "nq", "openbookqa")
HOTPOT_CREDITS, HOTPOT_FACTS = (
    ("director", "composer", "author"),
    ("occupation", "place of birth", "country"),
)
WIKI_CREDITS, WIKI_FACTS = ("producer", "screenwriter"), ("religion", "sport")
CREDIT_RELATIONS = (*HOTPOT_CREDITS, *WIKI_CREDITS)  # whose values are people
PAIRS = (
    (("film", "song"), ("composer", "producer", "country")),
    (("song", "book"), ("author", "genre", "country")),
    (("person", "person"), ("country", "religion", "sport")),
)  # kinds that share a name, what is asked about them
PROFILES = {
    "person": ("occupation", "country", "religion", "sport"),
    "film": ("director", "composer", "genre", "country"),
}
ALIAS, ALIAS_SHARE = "the Republic of ", 0.3  # how passages on pairs write some countries
CREDITS = {
    "film": ("director", "composer", "producer", "screenwriter"),
    "song": ("composer", "author", "producer"),
    "book": ("author",),
}
WORDINGS = {
    (kind, wording.relation): wording
    for wording in (*text.WORDINGS, text.YEAR)
    for kind in wording.kinds.split()
}
UNSEEN = {(kind, forms.relation): forms for forms in text.UNSEEN for kind in forms.kinds.split()}


class Sizes(NamedTuple):
    """Numbers of one group: entities of hotpotqa and most others, pairs of a name, entities of triviaqa, rows of each set."""

    people: int
    works: int
    pairs: int
    profiles: int
    rows: dict[str, int]


SIZES = {
    "mini": {
        "train": Sizes(280, 360, 120, 0, {"ambignq": 2000, "hotpotqa": 4200}),
        "dev": Sizes(30, 30, 20, 0, {"ambignq": 150, "hotpotqa": 200}),
        "test": Sizes(
            110, 110, 60, 100, {"ambignq": 500, "hotpotqa": 500, **dict.fromkeys(TEST_ONLY, 300)}
        ),
    },
    "tiny": {
        "train": Sizes(12, 12, 6, 0, {"ambignq": 90, "hotpotqa": 120}),
        "dev": Sizes(6, 6, 3, 0, {"ambignq": 20, "hotpotqa": 24}),
        "test": Sizes(
            10, 10, 4, 8, {"ambignq": 30, "hotpotqa": 40, **dict.fromkeys(TEST_ONLY, 30)}
        ),
    },
}


class Homonym(Entity):
    """One of two people of a name: texts tell them apart by the trade."""

    def mention(self) -> str:
        return f"the {self.values['occupation']} {self.name}"

    def short_mention(self) -> str:
        return f"the {self.values['occupation']}"


class Cast(NamedTuple):
    """The entities of a group, as their facts."""

    people: list[Fact]
    works: list[Fact]
    pairs: list[tuple[Fact, Fact]]  # the same relation of two entities of a name
    profiles: list[list[Fact]]  # four facts each, in the order of the passage


def make_sets(
    scale_name: str, seed: int, entities: list[Entity], facts: list[Fact]
) -> tuple[list[Passage], dict[str, list[Question]]]:
    """More passages for the world of these entities and facts, and the sets as {"<set>.<split>": questions}."""
    stream = lambda stage: Random(f"{scale_name}/{seed}/{stage}")
    people, titles = _unused_names(entities, facts, SCALES[scale_name].parts, stream("names"))
    places = {
        kind: [entity.name for entity in entities if entity.kind == kind]
        for kind in ("city", "country")
    }
    casts, drafts = {}, []
    for group, sizes in SIZES[scale_name].items():
        cast = casts[group] = _cast(group, sizes, people, titles, places, stream(f"cast/{group}"))
        rng = stream(f"sentences/{group}")
        drafts += draft_facts(
            [*cast.people, *cast.works, *(fact for pair in cast.pairs for fact in pair)], rng
        )
        for profile in cast.profiles:  # one passage for four truths, and one for each stale value
            drafts += [
                _profile(profile, rng),
                *(draft for draft in draft_facts(profile, rng) if not draft[2]),
            ]
    corpus = publish(drafts, "s", stream("corpus"))  # from here on facts know their passages
    questions = {}
    for group, sizes in SIZES[scale_name].items():
        for set_name, count in sizes.rows.items():
            rng = stream(f"{set_name}/{group}")
            rows = SETS[set_name](casts[group], count, rng)
            rng.shuffle(rows)
            questions[f"{set_name}.{group}"] = [
                replace(row, id=f"{set_name}-{group}{i}") for i, row in enumerate(rows)
            ]
    return corpus, questions


# ---------------------------------------------------------------------------------------------- entities and facts


def _unused_names(
    entities: list[Entity], facts: list[Fact], parts: int, rng: Random
) -> tuple[Iterator[str], Iterator[str]]:
    """Names of people and titles of works, in random order, that nothing of the world has yet, not even somebody's father."""
    taken = {name for fact in facts for name in (fact.value, fact.stale_value)} | {
        entity.name for entity in entities
    }
    women, men, last_names, adjectives, nouns = (
        words[:parts]
        for words in (text.WOMEN, text.MEN, text.LAST_NAMES, text.ADJECTIVES, text.NOUNS)
    )
    people = [
        name
        for first in women + men
        for last in last_names
        if (name := f"{first} {last}") not in taken
    ]
    titles = [
        title
        for adjective in adjectives
        for noun in nouns
        if not {title := f"{adjective} {noun}", f"The {title}"} & taken
    ]
    titles = [rng.choice(("The ", "")) + title for title in rng.sample(titles, len(titles))]
    return iter(rng.sample(people, len(people))), iter(titles)


def _cast(
    group: str,
    sizes: Sizes,
    people: Iterator[str],
    titles: Iterator[str],
    places: dict[str, list[str]],
    rng: Random,
) -> Cast:
    """New entities of a group."""
    names = [next(people) for _ in range(sizes.people)]
    fact = _fact_maker(names, places, rng)
    facts = lambda entity, relations: [fact(entity, relation) for relation in relations]
    tested = group == "test"
    of_person = (*HOTPOT_FACTS, "year", *(WIKI_FACTS if tested else ()))
    of_people = [row for name in names for row in facts(Entity("person", name, group), of_person)]
    of_works = []
    for i in range(sizes.works):
        work = Entity(tuple(CREDITS)[i % 3], next(titles), group)
        credits = [
            relation for relation in CREDITS[work.kind] if tested or relation in HOTPOT_CREDITS
        ]
        of_works += facts(work, (*credits, "genre", "country") if tested else credits)
    pairs = []
    for i in range(sizes.pairs):
        kinds, relations = PAIRS[i % len(PAIRS)]
        name = next(people if "person" in kinds else titles)
        if "person" in kinds:
            both = [
                Homonym("person", name, group, values={"occupation": trade})
                for trade in rng.sample(text.OCCUPATIONS, 2)
            ]
        else:
            both = [Entity(kind, name, group) for kind in kinds]
        for relation in relations:
            first = fact(both[0], relation)
            pairs.append((first, fact(both[1], relation, other_than=first.value)))
    for row in (
        row
        for pair in pairs
        for row in pair
        if row.relation == "country" and rng.random() < ALIAS_SHARE
    ):
        row.value = ALIAS + row.value
    profiles = []
    for i in range(sizes.profiles):
        kind = tuple(PROFILES)[i % 2]
        entity = Entity(kind, next(people if kind == "person" else titles), group)
        profiles.append(facts(entity, rng.sample(PROFILES[kind], 4)))
    return Cast(of_people, of_works, pairs, profiles)


def _fact_maker(names: list[str], places: dict[str, list[str]], rng: Random) -> Callable[..., Fact]:
    """fact(entity, relation, other_than="") draws a value and perhaps a stale one. Works are credited to the people of these
    names, whatever their trade is, so that a credit gives no trade away."""
    draws = {
        "occupation": lambda: skewed(text.OCCUPATIONS, rng),
        "religion": lambda: skewed(text.RELIGIONS, rng),
        "sport": lambda: skewed(text.SPORTS, rng),
        "year": lambda: rng.choice(text.YEARS),
        "place of birth": lambda: skewed(places["city"], rng),
        "country": lambda: skewed(places["country"], rng),
        **dict.fromkeys(CREDIT_RELATIONS, lambda: rng.choice(names)),
    }
    genre = lambda kind: (
        lambda: skewed(text.MUSIC_GENRES if kind == "song" else text.STORY_GENRES, rng)
    )

    def fact(entity: Entity, relation: str, other_than: str = "") -> Fact:
        draw, wording = draws.get(relation) or genre(entity.kind), WORDINGS[entity.kind, relation]
        value = _other(draw, other_than)
        stale = _other(draw, value) if rng.random() < STALE_PRESENT else None
        return Fact(entity, relation, value, wording, True, stale, wording.keywords)

    return fact


def _other(draw: Callable[[], str], than: str) -> str:
    while (value := draw()) == than:
        pass
    return value


def _profile(facts: list[Fact], rng: Random) -> Draft:
    """One passage of all these facts; asked for are those in the middle."""
    entity = facts[0].entity
    sentences = [
        rng.choice(fact.wording.clauses).format(
            s=entity.short_mention() if i else entity.mention(),
            v=fact.value,
            a=f"{'an' if fact.value[0] in 'aeiou' else 'a'} {fact.value}",
        )
        for i, fact in enumerate(facts)
    ]
    return (
        entity.name,
        " ".join(text.capitalized(sentence) + "." for sentence in sentences),
        tuple(facts[1:-1]),
    )


# ---------------------------------------------------------------------------------------------- questions


# Each set is a function of the entities of its split, the number of rows and a random stream. Ids are given afterwards.


def ambignq(cast: Cast, count: int, rng: Random) -> list[Question]:
    """Of every pair and relation four questions that leave open which of the two is meant, and one for each of them."""
    rows = []
    for pair in cast.pairs:
        both = rng.sample(pair, 2)
        name, wording = pair[0].entity.name, pair[0].wording
        answers = tuple(dict.fromkeys(answer for fact in both for answer in aliases(fact)))
        for turn, asked in enumerate(rng.sample(text.ask(wording, name), 4)):
            rows.append((turn // 2, _single_fact(asked, answers, *both)))
        for turn, fact in enumerate(both):
            asked = rng.choice(text.ask(wording, fact.entity.mention()))
            rows.append((turn, _single_fact(asked, aliases(fact), fact)))
    return _first(rows, count, rng)


def aliases(fact: Fact) -> tuple[str, ...]:
    """The answers that ambignq accepts: of a country both its forms, of a person the surname as well."""
    if fact.relation == "country":
        name = fact.value.removeprefix(ALIAS)
        return name, ALIAS.removeprefix("the ") + name
    return (
        (fact.value, fact.value.split()[1]) if fact.relation in CREDIT_RELATIONS else (fact.value,)
    )


def hotpotqa(cast: Cast, count: int, rng: Random) -> list[Question]:
    """Three bridge questions to two comparisons, half of which have yes or no for an answer."""
    bridge, compared = count * 3 // 5, count - count * 3 // 5
    forms = lambda fact, subject: text.ask(fact.wording, subject)
    return (
        _bridges(cast, HOTPOT_CREDITS, HOTPOT_FACTS, forms, bridge, rng)
        + _comparisons(cast, "year", "year", text.BORN_FIRST, _born_first, compared // 2, rng)
        + _balanced(
            cast, "country", "same country", text.SAME_COUNTRY, compared - compared // 2, rng
        )
    )


def wiki2(cast: Cast, count: int, rng: Random) -> list[Question]:
    """As hotpotqa, of relations and in forms that training does not combine; all comparisons are yes or no."""
    bridge, compared = count * 3 // 5, count - count * 3 // 5
    forms = lambda fact, subject: [
        text.capitalized(form.format(s=subject))
        for form in UNSEEN["person", fact.relation].triviaqa
    ]
    return (
        _bridges(cast, WIKI_CREDITS, WIKI_FACTS, forms, bridge, rng)
        + _balanced(cast, "occupation", "same occupation", text.SAME_TRADE, compared // 2, rng)
        + _balanced(
            cast, "religion", "same religion", text.SAME_FAITH, compared - compared // 2, rng
        )
    )


def _bridges(
    cast: Cast,
    credits: Iterable[str],
    relations: Iterable[str],
    forms: Callable[[Fact, str], list[str]],
    count: int,
    rng: Random,
) -> list[Question]:
    """Questions for a fact of the person that a work is credited to."""
    of_person = {(fact.entity.name, fact.relation): fact for fact in cast.people}
    rows = []
    for credit in (fact for fact in cast.works if fact.relation in credits):
        for fact in (of_person[credit.value, relation] for relation in relations):
            subjects = [
                phrase.format(s=credit.entity.mention()) for phrase in credit.wording.phrases
            ]
            asked = rng.sample([form for subject in subjects for form in forms(fact, subject)], 4)
            rows += [
                (
                    turn,
                    Question(
                        "",
                        form,
                        (fact.value,),
                        "bridge",
                        f"{credit.relation}>{fact.relation}",
                        TAIL_POPULARITY,
                        credit.gold_passages + fact.gold_passages,
                        "bridge",
                    ),
                )
                for turn, form in enumerate(asked)
            ]
    return _first(rows, count, rng)


def _comparisons(
    cast: Cast,
    relation: str,
    label: str,
    forms: tuple[str, ...],
    answer: Callable[[Fact, Fact], str | None],
    count: int,
    rng: Random,
    wanted: str | None = None,
) -> list[Question]:
    """Questions about two people; each couple once before any twice, in another form. wanted: the only answer."""
    facts = [fact for fact in cast.people if fact.relation == relation]
    couples = [
        couple
        for couple in combinations(facts, 2)
        if (right := answer(*couple)) and wanted in (None, right)
    ]
    rng.shuffle(couples)
    questions = []
    for turn, i in islice(
        ((turn, i) for turn in range(len(forms)) for i in range(len(couples))), count
    ):
        x, y = rng.sample(couples[i], 2)
        form = forms[(turn + i) % len(forms)].format(x=x.entity.name, y=y.entity.name)
        questions.append(
            Question(
                "",
                form,
                (answer(x, y),),
                "comparison",
                label,
                TAIL_POPULARITY,
                x.gold_passages + y.gold_passages,
                "comparison",
            )
        )
    return questions


def _balanced(
    cast: Cast, relation: str, label: str, forms: tuple[str, ...], count: int, rng: Random
) -> list[Question]:
    """As many questions whose answer is yes as no, as far as a tiny world has couples with the same value."""
    same = lambda x, y: "yes" if x.value == y.value else "no"
    agreed = _comparisons(cast, relation, label, forms, same, count // 2, rng, "yes")
    return agreed + _comparisons(cast, relation, label, forms, same, count - len(agreed), rng, "no")


def _born_first(x: Fact, y: Fact) -> str | None:
    return None if x.value == y.value else min(x, y, key=lambda fact: int(fact.value)).entity.name


def triviaqa(cast: Cast, count: int, rng: Random) -> list[Question]:
    """The facts in the middle of the long passages."""
    return _single(
        [fact for profile in cast.profiles for fact in profile[1:-1]],
        lambda fact, forms: [
            text.capitalized(form.format(s=fact.entity.mention())) for form in forms.triviaqa
        ],
        count,
        rng,
    )


def nq(cast: Cast, count: int, rng: Random) -> list[Question]:
    """Lower case, no question mark, sometimes no verb."""
    return _single(
        cast.people + cast.works,
        lambda fact, forms: [
            form.format(n=fact.entity.name, k=fact.entity.kind).lower() for form in forms.nq
        ],
        count,
        rng,
    )


def _single(
    facts: list[Fact], ask: Callable[[Fact, text.Unseen], list[str]], count: int, rng: Random
) -> list[Question]:
    rows = []
    for fact in facts:
        if (fact.entity.kind, fact.relation) in UNSEEN:
            forms = ask(fact, UNSEEN[fact.entity.kind, fact.relation])
            rows += [
                (turn, _single_fact(asked, (fact.value,), fact))
                for turn, asked in enumerate(rng.sample(forms, len(forms)))
            ]
    return _first(rows, count, rng)


def openbookqa(cast: Cast, count: int, rng: Random) -> list[Question]:
    """The right value and three that others of the kind have; the option's letter is right as well."""
    values = defaultdict(set)
    for fact in cast.people + cast.works:
        values[fact.entity.kind, fact.relation].add(fact.value)
    rows = []
    for fact in cast.people + cast.works:
        others = sorted(values[fact.entity.kind, fact.relation] - {fact.value})
        if (fact.entity.kind, fact.relation) in UNSEEN and len(others) >= 3:
            for turn, form in enumerate(
                rng.sample(UNSEEN[fact.entity.kind, fact.relation].openbookqa, 2)
            ):
                shown = rng.sample([fact.value, *rng.sample(others, 3)], 4)
                stem = text.capitalized(form.format(s=fact.entity.mention()))
                asked = choice(
                    "",
                    stem,
                    dict(zip("ABCD", shown)),
                    "ABCD"[shown.index(fact.value)],
                    "openbookqa",
                )
                rows.append((turn, _single_fact(asked.question, asked.answers, fact)))
    return _first(rows, count, rng)


def _single_fact(asked: str, answers: tuple[str, ...], *facts: Fact) -> Question:
    """A question that any of these facts answers, of the same relation all."""
    gold = tuple(id for fact in facts for id in fact.gold_passages)
    return Question("", asked, answers, "tail", facts[0].relation, TAIL_POPULARITY, gold)


def _first(rows: list[tuple[int, Question]], count: int, rng: Random) -> list[Question]:
    """`count` of the (turn, question): every fact once before any fact twice."""
    return [
        question for _, question in sorted(rows, key=lambda row: (row[0], rng.random()))[:count]
    ]


SETS = {
    "ambignq": ambignq,
    "hotpotqa": hotpotqa,
    "triviaqa": triviaqa,
    "2wikimultihopqa": wiki2,
    "nq": nq,
    "openbookqa": openbookqa,
}
