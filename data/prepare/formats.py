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

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from data.files import choice, field, optional, string, strings
from data.load import question_of
from data.prepare.documents import is_document, read_documents
from data.prepare.records import (
    aliases,
    an_object,
    answer_list,
    answers_of,
    identity,
    is_table,
    objects,
    pairs,
    passage_of,
    records,
    unique,
    whole_number,
)
from data.world import Passage, Question, WorldError


class Example(NamedTuple):
    question: Question
    passages: tuple[Passage, ...] = ()


def ours(row: dict, where: str) -> Iterable[Example]:
    """The world format; FlashRAG's; ours with "options" {letter: text} and "answer_key"."""
    question = question_of(row, where, identity(row, where))
    if row.get("options") is not None:
        options, key = an_object(row, "options", where), string(row, "answer_key", where)
        lettered = choice(question.id, question.question, options, key, where)
        question = replace(question, question=lettered.question, answers=lettered.answers)
    yield Example(question)


def own(row: dict, where: str) -> Iterable[Example]:
    """Somebody's own: question, answer or answers (a list, or text with "|" between several).

    Optional: id, relation, slice, type.
    """
    column = "answers" if "answers" in row else "answer"
    answers = row.get(column)
    if type(answers) in (int, float) and abs(answers) < 1e300:  # nor nan
        answers = [json.dumps(answers)]
    elif isinstance(answers, list):
        answers = strings(row, column, where)
    else:
        text = string(row, column, where)
        answers = [text] if column == "answer" else aliases(text, column, where)
    labels = {name: row[name] for name in ("relation", "slice", "type") if row.get(name)}
    if "question" in row:
        labels["question"] = row["question"]
    id = identity(row, where) if row.get("id") else ""
    yield Example(question_of({**labels, "answers": [a.strip() for a in answers]}, where, id))


def own_table(row: dict, where: str) -> Iterable[Example]:
    """A row of text alone: several answers have "|" between them or are a JSON list."""
    column = "answers" if "answers" in row else "answer"
    answers = aliases(string(row, column, where), column, where)
    return own({**row, column: list(answers)}, where)


def popqa(row: dict, where: str) -> Iterable[Example]:
    """The authors' TSV, or what `datasets` exports; without possible_answers `obj` is the answer.

    `prop` is the relation, `s_pop`, monthly page views of the subject, the popularity.
    """
    if not row.get("possible_answers") and row.get("obj"):
        answers = (string(row, "obj", where),)
    else:
        cell = field(row, "possible_answers", object, where, "a list")
        answers = answer_list(cell, "possible_answers", where)
    popularity = whole_number(row, "s_pop", where)
    relation = optional(row, "prop", where).strip() or None
    id, question = identity(row, where), string(row, "question", where)
    yield Example(Question(id, question, answers, relation=relation, popularity=popularity))


def nq(row: dict, where: str) -> Iterable[Example]:
    """NQ-open: question, answer (a list), no id."""
    question, answers = string(row, "question", where), answers_of(row, where)
    yield Example(Question(identity(row, where), question, answers))


def ambignq(row: dict, where: str) -> Iterable[Example]:
    """AmbigNQ, light or full: every disambiguated question is one of its own.

    Where annotators wrote the same question, the answers of all of them are right.
    """
    merged: dict[str, list[str]] = {}
    for note in objects(row, "annotations", where):
        if note.get("type") == "singleAnswer":
            pairs = [{**note, "question": row.get("question")}]
        elif note.get("type") == "multipleQAs":
            pairs = objects(note, "qaPairs", where)
        else:
            wanted = f"'singleAnswer' or 'multipleQAs', not {note.get('type')!r}"
            raise WorldError(f"{where}: an annotation's type must be {wanted}")
        for pair in pairs:
            answers = answers_of(pair, where)
            merged.setdefault(string(pair, "question", where), []).extend(answers)
    id = identity(row, where)
    for i, (question, answers) in enumerate(merged.items()):
        number = f"{id}:{i}" if len(merged) > 1 else id
        yield Example(Question(number, question, unique(answers)))


def hotpotqa(row: dict, where: str) -> Iterable[Example]:
    """HotpotQA, 2WikiMultihopQA: paragraphs in sentences; gold: those with a supporting fact."""
    passages, gold_titles = [], set()
    try:
        for title, parts in pairs(row, "context", where):
            if not isinstance(parts, list):
                raise TypeError
            text = " ".join(part.strip() for part in parts)
            passages.append(passage_of(title, text, where))
        for title, _ in pairs(row, "supporting_facts", where):
            gold_titles.add(passage_of(title, "", where).title)
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, WorldError):
            raise
        wanted = "[title, sentences] and 'supporting_facts' [title, sentence number]"
        raise WorldError(f"{where}: 'context' must hold {wanted}") from None
    gold = unique(passage.id for passage in passages if passage.title in gold_titles)
    question, answer = string(row, "question", where), string(row, "answer", where)
    kind = optional(row, "type", where).strip() or None
    id = identity(row, where)
    yield Example(Question(id, question, (answer,), type=kind, gold_passages=gold), tuple(passages))


