"""The world directory format: what is read, what is refused and in which words."""

import gzip
import json

import pytest

from data import Passage, Question, World, WorldError
from tests.shared import shared_path

PASSAGE = {"id": "p0", "title": "Velmor", "text": "Velmor lies in Norland."}
QUESTION = {"id": "q0", "question": "Where is Velmor?", "answers": ["Norland"]}


def lines(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.fixture
def directory(tmp_path):
    """Writes a world directory from {file: text, gzipped for *.gz, or bytes as they are}."""

    def write(files):
        root = tmp_path / "my world"
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                content = (
                    gzip.compress(content.encode()) if name.endswith(".gz") else content.encode()
                )
            (root / name).write_bytes(content)
        return root

    return write


def error(action) -> str:
    with pytest.raises(WorldError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_reads_plain_gzipped_and_foreign_fields(directory):
    root = directory(
        {
            "world.json": json.dumps({"name": "towns", "license": "MIT", "k": 3, "quota": 2}),
            "corpus.jsonl.gz": lines(
                PASSAGE,
                "",
                {"_id": "p1", "title": None, "text": "No title, as in some BEIR corpora."},
            ),
            "questions/popqa.test.jsonl": lines(
                {
                    **QUESTION,
                    "popularity": 7,
                    "relation": "country",
                    "slice": "tail",
                    "type": "bridge",
                    "gold_passages": ["p0"],
                    "extra": [1],
                }
            ),
            "questions/nq.dev.jsonl.gz": lines(
                {"_id": "q1", "question": "Who?", "golden_answers": ["A", "B"]}
            ),
        }
    )
    world = World.open(root)
    assert (world.name, world.license, world.source, world.k, world.quota) == (
        "towns",
        "MIT",
        "",
        3,
        2,
    )
    assert world.corpus == [
        Passage(**PASSAGE),
        Passage("p1", "", "No title, as in some BEIR corpora."),
    ]
    assert world.splits == ["nq.dev", "popqa.test"]
    assert world.questions("popqa", "test") == [
        Question("q0", "Where is Velmor?", ("Norland",), "tail", "country", 7.0, ("p0",), "bridge")
    ]
    assert world.questions("nq", "dev") == [Question("q1", "Who?", ("A", "B"))]


def test_world_json_is_optional(directory):
    world = World.open(str(directory({"corpus.jsonl": lines(PASSAGE)})))
    assert (world.name, world.k, world.quota, world.splits) == ("my world", 4, 1, [])


def test_gold_passages_unknown_is_not_known_to_be_absent(directory):
    root = directory(
        {
            "corpus.jsonl": lines(PASSAGE),
            "questions/s.test.jsonl": lines(
                QUESTION, {**QUESTION, "id": "q1", "gold_passages": []}
            ),
        }
    )
    assert [q.gold_passages for q in World.open(root).questions("s", "test")] == [None, ()]


@pytest.mark.parametrize(
    "rows, message",
    [
        (["{]"], "1: not JSON"),
        ([PASSAGE, "[1]"], "2: not a JSON object"),
        (["", PASSAGE, "", {"title": "", "text": ""}], "4: lacks the field 'id'"),
        ([{"id": "a", "title": "t"}], "1: lacks the field 'text'"),
        ([{**PASSAGE, "id": [7]}], "1: 'id' must be a string"),
        ([{**PASSAGE, "id": " "}], "1: 'id' is blank"),
        ([{**PASSAGE, "title": 7}], "1: 'title' must be a string"),
        ([{**PASSAGE, "text": ["x"]}], "1: 'text' must be a string"),
        ([{**PASSAGE, "text": "\ud800"}], "1: 'text' is not valid Unicode"),
        ([PASSAGE, {**PASSAGE, "id": "p1"}, PASSAGE], "3: duplicate id 'p0', first at {file}:1"),
        (["[" * 100_000], "1: not JSON"),
    ],
)
def test_bad_corpus_line(directory, rows, message):
    root = directory({"corpus.jsonl": lines(*rows)})
    file = f"{root}/corpus.jsonl"
    assert error(lambda: World.open(root)) == f"{file}:{message}".replace("{file}", file)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([QUESTION, "nonsense"], "2: not JSON"),
        (['"text"'], "1: not a JSON object"),
        ([{"id": "q", "answers": ["a"]}], "1: lacks the field 'question'"),
        ([{"id": "q", "question": "?"}], "1: lacks the field 'answers'"),
        ([{**QUESTION, "question": " \t"}], "1: 'question' is blank"),
        ([{**QUESTION, "answers": []}], "1: 'answers' is empty"),
        ([{**QUESTION, "answers": "Norland"}], "1: 'answers' must be a list of strings"),
        ([{**QUESTION, "answers": ["x", ""]}], "1: 'answers[1]' is blank"),
        ([{**QUESTION, "answers": [3]}], "1: 'answers[0]' must be a string"),
        ([{"id": "q", "question": "?", "golden_answers": []}], "1: 'golden_answers' is empty"),
        ([{**QUESTION, "popularity": "high"}], "1: 'popularity' must be a number of at least 0"),
        ([{**QUESTION, "popularity": True}], "1: 'popularity' must be a number of at least 0"),
        (
            ['{"id": "q", "question": "?", "answers": ["a"], "popularity": NaN}'],
            "1: 'popularity' must be a number of at least 0",
        ),
        ([{**QUESTION, "popularity": 10**400}], "1: 'popularity' must be a number of at least 0"),
        ([{**QUESTION, "relation": 5}], "1: 'relation' must be a string"),
        ([{**QUESTION, "gold_passages": "p0"}], "1: 'gold_passages' must be a list of strings"),
        (
            [{**QUESTION, "gold_passages": ["p9"]}],
            " question 'q0': the gold passage 'p9' is not in the corpus",
        ),
        ([QUESTION, QUESTION], "2: duplicate id 'q0', first at {file}:1"),
    ],
)
def test_bad_question_line(directory, rows, message):
    root = directory({"corpus.jsonl": lines(PASSAGE), "questions/popqa.test.jsonl": lines(*rows)})
    file = f"{root}/questions/popqa.test.jsonl"
    said = error(lambda: World.open(root))
    assert said == f"{file}:{message}".replace("{file}", file)


