"""Question sets and corpora in the layouts that their authors publish, as Questions and Passages.

READERS: name of a set -> a function of one record. Every set is read in three more layouts, known by their fields: ours
(`answers`), FlashRAG's (`golden_answers`), and somebody's own *.tsv or *.csv (`own`).
Multiple choice: the options go into the question, "(A) one (B) another"; right are the option's text and its letter.

Left out on purpose: supporting sentences, decompositions, evidence triples, 2WikiMultihopQA's id_aliases.json,
TriviaQA's evidence documents, and rows without a published answer (test sets behind a leaderboard), which are errors.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from data.files import WorldError, objects, records, string, strings, table, typed
from data.prepare.documents import is_document, read_documents
from data.world import Passage, Question, choice, question_of


class Asked(NamedTuple):
    """A question, its id "" where none is published, and the passages that are published with it."""

    question: Question
    passages: tuple[Passage, ...] = ()


# ------------------------------------------------------------------------------------------------- question sets


def ours(row: dict, where: str) -> Iterable[Asked]:
    """The world format; FlashRAG's; ours with "options" {letter: text} and "answer_key"."""
    question = question_of(row, where, _id(row, where))
    if row.get("options") is not None:
        asked = choice(
            question.id,
            question.question,
            typed(row, "options", dict, where),
            string(row, "answer_key", where),
            where,
        )
        question = replace(question, question=asked.question, answers=asked.answers)
    yield Asked(question)


def own(row: dict, where: str) -> Iterable[Asked]:
    """Somebody's own: question, answer or answers (one, several with "|" between them, or a JSON list); optional: id,
    relation, slice, type."""
    column = "answers" if "answers" in row else "answer"
    if isinstance(row.get(column), list):
        answers = strings(row, column, where)
    else:
        cell = string(row, column, where)
        answers = (
            _json_strings(cell, column, where) if cell.lstrip().startswith("[") else cell.split("|")
        )
    row = {
        field: row[field]
        for field in ("question", "relation", "slice", "type", "id")
        if row.get(field)
    }
    yield Asked(
        question_of(
            {**row, "answers": [a.strip() for a in answers if a.strip()]}, where, _id(row, where)
        )
    )


def popqa(row: dict, where: str) -> Iterable[Asked]:
    """The authors' TSV; `prop` becomes the relation and `s_pop`, monthly page views of the subject, the popularity."""
    id, question = string(row, "id", where), string(row, "question", where)
    answers = _json_strings(row["possible_answers"], "possible_answers", where)
    popularity = row.get("s_pop") or None
    if popularity and not popularity.isdecimal():
        raise WorldError(f"{where}: 's_pop' must be a whole number")
    yield Asked(
        Question(
            id,
            question,
            answers,
            relation=(row.get("prop") or "").strip() or None,
            popularity=popularity and float(popularity),
        )
    )


def nq(row: dict, where: str) -> Iterable[Asked]:
    """NQ-open: question, answer (a list), no id."""
    yield Asked(
        Question(
            _id(row, where),
            string(row, "question", where),
            _some(strings(row, "answer", where), "answer", where),
        )
    )


def ambignq(row: dict, where: str) -> Iterable[Asked]:
    """AmbigNQ, light or full: every disambiguated question is one of its own; where annotators wrote the same question,
    the answers of all of them are right."""
    asked: dict[str, dict[str, None]] = {}
    for note in objects(row, "annotations", where):
        kind = note.get("type")
        if kind not in ("singleAnswer", "multipleQAs"):
            raise WorldError(
                f"{where}: an annotation's type must be 'singleAnswer' or 'multipleQAs', not {kind!r}"
            )
        for pair in (
            [{**note, "question": row.get("question")}]
            if kind == "singleAnswer"
            else objects(note, "qaPairs", where)
        ):
            answers = _some(strings(pair, "answer", where), "answer", where)
            asked.setdefault(string(pair, "question", where), {}).update(dict.fromkeys(answers))
    id = _id(row, where)
    for i, (question, answers) in enumerate(asked.items()):
        yield Asked(Question(f"{id}:{i}" if len(asked) > 1 else id, question, tuple(answers)))


def hotpotqa(row: dict, where: str) -> Iterable[Asked]:
    """HotpotQA and 2WikiMultihopQA: a context of titled paragraphs in sentences; gold are those with a supporting fact."""
    question, answer = string(row, "question", where), string(row, "answer", where)
    try:
        context = [
            (title, " ".join(sentence.strip() for sentence in sentences))
            for title, sentences in typed(row, "context", list, where)
        ]
        supporting = {title for title, _ in typed(row, "supporting_facts", list, where)}
    except (TypeError, ValueError, AttributeError) as error:
        raise (
            error
            if isinstance(error, WorldError)
            else WorldError(
                f"{where}: 'context' must hold [title, sentences] and 'supporting_facts' [title, sentence number]"
            )
        ) from None
    passages = [_passage(title, text, where) for title, text in context]
    gold = tuple(dict.fromkeys(passage.id for passage in passages if passage.title in supporting))
    kind = string(row, "type", where, blank=True, default="").strip() or None
    yield Asked(
        Question(_id(row, where), question, (answer,), type=kind, gold_passages=gold),
        tuple(passages),
    )


