"""Text as it streams: the pieces join to the whole, whatever the tokens and the stop strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.engines.stream import HALF, Characters, Stops


@given(text=st.text(max_size=40))
def test_pieces_of_any_text_join_to_it(tiny_tokenizer, text: str):
    characters = Characters(tiny_tokenizer)
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [characters.push(i) for i in ids]
    whole = tiny_tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join([*pieces, characters.flush()]) == whole.rstrip(HALF)


@given(ids=st.lists(st.integers(0, 399), max_size=30))
def test_no_piece_ends_in_half_a_character_even_of_nonsense(tiny_tokenizer, ids: list[int]):
    characters = Characters(tiny_tokenizer)
    pieces = [characters.push(i) for i in ids]
    assert not any(piece.endswith(HALF) for piece in pieces)
    whole = tiny_tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join([*pieces, characters.flush()]) == whole.rstrip(HALF)


def test_a_character_of_several_tokens_comes_with_its_last(tiny_tokenizer):
    ids = tiny_tokenizer("日", add_special_tokens=False)["input_ids"]
    characters = Characters(tiny_tokenizer)
    assert len(ids) == 3
    assert [characters.push(i) for i in ids] == ["", "", "日"]
    half = Characters(tiny_tokenizer)
    assert [half.push(i) for i in ids[:2]] == ["", ""]
    assert half.flush() == ""


def first_completed(text: str, stops: list[str]) -> str | None:
    """The text before the stop that is completed first, by trying every end; None where none is."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return None


@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_stops_do_not_depend_on_how_the_text_is_cut(pieces: list[str], stops: list[str]):
    filter_, out = Stops(stops), ""
    for piece in pieces:
        out += filter_.push(piece)
        if filter_.met:
            break
    else:
        out += filter_.flush()
    whole = "".join(pieces)
    expected = first_completed(whole, stops)
    assert filter_.met == (expected is not None)
    assert out == (whole if expected is None else expected)


@pytest.mark.parametrize(
    ("pushed", "passed"), [("answer\n", "answer"), ("answer\nQ", "answer"), ("answer\nA", "answer\nA")]
)
def test_only_what_may_start_a_stop_is_held_back(pushed: str, passed: str):
    assert Stops(["\nQuestion"]).push(pushed) == passed
