"""Question sets and corpora in the layouts that their authors publish, as Questions and Passages.

READERS: name of a set -> a function of one record, which yields Examples: a question (its id ""
where none is published) and the passages that are published with it. Every set is read in three
more layouts, known by their fields: ours (`answers`), FlashRAG's (`golden_answers`), and somebody's
own *.tsv or *.csv (`own`). Multiple choice: the options go into the question, "(A) one (B)
another"; right are the option's text and its letter.

Left out on purpose: supporting sentences, decompositions, evidence triples, 2WikiMultihopQA's
id_aliases.json, TriviaQA's evidence documents, and rows without a published answer (test sets
behind a leaderboard), which are errors.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from data.files import choice, field, optional, string, strings
from data.load import question_of
from data.prepare.documents import is_document, read_documents
from data.prepare.records import is_table, records, table
from data.world import Passage, Question, WorldError


class Example(NamedTuple):
    question: Question
    passages: tuple[Passage, ...] = ()


# ----------------------------------------------------------------------------- question sets


def ours(row: dict, where: str) -> Iterable[Example]:
    """The world format; FlashRAG's; ours with "options" {letter: text} and "answer_key"."""
    question = question_of(row, where, _id(row, where))
    if row.get("options") is not None:
        options, key = _object(row, "options", where), string(row, "answer_key", where)
        lettered = choice(question.id, question.question, options, key, where)
        question = replace(question, question=lettered.question, answers=lettered.answers)
    yield Example(question)


def own(row: dict, where: str) -> Iterable[Example]:
    """Somebody's own: question, answer or answers (one, several with "|" between them, or a JSON
    list).

    Optional: id, relation, slice, type.
    """
    column = "answers" if "answers" in row else "answer"
    if isinstance(row.get(column), list):
        answers = strings(row, column, where)
    else:
        cell = string(row, column, where)
        is_list = cell.lstrip().startswith("[")
        answers = _json_strings(cell, column, where) if is_list else cell.split("|")
    answers = [answer.strip() for answer in answers if answer.strip()]
    labels = {
        name: row[name] for name in ("question", "relation", "slice", "type") if row.get(name)
    }
    id = _id(row, where) if row.get("id") else ""
    yield Example(question_of({**labels, "answers": answers}, where, id))


def popqa(row: dict, where: str) -> Iterable[Example]:
    """The authors' TSV; `prop` is the relation, `s_pop`, monthly page views of the subject, the
    popularity.
    """
    id, question = string(row, "id", where), string(row, "question", where)
    cell = string(row, "possible_answers", where)
    answers = _json_strings(cell, "possible_answers", where)
    views = row.get("s_pop")
    if views and not views.isdecimal():
        raise WorldError(f"{where}: 's_pop' must be a whole number")
    relation = (row.get("prop") or "").strip() or None
    popularity = float(views) if views else None
    yield Example(Question(id, question, answers, relation=relation, popularity=popularity))


def nq(row: dict, where: str) -> Iterable[Example]:
    """NQ-open: question, answer (a list), no id."""
    question, answers = string(row, "question", where), _answers(row, where)
    yield Example(Question(_id(row, where), question, answers))


def ambignq(row: dict, where: str) -> Iterable[Example]:
    """AmbigNQ, light or full: every disambiguated question is one of its own.

    Where annotators wrote the same question, the answers of all of them are right.
    """
    answers_of: dict[str, list[str]] = {}
    for note in _objects(row, "annotations", where):
        if note.get("type") == "singleAnswer":
            pairs = [{**note, "question": row.get("question")}]
        elif note.get("type") == "multipleQAs":
            pairs = _objects(note, "qaPairs", where)
        else:
            wanted = f"'singleAnswer' or 'multipleQAs', not {note.get('type')!r}"
            raise WorldError(f"{where}: an annotation's type must be {wanted}")
        for pair in pairs:
            answers = _answers(pair, where)
            answers_of.setdefault(string(pair, "question", where), []).extend(answers)
    id = _id(row, where)
    for i, (question, answers) in enumerate(answers_of.items()):
        number = f"{id}:{i}" if len(answers_of) > 1 else id
        yield Example(Question(number, question, _unique(answers)))


def hotpotqa(row: dict, where: str) -> Iterable[Example]:
    """HotpotQA and 2WikiMultihopQA: titled paragraphs in sentences; gold are those with a
    supporting fact.
    """
    context = field(row, "context", list, where, "a list")
    supporting = field(row, "supporting_facts", list, where, "a list")
    try:
        texts = [(title, " ".join(part.strip() for part in parts)) for title, parts in context]
        gold_titles = {title for title, _ in supporting}
    except (TypeError, ValueError, AttributeError):
        wanted = "[title, sentences] and 'supporting_facts' [title, sentence number]"
        raise WorldError(f"{where}: 'context' must hold {wanted}") from None
    passages = tuple(_passage(title, text, where) for title, text in texts)
    gold = _unique(passage.id for passage in passages if passage.title in gold_titles)
    question, answer = string(row, "question", where), string(row, "answer", where)
    kind = optional(row, "type", where).strip() or None
    id = _id(row, where)
    yield Example(Question(id, question, (answer,), type=kind, gold_passages=gold), passages)