@pytest.mark.parametrize(
    "files, message",
    [
        ({"world.json": "{}"}, ": not a world: it has no corpus.jsonl or corpus.jsonl.gz"),
        ({"corpus.jsonl": "\n"}, "/corpus.jsonl: the corpus is empty"),
        (
            {"corpus.jsonl": b"\xff\xfe\xfa"},
            "/corpus.jsonl:1: not UTF-8 text: byte 0xff at character 1",
        ),
        (
            {"corpus.jsonl": lines(PASSAGE), "corpus.jsonl.gz": lines(PASSAGE)},
            "/corpus.jsonl: both this file and corpus.jsonl.gz exist; keep one",
        ),
        ({"corpus.jsonl.gz": b"not gzip at all"}, "/corpus.jsonl.gz:1: not JSON"),
        (
            {"corpus.jsonl.gz": gzip.compress(lines(PASSAGE).encode())[:-9]},
            "/corpus.jsonl.gz:2: cannot be read: damaged, cut off or encrypted",
        ),  # what follows the line is missing
        ({"corpus.jsonl": lines(PASSAGE), "world.json": '{\n"name": }'}, "/world.json:2: not JSON"),
        ({"corpus.jsonl": lines(PASSAGE), "world.json": "[]"}, "/world.json:1: not a JSON object"),
        (
            {"corpus.jsonl": lines(PASSAGE), "world.json": '{"k": 0}'},
            "/world.json:1: 'k' must be a whole number of at least 1 and at most 1000",
        ),
        (
            {"corpus.jsonl": lines(PASSAGE), "world.json": '{"quota": 1.5}'},
            "/world.json:1: 'quota' must be a whole number of at least 0 and at most 1000",
        ),
        (
            {"corpus.jsonl": lines(PASSAGE), "world.json": '{"k": 1000000000}'},
            "/world.json:1: 'k' must be a whole number of at least 1 and at most 1000",
        ),
        (
            {"corpus.jsonl": lines(PASSAGE), "world.json": '{"quota": true}'},
            "/world.json:1: 'quota' must be a whole number of at least 0 and at most 1000",
        ),
        (
            {"corpus.jsonl": lines(PASSAGE), "world.json": '{"name": ".."}'},
            "/world.json:1: 'name' must be a file's name of at most 100 characters",
        ),
        (
            {"corpus.jsonl": lines(PASSAGE), "world.json": '{"name": "a\\u001b[2J"}'},
            "/world.json:1: 'name' must be a file's name of at most 100 characters",
        ),
        (
            {"corpus.jsonl": lines(PASSAGE), "world.json": '{"license": ["MIT"]}'},
            "/world.json:1: 'license' must be a string",
        ),
        (
            {"corpus.jsonl": lines(PASSAGE), "world.json": '{"name": "../x"}'},
            "/world.json:1: 'name' must be a file's name of at most 100 characters",
        ),
        (
            {"corpus.jsonl": lines(PASSAGE), "questions/popqa.jsonl": ""},
            "/questions/popqa.jsonl: the name must be <set>.<split>.jsonl or"
            " <set>.<split>.jsonl.gz",
        ),
    ],
)
def test_bad_directory(directory, files, message):
    root = directory(files)
    assert error(lambda: World.open(root)) == f"{root}{message}"


