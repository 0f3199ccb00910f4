"""The encoder reads each chunk alone and both ways, and the decoder is itself outside of it."""

from __future__ import annotations

import pytest
import torch

from preread.core.errors import UsageError
from preread.methods.cepe.encoder import ContextEncoder, EncoderConfig
from preread.nn.activations import Levers, frugal
from preread.nn.lora import LoraConfig

LENGTHS = (11, 1, 32, 7, 20)


@pytest.fixture(params=["llama", "qwen2", "gemma"])
def decoder(tiny_decoder, request):
    return tiny_decoder(request.param)


def _encoder(decoder, layers=1, together=3, attention="bidirectional"):
    config = EncoderConfig(layers, attention, LoraConfig(rank=4, dropout=0.0), chunk=32, together=together)
    torch.manual_seed(0)
    made = ContextEncoder(decoder, config)
    for b in made.lora.b.values():
        torch.nn.init.normal_(b, std=0.1)
    torch.nn.init.normal_(made.gain, 1.0, 0.1)
    made.attach()
    return made


def _chunks():
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(3, 300, (length,), generator=draw) for length in LENGTHS]


@torch.no_grad()
def test_a_chunk_is_as_alone_however_many_are_read_together(decoder):
    encoder = _encoder(decoder)
    states = encoder(_chunks())
    assert [tuple(s.shape) for s in states] == [(length, decoder.width) for length in LENGTHS]
    for chunk, together in zip(_chunks(), states, strict=True):
        torch.testing.assert_close(encoder([chunk])[0], together, atol=1e-5, rtol=0)
    for one, other in zip(_encoder(decoder, together=1)(_chunks()), states, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert encoder([]) == []


@torch.no_grad()
def test_it_looks_both_ways(decoder):
    encoder, [chunk, *_] = _encoder(decoder), _chunks()
    before = encoder([chunk])[0]
    chunk[-1] += 1
    after = encoder([chunk])[0]
    assert (after - before).abs().amax(-1).min() > 0, "a later token changes every earlier state"


@torch.no_grad()
def test_it_may_look_back_alone(decoder):
    encoder, [chunk, *_] = _encoder(decoder, attention="causal"), _chunks()
    before = encoder([chunk])[0]
    chunk[-1] += 1
    after = encoder([chunk])[0]
    assert torch.equal(after[:-1], before[:-1])
    assert (after[-1] - before[-1]).abs().max() > 0


@torch.no_grad()
def test_the_decoder_is_itself_outside_of_it(decoder):
    ids = torch.randint(3, 300, (2, 9))
    before, layers = decoder.model(ids).logits, decoder.model.base_model.layers
    encoder = _encoder(decoder)
    encoder(_chunks())
    assert decoder.model.base_model.layers is layers
    assert torch.equal(decoder.model(ids).logits, before)
    encoder.detach()
    assert list(decoder.adapters) == []
    assert not any(module._forward_hooks for module in decoder.model.modules())


def test_all_its_layers_take_part_and_no_others(decoder):
    encoder = _encoder(decoder, layers=1)
    decoder.model.base_model.layers[1:].apply(lambda module: setattr(module, "forward", None))
    torch.cat(encoder(_chunks())).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert all(".0." in name.replace("/", ".") for name in encoder.lora.a)


def test_gradients_are_those_without_checkpointing(decoder):
    encoder, found = _encoder(decoder), []
    for levers in (Levers("none"), Levers("full")):
        encoder.zero_grad()
        with frugal(decoder.model, levers, decoder.acting):
            torch.cat(encoder(_chunks())).square().mean().backward()
        found.append([p.grad for p in encoder.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_what_it_cannot_read_is_refused(tiny_decoder):
    decoder = tiny_decoder("llama")
    with pytest.raises(UsageError, match="at most 32 tokens"):
        _encoder(decoder)([torch.zeros(33, dtype=torch.int64)])
    for config in (EncoderConfig(0), EncoderConfig(3), EncoderConfig(1, chunk=0), EncoderConfig(1, together=0)):
        with pytest.raises(UsageError, match="1 to 2 layers"):
            ContextEncoder(decoder, config)
    assert ContextEncoder(decoder, EncoderConfig()).layers == 2, "a small decoder's are all taken where none are told"
