"""The other question sets of the mini world, each about entities of its own: popqa stays as it is.

trained and tested  ambignq          a name that two entities share; 2 of 3 do not say which
                    hotpotqa         bridge ("What is the trade of the author of ...?"), comparison
only tested         triviaqa         other wordings; the fact stands in the middle of four sentences
                    2wikimultihopqa  other pairs of relations, comparison of trade and faith
                    nq               lower case, as typed into a search engine
                    openbookqa       four options

Left out on purpose: "who is younger", questions of three facts, facts that are absent.
"""

from collections import defaultdict
from dataclasses import replace
from itertools import combinations, islice
from random import Random

from data.mini import groups
from data.mini.facts import TAIL_POPULARITY, Entity, Fact, publish
from data.mini.groups import Group
from data.mini.text import COMPARISONS, capitalized, questions_about
from data.world import Passage, Question

# credits and facts that a bridge leads over, what is compared
HOPS = {
    "hotpotqa": (groups.HOTPOT_CREDITS, groups.HOTPOT_FACTS, ("year", "country")),
    "2wikimultihopqa": (groups.WIKI_CREDITS, groups.WIKI_FACTS, ("occupation", "religion")),
}


def make_sets(
    name: str, scale: dict, entities: list[Entity], facts: list[Fact]
) -> tuple[list[Passage], dict[str, list[Question]]]:
    """More passages for the world of these facts, and the sets as {"<set>.<split>": questions}.

    name: begins the names of the random streams.
    """
    names = groups.Names(entities, facts, scale["parts"], Random(f"{name}/names"))
    of_split, drafts, questions = {}, [], {}
    for split, sizes in scale["groups"].items():
        rng = Random(f"{name}/cast/{split}")
        of_split[split] = Group(split, sizes, names, rng)
        drafts += of_split[split].drafts(Random(f"{name}/sentences/{split}"))
    corpus = publish(drafts, "s", Random(f"{name}/corpus"))  # now facts know their passages
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
    if set_name == "ambignq":
        rows = _ambiguous(group, rng)
    elif set_name == "openbookqa":
        rows = _multiple_choice(group.people + group.works, rng)
    elif set_name == "nq":
        rows = _in_unseen_forms(group.people + group.works, "nq", rng)
    else:  # the facts in the middle of the long passages
        facts = [fact for profile in group.profiles for fact in profile[1:-1]]
        rows = _in_unseen_forms(facts, "triviaqa", rng)
    return _first(rows, count, rng)


Rows = list[tuple[int, Question]]  # its number among the fact's questions, the question


def _first(rows: Rows, count: int, rng: Random) -> list[Question]:
    rows = sorted(rows, key=lambda row: (row[0], rng.random()))
    return [question for _, question in rows[:count]]


def _single(form: str, answers: tuple[str, ...], *facts: Fact) -> Question:
    """A question that any of these facts answers, of the same relation all."""
    gold = tuple(id for fact in facts for id in fact.gold_passages)
    return Question("", form, answers, "tail", facts[0].relation, TAIL_POPULARITY, gold)


