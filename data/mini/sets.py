"""The other question sets of the mini world, each about entities of its own: popqa stays as it is.

trained and tested  ambignq          a name that two entities share; 2 of 3 do not say which
                    hotpotqa         bridge ("What is the trade of the author of ...?"), comparison
only tested         triviaqa         other wordings; the fact stands in the middle of four sentences
                    2wikimultihopqa  other pairs of relations, comparison of trade and faith
                    nq               lower case, as typed into a search engine
                    openbookqa       four options

Nothing that a test question needs is asked about in training, as subject or on the way: every split
has a group of entities of its own. Values (countries, genres, ...) are shared. Every fact is in the
corpus; some are contradicted by a passage that says that it is wrong.

Left out on purpose: "who is younger", questions of three facts, facts that are absent.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, islice
from random import Random

from data.mini import facts as mini
from data.mini.facts import Draft, Entity, Fact
from data.world import Passage, Question

CREDITS, PROFILES = mini.RULES["credits"], mini.RULES["profiles"]  # by kind
PAIRS = mini.RULES["pairs"]  # kinds that share a name, what is asked about them
HOPS = mini.RULES["hops"]  # set -> credits and facts that a bridge leads over, what is compared
TRAINED, UNSEEN = HOPS["hotpotqa"], HOPS["2wikimultihopqa"]
CREDIT_RELATIONS = TRAINED["credits"] + UNSEEN["credits"]  # whose values are people
ALIAS, ALIAS_SHARE = "the Republic of ", 0.3  # how passages on pairs write some countries


class Names:
    """What new entities are called: in random order, and as nothing of the world is called yet."""

    def __init__(self, entities: list[Entity], facts: list[Fact], parts: int, rng: Random):
        taken = {entity.name for entity in entities}
        taken |= {name for fact in facts for name in (fact.value, fact.stale_value)}
        people = [name for name in mini.full_names(parts) if name not in taken]
        free = [title for title in mini.titles(parts) if not {title, f"The {title}"} & taken]
        free = [rng.choice(("The ", "")) + title for title in rng.sample(free, len(free))]
        self.titles, self.people = iter(free), iter(rng.sample(people, len(people)))
        self.places = {
            "place of birth": [entity.name for entity in entities if entity.kind == "city"],
            "country": [entity.name for entity in entities if entity.kind == "country"],
        }


class Group:
    """The entities of one split, as their facts: people, works, pairs (the same relation of two
    entities of a name) and profiles (four facts each, in the order of their one passage)."""

    def __init__(self, split: str, sizes: dict[str, int], names: Names, rng: Random):
        """New entities. sizes: how many of each use, from sizes.json."""
        self.names, self.rng = names, rng
        # Works are credited to them, whatever their trade is: a credit gives no trade away.
        self.credited = [next(names.people) for _ in range(sizes["people"])]
        self.people, self.works, self.pairs, self.profiles = [], [], [], []
        tested = split == "test"
        for person in (Entity("person", name, split) for name in self.credited):
            relations = (*TRAINED["facts"], "year", *(UNSEEN["facts"] if tested else ()))
            self.people += [self._fact(person, relation) for relation in relations]
        for i in range(sizes["works"]):
            work = Entity(tuple(CREDITS)[i % 3], next(names.titles), split)
            relations = [r for r in CREDITS[work.kind] if tested or r in TRAINED["credits"]]
            relations += ["genre", "country"] if tested else []
            self.works += [self._fact(work, relation) for relation in relations]
        for i in range(sizes["pairs"]):
            kinds, relations = PAIRS[i % len(PAIRS)]
            name = next(names.people if "person" in kinds else names.titles)
            trades = rng.sample(mini.WORDS["occupation"], 2) if "person" in kinds else ("", "")
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
        stale = self.rng.random() < mini.STALE_PRESENT
        stale_value = self._value(entity.kind, relation, value) if stale else None
        return Fact(entity, value, mini.WORDINGS[entity.kind, relation], True, stale_value)

    def _value(self, kind: str, relation: str, other_than: str) -> str:
        value = other_than
        pools = {"year": mini.WORDS["year"], **dict.fromkeys(CREDIT_RELATIONS, self.credited)}
        while value == other_than:
            if relation in pools:
                value = self.rng.choice(pools[relation])
            else:
                value = mini.common_value(kind, relation, self.names.places, self.rng)
        return value

    def drafts(self, rng: Random) -> Iterator[Draft]:
        """The passages: one for each fact and each stale value; one for the facts of a profile."""
        paired = [fact for pair in self.pairs for fact in pair]
        yield from mini.draft_facts([*self.people, *self.works, *paired], rng)
        for profile in self.profiles:
            entity, sentences = profile[0].entity, []
            for fact in profile:
                subject = entity.short_mention() if sentences else entity.mention()
                said = mini.clause(subject, fact.wording, fact.value, rng)
                sentences.append(f"{mini.capitalized(said)}.")
            # Questions ask for the facts in the middle.
            yield entity.name, " ".join(sentences), profile[1:-1]
            yield from [draft for draft in mini.draft_facts(profile, rng) if not draft[2]]


def make_sets(
    name: str, scale: dict, entities: list[Entity], facts: list[Fact]
) -> tuple[list[Passage], dict[str, list[Question]]]:
    """More passages, and the sets as {"<set>.<split>": questions}. name: of the random streams."""
    names = Names(entities, facts, scale["parts"], Random(f"{name}/names"))
    of_split, drafts, questions = {}, [], {}
    for split, sizes in scale["groups"].items():
        of_split[split] = Group(split, sizes, names, Random(f"{name}/cast/{split}"))
        drafts += of_split[split].drafts(Random(f"{name}/sentences/{split}"))
    corpus = mini.publish(drafts, "s", Random(f"{name}/corpus"))  # now facts know their passages
    for split, sizes in scale["groups"].items():
        for set_name, count in sizes["rows"].items():
            rng = Random(f"{name}/{set_name}/{split}")
            rows = _questions(set_name, of_split[split], count, rng)
            rng.shuffle(rows)
            numbered = [replace(row, id=f"{set_name}-{split}{i}") for i, row in enumerate(rows)]
            questions[f"{set_name}.{split}"] = numbered
    return corpus, questions


def _questions(set_name: str, group: Group, count: int, rng: Random) -> list[Question]:
    """So many questions of this set, without ids; every fact once before any fact twice."""
    if set_name in HOPS:
        return _two_hops(set_name, group, count, rng)
    facts = group.people + group.works
    if set_name == "triviaqa":  # the facts in the middle of the long passages
        facts = [fact for profile in group.profiles for fact in profile[1:-1]]
    if set_name == "ambignq":
        rows = _ambiguous(group, rng)
    elif set_name == "openbookqa":
        rows = _multiple_choice(facts, rng)
    else:
        rows = _in_unseen_forms(facts, set_name, rng)
    return _first(rows, count, rng)


Rows = Iterator[tuple[int, Question]]  # its number among the fact's questions, the question


def _first(rows: Rows, count: int, rng: Random) -> list[Question]:
    ordered = sorted(rows, key=lambda row: (row[0], rng.random()))
    return [question for _, question in ordered[:count]]


def _ask(
    form: str, answers: tuple[str, ...], *facts: Fact, kind: str | None = None, label: str = ""
) -> Question:
    """A question that any of these facts answers; where it is of a kind, that needs them all."""
    gold = tuple(id for fact in facts for id in fact.gold_passages)
    labels = (kind or "tail", label or facts[0].relation, mini.TAIL_POPULARITY)
    return Question("", form, answers, *labels, gold, kind)


def _ambiguous(group: Group, rng: Random) -> Rows:
    """Of each pair and relation four questions that leave open which is meant, and one for each."""
    for pair in group.pairs:
        both = rng.sample(pair, 2)
        name, wording = pair[0].entity.name, pair[0].wording
        answers = tuple(dict.fromkeys(answer for fact in both for answer in _aliases(fact)))
        for turn, form in enumerate(rng.sample(mini.questions_about(name, wording), 4)):
            yield turn // 2, _ask(form, answers, *both)
        for turn, fact in enumerate(both):
            form = rng.choice(mini.questions_about(fact.entity.mention(), wording))
            yield turn, _ask(form, _aliases(fact), fact)


def _aliases(fact: Fact) -> tuple[str, ...]:
    """What ambignq accepts: of a country both its forms, of a person the surname as well."""
    if fact.relation == "country":
        name = fact.value.removeprefix(ALIAS)
        return name, ALIAS.removeprefix("the ") + name
    if fact.relation in CREDIT_RELATIONS:
        return fact.value, fact.value.split()[1]
    return (fact.value,)


def _multiple_choice(facts: list[Fact], rng: Random) -> Rows:
    """The right value and three that others of the kind have; the letter is right as well."""
    values = defaultdict(set)
    for fact in facts:
        values[fact.entity.kind, fact.relation].add(fact.value)
    for fact in facts:
        others = sorted(values[fact.entity.kind, fact.relation] - {fact.value})
        stems = _unseen_forms(fact, "openbookqa", fact.entity.mention())
        if not stems or len(others) < 3:
            continue
        for turn, stem in enumerate(rng.sample(stems, 2)):
            options = rng.sample([fact.value, *rng.sample(others, 3)], 4)
            right = "ABCD"[options.index(fact.value)]
            shown = [f"({x}) {option}" for x, option in zip("ABCD", options, strict=True)]
            yield turn, _ask(" ".join([stem.strip(), *shown]), (fact.value, right), fact)


def _unseen_forms(fact: Fact, set_name: str, subject: str) -> list[str]:
    """The set's questions for the fact, which may be none."""
    entity = fact.entity
    forms = getattr(fact.wording, set_name)
    filled = [form.format(s=subject, n=entity.name, k=entity.kind) for form in forms]
    return [form.lower() if set_name == "nq" else mini.capitalized(form) for form in filled]


