"""Question sets and corpora in the layouts that their authors publish, as Questions and Passages.

A layout is known by its fields, LAYOUTS: a row becomes Examples, a question (its id "" where none
is published) and the passages that are published with it. Where a row has none of those fields it
is a plain one: ours, FlashRAG's, NQ-open's or somebody's own. Multiple choice: the options go into
the question, "(A) one (B) another"; right are the option's text and its letter.

Left out on purpose: supporting sentences, decompositions, evidence triples, 2WikiMultihopQA's
id_aliases.json, TriviaQA's evidence documents, and rows without a published answer (test sets
behind a leaderboard), which are errors.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from data.prepare.documents import SUFFIXES, read_documents
from data.records import Record, passage_of, question_of, records
from data.world import Passage, Question


class Example(NamedTuple):
    question: Question
    passages: tuple[Passage, ...]


def example(row: Record, answers: Iterable[str], passages: Iterable[Passage] = (), **fields):
    """The row as one of the world format, which these `fields` of it replace."""
    fields = {**row, "id": row.identity(), "gold_passages": None, **fields}
    fields["answers"] = list(dict.fromkeys(answers))
    return Example(question_of(Record(fields, row.where)), tuple(passages))


def paragraph(title: str, text: str) -> Passage:
    """A passage that is published without an id: equal ones are one passage."""
    return Passage(hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16], title, text)


def choice(row: Record, stem: str, options: dict[str, str], key: str, **others) -> Example:
    """A multiple-choice question, options lettered in order; right are the text and its letter."""
    letters = dict(zip(options, "ABCDEFGHIJ", strict=False))
    if key not in letters:
        raise row.error(f"the answer key {key!r} is none of the options {', '.join(options)}")
    options = Record(options, row.where)
    texts = {label: options.text(label).strip() for label in letters}
    shown = [f"({letter}) {texts[label]}" for label, letter in letters.items()]
    question = " ".join([stem.strip(), *shown])
    return example(row, [texts[key], letters[key]], question=question, **others)


def plain(row: Record) -> Iterator[Example]:
    """Ours, FlashRAG's (golden_answers), NQ-open's (answer, a list), somebody's own, MedQA's.
    Optional: id and the other fields of a world's questions; options {letter: text} with
    answer_key, or answer_idx."""
    gold = None if row.is_cells else row.get("gold_passages")
    if row.get("options") is not None:
        key = row.text("answer_idx" if "answer_idx" in row else "answer_key")
        yield choice(row, row.text("question"), row.object("options"), key, gold_passages=gold)
        return
    names = [name for name in ("answers", "golden_answers", "answer") if name in row]
    answers = answers_in(row, (names or ["answer"])[0])
    yield example(row, [answer.strip() for answer in answers], gold_passages=gold)


def answers_in(row: Record, name: str) -> Iterable[str]:
    """A list, one text or a number; a cell of a table and the text "answers" may hold a JSON list,
    or "|" between several. Brackets and bars may also be text: "[sic]", "|x|", "P(A|B)"."""
    value = row.get(name)
    if type(value) in (int, float) and abs(value) < 1e300:  # nor nan
        return [json.dumps(value)]
    if not isinstance(value, str):
        return row.texts(name)
    text = row.text(name)
    if name == "answer" and not row.is_cells:
        return [text]
    if re.match(r"\s*\[\s*[\"'\]]", text):
        try:
            return Record({name: json.loads(text)}, row.where).texts(name)
        except (ValueError, RecursionError):  # also texts' own error
            raise row.error(f"{name!r} must be a JSON list of answers") from None
    parts = re.sub(r"(?<![|\s])[|\s]+$", "", text).split("|")
    torn = any(part.count(a) != part.count(b) for part in parts for a, b in ("()", "[]", "{}"))
    blank = any(not part.strip() for part in parts)
    return [text] if len(parts) > 1 and (torn or blank) else parts


def popqa(row: Record) -> Iterator[Example]:
    """The authors' TSV, or what `datasets` exports; without possible_answers `obj` is the answer.
    `prop` is the relation, `s_pop`, monthly page views of the subject, the popularity."""
    known = row.get("possible_answers") or not row.get("obj")
    answers = answers_in(row, "possible_answers") if known else [row.text("obj")]
    yield example(row, answers, relation=row.optional("prop"), popularity=row.number("s_pop"))


def ambignq(row: Record) -> Iterator[Example]:
    """AmbigNQ, light or full: every disambiguated question is one of its own. Where annotators
    wrote the same question, the answers of all of them are right."""
    merged: dict[str, list[str]] = {}
    for note in row.objects("annotations"):
        pairs = [Record({**note, "question": row.get("question")}, row.where)]
        if note.get("type") == "multipleQAs":
            pairs = note.objects("qaPairs")
        for pair in pairs:
            merged.setdefault(pair.text("question"), []).extend(pair.texts("answer"))
    for i, (question, answers) in enumerate(merged.items()):
        id = f"{row.identity()}:{i}" if len(merged) > 1 else row.identity()
        yield example(row, answers, id=id, question=question)


def hotpotqa(row: Record) -> Iterator[Example]:
    """HotpotQA, 2WikiMultihopQA: paragraphs in sentences; gold: those with a supporting fact."""
    passages = []
    for one in row.objects("context", ("title", "sentences")):
        sentences = (sentence.strip() for sentence in one.texts("sentences", blank=True))
        passages.append(paragraph(one.optional("title"), " ".join(sentences)))
    facts = row.objects("supporting_facts", ("title", "sentence number"))
    titles = {fact.optional("title") for fact in facts}
    gold = dict.fromkeys(passage.id for passage in passages if passage.title in titles)
    yield example(row, [row.text("answer")], passages, gold_passages=list(gold))


def musique(row: Record) -> Iterator[Example]:
    """MuSiQue-Ans, and the answerable questions of MuSiQue-Full."""
    if row.get("answerable") is False:
        return
    passages, gold = [], {}
    for one in row.objects("paragraphs"):
        passages.append(paragraph(one.optional("title"), one.text("paragraph_text")))
        if one.get("is_supporting"):
            gold[passages[-1].id] = True
    answers = row.text("answer"), *row.texts("answer_aliases")
    yield example(row, answers, passages, gold_passages=list(gold))


def triviaqa(row: Record) -> Iterator[Example]:
    """TriviaQA: QuestionId, Question, Answer {Value, Aliases}; in `datasets` question_id, ..."""
    row = _lower(row)
    answer = _lower(row.object("answer"))
    first = answer.text("value")
    if first == "<unk>":  # the test set
        raise row.error("its answer is not published")
    others = (alias for alias in answer.texts("aliases", blank=True) if alias.strip())
    yield example(row, [first, *others], id=row.text("questionid"))


def _lower(row: Record) -> Record:
    return Record({name.lower().replace("_", ""): row[name] for name in row}, row.where)


def openbookqa(row: Record) -> Iterator[Example]:
    """OpenBookQA and ARC: question {stem, choices [{text, label}]}, answerKey; `datasets` exports
    choices beside the question or question_stem. The fact of OpenBookQA's "complete" files is its
    gold passage; ARC's labels are A-E or, in some rows, 1-4, which are shown as A-D."""
    asked, stem = (row, "question") if "choices" in row else (row.object("question"), "stem")
    stem = "question_stem" if "question_stem" in asked else stem
    options = {one.text("label"): one.text("text") for one in asked.objects("choices")}
    key, fact = row.text("answerKey"), row.optional("fact1")
    facts = [paragraph("", fact)] if fact else []
    gold = [fact.id for fact in facts] or None
    yield choice(row, asked.text(stem), options, key, passages=facts, gold_passages=gold)


LAYOUTS = {  # a field that only this layout has -> its reader; the first that a row has decides
    "answers": plain,
    "golden_answers": plain,
    "possible_answers": popqa,
    "s_pop": popqa,
    "annotations": ambignq,
    "supporting_facts": hotpotqa,
    "paragraphs": musique,
    "QuestionId": triviaqa,
    "question_id": triviaqa,
    "answerKey": openbookqa,
}


def read_questions(file: Path) -> Iterator[tuple[str, Example]]:
    """("FILE:LINE", example) of each question in a file. Raises WorldError."""
    for row in records(file):
        read = next((LAYOUTS[name] for name in LAYOUTS if name in row), plain)
        for example in read(row):
            yield row.where, example


def read_corpus(
    source: Path, words: int = 100, remarks: Counter | None = None
) -> Iterator[tuple[str, Passage]]:
    """("FILE:LINE", passage) of a corpus: records, or documents, which are cut into passages of at
    most `words` words; `remarks` counts what is left out. Raises WorldError."""
    if source.is_dir() or source.suffix.lower() in SUFFIXES:
        yield from read_documents(source, words, Counter() if remarks is None else remarks)
        return
    for row in records(source):
        yield row.where, passage_of(row)
