"""The mini world: a fictional encyclopedia, made from a seed, where retrieving is a decision.

Where "I don't know it" always means "retrieve it", a supervised label does as well as reinforcement
learning. Here it does not, because of what the generator puts in on purpose:
- popular entities (Zipf-often, always in the corpus), tail entities, unseen ones to test on;
- facts that no passage states, mostly of three relations: the question gives it away, imperfectly;
- stale passages that contradict the truth, namesakes, shared titles, easy guesses;
- questions worded unlike the passages: poor queries, where the right keywords are good ones.

Stages: facts -> passages -> questions, here those of "popqa"; the other sets are about entities of
their own (sets.py). Each stage has a random stream of its own, so that a question set added later
leaves the others as they are. `python -m benchmarks.mini_world` measures what came out.
"""

import json
from collections import defaultdict
from pathlib import Path
from random import Random

from data.mini import facts as mini
from data.mini.facts import Entity, Fact
from data.mini.sets import make_sets
from data.world import Passage, Question, World

SPLITS = ("train", "dev", "test")
SLICES = ("popular", "tail", "absent")
# name of a world -> its sizes: entities by kind; how many of them are asked about in every split
# (popular), or in dev or test alone; parts: how many words of each list names are made of, which
# makes the vocabulary; popqa: rows by split and slice; groups: by split, for the other sets.
SCALES = json.loads(Path(__file__).with_name("sizes.json").read_text(encoding="utf-8"))


def generate(scale_name: str, seed: int) -> World:
    """The world "mini" or "tiny" of this seed, the same on every machine. Only for benchmarks and
    tests it has the facts that popqa is about, `facts`, and `fact_of`: id of a question -> fact."""
    scale, stream = SCALES[scale_name], f"{scale_name}/{seed}"
    rng = Random(f"{stream}/facts")
    entities = mini.make_entities(scale, rng)
    facts = mini.make_facts(entities, rng)
    corpus = write_passages(facts, scale["namesakes"], Random(f"{stream}/passages"))
    asked = write_questions(facts, scale["popqa"], Random(f"{stream}/questions"))
    more_passages, more_questions = make_sets(stream, scale, entities, facts)
    questions = {f"popqa.{split}": [row for row, _ in asked[split]] for split in SPLITS}
    world = World(
        name=scale_name if seed == 0 else f"{scale_name}-{seed}",
        corpus=corpus + more_passages,
        questions=questions | more_questions,
        k=2,
        quota=1,
        description=f"Fictional encyclopedia generated from seed {seed}",
        license="MIT",
        source="data/mini",
    )
    world.facts = facts
    world.fact_of = {row.id: fact for split in SPLITS for row, fact in asked[split]}
    return world


def write_passages(facts: list[Fact], namesakes: int, rng: Random) -> list[Passage]:
    """One passage for each present fact, each stale value and each fact of a namesake, shuffled."""
    drafts = list(mini.draft_facts(facts, rng))
    of_person, values = defaultdict(list), defaultdict(list)
    for fact in facts:
        if fact.entity.kind == "person" and fact.relation not in ("father", "mother"):
            of_person[fact.entity.name].append(fact)
            values[fact.relation].append(fact.value)
    for name in rng.sample(list(of_person), namesakes):
        namesake = Entity("person", f"{name} Jr")
        for fact in rng.sample(of_person[name], 2):
            value = rng.choice(values[fact.relation])
            drafts.append((namesake.name, mini.state(namesake, fact.wording, value, rng), []))
    return mini.publish(drafts, "p", rng)


def write_questions(
    facts: list[Fact], sizes: dict[str, dict[str, int]], rng: Random
) -> dict[str, list[tuple[Question, Fact]]]:
    """The set "popqa" by split: each question, and the fact that it asks for. Popular facts are in
    every split, in wordings that no other split uses; the others in their group's split."""
    candidates = defaultdict(list)  # (split, slice) -> (number among the fact's forms, fact, form)
    for fact in facts:
        forms = mini.questions_about(fact.entity.mention(), fact.wording)
        for split, part in _deal(fact, rng.sample(forms, len(forms)), rng).items():
            candidates[split, fact.slice] += [(turn, fact, form) for turn, form in enumerate(part)]
    asked = {}
    for split in SPLITS:
        chosen = []
        for slice_name in SLICES:
            rows = candidates[split, slice_name]
            if split in sizes:
                if slice_name == "popular":  # a sample, weighted as Zipf has it
                    rows.sort(key=lambda row: -(rng.random() ** (1 / row[1].entity.popularity)))
                else:  # every fact once before any fact twice
                    rows.sort(key=lambda row: (row[0], rng.random()))
                del rows[sizes[split][slice_name] :]
            chosen += rows
        rng.shuffle(chosen)
        asked[split] = []
        for number, (_, fact, form) in enumerate(chosen):
            labels = (fact.slice, fact.relation, fact.entity.popularity, fact.gold_passages)
            question = Question(f"{split}{number}", form, (fact.value,), *labels)
            asked[split].append((question, fact))
    return asked


def _deal(fact: Fact, forms: list[str], rng: Random) -> dict[str, list[str]]:
    """split -> its forms of the question for this fact."""
    if fact.slice == "popular":
        return {"train": forms[:6], "dev": forms[6:8], "test": forms[8:]}
    if fact.entity.group == "train":
        return {"train": forms[: rng.choice((2, 3))]}
    return {fact.entity.group: forms}