def musique(row: dict, where: str) -> Iterable[Example]:
    """MuSiQue-Ans, and the answerable questions of MuSiQue-Full."""
    if row.get("answerable") is False:
        return
    passages, gold = [], []
    for paragraph in objects(row, "paragraphs", where):
        title = optional(paragraph, "title", where)
        passages.append(passage_of(title, string(paragraph, "paragraph_text", where), where))
        if paragraph.get("is_supporting"):
            gold.append(passages[-1].id)
    answers = unique((string(row, "answer", where), *strings(row, "answer_aliases", where)))
    id, question = identity(row, where), string(row, "question", where)
    yield Example(Question(id, question, answers, gold_passages=unique(gold)), tuple(passages))


def triviaqa(row: dict, where: str) -> Iterable[Example]:
    """TriviaQA: QuestionId, Question, Answer {Value, Aliases}; in `datasets` question_id, ..."""
    names = ("QuestionId", "Question", "Answer", "Value", "Aliases")
    if "Answer" not in row and "answer" in row:
        names = ("question_id", "question", "answer", "value", "aliases")
    id, question, answer, value, others = names
    answer = an_object(row, answer, where)
    others = field(answer, others, list, where, "a list")
    others = [alias for alias in others if isinstance(alias, str) and alias.strip()]
    first = string(answer, value, where)
    if first == "<unk>":  # the test set
        raise WorldError(f"{where}: its answer is not published")
    answers = unique((first, *strings({"aliases": others}, "aliases", where)))
    yield Example(Question(string(row, id, where), string(row, question, where), answers))


def openbookqa(row: dict, where: str) -> Iterable[Example]:
    """OpenBookQA and ARC: question {stem, choices [{text, label}]}, answerKey; `datasets` exports
    choices beside the question or question_stem.

    The fact of OpenBookQA's "complete" files is its gold passage; ARC's labels are A-E or, in some
    rows, 1-4, which are shown as A-D.
    """
    stem, asked = "stem", row
    if "choices" in row:
        stem = "question_stem" if "question_stem" in row else "question"
    else:
        asked = an_object(row, "question", where)
    choices = objects(asked, "choices", where)
    options = {string(one, "label", where): string(one, "text", where) for one in choices}
    stem, key = string(asked, stem, where), string(row, "answerKey", where)
    question = choice(identity(row, where), stem, options, key, where)
    if row.get("fact1") is None:
        yield Example(question)
    else:
        fact = passage_of("", row["fact1"], where)
        yield Example(replace(question, gold_passages=(fact.id,)), (fact,))


def medqa(row: dict, where: str) -> Iterable[Example]:
    """MedQA (USMLE), five options or four: question, options {letter: text}, answer_idx."""
    stem, options = string(row, "question", where), an_object(row, "options", where)
    id, key = identity(row, where), string(row, "answer_idx", where)
    yield Example(choice(id, stem, options, key, where))


Reader = Callable[[dict, str], Iterable[Example]]
_BY_NAME = (popqa, nq, ambignq, hotpotqa, musique, triviaqa, openbookqa, medqa)
READERS: dict[str, Reader] = {reader.__name__: reader for reader in _BY_NAME}
READERS |= {"2wikimultihopqa": hotpotqa, "arc": openbookqa, "mine": own}


def read_questions(set_name: str, file: Path) -> Iterator[tuple[str, Example]]:
    """("FILE:LINE", example) of each question in a file of this set. Raises WorldError."""
    for where, row in records(file, ("question",)):
        if "possible_answers" in row or (set_name == "popqa" and "obj" in row):
            read = popqa
        elif is_table(file):
            read = own_table
        else:
            read = ours if {"answers", "golden_answers"} & row.keys() else READERS[set_name]
        for example in read(row, where):
            yield where, example


def read_corpus(
    source: Path, words: int = 100, remarks: Counter | None = None
) -> Iterator[tuple[str, Passage]]:
    """("FILE:LINE", passage) of a corpus; `remarks` counts what is left out. Raises WorldError.

    JSON lines of ours, of BEIR ("_id") or of FlashRAG ("contents": title, line end, text); DPR's
    table psgs_w100.tsv; a document or a folder of documents, cut into passages of at most `words`
    words.
    """
    if source.is_dir() or is_document(source):
        yield from read_documents(source, words, Counter() if remarks is None else remarks)
        return
    for where, row in records(source, ("id", "text", "title")):
        id = identity(row, where, needed=True)
        if "contents" in row and "text" not in row:
            title, _, text = string(row, "contents", where).partition("\n")
            yield where, Passage(id, title.strip().strip('"'), text)
        else:
            title, text = optional(row, "title", where), string(row, "text", where, blank=True)
            yield where, Passage(id, title, text)
