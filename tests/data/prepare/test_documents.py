"""Folders of text, Markdown and HTML, cut into passages."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from data import Passage, WorldError
from data.prepare.documents import cut
from data.prepare.formats import read_corpus


@pytest.mark.parametrize(
    "text, words, expected",
    [
        (
            "One two. Three four five. Six.",
            5,
            ["One two. Three four five.", "Six."],
        ),  # full sentences
        (
            "One two.\n\nThree four. Five six.",
            4,
            ["One two.", "Three four. Five six."],
        ),  # half full at a paragraph's end: it ends
        (
            "One.\n \nTwo three. Four.",
            5,
            ["One. Two three. Four."],
        ),  # less than half full: it goes on
        ("a b c d e f g", 3, ["a b c", "d e f", "g"]),  # a sentence that is too long
        ("a b c d e f", 3, ["a b c", "d e f"]),
        ('He said "no." She left.', 3, ['He said "no."', "She left."]),
        ("one\ntwo  three", 9, ["one two three"]),
        (" \n\n ", 9, []),
    ],
)
def test_cut(text, words, expected):
    assert list(cut(text, words)) == expected


@pytest.mark.parametrize("words", [1, 7, 100])
def test_no_word_is_lost_and_no_passage_is_too_long(words):
    text = "\n\n".join(
        " ".join(f"w{i}{'.' if i % 11 == 0 else ''}" for i in range(a, a + 60))
        for a in range(0, 600, 60)
    )
    passages = list(cut(text, words))
    assert (
        " ".join(passages).split() == text.split()
        and max(len(p.split()) for p in passages) <= words
    )


def test_a_folder(tmp_path):
    files = {
        "b/user-guide_2.txt": "Plain text.",
        "a.md": "intro\n# The *Title* #\ntext\n## Part\nmore\n",
        "empty.txt": "\n",
        ".hidden/x.txt": "no",
        "notes.pdf": "no",
        "c.html": "<html><head><title> A  page </title><style>p {}</style><script>if (a < b)"
        " x()</script></head><body><h1>Head</h1>"
        "<p>One &amp; <b>two</b>.<p>Three<br>four<script>no()</script></body></html>",
        "d.HTM": "<h1>Only <i>head</i></h1><div>body</div>",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [passage for _, passage in read_corpus(tmp_path)] == [
        Passage("a.md#1", "The Title", "intro text Part more"),
        Passage("b/user-guide_2.txt#1", "user guide 2", "Plain text."),
        Passage("c.html#1", "A page", "Head One & two. Three four"),
        Passage("d.HTM#1", "Only head", "body"),
    ]
    assert [p.text for _, p in read_corpus(tmp_path / "c.html", words=2)] == [
        "Head",
        "One &",
        "two.",
        "Three four",
    ]


def test_headings_and_blocks_are_borders_of_paragraphs(tmp_path):
    (tmp_path / "a.md").write_text("# T\none two three\n## Part\nfour five\n")
    (tmp_path / "b.html").write_text("<title>T</title><ul><li>one two three<li>four five</ul>")
    assert [p.text for _, p in read_corpus(tmp_path, words=5)] == [
        "one two three",
        "Part four five",
        "one two three",
        "four five",
    ]


def test_markdown_is_cleaned_as_html_is(tmp_path):
    picture = "QUJD" * 40_000
    text = f"""---
title: not this
---
Intro with *emphasis*, __strong__, `code` and a [link](http://example.org/x "title").

The `Title`
===========
> quoted ~~out~~ &amp; [sic] ![](data:image/png;base64,{picture})

* one
* two_words_here

| name | value |
|------|:-----:|
| a    | 1     |

<script>no()</script>

    indented | text
"""
    (tmp_path / "a.md").write_text(text)
    [(_, passage)] = read_corpus(tmp_path)
    assert passage == Passage(
        "a.md#1",
        "The Title",
        "Intro with emphasis, strong, code and a link. quoted out & [sic] one two_words_here"
        " name value a 1 indented | text",
    )


def test_a_rule_between_paragraphs_is_no_front_matter(tmp_path):
    (tmp_path / "a.md").write_text("--- a dash\n\none\n\n---\ntwo\n\n---\nthree\n")
    [(_, passage)] = read_corpus(tmp_path)
    assert passage.text == "--- a dash one two three"


def test_the_title_of_a_drawing_is_not_the_pages(tmp_path):
    drawing = "<svg><title>icon</title><text>x</text></svg>"
    (tmp_path / "a.html").write_text(f"<title>Page</title>{drawing}<h1>Head {drawing}</h1>text")
    assert [p for _, p in read_corpus(tmp_path)] == [Passage("a.html#1", "Page", "Head text")]


@pytest.mark.parametrize("tag", ["template", "h1", "title", "style"])
def test_tags_that_never_close_take_no_longer(tag, tmp_path):
    """50,000 of them took minutes: each looked through all those before it."""
    (tmp_path / "a.html").write_text(f"<{tag}>" * 50_000)
    start = time.process_time()
    assert list(read_corpus(tmp_path)) == [] and time.process_time() - start < 5


def test_what_is_left_out_or_cut_is_counted(tmp_path):
    files = {
        "a.txt": b"text " + b"x" * 2500,
        "b/c.txt": "Mo\u0308ln.\r\rMore.".encode(),
        "b/empty.md": b" \n",
        "image.txt": b"\x89PNG\0\0\xff",
        "notes.PDF": b"%PDF",
        "more.pdf": b"%PDF",
        "Makefile": b"all:",
        ".git/config": b"x",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    remarks = Counter()
    texts = [passage.text for _, passage in read_corpus(tmp_path, remarks=remarks)]
    assert texts == [f"text {'x' * 1000} {'x' * 1000} {'x' * 500}", "M\u00f6ln. More."]
    assert remarks == {
        "left out: .pdf": 2,
        "left out: binary": 1,
        "left out: empty": 1,
        "left out: hidden": 1,
        "left out: no ending": 1,
        "words of more than 1,000 characters cut in a.txt": 1,
    }


def test_a_folder_without_documents(tmp_path):
    (tmp_path / "x.pdf").touch()
    with pytest.raises(WorldError) as caught:
        list(read_corpus(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}: no .txt, .md, .html, .htm file in this folder (1 left out: .pdf)"
    )


def test_a_file_name_that_is_no_text(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("text")
    with pytest.raises(WorldError) as caught:
        list(read_corpus(tmp_path))
    assert (
        str(caught.value).endswith(": 'file name' is not valid Unicode")
        and str(caught.value).isascii()
    )
