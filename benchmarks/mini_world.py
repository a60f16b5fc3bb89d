"""What a generated world is like, measured with a retriever."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from data.metrics import exact_match, hit
from data.mini.generate import SLICES, SPLITS, MiniWorld
from data.world import Question
from rl.warmup.teacher import TEACHER


def properties(
    world: MiniWorld, search: Callable[[list[str], int], Sequence[Sequence[int]]]
) -> dict:
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
    facts = [world.fact_of[question.id] for question in test]
    queries = {
        "question": [question.question for question in test],
        "subject": [fact.entity.name for fact in facts],
        "one keyword": [" ".join((fact.entity.name, *fact.keywords[:1])) for fact in facts],
        "two keywords": [" ".join((fact.entity.name, *fact.keywords)) for fact in facts],
        "best query": [" ".join((fact.entity.mention(), *fact.keywords)) for fact in facts],
    }
    hits = {}
    for kind, texts in queries.items():
        found = search(texts, world.k)
        hits[kind] = [
            float(any(world.corpus[i].id in question.gold_passages for i in row if i >= 0))
            for question, row in zip(test, found)
        ]
    hits["teacher"] = [
        sum(share * hits[kind][i] for kind, share in TEACHER) for i in range(len(test))
    ]
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
    sizes = {
        "entities": len({id(fact.entity) for fact in world.facts}),
        "facts": len(world.facts),
        "passages": len(world.corpus),
        "questions": {
            split: dict(Counter(q.slice for q in world.questions("popqa", split)))
            for split in SPLITS
        },
    }
    return {
        "world": world.name,
        "k": world.k,
        "sizes": sizes,
        "absent": absent,
        "guess": _by_slice(test, guesses),
        "hit": {
            kind: _by_slice(test, hits[kind])
            for kind in ("raw question", "subject", "teacher", "best query")
        },
        "sets": _other_sets(world, search),
    }


def _other_sets(
    world: MiniWorld, search: Callable[[list[str], int], Sequence[Sequence[int]]]
) -> dict[str, dict[str, float]]:
    figures = defaultdict(lambda: dict.fromkeys(SPLITS, 0))
    for set_name, split in (
        name.split(".") for name in world.splits if not name.startswith("popqa")
    ):
        for question in world.questions(set_name, split):
            figures[f"{set_name} {question.slice}"][split] += 1
    for set_name in sorted({name.split()[0] for name in figures}):
        test = world.questions(set_name, "test")
        found = [
            [world.corpus[i] for i in row if i >= 0]
            for row in search([question.question for question in test], world.k)
        ]
        for slice_name in sorted({question.slice for question in test}):
            part = [
                (question, passages)
                for question, passages in zip(test, found)
                if question.slice == slice_name
            ]
            figures[f"{set_name} {slice_name}"] |= {
                "hit": _mean([hit(passages, question) for question, passages in part]),
                "recall": _mean(
                    [
                        len({p.id for p in passages} & set(question.gold_passages))
                        / len(question.gold_passages)
                        for question, passages in part
                    ]
                ),
            }
    return dict(sorted(figures.items()))


def _by_slice(questions: list[Question], figures: list[float]) -> dict[str, float]:
    return {
        name: _mean(
            [figure for question, figure in zip(questions, figures) if question.slice == name]
        )
        for name in SLICES
    }


def _mean(figures: Sequence[float]) -> float:
    return sum(figures) / len(figures) if figures else float("nan")


def format_properties(figures: dict) -> str:
    """The properties as a compact table."""
    sizes = figures["sizes"]
    lines = [
        f"{figures['world']} world: {sizes['entities']:,} entities, {sizes['facts']:,} facts, "
        f"{sizes['passages']:,} passages, k = {figures['k']}"
    ]
    lines.append(f"{'':<22}" + "".join(f"{name:>9}" for name in SLICES))
    for split in SPLITS:
        rows = sizes["questions"][split]
        lines.append(
            f"{split + ' questions':<22}" + "".join(f"{rows[name]:>9,}" for name in SLICES)
        )
    for kind, hits in figures["hit"].items():
        label = f"hit@{figures['k']} of {kind}"
        lines.append(f"{label:<22}" + "".join(f"{hits[name]:>9.3f}" for name in SLICES[:2]))
    lines.append(
        f"{'EM of a guess':<22}" + "".join(f"{figures['guess'][name]:>9.3f}" for name in SLICES)
    )
    absent = figures["absent"]
    lines.append(
        "absent from the corpus: "
        + ", ".join(f"{name} {share:.0%}" for name, share in absent.items())
    )
    lines.append(
        f"{'other sets, raw question':<27}"
        + "".join(f"{name:>9}" for name in (*SPLITS, f"hit@{figures['k']}", "recall"))
    )
    for name, row in figures["sets"].items():
        lines.append(
            f"{name:<27}"
            + "".join(f"{row[split]:>9,}" for split in SPLITS)
            + f"{row['hit']:>9.3f}{row['recall']:>9.3f}"
        )
    return "\n".join(lines)
