"""Budgets: never exceeded, filled where there is text, and with enough of it the full text bit for bit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.errors import UsageError
from preread.core.types import Document
from preread.eval.answerers import ANSWERERS
from preread.eval.answerers.plain import Full, Nothing
from preread.eval.answerers.shortened import Shortened
from preread.eval.case import Case, Item, Stretch, Unfit
from preread.eval.recipe import built

KEEP = ("head", "head+tail", "last")
ITEMS = (
    Item("1", "Who slept?", ("The keeper", "he"), choices=("the keeper", "the storm"), gold=0),
    Item("2", "Who slept in the house on the island where, and why?", ()),
)


def case(sentences: int) -> Case:
    text = "".join(f"The keeper of day {i} wrote of storm {i * 7}. " for i in range(sentences))
    return Case("c", Document("a", "a", text), ITEMS)


def bare(kit) -> list[int]:
    """Positions of the prompts without their context."""
    with Full().laid(kit, case(1), ITEMS) as layout:
        tokens = len(kit.decoder.tokens(case(1).document.text))
        return [len(prompt) - tokens for prompt in layout.prompts]


@given(st.integers(0, 40), st.integers(0, 50), st.sampled_from(KEEP))
def test_what_is_kept_fills_the_budget_and_is_of_the_ends_it_says(tokens: int, limit: int, keep: str) -> None:
    ids = list(range(tokens))
    kept = list(Shortened(keep=keep).short(ids, limit))
    assert len(kept) == min(tokens, limit)
    head = {"head": len(kept), "head+tail": math.ceil(len(kept) / 2), "last": 0}[keep]
    assert kept == ids[:head] + ids[tokens - (len(kept) - head) :]


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize(("settings", "size"), [({"positions": 50}, " 50"), ({"ratio": 3.5}, " 3.5x")])
def test_prompts_take_the_positions_of_the_budget(kit, keep, settings, size) -> None:
    answerer, asked = Shortened(keep=keep, **settings), case(12)
    tokens = len(kit.decoder.tokens(asked.document.text))
    budget = settings.get("positions") or math.ceil(tokens / 3.5)
    assert answerer.label == keep + size
    with answerer.laid(kit, asked, ITEMS) as layout:
        assert [len(prompt) for prompt in layout.prompts] == [words + budget for words in bare(kit)]
        assert 0 < layout.stored_bytes < len(asked.document.text)


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("settings", [{}, {"positions": 10_000}, {"ratio": 1}])
def test_with_enough_room_it_is_the_full_text(kit, keep, settings) -> None:
    asked = case(8)
    assert Shortened(keep=keep, **settings).respond(kit, asked, 6) == Full().respond(kit, asked, 6)


def test_room_is_left_for_as_long_an_answer_as_the_task_asks_for(kit) -> None:
    asked = case(200)
    items = tuple(replace(item, room=700) for item in asked.items)
    with Shortened().laid(kit, asked, items) as layout:
        assert max(map(len, layout.prompts)) == kit.decoder.window - 700
    assert replace(asked, items=items).key == asked.key, "the room is a part of the task's key"


@pytest.mark.parametrize("keep", KEEP)
def test_by_default_a_text_of_any_length_fits_and_fills_the_window(kit, keep) -> None:
    asked = case(200)
    with pytest.raises(Unfit):
        Full().respond(kit, asked, 6)
    found = Shortened(keep=keep).respond(kit, asked, 6)
    assert max(one.positions for one in found.responses) == kit.decoder.window - 256


@pytest.mark.parametrize("keep", KEEP)
def test_running_text_is_shortened_where_it_is_far(kit, keep) -> None:
    far, near, target = tuple(range(3, 300)), tuple(range(50, 70)), (5, 6, 7)
    stretch = Stretch("s", "s", "", far, near, target)
    with Shortened(keep=keep, positions=10).continued(kit, stretch) as layout:
        [prompt] = layout.prompts
    start = kit.decoder.start_ids.tolist()
    kept = {"head": far[:10], "head+tail": far[:5] + far[-5:], "last": far[-10:]}[keep]
    assert prompt.ids.tolist() == [*start, *kept, *near]


def test_the_last_tokens_of_running_text_are_the_near_text_until_they_are_more(kit) -> None:
    far, near, target = tuple(range(3, 300)), tuple(range(50, 70)), (5, 6, 7)
    none = Nothing().losses(kit, Stretch("s", "s", "", far, near, target))
    moved = Nothing().losses(kit, Stretch("s", "s", "", far[:-10], far[-10:] + near, target))
    last = Shortened(keep="last", positions=10).losses(kit, Stretch("s", "s", "", far, near, target))
    assert last.nats.equal(moved.nats)
    assert not last.nats.equal(none.nats)


def test_running_text_past_the_window_is_unfit_for_full_text_and_shortened_by_default(kit) -> None:
    stretch = Stretch("s", "s", "", tuple(range(3, 303)) * 10, (5,) * 20, (6, 7))
    with pytest.raises(Unfit):
        Full().losses(kit, stretch)
    assert Shortened(keep="last").losses(kit, stretch).positions == kit.decoder.window


@pytest.mark.parametrize("kind", ["shortened", "retrieved", "oracle"])
@pytest.mark.parametrize(
    "settings", [{"positions": 0}, {"ratio": 0.5}, {"ratio": float("inf")}, {"positions": 5, "ratio": 2}]
)
def test_a_senseless_budget_is_refused(kind, settings) -> None:
    with pytest.raises(UsageError):
        built(ANSWERERS, {"kind": kind, **settings}, "answerer")
