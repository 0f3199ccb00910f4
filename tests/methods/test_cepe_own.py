"""An encoder of its own keeps the laws of the decoder's bottom, and its reader its file."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig

from preread.core.errors import IntegrityError, UsageError
from preread.methods.cepe.own import OwnEncoder, OwnEncoderConfig
from preread.methods.cepe.reader import Reader, ReaderConfig, Trained
from preread.models.hollow import hollow

SHAPE = OwnEncoderConfig(vocabulary=400, width=24, layers=2, heads=4, kv_heads=2, inner=32, chunk=32, together=3)
LENGTHS = (11, 1, 32, 7, 20)


def _chunks():
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(3, 300, (length,), generator=draw) for length in LENGTHS]


def _encoder(decoder, shape=SHAPE):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = OwnEncoder(decoder, shape)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return made


@torch.no_grad()
def test_a_chunk_is_as_alone_and_read_both_ways(tiny_decoder):
    decoder = tiny_decoder("qwen2")
    encoder = _encoder(decoder)
    states = encoder(_chunks())
    assert [tuple(s.shape) for s in states] == [(length, 24) for length in LENGTHS]
    for chunk, together in zip(_chunks(), states, strict=True):
        torch.testing.assert_close(encoder([chunk])[0], together, atol=1e-5, rtol=0)
    [chunk, *_] = _chunks()
    chunk[-1] += 1
    assert (encoder([chunk])[0] - states[0]).abs().amax(-1).min() > 0, "a later token changes every earlier state"
    assert encoder([]) == []
    with pytest.raises(UsageError, match="at most 32 tokens"):
        encoder([torch.zeros(33, dtype=torch.int64)])


def test_all_of_it_can_train(tiny_decoder):
    encoder = _encoder(tiny_decoder())
    torch.cat(encoder(_chunks())).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in encoder.parameters())


@torch.no_grad()
def test_a_reader_of_one_is_kept_and_computes_in_another_dtype(tiny_decoder, tmp_path):
    decoder = tiny_decoder()
    reader = Reader(decoder, ReaderConfig(own=SHAPE), Trained(states=64, tokens=1, note=""))
    reader.settle()
    reader.save(tmp_path / "reader", {})
    again = Reader.load(tmp_path / "reader", decoder)
    assert (again.config, again.hash) == (reader.config, reader.hash)
    for one, other in zip(reader.encoder(_chunks()), again.encoder(_chunks()), strict=True):
        assert torch.equal(one, other)
    turns = reader.encoder.model.rotary_emb.inv_freq.clone()
    reader.round_to(torch.bfloat16)
    assert reader.encoder(_chunks())[0].dtype == decoder.dtype
    assert {parameter.dtype for parameter in reader.parameters()} == {torch.bfloat16}
    assert torch.equal(reader.encoder.model.rotary_emb.inv_freq, turns), "positions are not rounded"
    (tmp_path / "reader" / "encoder.safetensors").write_bytes(b"")
    with pytest.raises(IntegrityError):
        Reader.load(tmp_path / "reader", decoder)


def test_the_defaults_are_the_papers():
    encoder = OwnEncoder(hollow(LlamaConfig(num_hidden_layers=1)), OwnEncoderConfig())
    assert round(sum(parameter.numel() for parameter in encoder.parameters()) / 1e6) == 435


WRONG = ({"vocabulary": 392}, {"heads": 5}, {"kv_heads": 3}, {"layers": 0}, {"chunk": 0}, {"together": 0})


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_shape_that_is_none_is_refused(tiny_decoder, wrong):
    with pytest.raises(UsageError, match="all 393 tokens"):
        OwnEncoder(tiny_decoder(), replace(SHAPE, **wrong))
