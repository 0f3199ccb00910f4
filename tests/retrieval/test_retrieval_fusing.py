"""The hybrid rule: best on both sides is 1, worst on both is 0, and one side alone is left as it is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.types import Hit, Passage
from preread.retrieval.fusing import WEIGHTS, average, fuse, pool

NUMBERS = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12)
WHOLE = st.lists(st.integers(-50, 50), min_size=1, max_size=12)  # which no change of scale rounds


def hits(scores: Sequence[float]) -> list[Hit]:
    """One a number, best first."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [Hit(Passage("d", i, (1,), i, i + 1, "x", "", i), scores[i]) for i in order]


def ranks(found: list[Hit]) -> list[int]:
    return [hit.passage.index for hit in found]


@given(NUMBERS)
def test_one_side_keeps_its_order_and_scores(scores: list[float]) -> None:
    side = hits(scores)
    assert [(hit.passage, hit.score) for hit in fuse({"dense": side})] == [(hit.passage, hit.score) for hit in side]


@given(NUMBERS, NUMBERS)
def test_every_hit_is_there_once_between_nothing_and_one(dense: list[float], words: list[float]) -> None:
    found = fuse({"dense": hits(dense), "bm25": hits(words)})
    assert sorted(ranks(found)) == list(range(max(len(dense), len(words))))
    assert all(-1e-9 <= hit.score <= 1 + 1e-9 for hit in found)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


@given(WHOLE, WHOLE, st.integers(-2, 3), st.integers(-4, 4))
def test_the_scale_of_a_side_does_not_matter(dense: list[int], words: list[int], scale: int, shift: int) -> None:
    other = [2.0**scale * score + shift for score in words]
    found, same = (fuse({"dense": hits(dense), "bm25": hits(own)}) for own in (words, other))
    by_place = {hit.passage.index: hit.score for hit in same}
    assert [by_place[hit.passage.index] for hit in found] == pytest.approx([hit.score for hit in found], abs=1e-6)


def test_words_weigh_more_than_meaning() -> None:
    found = fuse({"dense": hits([1.0, 0.0]), "bm25": hits([0.0, 9.0])})
    assert ranks(found) == [1, 0]
    assert [hit.score for hit in found] == [WEIGHTS["bm25"], WEIGHTS["dense"]]
    assert found[0].extra == {"dense": 0.0, "dense_rank": 2, "bm25": 9.0, "bm25_rank": 1}


def test_an_average_counts_what_one_ranking_lacks_as_nothing() -> None:
    found = average([hits([1.0, 0.5]), hits([0.25])])
    assert [(hit.passage.index, hit.score) for hit in found] == [(0, 0.625), (1, 0.25)]


def test_the_pool_is_larger_than_what_is_wanted() -> None:
    assert [pool(k) for k in (1, 5, 6, 100)] == [25, 25, 30, 500]
