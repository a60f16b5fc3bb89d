"""New names: of the same kind, exchanged in pairs, for what is not popular; and an episode played
under them by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data import Passage, Question
from data.world import World
from retrieval_cpp import BM25Index
from rl import GREEDY, Action, Decoding, Episode, Part, RagEnv, Reward, rollout
from rl.environment import observation
from rl.warmup.questions import Renamer, RenamingEnv, rename
from rl.warmup.teacher import subject_of
from tests.rl.tiny import (
    CORPUS,
    QUESTIONS,
    TOKENIZER,
    Retriever,
    Scripted,
    always,
    environment,
    random_policy,
    text,
)

TINY = World.open("tiny")
TRAIN = [q for name in ("popqa", "ambignq", "hotpotqa") for q in TINY.questions(name, "train")]
RENAMER = Renamer(TRAIN, TINY.corpus)
OTHERS = [q for q in TRAIN if q.slice != "popular"]
QUILL = {"Ada": "Bo", "Bo": "Ada", "Quill": "Reed", "Reed": "Quill"}


@pytest.mark.parametrize(
    "words, expected",
    [
        ("Silas Mercer, Mercer's.", "Una Vale, Vale's."),
        ("Mercerton of silas", "Mercerton of silas"),
        ("", ""),
    ],
)
def test_renaming_replaces_whole_words(words, expected):
    assert rename(words, {"Silas": "Una", "Mercer": "Vale"}) == expected
    assert rename(words, {}) == words


@given(st.integers(0, len(OTHERS) - 1), st.integers(0, 2**32), st.sampled_from(TINY.corpus))
def test_words_change_places_in_pairs(row, seed, passage):
    names = RENAMER.names_of(OTHERS[row], np.random.default_rng(seed))
    assert all(names[names[word]] == word != names[word] for word in names)
    for words in (OTHERS[row].question, passage.full_text, *OTHERS[row].answers):
        assert rename(rename(words, names), names) == words


def question_of(number: int, words: str) -> Question:
    return Question(f"{words}{number}", words, ("x",), "tail")


def test_names_stay_of_their_kind():
    """First names for first names, nouns of titles for nouns: no word of a person's name is ever
    one of a work's."""
    people = {f"{a} {b}" for a in ("Ada", "Bo", "Cy") for b in ("Quill", "Reed")}
    works = {f"The {a} {b}" for a in ("Salt", "Cold") for b in ("Road", "Door")}
    born = [question_of(i, f"Where was {name} born?") for i, name in enumerate(sorted(people))]
    wrote = [question_of(i, f"Who wrote {name}?") for i, name in enumerate(sorted(works))]
    renamer, rng = Renamer(born + wrote, []), np.random.default_rng(0)
    for questions, names in ((born, people), (wrote, works)):
        drawn = [rename(q.question, renamer.names_of(q, rng)) for q in questions * 50]
        assert {subject_of(words) for words in drawn} == names


def test_a_gold_passage_that_the_corpus_lacks_is_no_name():
    question = Question("q", "Who sang Salt Road?", ("x",), gold_passages=("elsewhere",))
    assert Renamer([question], CORPUS).subjects == {question: ["Salt Road"]}


def test_function_words_stay():
    """ "All Over Me" must not become "What Over Me": "what" stands in every question."""
    titles = ("All Over Town", "What Over Town", "All Over Rome")
    questions = [question_of(i, f"Who sang {title}?") for i, title in enumerate(titles)]
    renamer = Renamer(questions, [])
    drawn = [renamer.names_of(questions[0], np.random.default_rng(seed)) for seed in range(50)]
    assert {word for names in drawn for word in names} == {"Town", "Rome"}


def test_popular_questions_keep_their_names_and_a_share_of_the_others():
    def draw(share: float, seed: int = 1):
        return RENAMER.draw(TRAIN, share, np.random.default_rng([0, seed]))

    def renamed(names) -> int:
        return sum(map(bool, names.values()))

    half, whole = draw(0.5), draw(1.0)
    assert set(half) == set(whole) == set(TRAIN)
    assert not any(n for q, n in whole.items() if q.slice == "popular")
    assert renamed(whole) > 100
    assert renamed(half) / renamed(whole) == pytest.approx(0.5, abs=0.06)
    assert renamed(draw(0.0)) == 0
    assert half == draw(0.5) != draw(0.5, seed=2)


def hops(id: str, title: str, answer: str, gold: tuple[str, str]) -> Question:
    words = f"Where was the author of {title} born?"
    return Question(id, words, (answer,), "bridge", gold_passages=gold, type="bridge")


def test_both_entities_of_two_hops_are_renamed():
    bridge = hops("b", "The Salt Road", "Caldis", ("s", "a"))
    other = hops("o", "The Cold Door", "Norland", ("c", "b"))
    corpus = [
        *CORPUS,
        Passage("c", "The Cold Door", "A book by Bo Reed."),
        Passage("b", "Bo Reed", "He was born in Norland."),
    ]
    people = [
        question_of(i, f"Where was {x} born?") for i, x in enumerate(("Ada Reed", "Bo Quill"))
    ]
    works = [
        question_of(i, f"Who wrote The {x}?") for i, x in enumerate(("Cold Road", "Salt Door"))
    ]
    renamer = Renamer([bridge, other, *people, *works], corpus)
    drawn = [renamer.names_of(bridge, np.random.default_rng(seed)) for seed in range(100)]
    words = {word for names in drawn for word in names}
    assert words == {"Salt", "Cold", "Road", "Door", "Ada", "Bo", "Quill", "Reed"}