@pytest.mark.parametrize("name", ["s.test.jsonl", "s.test.jsonl.gz"])
def test_a_file_without_questions_and_a_folder_in_its_place(directory, name):
    root = directory({"corpus.jsonl": lines(PASSAGE), f"questions/{name}": "\n\n"})
    file = root / "questions" / name
    assert error(lambda: World.open(root)) == f"{file}: holds no questions"
    file.unlink()
    file.mkdir()
    assert error(lambda: World.open(root)) == f"{file}:1: cannot be read: Is a directory"


def test_one_unicode_form(directory):
    asked = {**QUESTION, "question": "Wo liegt Mo\u0308ln?", "gold_passages": ["p\u0061\u0308"]}
    passage = {"id": "p\u00e4", "title": "Mo\u0308ln", "text": "Mo\u0308ln."}
    root = directory({"corpus.jsonl": lines(passage), "questions/s.test.jsonl": lines(asked)})
    world = World.open(root)
    assert world.corpus == [Passage("p\u00e4", "M\u00f6ln", "M\u00f6ln.")]
    assert world.questions("s", "test")[0].question == "Wo liegt M\u00f6ln?"


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "no/such/place",
            "no/such/place: no such directory, and not a generated world (mini, mini:SEED,"
            " tiny, tiny:SEED)",
        ),
        (
            "maxi:3",
            "maxi:3: no such directory, and not a generated world (mini, mini:SEED, tiny,"
            " tiny:SEED)",
        ),
        ("mini:one", "world 'mini:one': the seed must be a whole number, as in 'mini:1'"),
        ("tiny:-1", "world 'tiny:-1': the seed must be a whole number, as in 'tiny:1'"),
        ("tiny:", "world 'tiny:': the seed must be a whole number, as in 'tiny:1'"),
    ],
)
def test_unknown_world(name, message):
    assert error(lambda: World.open(name)) == message


