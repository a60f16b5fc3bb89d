"""Layouts of other hands: what `datasets` exports, and tables of any spreadsheet."""

import gzip
import json
import time

import pytest

from data import Passage, Question
from data.prepare.formats import read_corpus, read_questions
from tests.data.prepare.test_formats import error, questions

POPQA_HF = {
    "id": 1000,
    "subj": "S",
    "prop": "occupation",
    "obj": "baker",
    "question": "What is Sam Ostler's occupation?",
    "possible_answers": '["baker", "cook"]',
    "s_pop": 142,
    "o_pop": 7,
}
HOTPOT_HF = {
    "id": "h0",
    "question": "Where was the maker of the clock born?",
    "answer": "Velmor",
    "type": "bridge",
    "supporting_facts": {"title": ["Clock", "Mak\u0065\u0301"], "sent_id": [0, 0]},
    "context": {
        "title": ["Clock", "Mak\u00e9", None],
        "sentences": [["It was made by Maké.", " It is old."], ["He was born in Velmor."], ["No."]],
    },
}
TRIVIA_HF = {
    "question": "Which band sang Z?",
    "question_id": "tc_2",
    "answer": {"aliases": ["The Zeds", "Zeds"], "normalized_value": "zeds", "value": "Zeds"},
}
AMBIG_HF = {
    "id": "7",
    "question": "When did it air?",
    "annotations": {
        "type": ["singleAnswer", "multipleQAs"],
        "answer": [["1990"], []],
        "qaPairs": [
            {"question": [], "answer": []},
            {"question": ["When first?", "When last?"], "answer": [["1987", "87"], ["1999"]]},
        ],
    },
}
ARC_HF = {
    "id": "M1",
    "question": "Which floats?",
    "choices": {"text": ["cork", "stone"], "label": ["1", "2"]},
    "answerKey": "1",
}
OPENBOOK_HF = {
    "id": "7-980",
    "question_stem": "Which sinks?",
    "choices": {"text": ["cork", "stone"], "label": ["A", "B"]},
    "answerKey": "B",
}


def popqa(*answers, popularity=142.0):
    id, question = "1000", POPQA_HF["question"]
    return Question(id, question, answers, relation="occupation", popularity=popularity)


@pytest.mark.parametrize(
    "row, expected",
    [
        (POPQA_HF, [popqa("baker", "cook")]),
        ({**POPQA_HF, "possible_answers": ["baker"], "s_pop": 142.0}, [popqa("baker")]),
        ({**POPQA_HF, "possible_answers": None, "s_pop": 0}, [popqa("baker", popularity=0)]),
        ({**POPQA_HF, "id": 1000.0, "s_pop": "142"}, [popqa("baker", "cook")]),
        (TRIVIA_HF, [Question("tc_2", "Which band sang Z?", ("Zeds", "The Zeds"))]),
        (
            AMBIG_HF,
            [
                Question("7:0", "When did it air?", ("1990",)),
                Question("7:1", "When first?", ("1987", "87")),
                Question("7:2", "When last?", ("1999",)),
            ],
        ),
        (ARC_HF, [Question("M1", "Which floats? (A) cork (B) stone", ("cork", "A"))]),
        (OPENBOOK_HF, [Question("7-980", "Which sinks? (A) cork (B) stone", ("stone", "B"))]),
        ({"question": "When?", "answer": 1972}, [Question("", "When?", ("1972",))]),
        ({"question": "What?", "answer": "P|Q"}, [Question("", "What?", ("P|Q",))]),
        (
            {"question": "Wo liegt Ko\u0308ln?", "answer": ["am Fluss\u0323e"]},
            [Question("", "Wo liegt K\u00f6ln?", ("am Flus\u1e63e",))],
        ),
    ],
)
def test_what_datasets_exports(write, row, expected):
    assert questions(write("x.jsonl", [row])) == expected
    assert questions(write("x.json", [row])) == expected


def test_exported_paragraphs_of_hotpotqa(write):
    [(_, (question, passages))] = read_questions(write("x.jsonl", [HOTPOT_HF]))
    assert [(p.title, p.text) for p in passages] == [
        ("Clock", "It was made by Maké. It is old."),
        ("Mak\u00e9", "He was born in Velmor."),
        ("", "No."),
    ]
    assert question.gold_passages == (passages[0].id, passages[1].id)
    assert (question.answers, question.type) == (("Velmor",), "bridge")


