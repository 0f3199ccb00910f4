"""What a memory keeps of what a text tells: sums over sums, what cannot be measured, and which passages stay text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.collection.kept import LEAST_GAIN, Asked, kept, kept_by_kind, kind_of, lost, weakest


def asked(nothing, text, memory, tokens=1, kind="prose"):
    return Asked("?", "!", kind, tokens, nothing, text, memory)


nats = st.floats(0.0, 20.0, allow_nan=False)


@given(st.lists(st.lists(st.builds(asked, nats, nats, nats), min_size=1, max_size=4), min_size=1, max_size=8))
def test_a_share_is_of_sums_and_not_a_mean_of_shares(passages):
    gap = sum(one.nothing - one.text for own in passages for one in own)
    gain = sum(one.nothing - one.memory for own in passages for one in own)
    found = kept(passages)
    assert found.questions == sum(map(len, passages))
    if gap > LEAST_GAIN * found.questions:
        assert found.value == pytest.approx(gain / gap)
        assert found.low is None or found.low <= found.value
        assert found.high is None or found.high >= found.value
    else:
        assert found.value is None


def test_text_keeps_all_nothing_keeps_nothing_and_worse_than_nothing_is_below():
    assert kept([[asked(4, 1, 1)], [asked(9, 3, 3)]]).value == 1
    assert kept([[asked(4, 1, 4)], [asked(9, 3, 9)]]).value == 0
    assert kept([[asked(4, 1, 5.5)]]).value == -0.5


def test_what_the_text_does_not_tell_is_unmeasured_alone_and_counts_among_others():
    """Left out, the passages whose text happened to help would be a selection, and the sum no sum."""
    useless = [asked(2, 2.5, 2)]
    assert kept([useless]).value is None
    assert kept([[asked(4, 1, 1)], useless]).value == pytest.approx(3 / 2.5)


def test_the_interval_holds_what_it_should_as_often_as_it_says():
    """Passages of four questions whose shares scatter round 0.6."""
    draw, hits = random.Random(1), 0
    for _ in range(100):
        passages = []
        for _ in range(40):
            share, gaps = draw.gauss(0.6, 0.3), [draw.uniform(1, 3) for _ in range(4)]
            passages.append([asked(5, 5 - gap, 5 - share * gap) for gap in gaps])
        found = kept(passages)
        hits += found.low <= 0.6 <= found.high
    assert 88 <= hits <= 99


def test_one_passage_alone_has_no_interval():
    found = kept([[asked(4, 1, 2), asked(5, 1, 2)]])
    assert (found.low, found.high) == (None, None)


def test_kinds_of_answers():
    told = {"1,204": "number", "5 of May": "number", "Mary": "name", "Captain John Smith": "name", "the end": "prose"}
    assert {answer: kind_of(answer) for answer in told} == told
    passages = [[asked(4, 1, 1, kind="name"), asked(4, 1, 4, kind="number")], [asked(4, 1, 4, kind="number")]]
    found = kept_by_kind(passages)
    assert {kind: one.value for kind, one in found.items()} == {"number": 0, "name": 1}
    assert sum(one.questions for one in found.values()) == 3


shares = st.lists(st.tuples(st.floats(-1.0, 2.0), st.integers(10, 200)), min_size=1, max_size=12)


@given(shares, st.floats(0.0, 1.0), st.integers(0, 1000))
def test_what_stays_text_is_below_the_bar_fits_and_leaves_out_nothing_that_would(rows, bar, most):
    passages = {number: [asked(5, 2, 5 - 3 * share)] for number, (share, _) in enumerate(rows)}
    tokens = {number: size for number, (_, size) in enumerate(rows)}
    chosen = weakest(passages, tokens, bar, most)
    below = {number for number, own in passages.items() if kept([own]).value < bar}
    assert chosen <= below
    taken = sum(tokens[number] for number in chosen)
    assert taken <= most
    assert all(taken + tokens[number] > most for number in below - chosen)


def test_the_first_to_stay_text_bring_back_most_for_a_token():
    passages = {0: [asked(5, 1, 3)], 1: [asked(9, 1, 8)], 2: [asked(5, 1, 4)]}
    tokens = {0: 100, 1: 400, 2: 100}
    assert weakest(passages, tokens, 1.0, 100) == {2}
    assert weakest(passages, tokens, 1.0, 200) == {0, 2}
    assert lost(passages[1]) == 7
    assert weakest({0: [asked(2, 2, 9)]}, {0: 1}, 1.0, 100) == frozenset(), "unmeasured, so nothing is known of it"
