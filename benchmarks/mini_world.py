"""What generated worlds are like, measured with BM25: python -m benchmarks.mini_world [mini ...]"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from data.load import open_world
from data.metrics import exact_match, hit
from data.mini.generate import SLICES, SPLITS
from data.world import Question, World
from retrieval_cpp import BM25Index
from rl.warmup.teacher import TEACHER

Search = Callable[
    [list[str], int], Sequence[Sequence[int]]
]  # queries, k -> corpus positions [Q, k]


def properties(world: World, search: Search) -> dict:
    """Figures on the test split, fractions; of popqa, but for "sets":

    sizes      {"entities", "facts", "passages", "questions": {split: {slice: rows}}}
    absent     {"tail", then each relation}: share of the tail facts that no passage states
    hit        {query: {slice: hit@k}}: the raw question, the subject's name, the teacher's expected
               hit@k (queries drawn from TEACHER), the best query (subject with its kind, keywords)
    constant   {slice: EM of always answering the relation's most frequent train value}
    sets       {"<other set> <slice>": {"train", "dev", "test": rows, "hit", "recall"}} of the raw
               question: hit@k (data.metrics.hit) and share of the gold passages
    """
    test = world.questions("popqa", "test")
    tail = [fact for fact in world.facts if fact.entity.group != "popular"]
    absent = {"tail": _mean([not fact.present for fact in tail])}
    for relation in sorted({fact.relation for fact in tail}):
        absent[relation] = _mean([not fact.present for fact in tail if fact.relation == relation])
    hits = _hits(world, search)
    questions = {split: world.questions("popqa", split) for split in SPLITS}
    return {
        "world": world.name,
        "k": world.k,
        "sizes": {
            "entities": len({id(fact.entity) for fact in world.facts}),
            "facts": len(world.facts),
            "passages": len(world.corpus),
            "questions": {
                split: dict(Counter(q.slice for q in questions[split])) for split in SPLITS
            },
        },
        "absent": absent,
        "constant": _by_slice(test, _constant_answers(questions["train"], test)),
        "hit": {kind: _by_slice(test, hits[kind]) for kind in hits if "keyword" not in kind},
        "sets": _other_sets(world, search),
    }


def _hits(world: World, search: Search) -> dict[str, list[float]]:
    """Kind of query -> hit@k of each test question."""
    test = world.questions("popqa", "test")
    facts = [world.fact_of[question.id] for question in test]
    text = {passage.id: passage.text for passage in world.corpus}
    keywords = []  # those of the gold passage first
    for fact in facts:
        words = set(text[fact.gold_passages[0]].split()) if fact.present else ()
        keywords.append(sorted(fact.wording.keywords, key=words.__contains__, reverse=True))
    pairs = list(zip(facts, keywords, strict=True))
    queries = {
        "question": [question.question for question in test],
        "subject": [fact.entity.name for fact in facts],
        "one keyword": [" ".join((fact.entity.name, *words[:1])) for fact, words in pairs],
        "two keywords": [" ".join((fact.entity.name, *words)) for fact, words in pairs],
        "best query": [" ".join((fact.entity.mention(), *words)) for fact, words in pairs],
    }
    hits = {}
    for kind, texts in queries.items():
        hits[kind] = [
            float(any(world.corpus[i].id in question.gold_passages for i in row if i >= 0))
            for question, row in zip(test, search(texts, world.k), strict=True)
        ]
    weak = [sum(share * hits[kind][i] for kind, share in TEACHER) for i in range(len(test))]
    return {"raw question": hits.pop("question"), **hits, "teacher": weak}


def _constant_answers(train: list[Question], test: list[Question]) -> list[float]:
    values = defaultdict(Counter)
    for question in train:
        values[question.relation][question.answers[0]] += 1
    answers = {relation: counted.most_common(1)[0][0] for relation, counted in values.items()}
    return [exact_match(answers.get(question.relation, ""), question.answers) for question in test]


def _other_sets(world: World, search: Search) -> dict[str, dict[str, float]]:
    figures = defaultdict(lambda: dict.fromkeys(SPLITS, 0))
    for set_name, split in (name.split(".") for name in world.splits):
        if set_name != "popqa":
            for question in world.questions(set_name, split):
                figures[f"{set_name} {question.slice}"][split] += 1
    for set_name in sorted({name.split()[0] for name in figures}):
        test = world.questions(set_name, "test")
        found = defaultdict(list)
        for question, row in zip(test, search([q.question for q in test], world.k), strict=True):
            passages = [world.corpus[i] for i in row if i >= 0]
            gold = set(question.gold_passages)
            recall = len({passage.id for passage in passages} & gold) / len(gold)
            found[question.slice].append((hit(passages, question), recall))
        for slice_name, pairs in found.items():
            hits, recalls = zip(*pairs, strict=True)
            figures[f"{set_name} {slice_name}"] |= {"hit": _mean(hits), "recall": _mean(recalls)}
    return dict(sorted(figures.items()))


def _by_slice(questions: list[Question], figures: list[float]) -> dict[str, float]:
    parts = defaultdict(list)
    for question, figure in zip(questions, figures, strict=True):
        parts[question.slice].append(figure)
    return {name: _mean(parts[name]) for name in SLICES}


def _mean(figures: Sequence[float]) -> float:
    return sum(figures) / len(figures) if figures else float("nan")


def format_properties(figures: dict) -> str:
    """The properties as a compact table."""
    sizes, k = figures["sizes"], figures["k"]
    lines = [
        f"{figures['world']} world: {sizes['entities']:,} entities, {sizes['facts']:,} facts, "
        f"{sizes['passages']:,} passages, k = {k}",
        f"{'':<22}" + "".join(f"{name:>9}" for name in SLICES),
    ]
    for split in SPLITS:
        rows = "".join(f"{sizes['questions'][split][name]:>9,}" for name in SLICES)
        lines.append(f"{split + ' questions':<22}{rows}")
    for kind, hits in figures["hit"].items():
        rows = "".join(f"{hits[name]:>9.3f}" for name in SLICES[:2])
        lines.append(f"{f'hit@{k} of {kind}':<22}{rows}")
    rows = "".join(f"{figures['constant'][name]:>9.3f}" for name in SLICES)
    lines.append(f"{'EM of constant answers':<22}{rows}")
    shares = ", ".join(f"{name} {share:.0%}" for name, share in figures["absent"].items())
    lines.append(f"absent from the corpus: {shares}")
    columns = "".join(f"{name:>9}" for name in (*SPLITS, f"hit@{k}", "recall"))
    lines.append(f"{'other sets, raw question':<27}{columns}")
    for name, row in figures["sets"].items():
        rows = "".join(f"{row[split]:>9,}" for split in SPLITS)
        lines.append(f"{name:<27}{rows}{row['hit']:>9.3f}{row['recall']:>9.3f}")
    return "\n".join(lines)


def main() -> None:
    for name in sys.argv[1:] or ["mini"]:
        world = open_world(name)
        index = BM25Index.build([passage.full_text for passage in world.corpus])

        def search(queries: list[str], k: int, index: BM25Index = index) -> Sequence[Sequence[int]]:
            return index.search(queries, k=k)[0]

        print(format_properties(properties(world, search)))


if __name__ == "__main__":
    main()
