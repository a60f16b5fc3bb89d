"""Words: equal to a unicodedata reference for any text."""

import sys
import unicodedata

import pytest

from retrieval_cpp import tokenize
from tests.retrieval_cpp.reference import tokens


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "Who was the director of Psycho (1960)?",
            ["who", "was", "the", "director", "of", "psycho", "1960"],
        ),
        ("Beyoncé's", ["beyonce", "s"]),
        ("Beyonce\u0301", ["beyonce"]),
        ("Straße ﬁn \uff21\uff22\uff23", ["strasse", "fin", "abc"]),
        ("İstanbul ΣΊΣΥΦΟΣ", ["istanbul", "σισυφοσ"]),
        ("日本語 text", ["日", "本", "語", "text"]),
        ("東京に2人", ["東", "京", "に", "2", "人"]),
        ("שלום עולם", ["שלום", "עולם"]),
        ("naïve😀café", ["naive", "cafe"]),
        ("a\x00b_c", ["a", "b", "c"]),
        ("x\ud800y", ["x", "y"]),
        ("½", ["1", "2"]),
        ("", []),
        (" \t\n.,;", []),
    ],
)
def test_examples(text, words):
    assert tokenize(text) == words


def test_every_code_point_alone_and_inside_a_word():
    for code_point in range(sys.maxunicode + 1):
        c = chr(code_point)
        if unicodedata.category(c) != "Cs":
            assert tokenize(c) == tokens(c), hex(code_point)
    for start in range(0, sys.maxunicode + 1, 64):
        text = "a".join(chr(c) for c in range(start, start + 64) if not 0xD800 <= c < 0xE000)
        assert tokenize(text) == tokens(text), hex(start)


def test_not_a_str():
    with pytest.raises(TypeError, match="must be str"):
        tokenize(b"bytes")