def _in_unseen_forms(facts: list[Fact], set_name: str, rng: Random) -> Rows:
    for fact in facts:
        forms = _unseen_forms(fact, set_name, fact.entity.mention())
        for turn, form in enumerate(rng.sample(forms, len(forms))):
            yield turn, _ask(form, (fact.value,), fact)


def _two_hops(set_name: str, group: Group, count: int, rng: Random) -> list[Question]:
    """Three bridge questions to two comparisons."""
    bridges, compared = count * 3 // 5, HOPS[set_name]["compared"]
    first = (count - bridges) // 2
    questions = _first(_bridges(set_name, group, rng), bridges, rng)
    for relation, part in zip(compared, (first, count - bridges - first), strict=True):
        if relation == "year":
            questions += _comparisons(group, relation, part, rng)
        else:  # as many yes as no, as far as there are couples that agree
            agreed = _comparisons(group, relation, part // 2, rng, unwanted="no")
            questions += agreed
            questions += _comparisons(group, relation, part - len(agreed), rng, unwanted="yes")
    return questions


def _bridges(set_name: str, group: Group, rng: Random) -> Rows:
    """Questions for a fact of the person that a work is credited to."""
    credits, relations = HOPS[set_name]["credits"], HOPS[set_name]["facts"]
    of_person = {(fact.entity.name, fact.relation): fact for fact in group.people}
    for credit in (fact for fact in group.works if fact.relation in credits):
        subjects = [form.format(s=credit.entity.mention()) for form in credit.wording.phrases]
        for fact in (of_person[credit.value, relation] for relation in relations):
            forms = []
            for subject in subjects:
                if set_name == "hotpotqa":
                    forms += mini.questions_about(subject, fact.wording)
                else:
                    forms += _unseen_forms(fact, "triviaqa", subject)
            label = f"{credit.relation}>{fact.relation}"
            for turn, form in enumerate(rng.sample(forms, 4)):
                yield turn, _ask(form, (fact.value,), credit, fact, kind="bridge", label=label)


def _comparisons(
    group: Group, relation: str, count: int, rng: Random, unwanted: str | None = None
) -> list[Question]:
    """Questions about two people; each couple once before any twice. unwanted: an answer."""
    label = relation if relation == "year" else f"same {relation}"
    facts = [fact for fact in group.people if fact.relation == relation]
    couples = [couple for couple in combinations(facts, 2) if _compare(*couple) != unwanted]
    rng.shuffle(couples)
    forms = mini.COMPARISONS[label]
    turns = ((turn, i) for turn in range(len(forms)) for i in range(len(couples)))
    questions = []
    for turn, i in islice(turns, count):
        x, y = rng.sample(couples[i], 2)
        form = forms[(turn + i) % len(forms)].format(x=x.entity.name, y=y.entity.name)
        questions.append(_ask(form, (_compare(x, y),), x, y, kind="comparison", label=label))
    return questions


def _compare(x: Fact, y: Fact) -> str | None:
    """Of years who was born first, None where both were; else whether the values are the same."""
    if x.relation != "year":
        return "yes" if x.value == y.value else "no"
    return None if x.value == y.value else min(x, y, key=lambda fact: int(fact.value)).entity.name