def musique(row: dict, where: str) -> Iterable[Asked]:
    """MuSiQue-Ans, and the answerable questions of MuSiQue-Full."""
    if row.get("answerable") is False:
        return
    passages, gold = [], {}
    for paragraph in objects(row, "paragraphs", where):
        passages.append(
            _passage(
                string(paragraph, "title", where, blank=True),
                string(paragraph, "paragraph_text", where),
                where,
            )
        )
        if paragraph.get("is_supporting"):
            gold[passages[-1].id] = None
    answers = (string(row, "answer", where), *strings(row, "answer_aliases", where))
    yield Asked(
        Question(
            _id(row, where),
            string(row, "question", where),
            _unique(answers),
            gold_passages=tuple(gold),
        ),
        tuple(passages),
    )


def triviaqa(row: dict, where: str) -> Iterable[Asked]:
    """TriviaQA: QuestionId, Question, Answer {Value, Aliases}."""
    answer = typed(row, "Answer", dict, where)
    aliases = [
        alias
        for alias in typed(answer, "Aliases", list, where)
        if isinstance(alias, str) and alias.strip()
    ]
    yield Asked(
        Question(
            string(row, "QuestionId", where),
            string(row, "Question", where),
            _unique((string(answer, "Value", where), *aliases)),
        )
    )


def openbookqa(row: dict, where: str) -> Iterable[Asked]:
    """OpenBookQA and ARC: question {stem, choices [{text, label}]}, answerKey. The fact of OpenBookQA's "complete" files
    is its gold passage; ARC's labels are A-E or, in some rows, 1-4, which are shown as A-D."""
    question = typed(row, "question", dict, where)
    options = {
        string(choice, "label", where): string(choice, "text", where)
        for choice in objects(question, "choices", where)
    }
    asked = choice(
        _id(row, where),
        string(question, "stem", where),
        options,
        string(row, "answerKey", where),
        where,
    )
    if "fact1" not in row:
        yield Asked(asked)
    else:
        fact = _passage("", row["fact1"], where)
        yield Asked(replace(asked, gold_passages=(fact.id,)), (fact,))


def medqa(row: dict, where: str) -> Iterable[Asked]:
    """MedQA (USMLE), five options or four: question, options {letter: text}, answer_idx."""
    yield Asked(
        choice(
            _id(row, where),
            string(row, "question", where),
            typed(row, "options", dict, where),
            string(row, "answer_idx", where),
            where,
        )
    )


READERS: dict[str, Callable[[dict, str], Iterable[Asked]]] = {
    "popqa": popqa,
    "nq": nq,
    "ambignq": ambignq,
    "hotpotqa": hotpotqa,
    "2wikimultihopqa": hotpotqa,
    "musique": musique,
    "triviaqa": triviaqa,
    "openbookqa": openbookqa,
    "arc": openbookqa,
    "medqa": medqa,
    "mine": own,
}


def read_questions(set_name: str, file: Path) -> Iterator[tuple[str, Asked]]:
    """("FILE:LINE", question) of each question in a file of this set. Raises WorldError."""
    is_table = file.name.removesuffix(".gz").endswith((".tsv", ".csv"))
    for where, row in table(file, ("question",)) if is_table else records(file):
        if is_table:
            read = popqa if "possible_answers" in row else own
        else:
            read = ours if {"answers", "golden_answers"} & row.keys() else READERS[set_name]
        for asked in read(row, where):
            yield where, asked


# ------------------------------------------------------------------------------------------------- corpora


def read_corpus(source: Path, words: int = 100) -> Iterator[tuple[str, Passage]]:
    """("FILE:LINE", passage) of a corpus: JSON lines of ours, of BEIR ("_id") or of FlashRAG ("contents": title, line end,
    text); DPR's table psgs_w100.tsv; a document or a folder of documents, cut into passages of about `words` words.
    All but a folder's file names are read one passage at a time. Raises WorldError."""
    if source.is_dir() or is_document(source):
        yield from read_documents(source, words)
    elif ".tsv" in source.suffixes:
        for where, row in table(source, ("id", "text", "title")):
            yield where, Passage(string(row, "id", where), row["title"], row["text"])
    else:
        for where, row in records(source):
            if "contents" in row and "text" not in row:
                title, _, text = string(row, "contents", where).partition("\n")
                yield where, Passage(_id(row, where, needed=True), title.strip().strip('"'), text)
            else:
                title = string(row, "title", where, blank=True, default="")
                yield (
                    where,
                    Passage(
                        _id(row, where, needed=True), title, string(row, "text", where, blank=True)
                    ),
                )


# ------------------------------------------------------------------------------------------------- parts of a record


def _id(row: dict, where: str, needed: bool = False) -> str:
    """ "id" or "_id", a string or a number; "" where the layout has none."""
    field = "_id" if "_id" in row and "id" not in row else "id"
    if type(row.get(field)) is int:
        return str(row[field])
    return string(row, field, where, name="id") if needed or field in row else ""


def _passage(title: str, text: str, where: str) -> Passage:
    """A passage that is published without an id: equal ones are one passage."""
    fields = {"title": title, "text": text}
    title, text = (
        string(fields, "title", where, blank=True),
        string(fields, "text", where, blank=True),
    )
    return Passage(hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16], title, text)


def _json_strings(cell: str, column: str, where: str) -> tuple[str, ...]:
    try:
        answers = json.loads(cell)
        "".join(answers).encode()  # all are strings, and none holds half a character ("\\ud800")
    except (TypeError, ValueError, RecursionError):
        answers = None
    if (
        not isinstance(answers, list)
        or not answers
        or not all(answer.strip() for answer in answers)
    ):
        raise WorldError(f"{where}: {column!r} must be a JSON list of one answer or more")
    return tuple(answers)


def _some(answers: tuple[str, ...], field: str, where: str) -> tuple[str, ...]:
    if not answers:
        raise WorldError(f"{where}: {field!r} is empty")
    return _unique(answers)


def _unique(answers: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answers))
