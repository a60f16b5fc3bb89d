"""New names: of the same kind, exchanged in pairs, for what is not popular; and an episode played under them by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import Passage, Question
from data.world import World
from retrieval_cpp import BM25Index
from rl import Decoding, RagEnv, rollout
from rl.study.modules import Module
from rl.warmup.renaming import Renamer, rename
from rl.warmup.teacher import subject_of

from .test_rollout import always, script  # noqa: F401  a fixture
from .tiny import CORPUS, QUESTIONS, TOKENIZER, Retriever, environment, random_policy, text

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
    assert (
        rename(words, {"Silas": "Una", "Mercer": "Vale"}) == expected and rename(words, {}) == words
    )


@given(st.integers(0, len(OTHERS) - 1), st.integers(0, 2**32), st.sampled_from(TINY.corpus))
def test_words_change_places_in_pairs(row, seed, passage):
    names = RENAMER.draw(OTHERS[row], np.random.default_rng(seed))
    assert all(names[names[word]] == word != names[word] for word in names)
    for words in (OTHERS[row].question, passage.full_text, *OTHERS[row].answers):
        assert rename(rename(words, names), names) == words


def test_names_stay_of_their_kind():
    """First names for first names, nouns of titles for nouns: no word of a person's name is ever one of a work's."""
    people, works = (
        [
            Question(f"p{i}{j}", f"Where was {a} {b} born?", ("x",), "tail")
            for i, a in enumerate(("Ada", "Bo", "Cy"))
            for j, b in enumerate(("Quill", "Reed"))
        ],
        [
            Question(f"w{i}{j}", f"Who wrote The {a} {b}?", ("x",), "tail")
            for i, a in enumerate(("Salt", "Cold"))
            for j, b in enumerate(("Road", "Door"))
        ],
    )
    renamer, rng = Renamer(people + works, []), np.random.default_rng(0)
    seen = {subject_of(rename(q.question, renamer.draw(q, rng))) for q in people for _ in range(50)}
    assert seen == {f"{a} {b}" for a in ("Ada", "Bo", "Cy") for b in ("Quill", "Reed")}
    seen = {subject_of(rename(q.question, renamer.draw(q, rng))) for q in works for _ in range(50)}
    assert seen == {f"The {a} {b}" for a in ("Salt", "Cold") for b in ("Road", "Door")}


def test_a_gold_passage_that_the_corpus_lacks_is_no_name():
    question = Question("q", "Who sang Salt Road?", ("x",), gold_passages=("elsewhere",))
    assert Renamer([question], CORPUS).about == {question: ["Salt Road"]}


def test_function_words_stay():
    """ "All Over Me" must not become "What Over Me": "what" stands in every question."""
    questions = [
        Question("a", "Who sang All Over Town?", ("x",)),
        Question("b", "Who sang What Over Town?", ("x",)),
        Question("c", "Who sang All Over Rome?", ("x",)),
    ]
    renamer = Renamer(questions, [])
    assert {
        word
        for seed in range(50)
        for word in renamer.draw(questions[0], np.random.default_rng(seed))
    } == {"Town", "Rome"}


def test_popular_questions_keep_their_names_and_a_share_of_the_others():
    questions = [q for q in TRAIN for _ in range(2)]
    names = RENAMER.names(questions, 0.5, [0, 1])
    assert not any(n for q, n in zip(questions, names) if q.slice == "popular")
    renamed = lambda names: sum(map(bool, names))
    assert renamed(names) / renamed(RENAMER.names(questions, 1.0, [0, 1])) == pytest.approx(
        0.5, abs=0.05
    )
    assert not any(RENAMER.names(questions, 0.0, [0, 1])) and names == RENAMER.names(
        questions, 0.5, [0, 1]
    ) != RENAMER.names(questions, 0.5, [0, 2])


def test_both_entities_of_two_hops_are_renamed():
    bridge = Question(
        "b",
        "Where was the author of The Salt Road born?",
        ("Caldis",),
        "bridge",
        gold_passages=("s", "a"),
        type="bridge",
    )
    other = Question(
        "o",
        "Where was the author of The Cold Door born?",
        ("Norland",),
        "bridge",
        gold_passages=("c", "b"),
        type="bridge",
    )
    corpus = [
        *CORPUS,
        Passage("c", "The Cold Door", "A book by Bo Reed."),
        Passage("b", "Bo Reed", "He was born in Norland."),
    ]
    kin = [
        Question("k", "Where was Ada Reed born?", ("x",), "tail"),
        Question("l", "Where was Bo Quill born?", ("x",), "tail"),
        Question("m", "Who wrote The Cold Road?", ("x",), "tail"),
        Question("n", "Who wrote The Salt Door?", ("x",), "tail"),
    ]
    renamer = Renamer([bridge, other, *kin], corpus)
    drawn = [renamer.draw(bridge, np.random.default_rng(seed)) for seed in range(100)]
    assert {word for names in drawn for word in names} == {
        "Salt",
        "Cold",
        "Road",
        "Door",
        "Ada",
        "Bo",
        "Quill",
        "Reed",
    }


def test_an_episode_under_other_names_by_hand(script):  # noqa: F811
    """The policy reads and writes the new names; the retriever, the judge and whoever reads the episode see the old ones."""
    env = environment(Retriever((1, 2)), query_budget=16, answer_budget=16)
    (plain,) = script(always(0.9, query="Bo Reed road", answer="Bo Reed"), env)
    assert plain.exact_match == 0.0 and plain.turns[0].query == "Bo Reed road"
    (episode,) = script(always(0.9, query="Bo Reed road", answer="Bo Reed"), env, names=[QUILL])
    assert TOKENIZER.decode(episode.tokens) == TOKENIZER.decode(
        [
            *TOKENIZER.encode(QUESTIONS[0].question),
            *text("Bo Reed road"),
            TOKENIZER.obs,
            *TOKENIZER.encode("The Salt Road A book by Bo Reed.")[:16],
            TOKENIZER.sep,
            *TOKENIZER.encode("Bo Reed She was born in Caldis.")[:16],
            TOKENIZER.obs_end,
            *text("Bo Reed"),
        ]
    )
    assert env.index.asked == ["Bo Reed road", "Ada Quill road"]
    assert (episode.turns[0].query, episode.answer, episode.exact_match, episode.hit) == (
        "Ada Quill road",
        "Ada Quill",
        1.0,
        True,
    )
    assert (
        len(episode.tokens)
        == len(episode.action_mask)
        == len(episode.decision_mask)
        == len(episode.rewards)
    )


def test_no_names_is_the_same_episode(script):  # noqa: F811
    assert script(always(0.9), environment(), names=[{}]) == script(always(0.9), environment())


def test_what_is_renamed_is_as_easy_to_find():
    """The raw question of a renamed episode finds exactly the passages that it finds under the old names."""
    env = RagEnv(TINY, BM25Index.build(p.full_text for p in TINY.corpus), k=2, quota=1)
    questions = OTHERS[:40]
    names = RENAMER.names(questions, 1.0, [3])
    assert sum(map(bool, names)) > 30
    policy = random_policy()
    plain, renamed = (
        rollout(policy, TOKENIZER, env, questions, Decoding(force="question"), names=n)
        for n in ([], names)
    )
    assert [e.turns for e in plain] == [e.turns for e in renamed] and [e.hit for e in plain] == [
        e.hit for e in renamed
    ]
    assert all(a.tokens != b.tokens for a, b, n in zip(plain, renamed, names) if n)


def test_a_reader_learns_the_answer_under_its_other_name(script):  # noqa: F811
    module = Module.__new__(Module)
    module.env = environment(Retriever((1, 2)))
    module.world, module.tokenizer = module.env, TOKENIZER
    (episode,) = script(always(0.9, query="road", answer="Caldis"), module.env, names=[QUILL])
    copy = module.to_read(episode).episode
    assert [t for t, mine in zip(copy.tokens, copy.action_mask) if mine] == text("Bo Reed")
