"""The compressor against a second implementation that shares none of its code.

The second one reads one document at a time, in plain loops; it merges the LoRA into copies of the weights instead of
hooking the layers, goes through `model(...)` with explicit positions and masks instead of `hidden`, and writes the norm
out. It follows AutoCompressor (arXiv 2305.14788, sections 3.1 and 3.2).
"""

from __future__ import annotations

import copy

import pytest
import torch

from preread.methods.lloco.compressor import Compressor
from preread.methods.lloco.shape import CompressorConfig
from preread.nn.hf import Decoder
from preread.nn.lora import LoraConfig

TOLERANCE = 1e-5


def reference(decoder: Decoder, compressor: Compressor, documents, ratio, detach_every):
    """Per document and segment [N, D], with gradients to `summary_tokens` and to every A and B."""
    model = copy.deepcopy(decoder.model)
    table = model.get_input_embeddings()  # a module: Gemma scales inside it
    merged = {}
    scaling = compressor.config.lora.alpha / compressor.config.lora.rank
    for key, a in compressor.lora.a.items():
        name = key.replace("/", ".") + ".weight"
        merged[name] = model.get_parameter(name) + scaling * compressor.lora.b[key] @ a
    out = []
    for segments in documents:
        past, made = [], []
        for number, ids in enumerate(segments):
            count = max(1, round(len(ids) / ratio))
            start = [table(torch.tensor([model.config.bos_token_id]))] if decoder.start_ids.numel() else []
            parts = [*start, *past, table(ids), compressor.summary_tokens[:count]]
            inputs = torch.cat(parts)[None]
            length = inputs.shape[1]
            result = torch.func.functional_call(
                model,
                merged,
                kwargs={
                    "inputs_embeds": inputs * 1.0,
                    "attention_mask": torch.ones(1, length, dtype=torch.long),
                    "position_ids": torch.arange(length)[None],
                    "use_cache": False,
                    "output_hidden_states": True,
                },
            )
            states = result.hidden_states[-1][0, length - count :]
            rms = torch.sqrt((states**2).mean(-1, keepdim=True) + 1e-6)
            summary = states / rms * compressor.weight * compressor.scale
            made.append(summary)
            past.append(summary)
            if detach_every and (number + 1) % detach_every == 0:
                past = [p.detach() for p in past]
        out.append(made)
    return out


@pytest.fixture(params=["llama", "qwen2", "gemma"])
def pair(request, tiny_decoder):
    decoder = tiny_decoder(request.param)
    torch.manual_seed(3)
    compressor = Compressor(decoder, CompressorConfig(max_summary=12, lora=LoraConfig(rank=4, dropout=0.0)))
    for parameter in [*compressor.lora.b.values(), compressor.summary_tokens, compressor.weight]:
        torch.nn.init.normal_(parameter, mean=float(parameter is compressor.weight), std=0.2)
    compressor.attach()
    yield decoder, compressor
    compressor.detach()


def documents(*lengths):
    """Ragged documents: per document the lengths of its segments."""
    generator = torch.Generator().manual_seed(11)
    return [[torch.randint(3, 390, (n,), generator=generator) for n in row] for row in lengths]


def worst(ours, theirs):
    return max(
        float((a - b).detach().abs().max())
        for row_a, row_b in zip(ours, theirs, strict=True)
        for a, b in zip(row_a, row_b, strict=True)
    )


RAGGED = ([20, 20, 20, 7], [20, 13], [5], [20, 20, 1])


@pytest.mark.parametrize("ratio", [2.0, 4.0, 30.0])
def test_recursive_reading_agrees(pair, ratio, errors):
    decoder, compressor = pair
    rows = documents(*RAGGED)
    error = worst(compressor.recursive(rows, ratio), reference(decoder, compressor, rows, ratio, None))
    errors.append(error)
    assert error < TOLERANCE


def test_independent_reading_agrees(pair, errors):
    decoder, compressor = pair
    rows = documents(*RAGGED)
    alone = [reference(decoder, compressor, [[ids]], 4.0, None)[0] for row in rows for ids in row]
    flat = [summary for row in compressor.independent(rows, 4.0) for summary in row]
    error = worst([flat], [[one for row in alone for one in row]])
    errors.append(error)
    assert error < TOLERANCE


def test_a_batch_of_ragged_documents_equals_each_alone(pair):
    _, compressor = pair
    rows = documents(*RAGGED)
    alone = [compressor.recursive([row], 4.0)[0] for row in rows]
    assert worst(compressor.recursive(rows, 4.0), alone) < TOLERANCE


def test_summaries_accumulate(pair):
    """A later segment depends on an earlier one when read recursively, and does not when read independently."""
    _, compressor = pair
    (row,) = documents([20, 20, 20])
    other = [torch.flip(row[0], (0,)), row[1], row[2]]
    a, b = compressor.recursive([row], 4.0)[0], compressor.recursive([other], 4.0)[0]
    assert all((x - y).abs().max() > 1e-3 for x, y in zip(a, b, strict=True))
    c, d = compressor.independent([row], 4.0)[0], compressor.independent([other], 4.0)[0]
    assert torch.allclose(c[1], d[1], atol=TOLERANCE)
    assert (c[0] - d[0]).abs().max() > 1e-3


@pytest.mark.parametrize("detach_every", [None, 1, 2])
def test_gradients_agree_and_stop_at_the_same_places(pair, detach_every):
    decoder, compressor = pair
    rows = documents([20, 20, 20, 7], [20, 13])
    weights = [torch.randn(1, decoder.width, generator=torch.Generator().manual_seed(i)) for i in range(8)]

    def gradients(summaries):
        compressor.zero_grad()
        flat = [summary for row in summaries for summary in row]
        sum((s * w).sum() for s, w in zip(flat, weights, strict=False)).backward()
        return {name: p.grad.clone() for name, p in compressor.named_parameters() if p.grad is not None}

    ours = gradients(compressor.recursive(rows, 4.0, detach_every))
    theirs = gradients(reference(decoder, compressor, rows, 4.0, detach_every))
    assert ours.keys() == theirs.keys() == {name for name, _ in compressor.named_parameters()}
    for name, gradient in ours.items():
        scale = theirs[name].abs().max().clamp_min(1.0)
        assert (gradient - theirs[name]).abs().max() / scale < TOLERANCE, name


def test_detaching_is_felt(pair):
    """The boundary is real: the last segment's gradient reaches the first segment's tokens only without it."""
    decoder, compressor = pair
    reach = {}
    for detach_every in (None, 1, 2, 3):
        (row,) = documents([10, 10, 10])
        seen = []
        original = decoder.embed

        def embed(ids, embeds=None, original=original, seen=seen):
            out = original(ids, embeds).detach().requires_grad_(True)
            seen.append(out)
            return out

        object.__setattr__(decoder, "embed", embed)
        try:
            compressor.recursive([row], 4.0, detach_every)[0][-1].sum().backward()
        finally:
            object.__delattr__(decoder, "embed")
        inputs = [e for e in seen if len(e) == 10]
        reach[detach_every] = [e.grad is not None and bool(e.grad.abs().sum() > 0) for e in inputs]
    assert reach == {
        None: [True, True, True],
        1: [False, False, True],
        2: [False, False, True],
        3: [True, True, True],
    }
