"""A quantised decoder is a decoder: the same modules, the same laws, fewer bytes, another fingerprint."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

from preread.core.errors import FingerprintMismatch, UnsupportedModel, UsageError
from preread.core.memory import Memory
from preread.core.types import Passage, TextBatch
from preread.methods.lloco.method import Lloco
from preread.methods.lloco.shape import CompressorConfig
from preread.models.fingerprint import fingerprint
from preread.models.loading import load
from preread.models.quantised import quantise
from preread.nn.hf import Decoder
from preread.nn.lora import LoraConfig

KINDS = {"int8": 2.0**-7, "int4": 2.0**-2}
"""Largest step between two values, as a share of the largest weight."""


@pytest.fixture(scope="module", params=["llama", "qwen2", "gemma"])
def saved(request, tiny_decoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    decoder = tiny_decoder(request.param)
    decoder.model.save_pretrained(folder)
    decoder.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=sorted(KINDS))
def pair(request, saved):
    """A quantised decoder, and a plain one with the very numbers that its weights unpack to; the rest in float32."""
    model, plain = (load(str(saved), device="cpu", dtype="float32") for _ in range(2))
    quantise(model.model, request.param)
    for name, layer in model.model.named_modules():
        if isinstance(layer, nn.Linear):
            plain.model.get_submodule(name).weight.data = unpacked(layer)
    return [Decoder(d.model, d.tokenizer, "pair", fingerprint(d.model, d.tokenizer)) for d in (model, plain)]


def unpacked(layer):
    """[out, in]: what a layer multiplies by, read off by giving it every unit vector."""
    unit = torch.eye(layer.in_features, dtype=layer.weight.dtype)
    with torch.no_grad():
        return nn.functional.linear(unit, layer.weight).T.contiguous()


@pytest.mark.parametrize("dtype", sorted(KINDS))
def test_weights_are_near_and_small_and_the_head_is_whole(saved, dtype):
    base, decoder = load(str(saved), device="cpu"), load(str(saved), device="cpu", dtype=dtype)
    for name, layer in decoder.projections.items():
        theirs = base.projections[name].weight
        error = (unpacked(layer) - theirs).abs().max()
        assert 0 < error <= KINDS[dtype] * theirs.abs().max(), name
        packed = [getattr(layer.weight, part) for part in layer.weight.__tensor_flatten__()[0]]
        bytes_ = sum(part.numel() * part.element_size() for part in packed)
        assert bytes_ < theirs.numel() * theirs.element_size() * {"int8": 0.7, "int4": 0.45}[dtype]
    for get in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(getattr(decoder.model, get)().weight, getattr(base.model, get)().weight)
    tied = base.model.get_input_embeddings().weight is base.model.get_output_embeddings().weight
    assert (decoder.model.get_input_embeddings().weight is decoder.model.get_output_embeddings().weight) == tied
    assert decoder.dtype == torch.bfloat16


def test_fingerprints_are_its_own_and_stable(saved):
    prints = [load(str(saved), dtype=dtype).fingerprint for dtype in (None, "int8", "int4", "int8", "int4")]
    assert len(set(prints)) == 3
    assert prints[1:3] == prints[3:]


@pytest.mark.parametrize("dtype", sorted(KINDS))
def test_one_changed_packed_number_changes_the_fingerprint(saved, dtype):
    decoder = load(str(saved), dtype=dtype)
    layer = next(iter(decoder.projections.values()))
    part = {"int8": "qdata", "int4": "quantized_data"}[dtype]
    getattr(layer.weight, part).view(-1)[5] ^= 1
    assert fingerprint(decoder.model, decoder.tokenizer) != decoder.fingerprint


def test_it_computes_what_the_unpacked_weights_would(pair):
    decoder, plain = pair
    ids = decoder.tokens("Who kept the lighthouse, and what did the keeper write down?")[None]
    torch.testing.assert_close(decoder.model(ids).logits, plain.model(ids).logits, atol=1e-4, rtol=1e-4)


def compressor(decoder):
    torch.manual_seed(1)
    handle = Lloco(ratio=4.0, fresh=True, shape=CompressorConfig(16, LoraConfig(rank=2, dropout=0.0))).attach(decoder)
    for matrix in handle.compressor.lora.b.values():
        nn.init.normal_(matrix, std=0.1)
    return handle


def test_training_a_compressor_on_it_follows_the_unpacked_gradients(pair):
    """Gradients run through the quantised layers to the LoRA and to the summary tokens."""
    gradients = []
    for decoder in pair:
        with compressor(decoder) as handle:
            objective = handle.objective("compress", segment_tokens=(8, 12), ratios=(2.0, 4.0), segments="recursive")
            ids = torch.randint(3, 390, (2, 40), generator=torch.Generator().manual_seed(0))
            torch.stack(list(objective(TextBatch(ids, 7)).values())).sum().backward()
            gradients.append({name: p.grad.clone() for name, p in objective.trainable().items()})
    ours, theirs = gradients
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name] - theirs[name]).norm() <= 1e-3 * theirs[name].norm(), name


@pytest.mark.parametrize("dtype", sorted(KINDS))
def test_its_memories_are_its_own(saved, dtype):
    decoder, base = load(str(saved), device="cpu", dtype=dtype), load(str(saved), device="cpu")
    text = "The keeper wrote down every ship that passed."
    passage = Passage("0", 0, tuple(decoder.tokens(text).tolist()), 0, len(text), text, "", 0)
    with compressor(decoder) as handle, compressor(base) as other:
        (memory,) = handle.encode([passage])
        assert memory.tensors["embeds"].isfinite().all()
        assert torch.equal(
            Memory.from_bytes(memory.to_bytes(), handle.producer("passage")).tensors["embeds"], memory.tensors["embeds"]
        )
        with pytest.raises(FingerprintMismatch):
            Memory.from_bytes(memory.to_bytes(), other.producer("passage"))


def test_a_library_answers_from_it(decoders, saved, collection, log):
    decoders["tiny"] = load(f"{saved}:int4", device="cpu")
    collection.add(log)
    answer = collection.ask("Who met the storm?")
    assert answer.usage.tokens_written > 0


def test_the_name_may_carry_the_dtype(saved):
    named = load(f"{saved}:int8")
    assert named.fingerprint == load(str(saved), dtype="int8").fingerprint
    assert named.name == f"{saved}:int8"
    assert named.note == "weights quantised to int8"
    assert load(f"{saved}:float32").dtype == torch.float32


def test_without_torchao_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UsageError, match=r"preread\[quant\]"):
        load(str(saved), dtype="int8")


def test_layers_that_do_not_divide_are_refused(tiny_decoder):
    model = copy.deepcopy(tiny_decoder().model).to(torch.bfloat16)
    model.base_model.layers[0].self_attn.q_proj = nn.Linear(7, 9, dtype=torch.bfloat16)
    with pytest.raises(UnsupportedModel, match="multiple of 64"):
        quantise(model, "int4")
