"""The mini world: a fictional encyclopedia, made from a seed, where retrieving is a decision.

Where "I don't know it" always means "retrieve it", a supervised label does as well as reinforcement
learning. Here it does not, because of what the generator puts in on purpose:
- popular entities (Zipf-often, always in the corpus), tail entities, unseen ones to test on;
- facts that no passage states, mostly of three relations: the question gives it away, imperfectly;
- stale passages that contradict the truth, namesakes, shared titles, easy guesses;
- questions worded unlike the passages: poor queries, where the right keywords are good ones.

Stages: facts.py -> passages.py -> questions, here those of "popqa"; the other sets are about
entities of their own (sets.py). Each stage has a random stream of its own, so that a question set
added later leaves the others as they are. `python -m benchmarks.mini_world` measures what came out.
"""

from collections import defaultdict
from random import Random

from data.mini.facts import SCALES, Fact, Scale, make_entities, make_facts
from data.mini.passages import write_passages
from data.mini.sets import make_sets
from data.mini.text import questions_about
from data.world import Question, World, WorldError

SPLITS = ("train", "dev", "test")
SLICES = ("popular", "tail", "absent")


class MiniWorld(World):
    """A generated World that remembers its facts, for benchmarks and tests; nothing else may look.

    facts: of the entities that popqa is about; fact_of: id of a question of popqa -> the fact it
    asks for.
    """

    def __init__(self, *, facts: list[Fact], fact_of: dict[str, Fact], **world):
        super().__init__(**world)
        self.facts, self.fact_of = facts, fact_of


def generate(scale_name: str, seed: int) -> MiniWorld:
    """The world "mini" or "tiny" of this seed, the same on every machine. Raises WorldError."""
    if scale_name not in SCALES:
        raise WorldError(f"no generated world {scale_name!r}; there are: {', '.join(SCALES)}")
    scale = SCALES[scale_name]
    facts_rng, passages_rng, questions_rng = (
        Random(f"{scale_name}/{seed}/{stage}") for stage in ("facts", "passages", "questions")
    )
    entities = make_entities(scale, facts_rng)
    facts = make_facts(entities, facts_rng)
    corpus = write_passages(facts, scale, passages_rng)
    questions, fact_of = write_questions(facts, scale, questions_rng)
    more_passages, more_questions = make_sets(f"{scale_name}/{seed}", scale, entities, facts)
    return MiniWorld(
        name=scale_name if seed == 0 else f"{scale_name}-{seed}",
        corpus=corpus + more_passages,
        questions=questions | more_questions,
        k=2,
        quota=1,
        description=f"Fictional encyclopedia generated from seed {seed}",
        license="MIT",
        source="data/mini",
        facts=facts,
        fact_of=fact_of,
    )


def write_questions(
    facts: list[Fact], scale: Scale, rng: Random
) -> tuple[dict[str, list[Question]], dict[str, Fact]]:
    """The set "popqa" as {"popqa.<split>": questions}, and the fact that each question id asks for.

    Popular facts are in every split, in wordings that no other split uses; the others in their
    group's split.
    """
    candidates = {split: defaultdict(list) for split in SPLITS}
    for fact in facts:
        forms = popqa_forms(fact)
        for split, part in _deal(fact, rng.sample(forms, len(forms)), rng).items():
            candidates[split][fact.slice] += [(turn, fact, form) for turn, form in enumerate(part)]
    questions, fact_of = {}, {}
    for split in SPLITS:
        chosen = []
        for slice_name in SLICES:
            rows = candidates[split][slice_name]
            if split in scale.popqa:
                rows = _choose(rows, slice_name, scale.popqa[split][slice_name], rng)
            chosen += rows
        rng.shuffle(chosen)
        rows = questions[f"popqa.{split}"] = []
        for number, (_, fact, form) in enumerate(chosen):
            id = f"{split}{number}"
            popularity, gold = fact.entity.popularity, fact.gold_passages
            rows.append(
                Question(id, form, (fact.value,), fact.slice, fact.relation, popularity, gold)
            )
            fact_of[id] = fact
    return questions, fact_of


def _deal(fact: Fact, forms: list[str], rng: Random) -> dict[str, list[str]]:
    """split -> its forms of the question for this fact."""
    if fact.slice == "popular":
        return {"train": forms[:6], "dev": forms[6:8], "test": forms[8:]}
    if fact.entity.group == "train":
        return {"train": forms[: rng.choice((2, 3))]}
    return {fact.entity.group: forms}


Candidate = tuple[int, Fact, str]  # its number among the fact's forms, the fact, the form


def _choose(rows: list[Candidate], slice_name: str, count: int, rng: Random) -> list[Candidate]:
    if slice_name == "popular":  # Zipf-often: a weighted sample without replacement
        rows.sort(key=lambda row: rng.random() ** (1 / row[1].entity.popularity), reverse=True)
    else:  # every fact once before any fact twice
        rows.sort(key=lambda row: (row[0], rng.random()))
    return rows[:count]


def popqa_forms(fact: Fact) -> list[str]:
    """All wordings of popqa's question for a fact."""
    return questions_about(fact.entity.mention(), fact.wording)
