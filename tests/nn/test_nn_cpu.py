"""The quick kernels against the ordinary ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from preread.nn.cpu import FOLDED, fold_heads, folded_attention, one_row_products
from preread.nn.weighted import weigh


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


@pytest.mark.parametrize("padded", [False, True])
def test_folded_attention_in_bfloat16_is_as_near_as_its_rounding(padded: bool):
    """Against exact attention of the same rounded inputs: no further off than eager attention in bfloat16."""
    torch.manual_seed(0)
    query, (key, value) = torch.randn(2, 9, 1, 64).bfloat16(), torch.randn(2, 2, 3, 301, 64).bfloat16()
    mask = (torch.arange(301) >= torch.tensor([[0], [77]]))[:, None, None] if padded else None
    layer = SimpleNamespace(num_key_value_groups=3, is_causal=False)
    ours, _ = folded_attention(layer, query, key, value, mask, scaling=0.125)
    exact, _ = sdpa_attention_forward(layer, query.double(), key.double(), value.double(), mask, scaling=0.125)
    keys, values = (states.repeat_interleave(3, 1) for states in (key, value))
    scores = (query @ keys.transpose(-1, -2) * 0.125).float()
    scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
    eager = (scores.softmax(-1).bfloat16() @ values).transpose(1, 2)
    assert ours.shape == exact.shape
    assert (ours.double() - exact).abs().max() <= 1.5 * (eager.double() - exact).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [(9, 3), (4, 4), (6, 1)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("positions", [1, 5])
def test_a_bias_on_a_key_is_added_to_its_scaled_score(heads: tuple[int, int], padded: bool, positions: int, dtype):
    """Against attention written out in float64 from the same rounded inputs."""
    torch.manual_seed(0)
    h, k = heads
    query, (key, value) = torch.randn(2, h, positions, 16).to(dtype), torch.randn(2, 2, k, 23, 16).to(dtype)
    bias = torch.randn(2, k, 23) * 2
    bias[:, :, 20] = -torch.inf
    mask = torch.ones(2, 1, positions, 23, dtype=torch.bool).tril(23 - positions)
    mask &= torch.arange(23) < (torch.tensor([23, 17]) if padded else torch.tensor([23, 23]))[:, None, None, None]
    layer = SimpleNamespace(num_key_value_groups=h // k, is_causal=True)
    ours, _ = folded_attention(layer, query, weigh(key, bias), value, mask, scaling=0.3)
    keys, values, biases = (s.double().repeat_interleave(h // k, 1) for s in (key, value, bias))
    scores = query.double() @ keys.transpose(-1, -2) * 0.3 + biases[:, :, None]
    exact = (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ values).transpose(1, 2)
    # In bfloat16 scores are rounded as in attention without biases: by 2^-9 of their size, here up to 8.
    torch.testing.assert_close(ours.double(), exact, atol=1e-6 if dtype == torch.float32 else 0.04, rtol=0)


def test_a_bias_is_as_exact_in_bfloat16_as_in_float32():
    bias = torch.randn(1000) * 10
    wide = weigh(torch.zeros(1000, 16, dtype=torch.bfloat16), bias)
    torch.testing.assert_close(wide.float()[:, 16:].sum(-1), bias, rtol=1e-6, atol=0)


def test_fold_heads_leaves_a_model_that_attends_otherwise(tiny_decoder):
    llama, gemma = tiny_decoder("llama"), tiny_decoder("gemma")
    gemma.model.set_attn_implementation("eager")
    assert fold_heads(llama)
    assert not fold_heads(gemma)
    assert llama.model.config._attn_implementation == FOLDED
    assert gemma.model.config._attn_implementation == "eager"


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
