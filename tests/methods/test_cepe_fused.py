"""The fused kernel against the definition in float64. Without a GPU: TRITON_INTERPRET=1 pytest FILE, and Triton."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with PyTorch's builds for CUDA")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton without a GPU needs TRITON_INTERPRET=1 before anything imports it", allow_module_level=True)

from preread.methods.cepe import fused as kernel
from preread.methods.cepe.fused import ALLOWED, TILE, agrees, fused, serves

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def defined(rows, states, mask):
    scores = rows.double() @ states.double().mT
    if mask is not None:
        scores = scores.masked_fill(~mask[:, 0], float("-inf"))
    return scores.softmax(-1) @ states.double()


def drawn(batch, rows, count, width, dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    asked = torch.randn(batch, rows, width, generator=draw) * 3 * width**-0.5
    states = torch.randn(batch, count, width, generator=draw)
    mask = torch.rand(batch, 1, 1, count, generator=draw) < 0.6
    mask[..., -1] = True
    return asked.to(DEVICE, dtype), states.to(DEVICE, dtype), mask.to(DEVICE)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("batch", "rows", "count", "width", "parts"),
    [(1, 1, 1, 16, 1), (2, 9, 77, 36, 2), (1, 32, 300, 64, 5), (3, 40, 3 * TILE, 48, 3), (1, 16, 2 * TILE + 1, 576, 2)],
)
def test_it_is_the_definition(batch, rows, count, width, parts, masked):
    asked, states, mask = drawn(batch, rows, count, width)
    expected = defined(asked, states, mask if masked else None)
    torch.testing.assert_close(
        fused(asked, states, mask if masked else None, parts).double(), expected, atol=1e-5, rtol=0
    )


def test_parts_that_see_nothing_and_scores_out_of_all_measure_count_right():
    asked, states, mask = drawn(1, 4, 8 * TILE, 32)
    mask[..., : 6 * TILE] = False
    asked[0, 0] *= 300
    expected = defined(asked, states, mask)
    for parts in (1, 4, 8):
        torch.testing.assert_close(fused(asked, states, mask, parts).double(), expected, atol=1e-5, rtol=0)


HALVES = [torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]  # the interpreter takes bfloat16 for integers


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_are_as_near_as_is_said(dtype):
    asked, states, mask = drawn(2, 12, 200, 64, dtype)
    off = (fused(asked, states, mask, 3).double() - defined(asked, states, mask)).abs().max()
    assert 0 < float(off) <= ALLOWED[dtype]


def test_it_serves_whom_it_is_for_and_only_where_it_is_right(monkeypatch):
    asked, states, _ = drawn(1, 9, 40, 64)
    agrees.cache_clear()
    assert serves(asked, states)
    assert not serves(asked.requires_grad_(), states)
    with torch.no_grad():
        assert serves(asked, states)
        assert not serves(asked.expand(8, -1, -1).reshape(1, -1, 64), states), "too many rows"
        assert not serves(asked.repeat(1, 1, 20), states.repeat(1, 1, 20)), "too wide"
        agrees.cache_clear()
        right = kernel.fused
        monkeypatch.setattr(kernel, "fused", lambda *given, **named: right(*given, **named) * 1.01)
        assert not serves(asked, states), "it is off"

        def breaks(*given, **named):
            raise RuntimeError("out of shared memory")

        agrees.cache_clear()
        monkeypatch.setattr(kernel, "fused", breaks)
        assert not serves(asked, states), "it does not run"
    agrees.cache_clear()
