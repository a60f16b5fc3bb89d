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

from collections import defaultdict
from random import Random

from data.mini import text
from data.mini.facts import SCALES, Fact, Scale, make_entities, make_facts
from data.mini.passages import write_passages
from data.mini.sets import make_sets
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
        Random(f"{scale_name}/{seed}/{stage}") for stage in ("facts", "passages", "questions")
    )
    entities = make_entities(scale, facts_rng)
    facts = make_facts(entities, facts_rng)
    corpus = write_passages(facts, scale, passages_rng)
    questions, asked = write_questions(facts, scale, questions_rng)
    more_passages, more_questions = make_sets(scale_name, seed, entities, facts)
    corpus, questions = corpus + more_passages, questions | more_questions
    return MiniWorld(
        name=scale_name if seed == 0 else f"{scale_name}-{seed}",
        corpus=corpus,
        questions=questions,
        k=2,
        quota=1,
        description=f"Fictional encyclopedia generated from seed {seed}",
        license="MIT",
        source="data/mini.py",
        facts=facts,
        asked=asked,
    )


# ---------------------------------------------------------------------------------------------- questions


def write_questions(
    facts: list[Fact], scale: Scale, rng: Random
) -> tuple[dict[str, list[Question]], dict[str, Fact]]:
    """The set "popqa" as {"popqa.<split>": questions}, and what each question id asks for.

    Popular facts are asked in every split, in wordings that no other split uses; the others in their group's split.
    """
    candidates = {
        split: defaultdict(list) for split in SPLITS
    }  # split -> slice -> (its number, fact, wording)
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
                if (
                    slice_name == "popular"
                ):  # asked Zipf-often: a weighted sample without replacement
                    rows.sort(
                        key=lambda row: rng.random() ** (1 / row[1].entity.popularity), reverse=True
                    )
                else:  # every fact once before any fact twice
                    rows.sort(key=lambda row: (row[0], rng.random()))
                rows = rows[: scale.rows[split][slice_name]]
            chosen += rows
        rng.shuffle(chosen)
        questions[f"popqa.{split}"] = [
            Question(
                f"{split}{number}",
                wording,
                (fact.value,),
                fact.slice,
                fact.relation,
                fact.entity.popularity,
                fact.gold_passages,
            )
            for number, (_, fact, wording) in enumerate(chosen)
        ]
        asked |= {f"{split}{number}": fact for number, (_, fact, _) in enumerate(chosen)}
    return questions, asked


def ask(fact: Fact) -> list[str]:
    """All wordings of the question that asks for a fact."""
    return text.ask(fact.wording, fact.entity.mention())


# ---------------------------------------------------------------------------------------------- what came out