@pytest.mark.parametrize(
    "row, problem",
    [
        ({**POPQA_HF, "s_pop": -1}, "'s_pop' must be a number of at least 0"),
        (
            {name: POPQA_HF[name] for name in ("question", "s_pop")},
            "lacks the field 'possible_answers'",
        ),
        ({**POPQA_HF, "prop": 3}, "'prop' must be a string"),
        (
            {**ARC_HF, "choices": {"text": ["cork"], "label": ["1", "2"]}},
            "'choices' must be a list of objects",
        ),
        ({**ARC_HF, "choices": {"text": "cork"}}, "'choices' must be a list of objects"),
        ({**TRIVIA_HF, "answer": {"value": "<unk>", "aliases": []}}, "its answer is not published"),
        (
            {**HOTPOT_HF, "context": {"title": ["T"], "sentences": ["text"]}},
            "'sentences' must be a list of strings",
        ),
        ({"question": "?", "answer": True}, "'answer' must be a list of strings"),
        ({"question": "?", "answer": float("nan")}, "'answer' must be a list of strings"),
    ],
)
def test_bad_exports(write, row, problem):
    file = write("x.jsonl", [row])
    assert error(lambda: questions(file)) == f"{file}:1: {problem}"


# ------------------------------------------------------------------------------------ tables


TWO = [Question("", "Who?", ("Ann", "Bo")), Question("", "Where, now?", ("here",))]


@pytest.mark.parametrize(
    "name, text",
    [
        ("x.csv", 'question;answer\nWho?;Ann|Bo\n"Where, now?";here\n'),
        ("x.csv", "question\tanswer\nWho?\tAnn | Bo\nWhere, now?\there\n"),
        ("x.tsv", 'question,answer\nWho?,Ann|Bo\n"Where, now?",here\n'),
        (
            "x.CSV",
            '\ufeffQuestion, ANSWER \r\nWho?,Ann|Bo|\r\n"Where, now?",here\r\n,\r\n"",""\r\n',
        ),
        ("x.csv", 'question,answer\rWho?,Ann|Bo\r"Where, now?",here\r'),
        ("x.csv", '\n\nquestion,answer,,\nWho?,Ann|Bo,,\n\n"Where, now?",here\n,,,\n'),
        ("x.csv", 'Answers,My Notes,Question\n"[""Ann"", ""Bo""]",x,Who?\nhere,,"Where, now?"\n'),
    ],
)
def test_tables_of_any_spreadsheet(write, name, text):
    assert questions(write(name, text)) == TWO


@pytest.mark.parametrize(
    "cell, answers",
    [
        ("[sic] yes", ("[sic] yes",)),
        ("[1]", ("[1]",)),
        ("|x| + 1", ("|x| + 1",)),
        ("a || b", ("a || b",)),
        ("P(A|B)", ("P(A|B)",)),
        ("f(x)|g(x)", ("f(x)", "g(x)")),
        ('"[""A|B""]"', ("A|B",)),
    ],
)
def test_brackets_and_bars_that_are_text(write, cell, answers):
    file = write("x.csv", f"question,answer\nWhat?,{cell}\n")
    assert questions(file) == [Question("", "What?", answers)]


@pytest.mark.parametrize("filling", ["  ", "| "])
def test_a_long_gap_in_a_cell_takes_no_longer(tmp_path, filling):
    """60,000 blanks took seconds: each was tried as the beginning of the last ones."""
    (tmp_path / "x.csv").write_text(f"question,answer\nWho?,a{filling * 30_000}b\n")
    start = time.process_time()
    assert len(list(read_questions(tmp_path / "x.csv"))) == 1
    assert time.process_time() - start < 1


def test_a_field_of_any_length(write):
    text = "word " * 40_000
    file = write("x.csv", f'id,title,text\n1,T,"{text}\n\nmore"\n2,T,x\n')
    assert [p for _, p in read_corpus(file)] == [
        Passage("1", "T", f"{text}\n\nmore"),
        Passage("2", "T", "x"),
    ]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("question;antwort\nWho?;Ann\n", ":2: lacks the field 'answer'"),
        ("question\nWho?\n", ":2: lacks the field 'answer'"),
        ("question,Question\n", ":1: the header has the column 'question' twice"),
        ("question,answer\nWho?,\"['Ann']\"\n", ":2: 'answer' must be a JSON list of answers"),
        (
            "question,answer\nWho?,Ann\n\nWhere?,here,there\n",
            ":4: the number of columns is not the header's",
        ),
        ("question,answer\rWho?,Ann\rWhere?,\r", ":3: 'answer' is blank"),
        ('question,"answer\n', ":1: not a table: unexpected end of data"),
    ],
)
def test_bad_tables(write, text, problem):
    file = write("x.csv", text)
    assert error(lambda: questions(file)) == f"{file}{problem}"


def test_packed_is_known_by_the_first_bytes(write):
    rows = [{"id": "p", "title": None, "text": "x"}]
    plain = json.dumps(rows[0]).encode()
    assert [p for _, p in read_corpus(write("a.jsonl", gzip.compress(plain)))] == [
        Passage("p", "", "x")
    ]
    file = write("b.jsonl", plain)
    file = file.rename(file.with_name("b.jsonl.gz"))
    assert [p for _, p in read_corpus(file)] == [Passage("p", "", "x")]