def test_unknown_questions_list_those_that_exist(directory):
    files = {
        "corpus.jsonl": lines(PASSAGE),
        "questions/a.dev.jsonl": lines(QUESTION),
        "questions/a.test.jsonl": lines(QUESTION),
    }
    world = World.open(directory(files))
    assert (
        error(lambda: world.questions("a", "train"))
        == "world 'my world' has no questions 'a.train'; it has: a.dev, a.test"
    )
    assert (
        error(lambda: World(name="w", corpus=[], questions={}).questions("a", "b"))
        == "world 'w' has no questions 'a.b'; it has: none"
    )


def test_corpus_sha256_depends_on_every_field_and_the_order():
    def sha(*passages):
        return World(name="w", corpus=[Passage(*p) for p in passages], questions={}).corpus_sha256

    base = sha(("1", "t", "x"), ("2", "t", "y"))
    assert base == sha(("1", "t", "x"), ("2", "t", "y"))
    others = [
        sha(("2", "t", "y"), ("1", "t", "x")),
        sha(("1", "tx", ""), ("2", "t", "y")),
        sha(("1", "t", "x")),
        sha(("3", "t", "x"), ("2", "t", "y")),
        sha(("1", "t", "z"), ("2", "t", "y")),
    ]
    assert len({base, *others}) == 6


def test_save_and_open_give_the_same_world(tmp_path):
    asked = [
        Question("q", "Who?", ("A", "B"), "tail", "author", 1.5, (), "bridge"),
        Question("r", "?", ("C",)),
    ]
    world = World(
        name="w",
        corpus=[Passage("1", "", 'Ünï\u2028code\n"line"')],
        questions={"s.test": asked},
        description="d",
        license="MIT",
        source="here",
        k=2,
        quota=0,
    )
    world.save(tmp_path / "out")
    world.save(tmp_path / "out")  # again, over itself
    read = World.open(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    assert names == ["corpus.jsonl", "questions", "s.test.jsonl", "world.json"]
    assert read.corpus == world.corpus and read.corpus_sha256 == world.corpus_sha256
    assert read.questions("s", "test") == world.questions("s", "test")
    for field in ("name", "description", "license", "source", "k", "quota"):
        assert getattr(read, field) == getattr(world, field)


def test_save_does_not_mix_two_worlds(tmp_path):
    def world(split):
        return World(name="w", corpus=[Passage("1", "t", "x")], questions={f"s.{split}": []})

    world("dev").save(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    stale = tmp_path / "questions/s.dev.jsonl"
    assert (
        error(lambda: world("test").save(tmp_path))
        == f"{stale}: belongs to another world; save this one elsewhere"
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "file").touch()
    assert error(lambda: world("dev").save(tmp_path / "file")).startswith(f"{tmp_path}/file")


def test_the_real_passages_load():
    world = World.open(shared_path("worlds/wiki"))
    assert (world.name, len(world.corpus), world.k, world.quota) == ("wiki", 29_703, 4, 1)
    rows = {split: len(world.questions(*split.split("."))) for split in world.splits}
    assert rows == {
        "popqa.train": 744,
        "popqa.dev": 100,
        "popqa.test": 156,
        "hotpotqa.dev": 100,
        "hotpotqa.train": 815,
        "hotpotqa.test": 200,
        "2wikimultihopqa.test": 163,
        "nq.test": 2655,
    }


def test_the_union_of_sets():
    world = World.open("tiny")
    assert world.union("popqa", "dev") == [world.questions("popqa", "dev")]
    two = World(
        name="two",
        corpus=[],
        questions={"a.dev": [Question("1", "?", ("x",))], "b.dev": [Question("1", "!", ("y",))]},
    )
    assert two.union("b, a", "dev") == [two.questions("b", "dev"), two.questions("a", "dev")]
    with pytest.raises(WorldError, match=r"has no questions 'c.dev'; it has: a.dev, b.dev"):
        two.union("a,c", "dev")
    with pytest.raises(WorldError, match="one of them comes twice"):
        two.union("a,a", "dev")
