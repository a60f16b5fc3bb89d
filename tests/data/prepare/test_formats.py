"""Question sets and corpora in their published layouts: hand-written samples, and the real files
that are at hand.
"""

import gzip
import io
import tarfile
import zipfile

import pytest

from data import Passage, Question, WorldError
from data.metrics import contains_answer, exact_match
from data.prepare.formats import read_corpus, read_questions
from data.records import collect, json_list, records
from rl.warmup.teacher import subject_of
from tests.shared import shared_path


def questions(file):
    return [asked.question for _, asked in read_questions(file)]


def error(action) -> str:
    with pytest.raises(WorldError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------- question sets


HOTPOT = {
    "_id": "5a8b57f25542995d1e6f1371",
    "answer": "yes",
    "question": "Were both film makers of the same nationality?",
    "supporting_facts": [["Scott Hill", 0], ["Ed Dale", 0]],
    "type": "comparison",
    "level": "hard",
    "context": [
        ["Scott Hill", ["Scott Hill is an American director.", " He lives in Velmor."]],
        ["Other", ["Not this one."]],
        ["Ed Dale", ["Edward Dale was an American filmmaker."]],
    ],
}
OPENBOOK = {
    "id": "7-980",
    "question": {
        "stem": "The sun is responsible for",
        "choices": [
            {"text": "puppies learning new tricks", "label": "A"},
            {"text": "plants sprouting", "label": "B"},
        ],
    },
    "answerKey": "B",
}
MUSIQUE = {
    "id": "2hop__1_2",
    "question": "Who is the spouse of the performer of X?",
    "answer": "Ann",
    "answer_aliases": ["Ann B.", "Ann"],
    "answerable": True,
    "question_decomposition": [
        {"id": 1, "question": "X >> performer", "answer": "Bo", "paragraph_support_idx": 1}
    ],
    "paragraphs": [
        {"idx": 0, "title": "Y", "paragraph_text": "Far away.", "is_supporting": False},
        {"idx": 1, "title": "X", "paragraph_text": "X was sung by Bo.", "is_supporting": True},
    ],
}
TRIVIA = {
    "Question": "Which band sang Z?",
    "QuestionId": "tc_2",
    "QuestionSource": "http://x",
    "SearchResults": [],
    "EntityPages": [],
    "Answer": {
        "Aliases": ["The Zeds", "Zeds", " "],
        "MatchedWikiEntityName": "Zeds",
        "NormalizedAliases": ["zeds"],
        "NormalizedValue": "zeds",
        "Type": "WikipediaEntity",
        "Value": "Zeds",
    },
}
MEDQA = {
    "question": "What is the next step?",
    "answer": "Nitrofurantoin",
    "options": {"A": "Ampicillin", "B": "Ceftriaxone", "C": "Nitrofurantoin"},
    "meta_info": "step2&3",
    "answer_idx": "C",
    "metamap_phrases": ["step"],
}
AMBIGUOUS = {
    "id": "-4469503464110108318",
    "question": "When did it air?",
    "annotations": [
        {
            "type": "multipleQAs",
            "qaPairs": [
                {"question": "When did it air first?", "answer": ["1987"]},
                {"question": "When did it air in full?", "answer": ["1989"]},
            ],
        },
        {
            "type": "multipleQAs",
            "qaPairs": [{"question": "When did it air first?", "answer": ["April 1987", "1987"]}],
        },
        {"type": "singleAnswer", "answer": ["1990"]},
    ],
}


@pytest.mark.parametrize(
    "name, rows, expected",
    [
        (
            "NQ-open.dev.jsonl",
            [{"question": "who wrote it", "answer": ["Bo", "Bob", "Bo"]}],
            [Question("", "who wrote it", ("Bo", "Bob"))],
        ),
        (
            "dev_light.json",
            [
                AMBIGUOUS,
                {
                    "id": "7",
                    "question": "Who?",
                    "annotations": [{"type": "singleAnswer", "answer": ["Ann"]}],
                },
            ],
            [
                Question(
                    "-4469503464110108318:0", "When did it air first?", ("1987", "April 1987")
                ),
                Question("-4469503464110108318:1", "When did it air in full?", ("1989",)),
                Question("-4469503464110108318:2", "When did it air?", ("1990",)),
                Question("7", "Who?", ("Ann",)),
            ],
        ),
        (
            "unfiltered-web-dev.json",
            {
                "Data": [TRIVIA],
                "Domain": "unfiltered",
                "Split": "dev",
                "VerifiedEval": False,
                "Version": 1.0,
            },
            [Question("tc_2", "Which band sang Z?", ("Zeds", "The Zeds"))],
        ),
        (
            "train.jsonl",
            [OPENBOOK],
            [
                Question(
                    "7-980",
                    "The sun is responsible for (A) puppies learning new tricks (B) plants"
                    " sprouting",
                    ("plants sprouting", "B"),
                )
            ],
        ),
        (
            "ARC-Easy-Dev.jsonl",
            [
                {
                    "id": "MCAS_1",
                    "answerKey": "2",
                    "question": {
                        "stem": "Which? ",
                        "choices": [{"text": "ice", "label": "1"}, {"text": "rain ", "label": "2"}],
                    },
                }
            ],
            [Question("MCAS_1", "Which? (A) ice (B) rain", ("rain", "B"))],
        ),
        (
            "phrases_no_exclude_dev.jsonl",
            [MEDQA],
            [
                Question(
                    "",
                    "What is the next step? (A) Ampicillin (B) Ceftriaxone (C) Nitrofurantoin",
                    ("Nitrofurantoin", "C"),
                )
            ],
        ),
        (
            "popQA.tsv.gz",
            "id\tprop\tobj\ts_pop\tquestion\tpossible_answers\n"
            "42\toccupation\tpol\t142\tWhat is X's occupation?\t"
            '"[""pol"", ""p.""]"\n',
            [
                Question(
                    "42",
                    "What is X's occupation?",
                    ("pol", "p."),
                    relation="occupation",
                    popularity=142.0,
                )
            ],
        ),
        (
            "train.jsonl.gz",
            [
                {
                    "id": "train_0",
                    "question": "Who?",
                    "golden_answers": ["Ann"],
                    "metadata": {"type": "bridge"},
                }
            ],
            [Question("train_0", "Who?", ("Ann",))],
        ),  # FlashRAG's layout, of any set
        (
            "ours.jsonl",
            [
                {
                    "id": "a",
                    "question": "Which?",
                    "answers": ["rain"],
                    "options": {"A": "ice", "B": "rain"},
                    "answer_key": "B",
                }
            ],
            [Question("a", "Which? (A) ice (B) rain", ("rain", "B"))],
        ),
        (
            "faq.csv",
            'question,answer,relation\n"Who, then?",Ann | Bo,author\nWhere?,"[""A|B""]",\n',
            [
                Question("", "Who, then?", ("Ann", "Bo"), relation="author"),
                Question("", "Where?", ("A|B",)),
            ],
        ),
        (
            "faq.tsv",
            "\ufeffid\tquestion\tanswers\nx\tWho?\tAnn\n",
            [Question("x", "Who?", ("Ann",))],
        ),
        (
            "faq.jsonl",
            [
                {"question": "Who?", "answer": "Ann"},
                {"id": 3, "question": "Who?", "answer": ["Bo", "B."]},
            ],
            [Question("", "Who?", ("Ann",)), Question("3", "Who?", ("Bo", "B."))],
        ),
    ],
)
def test_question_sets(write, name, rows, expected):
    assert questions(write(name, rows)) == expected


def test_paragraphs_that_come_with_hotpotqa_and_2wiki(write):
    [(_where, asked)] = read_questions(
        write("dev.json", [{**HOTPOT, "evidences": [], "entity_ids": "Q1_Q2"}])
    )
    texts = {p.id: (p.title, p.text) for p in asked.passages}
    assert [texts[p.id] for p in asked.passages] == [
        ("Scott Hill", "Scott Hill is an American director. He lives in Velmor."),
        ("Other", "Not this one."),
        ("Ed Dale", "Edward Dale was an American filmmaker."),
    ]
    assert [texts[id][0] for id in asked.question.gold_passages] == ["Scott Hill", "Ed Dale"]
    assert (asked.question.id, asked.question.answers, asked.question.type) == (
        "5a8b57f25542995d1e6f1371",
        ("yes",),
        "comparison",
    )


def test_paragraphs_that_come_with_musique_and_openbookqa(write):
    full = [MUSIQUE, {**MUSIQUE, "id": "2hop__1_3", "answerable": False}]
    [(_, asked)] = read_questions(
        write("musique_full.jsonl", full)
    )  # what cannot be answered is not asked
    assert asked.question.answers == ("Ann", "Ann B.")
    assert [p.title for p in asked.passages if p.id in asked.question.gold_passages] == ["X"]
    [(_, asked)] = read_questions(
        write("complete.jsonl", [{**OPENBOOK, "fact1": "the sun warms", "humanScore": "1.00"}])
    )
    assert [(p.title, p.text) for p in asked.passages] == [("", "the sun warms")]
    assert asked.question.gold_passages == (asked.passages[0].id,)


def test_multiple_choice_in_metrics_and_teacher(write):
    """Text and letter are right, other letters are not; a letter in a passage is no evidence;
    options are no subject.
    """
    [question] = questions(write("x.jsonl", [OPENBOOK]))
    assert [
        exact_match(answer, question.answers)
        for answer in ("Plants sprouting.", "B", "(b)", "A", "puppies learning new tricks")
    ] == [1, 1, 1, 0, 0]
    assert not contains_answer("Vitamin B is good.", question.answers) and contains_answer(
        "Of plants sprouting.", question.answers
    )
    assert (
        subject_of("Which city is in New Norland (A) Velmor Upon The Great Sea (B) Caldis")
        == "New Norland"
    )
    assert subject_of(question.question) == ""


@pytest.mark.parametrize(
    "name, content, problem",
    [
        ("x.jsonl", [{"question": "q", "answer": []}], ":1: 'answers' is empty"),
        ("x.jsonl", [{"question": "q", "answer": {}}], ":1: 'answer' must be a list of strings"),
        (
            "x.jsonl",
            '{"question": "q", "answer": ["a"]}\n\n{"question": " ", "answer": ["a"]}\n',
            ":3: 'question' is blank",
        ),
        (
            "x.jsonl",
            [{"question": "q", "golden_answers": ["a"], "id": [1]}],
            ":1: 'id' must be a string",
        ),
        (
            "x.json",
            [{**AMBIGUOUS, "annotations": [{"type": "noAnswer"}]}],
            ":record 1: lacks the field 'answer'",
        ),
        (
            "x.json",
            [{k: v for k, v in HOTPOT.items() if k != "answer"}],
            ":record 1: lacks the field 'answer'",
        ),  # the test set
        ("x.json", [{**HOTPOT, "context": [["title"]]}], ":record 1: lacks the field 'sentences'"),
        ("x.json", [{**HOTPOT, "context": {}}], ":record 1: 'context' must be a list of objects"),
        (
            "x.jsonl",
            [{**MUSIQUE, "paragraphs": ["x"]}],
            ":1: 'paragraphs' must be a list of objects",
        ),
        (
            "x.json",
            [{**AMBIGUOUS, "annotations": [{"type": "multipleQAs", "qaPairs": [7]}]}],
            ":record 1: 'qaPairs' must be a list of objects",
        ),
        (
            "x.json",
            {"Data": [{**TRIVIA, "Answer": "Zeds"}]},
            ":record 1: 'answer' must be an object",
        ),
        (
            "x.jsonl",
            [{**OPENBOOK, "answerKey": "E"}],
            ":1: the answer key 'E' is none of the options A, B",
        ),
        ("x.jsonl", [OPENBOOK, {**OPENBOOK, "question": "?"}], ":2: 'question' must be an object"),
        (
            "x.jsonl",
            [{**MEDQA, "options": {"A": 3}, "answer_idx": "A"}],
            ":1: 'A' must be a string",
        ),
        (
            "x.tsv",
            'id\tquestion\tpossible_answers\n1\tq\t["pol\n',
            ":2: 'possible_answers' must be a JSON list of answers",
        ),
        ("x.csv", "frage,antwort\nWho?,Ann\n", ":2: lacks the field 'answer'"),
        ("x.csv", "question,response\nWho?,Ann\n", ":2: lacks the field 'answer'"),
        ("x.csv", "question,answer\nWho?,Ann\nWhere?,\n", ":3: 'answer' is blank"),
        ("x.csv", "question,answer\nWho?,|\n", ":2: 'answers[0]' is blank"),
        (
            "x.csv",
            "question,answer\nWho?,Ann,Bo\n",
            ":2: the number of columns is not the header's",
        ),
        ("x.csv", b"question,answer\nWho?,\xff\n", ":2: not UTF-8 text: byte 0xff at character 6"),
        (
            "x.txt",
            "Who? Ann",
            ": its name must end in .jsonl, .json, .tsv, .csv, or in that and .gz",
        ),
    ],
)
def test_bad_question_files(write, name, content, problem):
    file = write(name, content)
    assert error(lambda: questions(file)) == f"{file}{problem}"


# ------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            '\n[\n  {"a": "[{,}]"},\n\n  {"a": {"b": [1, 2]}}, {"a":\n"ü"}\n]\n',
            ["[{,}]", {"b": [1, 2]}, "ü"],
        ),
        ("[]", []),
        ('{"Data": [{"a": 1}\n, {"a": 2}], "n": [[]]}', [1, 2]),
        ('{"version": 1.0, "data": [{"a": 1}]}', [1]),
        ("\ufeff[{}]", [None]),
    ],
)
def test_json_lists(write, text, expected):
    file = write("x.json", text)
    rows = list(json_list(file))
    assert [row.get("a") for row in rows] == expected
    assert [row.where for row in rows] == [f"{file}:record {i + 1}" for i in range(len(rows))]


