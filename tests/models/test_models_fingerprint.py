"""The fingerprint changes with what changes the numbers, and with nothing else."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from preread.models.fingerprint import fingerprint


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_tiny_decoder_is_whole(tiny_decoder, family):
    decoder = tiny_decoder(family)
    ids = decoder.tokens("Who kept the lighthouse? 🗼")[None]
    whole = decoder.model(input_ids=ids).logits
    cache = decoder.cache(64)
    parts = [decoder.hidden(decoder.embed(part), cache=cache) for part in (ids[:, :5], ids[:, 5:])]
    torch.testing.assert_close(decoder.logits(torch.cat(parts, 1)), whole, atol=2e-4, rtol=1e-4)
    assert decoder.tokenizer.decode(ids[0]) == "Who kept the lighthouse? 🗼"


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_same_weights_elsewhere_have_the_same_fingerprint(tiny_decoder, family, tmp_path):
    decoder = tiny_decoder(family)
    decoder.model.save_pretrained(tmp_path)
    decoder.tokenizer.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert fingerprint(model, tokenizer) == decoder.fingerprint


def test_one_changed_bit_of_one_weight_changes_it(tiny_decoder):
    decoder = tiny_decoder()
    weight = decoder.model.get_input_embeddings().weight
    bits = weight.data.view(torch.int32)
    bits[7, 3] ^= 1
    assert fingerprint(decoder.model, decoder.tokenizer) != decoder.fingerprint
    bits[7, 3] ^= 1
    assert fingerprint(decoder.model, decoder.tokenizer) == decoder.fingerprint


def test_swapped_weights_of_equal_shape_change_it(tiny_decoder):
    decoder = tiny_decoder()
    first, second = (layer.self_attn.q_proj.weight for layer in decoder.model.base_model.layers)
    first.data, second.data = second.data, first.data
    assert fingerprint(decoder.model, decoder.tokenizer) != decoder.fingerprint


def test_dtype_and_architecture_change_it(tiny_decoder):
    decoder = tiny_decoder()
    half = tiny_decoder().model.to(torch.bfloat16)
    assert fingerprint(half, decoder.tokenizer) != decoder.fingerprint
    stretched = tiny_decoder().model
    stretched.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    assert fingerprint(stretched, decoder.tokenizer) != decoder.fingerprint


def test_a_call_that_truncates_or_pads_leaves_it_alone(tiny_decoder):
    decoder = tiny_decoder()
    decoder.tokenizer(["a", "long enough"], padding=True, truncation=True, max_length=3)
    assert fingerprint(decoder.model, decoder.tokenizer) == decoder.fingerprint


def test_a_new_token_changes_it(tiny_decoder, tmp_path):
    decoder = tiny_decoder()
    decoder.tokenizer.save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer.add_tokens(["lighthouse"])
    assert fingerprint(decoder.model, tokenizer) != decoder.fingerprint
