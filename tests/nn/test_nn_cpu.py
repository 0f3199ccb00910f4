"""The quick kernels against the ordinary ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from preread.nn.cpu import FOLDED, fold_heads, folded_attention, one_row_products


@pytest.mark.parametrize("heads", [(9, 3), (4, 4), (6, 1)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("positions", [1, 5])
def test_folded_attention_is_sdpa(heads: tuple[int, int], padded: bool, positions: int):
    h, k = heads
    query = torch.randn(2, h, positions, 16, dtype=torch.float64)
    key, value = torch.randn(2, 2, k, 23, 16, dtype=torch.float64)
    mask = (
        (torch.arange(23) >= torch.tensor([[0], [6]]))[:, None, None].expand(-1, -1, positions, -1) if padded else None
    )
    layer = SimpleNamespace(num_key_value_groups=h // k, is_causal=False)
    ours, _ = folded_attention(layer, query, key, value, mask, scaling=0.3)
    theirs, _ = sdpa_attention_forward(layer, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_fold_heads_leaves_a_model_that_attends_otherwise(tiny_decoder):
    llama, gemma = tiny_decoder("llama").model, tiny_decoder("gemma").model
    gemma.set_attn_implementation("eager")
    fold_heads(llama)
    fold_heads(gemma)
    assert llama.config._attn_implementation == FOLDED
    assert gemma.config._attn_implementation == "eager"


@pytest.mark.parametrize("shape", [(1, 1, 64), (2, 1, 64), (1, 5, 64)])
def test_one_row_products_are_the_same_products(shape: tuple[int, ...]):
    x, weight = torch.randn(shape).bfloat16(), torch.randn(96, 64).bfloat16()
    with one_row_products(x):
        ours = torch.nn.functional.linear(x, weight)
    exact = x.double() @ weight.double().T
    rounding = exact.abs().max() * torch.finfo(torch.bfloat16).eps
    assert (ours.double() - exact).abs().max() <= rounding


def test_one_row_products_put_the_switch_back():
    before = torch.backends.mkldnn.enabled
    with pytest.raises(KeyError), one_row_products(torch.zeros(1, 1, 4, dtype=torch.bfloat16)):
        raise KeyError
    assert torch.backends.mkldnn.enabled == before
