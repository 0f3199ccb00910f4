"""The fused kernel of cross-attention on a device: the definition at the sizes it is for, and quicker than products."""

from __future__ import annotations

import pytest
import torch
from torch.utils.benchmark import Timer

from preread.methods.cepe.crossing import CrossAttention, CrossShape
from preread.nn.beside import Context
from preread.nn.cpu import two_products

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SIZES = [(1, 32, 126_976, 1024), (2, 32, 5_001, 1024), (4, 9, 8_192, 576), (1, 64, 777, 960)]
"""Rows of the batch, rows that ask, states, their width; LLaMA-2-7B's 32 heads behind 496 chunks the first."""


def drawn(batch, rows, count, width, dtype):
    torch.manual_seed(0)
    asked = torch.randn(batch, rows, width, device="cuda") * 2 * width**-0.5
    states = torch.randn(batch, count, width, device="cuda")
    mask = torch.rand(batch, 1, 1, count, device="cuda") < 0.7
    return asked.to(dtype), states.to(dtype), mask


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.inference_mode()
def test_the_kernel_is_the_definition(size, dtype):
    from preread.methods.cepe.fused import ALLOWED, fused, serves

    asked, states, mask = drawn(*size, dtype)
    assert serves(asked, states), "or it is never used"
    for shown in (None, mask):
        scores = asked.double() @ states.double().mT
        if shown is not None:
            scores = scores.masked_fill(~shown[:, 0], float("-inf"))
        expected = scores.softmax(-1) @ states.double()
        assert float((fused(asked, states, shown).double() - expected).abs().max()) <= ALLOWED[dtype]


@torch.inference_mode()
def test_a_token_reads_the_same_in_both_ways():
    shape = CrossShape(4096, 32, 32, 128, 1024, 1e-5)
    module = CrossAttention(shape).to("cuda", torch.bfloat16)
    torch.nn.init.normal_(module.o, std=0.02)
    x, states = (
        torch.randn(2, n, width, device="cuda", dtype=torch.bfloat16) for n, width in ((1, 4096), (9_000, 1024))
    )
    one, other = (module(x, Context(states), way).float() for way in ("absorbed", "expanded"))
    assert float((one - other).abs().max()) <= 1e-2 * float(other.abs().max())


@torch.inference_mode()
def test_it_is_quicker_than_two_products(record_property):
    from preread.methods.cepe.fused import fused

    asked, states, _ = drawn(*SIZES[0], torch.bfloat16)
    shared = states[:, None]
    ways = {
        "fused": lambda: fused(asked, states, None),
        "two": lambda: two_products(asked[:, None], shared, shared, None),
    }
    took = {
        name: Timer("run()", globals={"run": run}).blocked_autorange(min_run_time=0.5).median
        for name, run in ways.items()
    }
    record_property("two_products_over_fused", took["two"] / took["fused"])
    assert took["fused"] < took["two"]