def test_a_json_list_that_is_too_large(write, monkeypatch):
    monkeypatch.setattr("data.records.LARGEST_LIST", 0)
    file = write("x.json", "[{}, {}, {}]")
    assert error(lambda: list(json_list(file))) == f"{file}:1: a line of more than 0 MB"


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", ":1: not JSON"),
        ('{"a": 1}\n{"a": 2}\n', ":2: not JSON"),
        ('{"a": 1}', ": not a JSON list (JSON lines go by the name *.jsonl)"),
        ('[{"a": 1},\n{"a": }]', ":2: not JSON"),
        ('[{"a": 1},\n{"a"', ":2: not JSON"),
        ('[{"a": 1}\n', ":2: not JSON"),
        ('[{"a": 1}\n{"a": 2}]', ":2: not JSON"),
        ('[{"a": 1}\n] x', ":2: not JSON"),
        ('{"Data": [{"a": 1}]', ":1: not JSON"),
        ("[\n3]", ":record 1: not a JSON object"),
        ("[{}, \n]", ":2: not JSON"),
        (b'[{"a":\n"\xff"}]', ":2: not UTF-8 text: byte 0xff at character 2"),
        ('[{"a": ' + "[" * 100_000, ":1: not JSON"),
    ],
)
def test_bad_json_lists(write, text, problem):
    file = write("x.json", text)
    assert error(lambda: list(json_list(file))) == f"{file}{problem}"


