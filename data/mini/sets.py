"""The other question sets of the mini world, each about entities of its own: what popqa asks stays as it is.

trained and tested  ambignq          a name that two entities share; two questions in three do not say which
                    hotpotqa         bridge ("What is the trade of the author of ...?") and comparison
only tested         triviaqa         other wordings; the fact stands in the middle of four sentences
                    2wikimultihopqa  other pairs of relations, comparison of trade and faith
                    nq               lower case, as typed into a search engine
                    openbookqa       four options

Left out on purpose: "who is younger", questions of three facts, facts that are absent.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import combinations, islice
from random import Random

from data.files import choice
from data.mini import groups
from data.mini.facts import TAIL_POPULARITY, Entity, Fact, Scale
from data.mini.groups import Group, Names, Sizes, make_group
from data.mini.passages import publish
from data.mini.text import COMPARISONS, UNSEEN_FORMS, UnseenForms, capitalized, questions_about
from data.world import Passage, Question


def make_sets(
    name: str, scale: Scale, entities: list[Entity], facts: list[Fact]
) -> tuple[list[Passage], dict[str, list[Question]]]:
    """More passages for the world of these entities and facts, and the sets {"<set>.<split>": questions}.

    name: begins the names of the random streams.
    """
    names = Names(entities, facts, scale.parts, Random(f"{name}/names"))
    places = {
        kind: [entity.name for entity in entities if entity.kind == kind]
        for kind in ("city", "country")
    }
    of_split, drafts, questions = {}, [], {}
    for split, sizes in scale.groups.items():
        rng = Random(f"{name}/cast/{split}")
        of_split[split] = make_group(split, Sizes(**sizes), names, places, rng)
        drafts += of_split[split].drafts(Random(f"{name}/sentences/{split}"))
    corpus = publish(
        drafts, "s", Random(f"{name}/corpus")
    )  # from here on facts know their passages
    for split, sizes in scale.groups.items():
        for set_name, count in sizes["rows"].items():
            rng = Random(f"{name}/{set_name}/{split}")
            rows = SETS[set_name](of_split[split], count, rng)
            rng.shuffle(rows)
            questions[f"{set_name}.{split}"] = [
                replace(row, id=f"{set_name}-{split}{i}") for i, row in enumerate(rows)
            ]
    return corpus, questions


# -------------------------------------------------------------------------------------- the sets

# Each is a function of its split's entities, the number of rows and a random stream. Ids come afterwards.

Candidate = tuple[int, Question]  # its number among the questions for the same fact, the question


def ambignq(group: Group, count: int, rng: Random) -> list[Question]:
    """Of every pair and relation four questions that leave open which of the two is meant, and one for each."""
    rows = []
    for pair in group.pairs:
        both = rng.sample(pair, 2)
        name, wording = pair[0].entity.name, pair[0].wording
        answers = tuple(dict.fromkeys(answer for fact in both for answer in aliases(fact)))
        for turn, form in enumerate(rng.sample(questions_about(name, wording), 4)):
            rows.append((turn // 2, _single(form, answers, *both)))
        for turn, fact in enumerate(both):
            form = rng.choice(questions_about(fact.entity.mention(), wording))
            rows.append((turn, _single(form, aliases(fact), fact)))
    return _first(rows, count, rng)


def aliases(fact: Fact) -> tuple[str, ...]:
    """The answers that ambignq accepts: of a country both its forms, of a person the surname as well."""
    if fact.relation == "country":
        name = fact.value.removeprefix(groups.ALIAS)
        return name, groups.ALIAS.removeprefix("the ") + name
    if fact.relation in groups.CREDIT_RELATIONS:
        return fact.value, fact.value.split()[1]
    return (fact.value,)


def hotpotqa(group: Group, count: int, rng: Random) -> list[Question]:
    """Three bridge questions to two comparisons, half of which have yes or no for an answer."""
    bridge = count * 3 // 5
    older = (count - bridge) // 2
    return (
        _bridges(group, groups.HOTPOT_CREDITS, groups.HOTPOT_FACTS, _popqa_forms, bridge, rng)
        + _comparisons(group, "year", "year", _born_first, older, rng)
        + _balanced(group, "country", count - bridge - older, rng)
    )


def wiki2(group: Group, count: int, rng: Random) -> list[Question]:
    """As hotpotqa, of relations and in forms that training does not combine; comparisons are yes or no."""
    bridge = count * 3 // 5
    trade = (count - bridge) // 2
    return (
        _bridges(group, groups.WIKI_CREDITS, groups.WIKI_FACTS, _trivia_forms, bridge, rng)
        + _balanced(group, "occupation", trade, rng)
        + _balanced(group, "religion", count - bridge - trade, rng)
    )


def triviaqa(group: Group, count: int, rng: Random) -> list[Question]:
    """The facts in the middle of the long passages."""
    facts = [fact for profile in group.profiles for fact in profile[1:-1]]
    return _in_unseen_forms(
        facts, lambda fact, _: _trivia_forms(fact, fact.entity.mention()), count, rng
    )


def nq(group: Group, count: int, rng: Random) -> list[Question]:
    """Lower case, no question mark, sometimes no verb."""

    def typed(fact: Fact, forms: UnseenForms) -> list[str]:
        name, kind = fact.entity.name, fact.entity.kind
        return [form.format(n=name, k=kind).lower() for form in forms.nq]

    return _in_unseen_forms(group.people + group.works, typed, count, rng)


def openbookqa(group: Group, count: int, rng: Random) -> list[Question]:
    """The right value and three that others of the kind have; the option's letter is right as well."""
    facts = group.people + group.works
    values = defaultdict(set)
    for fact in facts:
        values[fact.entity.kind, fact.relation].add(fact.value)
    rows = []
    for fact in facts:
        key = fact.entity.kind, fact.relation
        others = sorted(values[key] - {fact.value})
        if key not in UNSEEN_FORMS or len(others) < 3:
            continue
        for turn, form in enumerate(rng.sample(UNSEEN_FORMS[key].openbookqa, 2)):
            options = rng.sample([fact.value, *rng.sample(others, 3)], 4)
            stem = capitalized(form.format(s=fact.entity.mention()))
            right = "ABCD"[options.index(fact.value)]
            question = choice(
                "", stem, dict(zip("ABCD", options, strict=True)), right, "openbookqa"
            )
            rows.append((turn, _single(question.question, question.answers, fact)))
    return _first(rows, count, rng)


