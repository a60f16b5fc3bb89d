"""run.json of a checkpoint that comes from anyone: what it may decide, and the checks."""

import json
from dataclasses import asdict

import pytest

from model import CheckpointError
from rl.environment import Reward
from rl.runs.retrievers import RetrieverInfo
from rl.runs.setting import RunInfo, run_info

GOOD = {
    "open_world": "mini:3",
    "dataset": "popqa,nq",
    "passage_tokens": 48,
    "quota": 2,
    "reward": {"retrieval_cost": 0.05, "f1": 0},
    "open_retriever": {"retriever": "dense", "encoder": "E", "query_prefix": "query: "},
}


def test_what_was_recorded_comes_back():
    info = run_info(GOOD, "D")
    assert (info.open_world, info.passage_tokens, info.quota, info.k) == ("mini:3", 48, 2, 0)
    assert info.reward == Reward(1.0, 0, 0.05, 1.0)
    assert info.open_retriever == RetrieverInfo("dense", "E", query_prefix="query: ")
    assert run_info(json.loads(json.dumps(asdict(info))), "D") == info


def test_absent_entries_have_defaults_and_others_are_left_out():
    assert run_info({}, "D") == RunInfo()
    evil = {"open_retriever": {"milvus_uri": "http://evil:1"}, "out": "/etc", "device": "cuda"}
    assert run_info(evil, "D") == RunInfo()


@pytest.mark.parametrize(
    "entry, value, reason",
    [
        ("passage_tokens", "64", "passage_tokens must be of type int, not str"),
        ("passage_tokens", [64], "passage_tokens must be of type int, not list"),
        ("passage_tokens", None, "passage_tokens must be of type int, not NoneType"),
        ("passage_tokens", True, "passage_tokens must be of type int, not bool"),
        ("passage_tokens", 64.0, "passage_tokens must be of type int, not float"),
        ("passage_tokens", -3, "passage_tokens must be at least 1, not -3"),
        ("passage_tokens", 10**30, f"passage_tokens must be at most 100000, not {10**30}"),
        ("quota", -1, "quota must be at least 0, not -1"),
        ("query_tokens", 1, "query_tokens must be at least 2, not 1"),
        ("answer_tokens", 1, "answer_tokens must be at least 2, not 1"),
        ("open_world", 7, "open_world must be of type str, not int"),
        ("open_world", "x" * 5000, "open_world 5000 characters, at most 4096 are taken"),
        ("open_world", "a\0b", "open_world is not UTF-8 text"),
        ("open_world", "\ud800", "open_world is not UTF-8 text"),
        ("open_retriever", "dense", "open_retriever: not a JSON object"),
        ("open_retriever", None, "open_retriever: not a JSON object"),
        (
            "open_retriever",
            {"retriever": "evil"},
            "open_retriever: retriever invalid choice: 'evil' "
            "(choose from 'bm25', 'dense', 'hybrid', 'milvus', 'http')",
        ),
        (
            "open_retriever",
            {"encoder": ["E"]},
            "open_retriever: encoder must be of type str, not list",
        ),
        (
            "reward",
            {"retrieval_cost": float("nan")},
            "reward: retrieval_cost nan is not a number to compute with",
        ),
        ("reward", {"f1": 10**400}, "reward: f1 inf is not a number to compute with"),
        ("reward", {"f1": -1e308}, "reward: f1 -1e+308 is not a number to compute with"),
    ],
)
def test_what_is_no_value_is_an_error_that_names_the_entry(entry, value, reason):
    with pytest.raises(CheckpointError) as error:
        run_info(GOOD | {entry: value}, "D")
    assert str(error.value) == f"D/run.json: {reason}"


@pytest.mark.parametrize("made", [[], "x", None, 3])
def test_a_file_that_holds_no_object(made):
    with pytest.raises(CheckpointError, match=r"^D/run.json: not a JSON object$"):
        run_info(made, "D")
