"""Shifted sparse attention is its definition: a mask of every head, whatever the shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from preread.bench.s2 import Case, cases, dense_error
from preread.core.errors import UsageError
from preread.methods.longlora.attention import shifted_attention
from preread.methods.longlora.scoring import Scoring
from preread.methods.longlora.segments import Grouping, Segments, documents


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_outputs_and_gradients_are_the_definitions(case):
    assert dense_error(shifted_attention, case) < 1e-12


@settings(deadline=None)  # shared machines pause
@given(
    heads=st.sampled_from([(1, 1), (2, 1), (3, 3), (6, 2), (7, 7), (9, 3)]),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    half=st.integers(1, 12),
    full_below=st.integers(0, 40),
    shifted=st.booleans(),
)
def test_any_shape_is_the_definitions(heads, lengths, half, full_below, shifted):
    case = Case(*heads, tuple(lengths), 2 * half, full_below, shifted)
    assert dense_error(shifted_attention, case) < 1e-12


@settings(deadline=None)  # shared machines pause
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    half=st.integers(1, 16),
    full_below=st.integers(0, 40),
    shifted=st.booleans(),
)
def test_stretches_cover_every_document_exactly(lengths, half, full_below, shifted):
    segments = Grouping(2 * half, shifted, full_below).segments(lengths)
    for sizes in (segments.plain, segments.moved):
        assert all(0 < size <= max(2 * half, full_below) for size in sizes)
        ends = {sum(sizes[: n + 1]) for n in range(len(sizes))}
        assert {sum(lengths[: n + 1]) for n in range(len(lengths))} <= ends
        assert sum(sizes) == sum(lengths)
    assert shifted or segments.plain == segments.moved


@pytest.mark.parametrize("size", [0, 1, 7, -2])
def test_a_group_that_has_no_half_is_refused(size):
    with pytest.raises(UsageError, match="even group"):
        Grouping(size, True, 0)


def test_documents_are_counted_over_rows():
    begins = torch.tensor([[False, False, True], [False, True, False]])
    assert documents(begins) == [2, 1, 1, 2]


def test_the_scale_is_the_layers():
    query, key, value = (torch.randn(1, 2, 12, 8, dtype=torch.float64) for _ in range(3))
    found = shifted_attention(query, key, value, Segments((12,), (12,)), Scoring(scale=0.3))
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3)
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=0, atol=1e-12)


def test_bounded_scores_are_the_formulas():
    case, cap = Case(4, 2, (21,), 8), 0.7
    query, key, value = (torch.randn(1, h, 21, 8, dtype=torch.float64) for h in (4, 2, 2))
    segments = Grouping(8, True, 0).segments([21])
    found = shifted_attention(query, key, value, segments, Scoring(softcap=cap))
    scores = query @ key.repeat_interleave(2, 1).transpose(-1, -2) / 8**0.5
    scores = (cap * torch.tanh(scores / cap)).masked_fill(~case.visible(), float("-inf"))
    expected = scores.softmax(-1) @ value.repeat_interleave(2, 1)
    # Weights are taken in float32, as the families with bounded scores do.
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=0, atol=1e-6)


def test_dropout_drops_weights():
    torch.manual_seed(0)
    query = key = torch.zeros(1, 1, 64, 4)
    value = torch.ones(1, 1, 64, 4)
    found = shifted_attention(query, key, value, Segments((64,), (64,)), Scoring(dropout=0.5))
    assert found[0, -1, 0, 0] != 1
    assert abs(float(found.mean()) - 1) < 0.2


def test_more_heads_of_one_half_are_as_told():
    """A device that holds some heads only says how many of them are in the plain half."""
    case = Case(6, 3, (50,), 8)
    query, key, value = (torch.randn(1, h, 50, 8, dtype=torch.float64) for h in (6, 3, 3))
    segments = Grouping(8, True, 0).segments([50])
    whole = shifted_attention(query, key, value, segments)
    first = shifted_attention(query[:, :4], key[:, :2], value[:, :2], segments, plain=3)
    last = shifted_attention(query[:, 4:], key[:, 2:], value[:, 2:], segments, plain=0)
    torch.testing.assert_close(torch.cat([first, last], 2), whole, rtol=0, atol=1e-12)
    assert case.heads // 2 == 3