SETS = {
    "ambignq": ambignq,
    "hotpotqa": hotpotqa,
    "triviaqa": triviaqa,
    "2wikimultihopqa": wiki2,
    "nq": nq,
    "openbookqa": openbookqa,
}

# -------------------------------------------------------------------------------------- two facts


def _popqa_forms(fact: Fact, subject: str) -> list[str]:
    return questions_about(subject, fact.wording)


def _trivia_forms(fact: Fact, subject: str) -> list[str]:
    forms = UNSEEN_FORMS[fact.entity.kind, fact.relation].triviaqa
    return [capitalized(form.format(s=subject)) for form in forms]


def _bridges(
    group: Group,
    credits: Iterable[str],
    relations: Iterable[str],
    forms_of: Callable[[Fact, str], list[str]],
    count: int,
    rng: Random,
) -> list[Question]:
    """Questions for a fact of the person that a work is credited to."""
    of_person = {(fact.entity.name, fact.relation): fact for fact in group.people}
    rows = []
    for credit in (fact for fact in group.works if fact.relation in credits):
        mention = credit.entity.mention()
        subjects = [phrase.format(s=mention) for phrase in credit.wording.phrases]
        for fact in (of_person[credit.value, relation] for relation in relations):
            label = f"{credit.relation}>{fact.relation}"
            forms = [form for subject in subjects for form in forms_of(fact, subject)]
            for turn, form in enumerate(rng.sample(forms, 4)):
                rows.append((turn, _hops(form, fact.value, "bridge", label, credit, fact)))
    return _first(rows, count, rng)


def _comparisons(
    group: Group,
    relation: str,
    label: str,
    answer: Callable[[Fact, Fact], str | None],
    count: int,
    rng: Random,
    wanted: str | None = None,
) -> list[Question]:
    """Questions about two people; each couple once before any twice, in another form. wanted: the only answer."""
    forms = COMPARISONS[label]
    facts = [fact for fact in group.people if fact.relation == relation]
    couples = []
    for couple in combinations(facts, 2):
        right = answer(*couple)
        if right and wanted in (None, right):
            couples.append(couple)
    rng.shuffle(couples)
    turns = ((turn, i) for turn in range(len(forms)) for i in range(len(couples)))
    questions = []
    for turn, i in islice(turns, count):
        x, y = rng.sample(couples[i], 2)
        form = forms[(turn + i) % len(forms)].format(x=x.entity.name, y=y.entity.name)
        questions.append(_hops(form, answer(x, y), "comparison", label, x, y))
    return questions


def _balanced(group: Group, relation: str, count: int, rng: Random) -> list[Question]:
    """As many questions whose answer is yes as no, as far as a tiny world has couples that agree."""
    label = f"same {relation}"
    agreed = _comparisons(group, relation, label, _same, count // 2, rng, "yes")
    return agreed + _comparisons(group, relation, label, _same, count - len(agreed), rng, "no")


def _same(x: Fact, y: Fact) -> str:
    return "yes" if x.value == y.value else "no"


def _born_first(x: Fact, y: Fact) -> str | None:
    return None if x.value == y.value else min(x, y, key=lambda fact: int(fact.value)).entity.name


def _hops(form: str, answer: str, kind: str, label: str, first: Fact, second: Fact) -> Question:
    """A question that needs both facts."""
    gold = first.gold_passages + second.gold_passages
    return Question("", form, (answer,), kind, label, TAIL_POPULARITY, gold, kind)


# -------------------------------------------------------------------------------------- one fact


def _in_unseen_forms(
    facts: list[Fact], forms_of: Callable[[Fact, UnseenForms], list[str]], count: int, rng: Random
) -> list[Question]:
    rows = []
    for fact in facts:
        key = fact.entity.kind, fact.relation
        if key in UNSEEN_FORMS:
            forms = forms_of(fact, UNSEEN_FORMS[key])
            for turn, form in enumerate(rng.sample(forms, len(forms))):
                rows.append((turn, _single(form, (fact.value,), fact)))
    return _first(rows, count, rng)


def _single(form: str, answers: tuple[str, ...], *facts: Fact) -> Question:
    """A question that any of these facts answers, of the same relation all."""
    gold = tuple(id for fact in facts for id in fact.gold_passages)
    return Question("", form, answers, "tail", facts[0].relation, TAIL_POPULARITY, gold)


def _first(rows: list[Candidate], count: int, rng: Random) -> list[Question]:
    """`count` of the questions: every fact once before any fact twice."""
    rows = sorted(rows, key=lambda row: (row[0], rng.random()))
    return [question for _, question in rows[:count]]
