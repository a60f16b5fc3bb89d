"""The mini world: a fictional encyclopedia, generated from a seed, in which retrieving is a real decision.

Where "I don't know it" always means "retrieve it", a supervised label does as well as reinforcement learning. Here it
does not, because of what the generator puts in on purpose:
- popular entities (asked Zipf-often, always in the corpus), training-tail entities, and unseen ones for dev and test;
- facts that no passage states, mostly of three relations, so that the question gives it away, imperfectly;
- stale passages that contradict the truth, namesakes, works that share a title, and values that are easy to guess;
- questions worded unlike the passages, so that the raw question is a poor query and the right keywords a good one.

Stages: facts (data/mini_facts.py) -> passages (data/mini_passages.py) -> questions, here those of "popqa"; the other sets
ask about entities of their own (data/mini_sets.py). Each stage has a random stream of its own, so that a question set
added later leaves the others as they are. `properties` measures what came out.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from random import Random

from data import mini_text as text
from data.demonstrations import TEACHER
from data.metrics import exact_match, hit
from data.mini_facts import SCALES, Fact, Scale, make_entities, make_facts
from data.mini_passages import write_passages
from data.mini_sets import make_sets
from data.world import Question, World, WorldError

SPLITS = ("train", "dev", "test")
SLICES = ("popular", "tail", "absent")


class MiniWorld(World):
    """A generated World that remembers the facts and which one each question asks for: the oracle of `properties`."""

    def __init__(self, *, facts: list[Fact], asked: dict[str, Fact], **world):
        super().__init__(**world)
        self.facts = facts  # of the entities that popqa asks about
        self.asked = asked  # id of a question of popqa -> fact


def generate(scale_name: str, seed: int) -> MiniWorld:
    """The world "mini" (under a second) or "tiny" of this seed, the same on every machine. Raises WorldError."""
    if scale_name not in SCALES:
        raise WorldError(f"no generated world {scale_name!r}; there are: {', '.join(SCALES)}")
    scale = SCALES[scale_name]
    facts_rng, passages_rng, questions_rng = (
        Random(f"{scale_name}/{seed}/{stage}") for stage in ("facts", "passages", "questions"))
    entities = make_entities(scale, facts_rng)
    facts = make_facts(entities, facts_rng)
    corpus = write_passages(facts, scale, passages_rng)
    questions, asked = write_questions(facts, scale, questions_rng)
    more_passages, more_questions = make_sets(scale_name, seed, entities, facts)
    corpus, questions = corpus + more_passages, questions | more_questions
    return MiniWorld(
        name=scale_name if seed == 0 else f"{scale_name}-{seed}", corpus=corpus, questions=questions, k=2, quota=1,
        description=f"Fictional encyclopedia generated from seed {seed}", license="MIT", source="data/mini.py",
        facts=facts, asked=asked)


# ---------------------------------------------------------------------------------------------- questions


def write_questions(facts: list[Fact], scale: Scale,
                    rng: Random) -> tuple[dict[str, list[Question]], dict[str, Fact]]:
    """The set "popqa" as {"popqa.<split>": questions}, and what each question id asks for.

    Popular facts are asked in every split, in wordings that no other split uses; the others in their group's split.
    """
    candidates = {split: defaultdict(list) for split in SPLITS}  # split -> slice -> (its number, fact, wording)
    for fact in facts:
        wordings = rng.sample(ask(fact), len(ask(fact)))
        if fact.slice == "popular":
            parts = {"train": wordings[:6], "dev": wordings[6:8], "test": wordings[8:]}
        elif fact.entity.group == "train":
            parts = {"train": wordings[: rng.choice((2, 3))]}
        else:
            parts = {fact.entity.group: wordings}
        for split, part in parts.items():
            candidates[split][fact.slice] += [(i, fact, wording) for i, wording in enumerate(part)]
    questions, asked = {}, {}
    for split in SPLITS:
        chosen = []
        for slice_name in SLICES:
            rows = candidates[split][slice_name]
            if split != "train":
                if slice_name == "popular":  # asked Zipf-often: a weighted sample without replacement
                    rows.sort(key=lambda row: rng.random() ** (1 / row[1].entity.popularity), reverse=True)
                else:  # every fact once before any fact twice
                    rows.sort(key=lambda row: (row[0], rng.random()))
                rows = rows[: scale.rows[split][slice_name]]
            chosen += rows
        rng.shuffle(chosen)
        questions[f"popqa.{split}"] = [
            Question(f"{split}{number}", wording, (fact.value,), fact.slice, fact.relation, fact.entity.popularity,
                     fact.gold_passages) for number, (_, fact, wording) in enumerate(chosen)]
        asked |= {f"{split}{number}": fact for number, (_, fact, _) in enumerate(chosen)}
    return questions, asked


def ask(fact: Fact) -> list[str]:
    """All wordings of the question that asks for a fact."""
    return text.ask(fact.wording, fact.entity.mention())


# ---------------------------------------------------------------------------------------------- what came out


def properties(world: MiniWorld, search: Callable[[list[str], int], Sequence[Sequence[int]]]) -> dict:
    """Measure a generated world with a retriever. All figures on the test split, fractions; of popqa, but for "sets".

    search(queries, k) -> corpus positions [Q, k]. Returns
    sizes      {"entities", "facts", "passages", "questions": {split: {slice: rows}}}
    absent     {"tail", then each relation}: share of the tail facts, train and unseen, that no passage states
    hit        {query kind: {slice: hit@k}}: the raw question, the subject's name, the expected hit@k of the teacher
               (queries drawn from TEACHER), the best query (subject as questions name it, all keywords)
    guess      {slice: EM of always answering the relation's most frequent train value}
    sets       {"<other set> <slice>": {"train", "dev", "test": rows, "hit", "recall": of the raw question}}; hit@k: all that
               a question needs is found (data.metrics.hit), recall@k: share of the gold passages
    """
    test = world.questions("popqa", "test")
    facts = [world.asked[question.id] for question in test]
    queries = {"question": [question.question for question in test],
               "subject": [fact.entity.name for fact in facts],
               "one keyword": [" ".join((fact.entity.name, *fact.keywords[:1])) for fact in facts],
               "two keywords": [" ".join((fact.entity.name, *fact.keywords)) for fact in facts],
               "best query": [" ".join((fact.entity.mention(), *fact.keywords)) for fact in facts]}
    hits = {}
    for kind, texts in queries.items():
        found = search(texts, world.k)
        hits[kind] = [float(any(world.corpus[i].id in question.gold_passages for i in row if i >= 0))
                      for question, row in zip(test, found)]
    hits["teacher"] = [sum(share * hits[kind][i] for kind, share in TEACHER) for i in range(len(test))]
    hits["raw question"] = hits.pop("question")

    values = defaultdict(Counter)
    for question in world.questions("popqa", "train"):
        values[question.relation][question.answers[0]] += 1
    guess = {relation: counted.most_common(1)[0][0] for relation, counted in values.items()}
    guesses = [exact_match(guess.get(question.relation, ""), question.answers) for question in test]

    tail = [fact for fact in world.facts if fact.entity.group != "popular"]
    absent = {"tail": _mean([not fact.present for fact in tail])}
    for relation in sorted({fact.relation for fact in tail}):
        absent[relation] = _mean([not fact.present for fact in tail if fact.relation == relation])
    sizes = {"entities": len({id(fact.entity) for fact in world.facts}), "facts": len(world.facts),
             "passages": len(world.corpus),
             "questions": {split: dict(Counter(q.slice for q in world.questions("popqa", split))) for split in SPLITS}}
    return {"world": world.name, "k": world.k, "sizes": sizes, "absent": absent, "guess": _by_slice(test, guesses),
            "hit": {kind: _by_slice(test, hits[kind]) for kind in ("raw question", "subject", "teacher", "best query")},
            "sets": _other_sets(world, search)}


def _other_sets(world: MiniWorld, search: Callable[[list[str], int], Sequence[Sequence[int]]]) -> dict[str, dict[str, float]]:
    figures = defaultdict(lambda: dict.fromkeys(SPLITS, 0))
    for set_name, split in (name.split(".") for name in world.splits if not name.startswith("popqa")):
        for question in world.questions(set_name, split):
            figures[f"{set_name} {question.slice}"][split] += 1
    for set_name in sorted({name.split()[0] for name in figures}):
        test = world.questions(set_name, "test")
        found = [[world.corpus[i] for i in row if i >= 0] for row in search([question.question for question in test], world.k)]
        for slice_name in sorted({question.slice for question in test}):
            part = [(question, passages) for question, passages in zip(test, found) if question.slice == slice_name]
            figures[f"{set_name} {slice_name}"] |= {
                "hit": _mean([hit(passages, question) for question, passages in part]),
                "recall": _mean([len({p.id for p in passages} & set(question.gold_passages)) / len(question.gold_passages)
                                 for question, passages in part])}
    return dict(sorted(figures.items()))


def _by_slice(questions: list[Question], figures: list[float]) -> dict[str, float]:
    return {name: _mean([figure for question, figure in zip(questions, figures) if question.slice == name])
            for name in SLICES}


def _mean(figures: Sequence[float]) -> float:
    return sum(figures) / len(figures) if figures else float("nan")


def format_properties(figures: dict) -> str:
    """The properties as a compact table."""
    sizes = figures["sizes"]
    lines = [f"{figures['world']} world: {sizes['entities']:,} entities, {sizes['facts']:,} facts, "
             f"{sizes['passages']:,} passages, k = {figures['k']}"]
    lines.append(f"{'':<22}" + "".join(f"{name:>9}" for name in SLICES))
    for split in SPLITS:
        rows = sizes["questions"][split]
        lines.append(f"{split + ' questions':<22}" + "".join(f"{rows[name]:>9,}" for name in SLICES))
    for kind, hits in figures["hit"].items():
        label = f"hit@{figures['k']} of {kind}"
        lines.append(f"{label:<22}" + "".join(f"{hits[name]:>9.3f}" for name in SLICES[:2]))
    lines.append(f"{'EM of a guess':<22}" + "".join(f"{figures['guess'][name]:>9.3f}" for name in SLICES))
    absent = figures["absent"]
    lines.append("absent from the corpus: " + ", ".join(f"{name} {share:.0%}" for name, share in absent.items()))
    lines.append(f"{'other sets, raw question':<27}" + "".join(f"{name:>9}" for name in (*SPLITS, f"hit@{figures['k']}", "recall")))
    for name, row in figures["sets"].items():
        lines.append(f"{name:<27}" + "".join(f"{row[split]:>9,}" for split in SPLITS) + f"{row['hit']:>9.3f}{row['recall']:>9.3f}")
    return "\n".join(lines)