def musique(row: dict, where: str) -> Iterable[Example]:
    """MuSiQue-Ans, and the answerable questions of MuSiQue-Full."""
    if row.get("answerable") is False:
        return
    passages, gold = [], []
    for paragraph in _objects(row, "paragraphs", where):
        title = string(paragraph, "title", where, blank=True)
        passages.append(_passage(title, string(paragraph, "paragraph_text", where), where))
        if paragraph.get("is_supporting"):
            gold.append(passages[-1].id)
    answers = _unique((string(row, "answer", where), *strings(row, "answer_aliases", where)))
    id, question = _id(row, where), string(row, "question", where)
    yield Example(Question(id, question, answers, gold_passages=_unique(gold)), tuple(passages))


def triviaqa(row: dict, where: str) -> Iterable[Example]:
    """TriviaQA: QuestionId, Question, Answer {Value, Aliases}."""
    answer = _object(row, "Answer", where)
    aliases = field(answer, "Aliases", list, where, "a list")
    aliases = [alias for alias in aliases if isinstance(alias, str) and alias.strip()]
    answers = _unique((string(answer, "Value", where), *aliases))
    yield Example(
        Question(string(row, "QuestionId", where), string(row, "Question", where), answers)
    )


def openbookqa(row: dict, where: str) -> Iterable[Example]:
    """OpenBookQA and ARC: question {stem, choices [{text, label}]}, answerKey.

    The fact of OpenBookQA's "complete" files is its gold passage; ARC's labels are A-E or, in some
    rows, 1-4, which are shown as A-D.
    """
    asked = _object(row, "question", where)
    choices = _objects(asked, "choices", where)
    options = {string(one, "label", where): string(one, "text", where) for one in choices}
    stem, key = string(asked, "stem", where), string(row, "answerKey", where)
    question = choice(_id(row, where), stem, options, key, where)
    if "fact1" not in row:
        yield Example(question)
    else:
        fact = _passage("", row["fact1"], where)
        yield Example(replace(question, gold_passages=(fact.id,)), (fact,))


def medqa(row: dict, where: str) -> Iterable[Example]:
    """MedQA (USMLE), five options or four: question, options {letter: text}, answer_idx."""
    stem, options = string(row, "question", where), _object(row, "options", where)
    yield Example(choice(_id(row, where), stem, options, string(row, "answer_idx", where), where))


READERS: dict[str, Callable[[dict, str], Iterable[Example]]] = {
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


def read_questions(set_name: str, file: Path) -> Iterator[tuple[str, Example]]:
    """("FILE:LINE", example) of each question in a file of this set. Raises WorldError."""
    for where, row in table(file, ("question",)) if is_table(file) else records(file):
        if is_table(file):
            read = popqa if "possible_answers" in row else own
        else:
            read = ours if {"answers", "golden_answers"} & row.keys() else READERS[set_name]
        for example in read(row, where):
            yield where, example


# ----------------------------------------------------------------------------------- corpora


def read_corpus(source: Path, words: int = 100) -> Iterator[tuple[str, Passage]]:
    """("FILE:LINE", passage) of a corpus. Raises WorldError.

    JSON lines of ours, of BEIR ("_id") or of FlashRAG ("contents": title, line end, text); DPR's
    table psgs_w100.tsv; a document or a folder of documents, cut into passages of at most `words`
    words.
    """
    if source.is_dir() or is_document(source):
        yield from read_documents(source, words)
        return
    for where, row in (
        table(source, ("id", "text", "title")) if is_table(source) else records(source)
    ):
        id = _id(row, where, needed=True)
        if "contents" in row and "text" not in row:
            title, _, text = string(row, "contents", where).partition("\n")
            yield where, Passage(id, title.strip().strip('"'), text)
        else:
            title, text = optional(row, "title", where), string(row, "text", where, blank=True)
            yield where, Passage(id, title, text)


# ------------------------------------------------------------------------- parts of a record


def _objects(row: dict, name: str, where: str) -> list[dict]:
    values = field(row, name, list, where, "a list of objects")
    if not all(isinstance(value, dict) for value in values):
        raise WorldError(f"{where}: {name!r} must be a list of objects")
    return values


def _object(row: dict, name: str, where: str) -> dict:
    return field(row, name, dict, where, "an object")


def _id(row: dict, where: str, needed: bool = False) -> str:
    """ "id" or "_id", a string or a number; "" where the layout has none."""
    name = "_id" if "_id" in row and "id" not in row else "id"
    if type(row.get(name)) is int:
        return str(row[name])
    return (
        string({"id": row[name]} if name in row else row, "id", where)
        if needed or name in row
        else ""
    )


def _passage(title: str, text: str, where: str) -> Passage:
    """A passage that is published without an id: equal ones are one passage."""
    fields = {"title": title, "text": text}
    title, text = (string(fields, name, where, blank=True) for name in fields)
    return Passage(hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16], title, text)


def _json_strings(cell: str, column: str, where: str) -> tuple[str, ...]:
    try:
        answers = strings({column: json.loads(cell)}, column, where)
    except (ValueError, RecursionError):  # also strings' own error
        answers = ()
    if not answers:
        raise WorldError(f"{where}: {column!r} must be a JSON list of one answer or more")
    return answers


def _answers(row: dict, where: str) -> tuple[str, ...]:
    answers = _unique(strings(row, "answer", where))
    if not answers:
        raise WorldError(f"{where}: 'answer' is empty")
    return answers


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