# --------------------------------------------------------------- the environment of renamed
# questions


def renaming(names, retriever=None, **arguments) -> RenamingEnv:
    return RenamingEnv(**vars(environment(retriever, **arguments)), names=names)


def play(plan, env):
    (episode,) = rollout(Scripted(plan), TOKENIZER, env, QUESTIONS[:1], GREEDY)
    return episode


WIDE = {"query_budget": 16, "answer_budget": 16}


def test_an_episode_under_other_names_by_hand():
    """The policy reads and writes the new names; the retriever, the judge and whoever reads the
    episode see the old ones."""
    plan = always(0.9, query="Bo Reed road", answer="Bo Reed")
    plain = play(plan, environment(Retriever((1, 2)), **WIDE))
    assert plain.exact_match == 0.0 and plain.turns[0].query == "Bo Reed road"
    env = renaming({QUESTIONS[0]: QUILL}, Retriever((1, 2)), **WIDE)
    episode = play(plan, env)
    pieces = [
        ([TOKENIZER.bos, *TOKENIZER.encode(QUESTIONS[0].question)], Part.STATE),
        ([TOKENIZER.retrieve], Part.DECISION),
        (text("Bo Reed road"), Part.QUERY),
        ([TOKENIZER.obs], Part.STATE),
        (TOKENIZER.encode("The Salt Road A book by Bo Reed.")[:16], Part.STATE),
        ([TOKENIZER.sep], Part.STATE),
        (TOKENIZER.encode("Bo Reed She was born in Caldis.")[:16], Part.STATE),
        ([TOKENIZER.obs_end, TOKENIZER.answer], Part.STATE),
        (text("Bo Reed"), Part.ANSWER),
    ]
    assert episode.tokens == [t for tokens, _ in pieces for t in tokens]
    assert episode.parts == [part for tokens, part in pieces for _ in tokens]
    assert env.index.asked == [episode.turns[0].query] == ["Ada Quill road"]
    assert (episode.answer, episode.exact_match, episode.hit) == ("Ada Quill", 1.0, True)
    assert episode.reward == pytest.approx(1.8)


def test_the_question_is_read_under_its_new_name():
    question = QUESTIONS[2]  # In which city was Ada Quill born?
    env = renaming({question: QUILL}, Retriever((2, 0)), query_budget=16)
    (episode,) = env.reset([question], TOKENIZER, 256)
    read = "In which city was Bo Reed born?"
    assert episode.tokens == [TOKENIZER.bos, *TOKENIZER.encode(read)]
    given = Action(True, [], free=False, given=question.question)
    assert env.step([episode], [given], TOKENIZER) == [0]
    assert env.index.asked == [question.question]  # a given query is the world's
    query = episode.tokens[1 + len(TOKENIZER.encode(read)) :]
    assert query[1 : query.index(TOKENIZER.eos)] == TOKENIZER.encode(read)[:15]  # as it is read


def test_an_environment_keeps_everything_else():
    reward = Reward(retrieval_cost=0.7)
    env = environment(Retriever((1, 2)), reward=reward, k=2, quota=3)
    renamed = RenamingEnv(**vars(env), names={})
    for field in ("world", "index", "k", "quota", "reward", "passage_tokens", "query_budget"):
        assert getattr(renamed, field) == getattr(env, field)


def test_no_names_is_the_same_episode():
    plain = play(always(0.9), environment())
    assert (
        play(always(0.9), renaming({})) == play(always(0.9), renaming({QUESTIONS[0]: {}})) == plain
    )


def test_passages_of_one_question_are_not_renamed_for_another():
    """Passages are tokenised once where they read as they are written, and only there."""
    env = renaming({QUESTIONS[0]: QUILL}, Retriever((2, 1)), passage_tokens=32)
    turn = env.search(["x"])[0]
    for question, name in ((QUESTIONS[0], "Bo Reed"), (QUESTIONS[1], "Ada Quill")) * 2:
        episode = Episode(question)
        env.observe(episode, turn, TOKENIZER)
        read = [f"{name} She was born in Caldis.", f"The Salt Road A book by {name}."]
        assert episode.tokens == observation(read, TOKENIZER, 32)


def test_what_is_renamed_is_as_easy_to_find():
    """The raw question of a renamed episode finds exactly the passages that it finds under the old
    names."""
    env = RagEnv(TINY, BM25Index.build(p.full_text for p in TINY.corpus), k=2, quota=1)
    questions = list(dict.fromkeys(OTHERS))[:40]
    names = RENAMER.draw(questions, 1.0, np.random.default_rng(3))
    assert sum(map(bool, names.values())) > 30
    policy = random_policy(max_position_embeddings=512)
    plain, renamed = (
        rollout(policy, TOKENIZER, e, questions, Decoding(force="question"), torch.Generator())
        for e in (env, RenamingEnv(**vars(env), names=names))
    )
    assert [e.turns for e in plain] == [e.turns for e in renamed]
    assert [e.hit for e in plain] == [e.hit for e in renamed]
    for a, b in zip(plain, renamed, strict=True):
        assert a.tokens != b.tokens or not names[a.question]