def test_members_of_archives(tmp_path):
    data = b'{"a": 1}\n'
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in (
            "__MACOSX/Main/train.jsonl",
            "top/Old-Main/train.jsonl",
            "top/Main/train.jsonl",
        ):
            archive.writestr(name, data if name.startswith("top/M") else b"wrong")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("qa/train.jsonl")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    for file in (tmp_path / "x.zip/Main/train.jsonl", tmp_path / "x.tar.gz/train.jsonl"):
        [row] = records(file)
        assert (row.where, row) == (f"{file}:1", {"a": 1})
    for archive in (tmp_path / "x.zip", tmp_path / "x.tar.gz"):
        with pytest.raises(WorldError) as caught:
            list(records(archive / "dev.jsonl"))
        assert str(caught.value) == f"{archive}: holds no file dev.jsonl"
        archive.write_bytes(archive.read_bytes()[:60])
        with pytest.raises(WorldError) as caught:
            list(records(archive / "train.jsonl"))
        problem = "cannot be read: damaged, cut off or encrypted"
        assert str(caught.value) == f"{archive}/train.jsonl:1: {problem}"


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz", "x.csv.gz", "x.tsv.gz"])
def test_torn_gz_and_a_directory_in_place_of_a_file(tmp_path, name):
    lines = b"question,answer\n" + b"Who wrote this and that?,Ann\n" * 9
    (tmp_path / name).write_bytes(gzip.compress(lines)[:-12])
    assert ": cannot be read: damaged, cut off or encrypted" in error(
        lambda: list(records(tmp_path / name))
    ) or "not JSON" in error(lambda: list(records(tmp_path / name)))
    folder = tmp_path / name.removesuffix(".gz")
    folder.mkdir()
    assert error(lambda: list(records(folder))) == f"{folder}:1: cannot be read: Is a directory"


