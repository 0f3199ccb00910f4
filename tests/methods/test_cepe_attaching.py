"""Cross-attention stands between self-attention and feed-forward, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch

from preread.core.errors import UnsupportedModel, UsageError
from preread.methods.cepe.attaching import Crossings
from preread.nn.activations import Levers, frugal
from preread.nn.beside import Context

FAMILIES = ("llama", "qwen2", "gemma")
STATES = 24


@pytest.fixture(params=FAMILIES)
def decoder(tiny_decoder, request):
    return tiny_decoder(request.param)


def _ids(rows=2, length=11):
    return torch.randint(3, 300, (rows, length), generator=torch.Generator().manual_seed(0))


def _context(rows=2, count=7):
    return Context(torch.randn(rows, count, STATES, generator=torch.Generator().manual_seed(1)))


def _loud(crossings):
    """As if it had been trained."""
    for module in crossings.modules_by_layer.values():
        torch.nn.init.normal_(module.o, std=0.3)
        torch.nn.init.normal_(module.gate)
    return crossings


@torch.no_grad()
def _logits(decoder, ids):
    return decoder.model(ids, use_cache=False).logits


def test_before_any_training_it_is_the_base_bit_for_bit(decoder):
    ids = _ids()
    before, hooks = _logits(decoder, ids), _hooks(decoder)
    crossings = Crossings(decoder, STATES)
    crossings.attach()
    assert torch.equal(_logits(decoder, ids), before)
    with decoder.beside.use({crossings.name: _context()}):
        assert torch.equal(_logits(decoder, ids), before)
    _loud(crossings)
    assert torch.equal(_logits(decoder, ids), before), "outside of a block nothing is attended to"
    with decoder.beside.use({crossings.name: _context()}):
        assert (_logits(decoder, ids) - before).abs().max() > 1e-2
    for nothing in (_context(count=0), Context(_context().states, torch.zeros(2, 7, dtype=torch.bool))):
        with decoder.beside.use({crossings.name: nothing}):
            assert torch.equal(_logits(decoder, ids), before)
    crossings.detach()
    with decoder.beside.use({crossings.name: _context()}):
        assert torch.equal(_logits(decoder, ids), before)
    assert _hooks(decoder) == hooks


def _hooks(decoder):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in decoder.model.modules())


@pytest.mark.parametrize("layers", [None, [1]])
def test_it_is_added_behind_attention_and_before_the_feed_forward(decoder, layers):
    """Each layer written out by its own parts, with the module's output between them."""
    ids, context = _ids(), _context()
    crossings = _loud(Crossings(decoder, STATES, layers))
    crossings.attach()
    with torch.no_grad(), decoder.beside.use({crossings.name: context}):
        found = decoder.hidden(decoder.embed(ids))
    crossings.detach()
    parts, seen = decoder.model.base_model, []

    def written_out(number):
        layer = parts.layers[number]

        def forward(hidden_states, *args, **kwargs):
            out = layer.self_attn(layer.input_layernorm(hidden_states), *args, **kwargs)[0]
            gemma = hasattr(layer, "pre_feedforward_layernorm")
            x = hidden_states + (layer.post_attention_layernorm(out) if gemma else out)
            if str(number) in crossings.modules_by_layer:
                x = x + crossings.modules_by_layer[str(number)](x, context)
            seen.append(number)
            if gemma:
                return x + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(x)))
            return x + layer.mlp(layer.post_attention_layernorm(x))

        return forward

    for number, layer in enumerate(parts.layers):
        layer.forward = written_out(number)
    with torch.no_grad():
        expected = decoder.hidden(decoder.embed(ids))
    assert seen == list(range(len(parts.layers)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_it_begins_as_self_attention_cut_to_the_states(decoder):
    crossings = Crossings(decoder, STATES, begin="copied")
    for name, module in crossings.modules_by_layer.items():
        layer = decoder.model.base_model.layers[int(name)]
        assert torch.equal(module.q, layer.self_attn.q_proj.weight)
        assert torch.equal(module.k, layer.self_attn.k_proj.weight[:, :STATES])
        assert torch.equal(module.v, layer.self_attn.v_proj.weight[:, :STATES])
        assert torch.equal(module.o, layer.self_attn.o_proj.weight)
        norm = getattr(layer, "pre_feedforward_layernorm", layer.post_attention_layernorm)
        x = torch.randn(5, decoder.width)
        ours = torch.nn.functional.rms_norm(x, (decoder.width,), module.norm, module.shape.eps)
        torch.testing.assert_close(ours, norm(x), atol=1e-6, rtol=1e-5)


def test_gradients_reach_the_modules_alone_and_pass_checkpoints(decoder):
    ids, found = _ids(), []
    crossings = _loud(Crossings(decoder, STATES))
    crossings.attach()
    states = _context().states.requires_grad_(True)
    for levers in (Levers("none"), Levers("full"), Levers("full", tiles=3)):
        crossings.zero_grad()
        states.grad = None
        with decoder.beside.use({crossings.name: Context(states)}), frugal(decoder.model, levers, decoder.acting):
            decoder.hidden(decoder.embed(ids)).square().mean().backward()
        assert all(p.grad is None for p in decoder.model.parameters())
        found.append([states.grad, *[p.grad for p in crossings.parameters()]])
    assert all(gradient.abs().max() > 0 for gradient in found[0])
    for plain, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(other, plain, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("layers", [[], [-1], [99]])
def test_layers_that_are_not_there_are_refused(tiny_decoder, layers):
    with pytest.raises(UsageError, match="layers from 0 to 1"):
        Crossings(tiny_decoder("llama"), STATES, layers)


def test_layers_of_other_parts_are_refused(tiny_decoder):
    decoder = tiny_decoder("llama")
    decoder.model.base_model.layers[0].mlp = None
    with pytest.raises(UnsupportedModel, match="self_attn, mlp"):
        Crossings(decoder, STATES)
