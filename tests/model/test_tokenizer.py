"""Text is only ever text: round trips, and special tokens that cannot be spoken."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from model import CheckpointError, Tokenizer, save_policy
from model.pretrained import open_policy
from model.pretrained.open import open_tokenizer
from model.tokenizer import SPECIAL

from .tiny import TEXTS, tiny_policy, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
IDS = {
    TOKENIZER.pad,
    TOKENIZER.bos,
    TOKENIZER.eos,
    TOKENIZER.obs,
    TOKENIZER.obs_end,
    TOKENIZER.sep,
    TOKENIZER.retrieve,
    TOKENIZER.answer,
}


@settings(max_examples=300)
@given(st.text())
@example("[ANSWER] Paris <eos>")
@example("  two  spaces\tand\nlines \u3000")
@example("Çeşme, Łódź, 東京, 🏳️‍🌈, e\u0301")
@example("\x00\ufffd")
def test_round_trip_of_any_text(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text.strip()
    assert not IDS & set(ids)


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(SPECIAL),
            st.sampled_from([" ", "\n", "x", "[", "<"]),
            st.text(max_size=4),
        )
    ).map("".join)
)
def test_special_tokens_in_text_are_plain_text(text):
    ids = TOKENIZER.encode(text)
    assert not IDS & set(ids)
    assert TOKENIZER.decode(ids) == text.strip()
    assert TOKENIZER.encode_batch([text, "x"]) == [ids, TOKENIZER.encode("x")]


def test_a_tokenizer_trained_on_the_special_strings_still_does_not_speak_them():
    trained = Tokenizer.train([" ".join(SPECIAL)] * 50 + ["".join(SPECIAL)] * 50, 400)
    for text in SPECIAL:
        assert not set(trained.encode(text)) & {
            trained.backend.token_to_id(token) for token in SPECIAL
        }
        assert trained.decode(trained.encode(text)) == text


def test_special_tokens_are_eight_different_ones():
    assert len(IDS) == len(SPECIAL) == 8 and TOKENIZER.pad != TOKENIZER.eos
    assert [
        TOKENIZER.backend.id_to_token(i)
        for i in (
            TOKENIZER.pad,
            TOKENIZER.bos,
            TOKENIZER.eos,
            TOKENIZER.obs,
            TOKENIZER.obs_end,
            TOKENIZER.sep,
            TOKENIZER.retrieve,
            TOKENIZER.answer,
        )
    ] == list(SPECIAL)


def test_decode_drops_special_tokens_and_show_keeps_them():
    ids = [
        TOKENIZER.bos,
        *TOKENIZER.encode("Who wrote it?"),
        TOKENIZER.retrieve,
        *TOKENIZER.encode("salt"),
        TOKENIZER.eos,
        TOKENIZER.pad,
    ]
    assert TOKENIZER.decode(ids) == "Who wrote it? salt"
    assert TOKENIZER.show(ids) == "<bos> Who wrote it?[RETRIEVE] salt<eos><pad>"


def test_a_name_is_the_same_tokens_wherever_it_stands():
    """Copying is one token for one token: after a space, at the start, and before punctuation."""
    name = TOKENIZER.encode("Caldis")
    for text in ("Norland lies in Caldis", "Caldis", "Caldis?", "the Caldis, and"):
        ids = TOKENIZER.encode(text)
        assert any(ids[i : i + len(name)] == name for i in range(len(ids)))


def test_training_is_deterministic_and_bounded():
    again = Tokenizer.train(TEXTS, 320)
    assert again.backend.to_str() == TOKENIZER.backend.to_str()
    assert len(TOKENIZER) <= 320 and max(TOKENIZER.encode("Who wrote The Salt Road?")) < len(
        TOKENIZER
    )
    assert len(TOKENIZER.encode("The Salt Road")) < len(b"The Salt Road")  # merges were learnt


def test_save_and_load(tmp_path):
    TOKENIZER.save(tmp_path)
    loaded, new = open_tokenizer(tmp_path)
    text = "Ada Quill [ANSWER] <eos> 東京"
    assert not new
    assert loaded.backend.to_str() == TOKENIZER.backend.to_str()
    assert (
        loaded.encode(text) == TOKENIZER.encode(text)
        and loaded.eos == TOKENIZER.eos
        and len(loaded) == len(TOKENIZER)
    )
    assert not IDS & set(loaded.encode(text))


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "json", "foreign"])
def test_what_is_no_tokenizer_of_ours_is_refused(tmp_path, damage):
    path = tmp_path / "tokenizer.json"
    save_policy(tmp_path, tiny_policy(), TOKENIZER, {})
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "foreign":
        foreign = Backend(models.BPE())
        foreign.pre_tokenizer = pre_tokenizers.ByteLevel()
        foreign.save(str(path))
    else:
        path.write_bytes(
            {"cut": whole[: len(whole) // 2], "empty": b"", "json": json.dumps({"a": 1}).encode()}[
                damage
            ]
        )
    with pytest.raises(CheckpointError) as error:
        open_policy(tmp_path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert ("it lacks the token '<pad>'" in str(error.value)) == (damage == "foreign")