# ----------------------------------------------------------------------------------- corpora


@pytest.mark.parametrize(
    "name, content, expected",
    [
        (
            "corpus.jsonl",
            [{"_id": "d1", "title": "T", "text": "x", "metadata": {}}, {"_id": "d2", "text": ""}],
            [Passage("d1", "T", "x"), Passage("d2", "", "")],
        ),
        (
            "wiki18_100w.jsonl.gz",
            [
                {"id": "0", "contents": '"Aaron"\nAaron is a prophet.\nSo it is.'},
                {"id": 1, "contents": "No title"},
            ],
            [Passage("0", "Aaron", "Aaron is a prophet.\nSo it is."), Passage("1", "No title", "")],
        ),
        (
            "psgs_w100.tsv.gz",
            'id\ttext\ttitle\n1\t"Aaron ""the"" prophet"\tAaron\n2\tplain\t"A ""B"""\n',
            [Passage("1", "Aaron", 'Aaron "the" prophet'), Passage("2", 'A "B"', "plain")],
        ),
        ("corpus.json", [{"id": "a", "title": "T", "text": "x"}], [Passage("a", "T", "x")]),
    ],
)
def test_corpora(write, name, content, expected):
    assert [passage for _, passage in read_corpus(write(name, content))] == expected


@pytest.mark.parametrize(
    "name, content, problem",
    [
        ("x.jsonl", [{"id": "a", "text": "x"}, {"text": "x"}], ":2: lacks the field 'id'"),
        ("x.jsonl", [{"id": "a", "contents": ["x"]}], ":1: 'contents' must be a string"),
        ("x.tsv", "id\ttitle\n1\tx\n", ":2: lacks the field 'text'"),
        ("x.tsv", "id\ttext\ttitle\n1\tx\n", ":2: the number of columns is not the header's"),
        ("x.md", b"fine\n\xff\n", ":2: not UTF-8 text: byte 0xff at character 1"),
    ],
)
def test_bad_corpora(write, name, content, problem):
    file = write(name, content)
    assert error(lambda: collect(read_corpus(file), "")) == f"{file}{problem}"


# ---------------------------------------------------------------------------- the real files


@pytest.mark.parametrize(
    "name, rows, first",
    [
        ("nq.test", 3610, ("nq_open:0", "14 December 1972 UTC")),
        ("hotpotqa.dev", 7405, ("hotpot_devidx:0", "yes")),
        ("openbookqa.test", 500, ("obqa:8-343", "quit eating lunch out")),
        ("popqa.test", 713, ("popqa_test:0", "politician")),
        ("ambignq.dev", 5856, ("ambignq_dev:0", "Tony Goldwyn")),
    ],
)
def test_real_question_sets(name, rows, first):
    read = questions(shared_path(f"datasets/{name}.jsonl.gz"))
    assert len(read) == rows and (read[0].id, read[0].answers[0]) == first
    if name == "openbookqa.test":
        assert all(
            q.answers[1] in "ABCD" and f"({q.answers[1]}) {q.answers[0]}" in q.question
            for q in read
        )
