"""Attention sinks and recent positions: the paper's own token-by-token cache as a second implementation."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from preread.core.errors import UnsupportedModel, UsageError
from preread.nn.streaming import Stream

TEXT = (
    "In winter the storm reached the island at night; the lamp burned and nobody slept. The keeper wrote it down, "
    "and every ship that passed, and the weather of the day."
)


@torch.inference_mode()
def literal(decoder, ids, sinks, recent):
    """[T, D] last hidden states, one token after the other, by the model's own layers and rotation.

    The cache holds keys that are not turned; the oldest that is no sink is evicted after every token; keys and query
    are turned to their places in the cache (arXiv 2309.17453, section 3.2).
    """
    base, states = decoder.model.model, []
    caches = [([], []) for _ in base.layers]
    for token in ids:
        x = base.embed_tokens(token[None, None])
        for layer, (keys, values) in zip(base.layers, caches, strict=True):
            attention, h = layer.self_attn, layer.input_layernorm(x)
            q, k, v = (
                project(h).view(-1, attention.head_dim)[None, :, None]  # [1, heads, 1, E]
                for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            keys.append(k)
            values.append(v)
            cos, sin = base.rotary_emb(h, torch.arange(len(keys))[None])
            turned = [apply_rotary_pos_emb(k, k, c, s)[1] for k, c, s in zip(keys, *_each(cos, sin), strict=True)]
            q = apply_rotary_pos_emb(q, q, cos[:, -1:], sin[:, -1:])[0]
            shared = q.shape[1] // k.shape[1]
            all_keys, all_values = (torch.cat(s, 2).repeat_interleave(shared, 1) for s in (turned, values))
            weights = (q @ all_keys.transpose(-1, -2) * attention.head_dim**-0.5).softmax(-1)
            x = x + attention.o_proj((weights @ all_values).transpose(1, 2).reshape(1, 1, -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            if len(keys) > sinks + recent:
                del keys[sinks], values[sinks]
        states.append(base.norm(x)[0, 0])
    return torch.stack(states)


def _each(*tables):
    return [table.split(1, dim=1) for table in tables]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(("sinks", "recent"), [(4, 9), (1, 3), (0, 6), (4, 1), (3, 200)])
@pytest.mark.parametrize("block", [1, 5, 512])
def test_blocks_are_the_cache_that_evicts_after_every_token(tiny_decoder, family, sinks, recent, block):
    decoder = tiny_decoder(family)
    ids = decoder.tokens(TEXT)
    stream = Stream(decoder, sinks, recent)
    states = stream.read(ids, block)
    torch.testing.assert_close(states, literal(decoder, ids, sinks, recent), atol=2e-5, rtol=1e-4)
    assert stream.held == min(len(ids), sinks + recent)
    layers, heads, width = decoder.kv_shape
    assert stream.nbytes == stream.held * layers * heads * width * 2 * 4


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_within_the_cache_it_is_the_decoder_itself(tiny_decoder, family):
    decoder = tiny_decoder(family)
    ids = decoder.tokens(TEXT)
    before = decoder.model.config.get_text_config()._attn_implementation
    with torch.inference_mode():
        plain = decoder.hidden(decoder.embed(ids)[None])[0]
        torch.testing.assert_close(Stream(decoder, 4, 500).read(ids, 7), plain, atol=2e-4, rtol=1e-4)
        assert (Stream(decoder, 4, 9).read(ids, 7)[-1] - plain[-1]).abs().max() > 1e-3, "what is evicted counts"
        assert decoder.model.config.get_text_config()._attn_implementation == before
        assert torch.equal(decoder.hidden(decoder.embed(ids)[None])[0], plain)


def test_what_was_evicted_is_held_by_nothing_but_what_was_made_of_it(tiny_decoder):
    """With one layer, no trace of an evicted token is left: the sinks and the recent tokens alone decide."""
    decoder = tiny_decoder("llama")
    decoder.model.model.layers = decoder.model.model.layers[:1]
    ids = decoder.tokens(TEXT)
    other = ids.clone()
    other[4:-10] = ids[4:-10].flip(0)
    one, two = (Stream(decoder, 4, 9).read(each)[-1] for each in (ids, other))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    other[3] += 1
    assert (Stream(decoder, 4, 9).read(other)[-1] - one).abs().max() > 1e-4, "a sink stays"


def test_a_fork_goes_on_by_itself(tiny_decoder):
    decoder = tiny_decoder("llama")
    ids, more = decoder.tokens(TEXT), decoder.tokens("Who slept?")
    trunk = Stream(decoder, 4, 20)
    trunk.read(ids)
    first = trunk.fork().read(more)
    trunk.fork().read(decoder.tokens("Something else altogether, and longer."))
    assert torch.equal(trunk.fork().read(more), first)
    torch.testing.assert_close(first, Stream(decoder, 4, 20).read(torch.cat([ids, more]))[-len(more) :])


def test_what_cannot_be_is_refused(tiny_decoder):
    decoder = tiny_decoder("llama")
    for sinks, recent in ((-1, 5), (4, 0), (4, decoder.window)):
        with pytest.raises(UsageError, match="recent"):
            Stream(decoder, sinks, recent)
    gemma = tiny_decoder("gemma")
    gemma.model.config.sliding_window = 12
    with pytest.raises(UnsupportedModel, match="sliding window of 12"):
        Stream(gemma, 4, 9)
    decoder.model.model.rotary_emb.inv_freq = decoder.frequencies[:-1]
    with pytest.raises(UnsupportedModel, match="turned"):
        Stream(decoder, 4, 9)
