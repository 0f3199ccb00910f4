"""The figures of shifted sparse attention: what measures it is right, and catches what is known to be wrong."""

from __future__ import annotations

import pytest
import torch

from preread import render
from preread.bench import s2
from preread.bench.s2 import Case, Times, dense_error, layouts, leaking_pairs, model_leaks, s2_figures, small_llama
from preread.methods.longlora import attaching
from preread.methods.longlora.attention import shifted_attention


def rolled(query, key, value, segments, scoring=None, plain=None, backend="auto"):
    """As the paper's code: half of the heads rolled by half a group, so that the row's end attends to its beginning."""
    group, half = segments.plain[0], query.shape[1] // 2
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    halves = []
    for heads, by in ((slice(0, half), 0), (slice(half, None), group // 2)):
        parts = [x[:, heads].roll(-by, 2).split(group, 2) for x in (query, key, value)]
        attended = [
            torch.nn.functional.scaled_dot_product_attention(*part, is_causal=True) for part in zip(*parts, strict=True)
        ]
        halves.append(torch.cat(attended, 2).roll(by, 2))
    return torch.cat(halves, 1).transpose(1, 2)


def misplaced(query, key, value, segments, *rest, **options):
    """As a trainer in use had it: a reshape is dropped, so half of the tokens get what one a group later got."""
    right = shifted_attention(query, key, value, segments, *rest, **options)
    group, half = segments.plain[0], query.shape[1] // 2
    place = torch.arange(query.shape[2])
    from_ = torch.where((place // group % 2 == 0) & (place + group < len(place)), place + group, place)
    return torch.cat([right[:, :, :half], right[:, from_, half:]], 2)


def test_the_definition_is_the_papers_groups():
    seen = Case(heads=3, kv_heads=1, documents=(5, 3), group=4).visible()
    expected = {
        0: ["10000000", "11000000", "11100000", "11110000", "00001000", "00000100", "00000110", "00000111"],
        1: ["10000000", "11000000", "00100000", "00110000", "00111000", "00000100", "00000110", "00000001"],
    }
    for head, plain in ((0, 0), (1, 1), (2, 1)):  # one head of three is in the plain half
        assert ["".join(str(int(x)) for x in row) for row in seen[head]] == expected[plain]


def test_a_short_document_sees_all_before_it():
    assert torch.equal(Case(2, 2, (6,), 2, full_below=6).visible(), torch.ones(2, 6, 6, dtype=torch.bool).tril())


@pytest.mark.parametrize("wrong", [rolled, misplaced])
def test_both_known_mistakes_are_caught(wrong, monkeypatch):
    case = Case(4, 2, (64,), 16)
    assert dense_error(wrong, case) > 1e-3
    assert dense_error(shifted_attention, case) < 1e-12
    monkeypatch.setattr(attaching, "shifted_attention", wrong)
    assert model_leaks(small_llama(3, 1), layouts()["ragged"], group=16) > 0


def test_a_leak_is_counted_once_for_each_pair():
    mix = torch.eye(5)
    mix[1, 3] = mix[0, 4] = 0.5  # outputs 1 and 0 see tokens 3 and 4
    mix[4, 2] = 0.5  # of another document
    assert leaking_pairs(lambda x: mix @ x, torch.randn(5, 3), [3, 2]) == 3
    assert leaking_pairs(lambda x: mix @ x, torch.randn(5, 3), [5]) == 2


def test_a_leak_of_the_backward_pass_alone_is_counted():
    class Peeking(torch.autograd.Function):
        @staticmethod
        def forward(_, x):
            return x.clone()

        @staticmethod
        def backward(_, gradient):
            return gradient + gradient.roll(1, 0)

    assert leaking_pairs(Peeking.apply, torch.randn(4, 2), [4]) == 3


def test_the_figures_are_of_the_scoreboard(monkeypatch):
    monkeypatch.setattr(s2, "LENGTHS", (64, 128))
    monkeypatch.setattr(s2, "HEADS", ((3, 1),))
    monkeypatch.setattr(s2, "GROUPS", (8,))
    leaks, error, ratio = s2_figures(repeats=2)
    assert (leaks.id, leaks.value, leaks.n) == ("longlora.leaking_pairs", 0, 3)
    assert error.id == "longlora.dense_mask_error"
    assert 0 < error.value < 1e-12
    assert ratio.id == "longlora.cpu_attention_ratio_8k"
    assert 0 < ratio.low <= ratio.value <= ratio.high
    assert "64 to 128" in ratio.note


def test_a_figure_near_zero_is_not_shown_as_zero():
    shown = render.figures([{"id": "e", "value": 3.55e-15, "low": 0, "high": 102.31, "unit": "abs"}])
    assert "3.55e-15 abs  (0 to 102.3)" in shown


def test_a_ratio_is_of_neighbouring_runs():
    assert Times(full=[3.0, 4.0], shifted=[1.0, 2.0]).ratio == [3.0, 2.0]