def _ambiguous(group: Group, rng: Random) -> Rows:
    """Of each pair and relation four questions that leave open which is meant, and one for each."""
    rows = []
    for pair in group.pairs:
        both = rng.sample(pair, 2)
        name, wording = pair[0].entity.name, pair[0].wording
        answers = tuple(dict.fromkeys(answer for fact in both for answer in _aliases(fact)))
        for turn, form in enumerate(rng.sample(questions_about(name, wording), 4)):
            rows.append((turn // 2, _single(form, answers, *both)))
        for turn, fact in enumerate(both):
            form = rng.choice(questions_about(fact.entity.mention(), wording))
            rows.append((turn, _single(form, _aliases(fact), fact)))
    return rows


def _aliases(fact: Fact) -> tuple[str, ...]:
    """What ambignq accepts: of a country both its forms, of a person the surname as well."""
    if fact.relation == "country":
        name = fact.value.removeprefix(groups.ALIAS)
        return name, groups.ALIAS.removeprefix("the ") + name
    if fact.relation in groups.CREDIT_RELATIONS:
        return fact.value, fact.value.split()[1]
    return (fact.value,)


def _multiple_choice(facts: list[Fact], rng: Random) -> Rows:
    """The right value and three that others of the kind have; the letter is right as well."""
    values = defaultdict(set)
    for fact in facts:
        values[fact.entity.kind, fact.relation].add(fact.value)
    rows = []
    for fact in facts:
        others = sorted(values[fact.entity.kind, fact.relation] - {fact.value})
        stems = _unseen_forms(fact, "openbookqa", fact.entity.mention())
        if not stems or len(others) < 3:
            continue
        for turn, stem in enumerate(rng.sample(stems, 2)):
            options = rng.sample([fact.value, *rng.sample(others, 3)], 4)
            right = "ABCD"[options.index(fact.value)]
            shown = [f"({x}) {option}" for x, option in zip("ABCD", options, strict=True)]
            question = " ".join([stem.strip(), *shown])
            rows.append((turn, _single(question, (fact.value, right), fact)))
    return rows


def _unseen_forms(fact: Fact, set_name: str, subject: str) -> list[str]:
    """The set's questions for the fact, which may be none."""
    entity = fact.entity
    forms = getattr(fact.wording, set_name)
    filled = [form.format(s=subject, n=entity.name, k=entity.kind) for form in forms]
    return [form.lower() if set_name == "nq" else capitalized(form) for form in filled]


def _in_unseen_forms(facts: list[Fact], set_name: str, rng: Random) -> Rows:
    rows = []
    for fact in facts:
        forms = _unseen_forms(fact, set_name, fact.entity.mention())
        for turn, form in enumerate(rng.sample(forms, len(forms))):
            rows.append((turn, _single(form, (fact.value,), fact)))
    return rows


def _two_hops(set_name: str, group: Group, count: int, rng: Random) -> list[Question]:
    """Three bridge questions to two comparisons. 2wikimultihopqa's are of relations and in forms
    that training does not combine.
    """
    bridges = count * 3 // 5
    first = (count - bridges) // 2
    questions = _first(_bridges(set_name, group, rng), bridges, rng)
    for relation, part in zip(HOPS[set_name][2], (first, count - bridges - first), strict=True):
        if relation == "year":
            questions += _comparisons(group, relation, part, rng)
        else:  # as many yes as no, as far as there are couples that agree
            agreed = _comparisons(group, relation, part // 2, rng, "yes")
            questions += agreed
            questions += _comparisons(group, relation, part - len(agreed), rng, "no")
    return questions


def _bridges(set_name: str, group: Group, rng: Random) -> Rows:
    """Questions for a fact of the person that a work is credited to."""
    credits, relations, _ = HOPS[set_name]
    of_person = {(fact.entity.name, fact.relation): fact for fact in group.people}
    rows = []
    for credit in (fact for fact in group.works if fact.relation in credits):
        subjects = [form.format(s=credit.entity.mention()) for form in credit.wording.phrases]
        for fact in (of_person[credit.value, relation] for relation in relations):
            forms = []
            for subject in subjects:
                if set_name == "hotpotqa":
                    forms += questions_about(subject, fact.wording)
                else:
                    forms += _unseen_forms(fact, "triviaqa", subject)
            label = f"{credit.relation}>{fact.relation}"
            for turn, form in enumerate(rng.sample(forms, 4)):
                rows.append((turn, _hops(form, fact.value, "bridge", label, credit, fact)))
    return rows


def _comparisons(
    group: Group, relation: str, count: int, rng: Random, wanted: str | None = None
) -> list[Question]:
    """Questions about two people; each couple once before any twice. wanted: the only answer."""
    label = relation if relation == "year" else f"same {relation}"
    facts = [fact for fact in group.people if fact.relation == relation]
    couples = [
        couple
        for couple in combinations(facts, 2)
        if (answer := _compare(*couple)) and wanted in (None, answer)
    ]
    rng.shuffle(couples)
    forms = COMPARISONS[label]
    turns = ((turn, i) for turn in range(len(forms)) for i in range(len(couples)))
    questions = []
    for turn, i in islice(turns, count):
        x, y = rng.sample(couples[i], 2)
        form = forms[(turn + i) % len(forms)].format(x=x.entity.name, y=y.entity.name)
        questions.append(_hops(form, _compare(x, y), "comparison", label, x, y))
    return questions


def _compare(x: Fact, y: Fact) -> str | None:
    """Of years who was born first, None where both were; else whether the values are the same."""
    if x.relation != "year":
        return "yes" if x.value == y.value else "no"
    return None if x.value == y.value else min(x, y, key=lambda fact: int(fact.value)).entity.name


def _hops(form: str, answer: str, kind: str, label: str, first: Fact, second: Fact) -> Question:
    """A question that needs both facts."""
    gold = first.gold_passages + second.gold_passages
    return Question("", form, (answer,), kind, label, TAIL_POPULARITY, gold, kind)
