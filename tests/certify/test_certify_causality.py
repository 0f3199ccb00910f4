"""Causality: nothing leaks where nothing should, every leak is found, and the model is left as it was."""

from __future__ import annotations

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from preread.certify.causality import causality
from preread.methods.longlora import attach, detach


@pytest.fixture
def leaky():
    """`leaky(model, how)` registers an attention that leaks, and uses it."""
    names = []

    def put(model, attend):
        name = f"leaky-{len(names)}"
        names.append(name)
        AttentionInterface.register(name, attend)
        AttentionMaskInterface.register(name, sdpa_mask)
        model.set_attn_implementation(name)

    yield put
    for name in names:
        AttentionInterface._global_mapping.pop(name)
        AttentionMaskInterface._global_mapping.pop(name)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_plain_attention_is_causal_to_the_bit_in_every_mode_dtype_and_batch(tiny_decoder, family):
    decoder = tiny_decoder(family)
    found = causality(decoder, [33, 64], places=3)
    assert len(found) == 2 * 2 * 4
    assert {(one.dtype, one.mode, one.padding) for one in found} == {
        (d, m, p) for d in ("bfloat16", "float32") for m in ("eval", "train") for p in ("none", "right", "left")
    }
    assert all(one.holds for one in found), [one for one in found if not one.holds]
    assert all(one.compared > 0 and one.heard == one.places == 3 * len(one.rows) for one in found)


def test_a_look_at_the_next_position_is_found(tiny_decoder, leaky):
    def ahead(module, query, key, value, mask, **rest):
        blended = value + 1e-3 * torch.roll(value, -1, dims=2)
        return sdpa_attention_forward(module, query, key, blended, mask, **rest)

    decoder = tiny_decoder()
    leaky(decoder.model, ahead)
    found = causality(decoder, [65, 64], places=2)
    assert not any(one.holds for one in found)
    alone = [one for one in found if one.padding == "none" and one.dtype == "float32"]
    assert all(0 < one.changed <= one.compared for one in alone)


def test_a_leak_of_training_alone_is_told_as_one(tiny_decoder, leaky):
    def careless(module, query, key, value, mask, **rest):
        rolled = torch.roll(value, query.shape[2] // 2, dims=2) if module.training else value
        return sdpa_attention_forward(module, query, key, rolled, mask, **rest)

    decoder = tiny_decoder()
    leaky(decoder.model, careless)
    found = causality(decoder, [64], places=2)
    assert {one.mode for one in found if not one.holds} == {"train"}
    assert {one.mode for one in found if one.holds} == {"eval"}


def test_a_row_that_feels_its_neighbour_is_found(tiny_decoder, leaky):
    def mixing(module, query, key, value, mask, **rest):
        return sdpa_attention_forward(module, query, key, value + 1e-2 * value.mean(0, keepdim=True), mask, **rest)

    decoder = tiny_decoder()
    leaky(decoder.model, mixing)
    found = causality(decoder, [64], places=2)
    assert all(one.holds for one in found if len(one.rows) == 1), "one row has no neighbour"
    assert not any(one.holds for one in found if len(one.rows) > 1)


def test_a_model_that_hears_nothing_does_not_pass(tiny_decoder):
    decoder = tiny_decoder()
    hook = decoder.model.base_model.register_forward_hook(
        lambda module, args, out: type(out)(last_hidden_state=torch.zeros_like(out.last_hidden_state))
    )
    found = causality(decoder, [64], places=1)
    hook.remove()
    assert all(one.changed == 0 and one.heard == 0 and not one.holds for one in found)


def test_sparse_attention_in_training_is_causal(tiny_decoder):
    decoder = tiny_decoder()
    attach(decoder.model, 256, group=32, full_below=64)
    try:
        found = causality(decoder, [129, 256], places=4)
    finally:
        detach(decoder.model)
    assert all(one.holds for one in found)


def test_the_model_is_left_as_it_was_bit_for_bit(tiny_decoder):
    decoder = tiny_decoder()
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in decoder.model.state_dict().items()}
    angles = decoder.model.base_model.rotary_emb.inv_freq
    causality(decoder, [64], places=1)
    assert not decoder.model.training
    for name, tensor in decoder.model.state_dict().items():
        assert (tensor.data_ptr(), tensor.dtype) == (before[name][0], before[name][1].dtype)
        assert torch.equal(tensor, before[name][1])
    assert decoder.model.base_model.rotary_emb.inv_freq is angles
    assert angles.dtype == torch.float32
