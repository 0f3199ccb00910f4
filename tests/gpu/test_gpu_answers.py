"""A device answers as the CPU does: memories, one batch of every kind of prompt, and a step of training."""

from __future__ import annotations

import pytest
import torch

from preread.core.types import Lesson, Passage, Sampling
from preread.engines.local import LocalEngine
from preread.methods.kv.method import Kv
from preread.methods.lloco.method import Lloco
from preread.methods.lloco.shape import CompressorConfig
from preread.methods.text import Text
from preread.nn.answering import AnswerObjective
from preread.nn.lora import Lora, LoraConfig

TEXT = "In winter the storm reached the island at night; the lamp burned and nobody slept."
METHODS = {
    "text": Text(),
    "kv": Kv(ratio=3),
    "kv-matched": Kv(ratio=3, match=True),
    "lloco": Lloco(ratio=4, shape=CompressorConfig(max_summary=16, lora=LoraConfig(rank=2))),
}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The CPU too, so that the test itself is proven where there is no GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture
def pair(tiny_decoder, device):
    """The same weights and the same adapter on the CPU and on the device."""
    decoders = []
    for place in ("cpu", device):
        decoder = tiny_decoder("llama")
        decoder.model.to(place)
        torch.manual_seed(1)
        lora = Lora(LoraConfig(rank=4), tiny_decoder("llama").projections)
        for matrix in lora.b.values():
            torch.nn.init.normal_(matrix, std=0.2)
        decoder.adapters.add("a", lora.to(place).eval())
        decoders.append(decoder)
    return decoders


def _passages(decoder):
    ids = tuple(decoder.tokens(TEXT).tolist())
    return [Passage("doc", 0, ids, 0, len(TEXT), TEXT, "", 0)]


@pytest.mark.parametrize("name", METHODS)
def test_memories_are_the_same_numbers(pair, name):
    made = []
    for decoder in pair:
        with METHODS[name].attach(decoder) as handle:
            made.append(next(handle.encode(_passages(decoder))))
    for key, tensor in made[0].tensors.items():
        assert made[1].tensors[key].device.type == "cpu", "a memory is stored, wherever it was made"
        torch.testing.assert_close(made[1].tensors[key], tensor, atol=1e-3, rtol=1e-3)


def test_one_batch_of_every_kind_answers_alike(pair):
    answers = []
    for decoder in pair:
        prompts = []
        for method in METHODS.values():
            with method.attach(pair[0]) as maker:
                memories = list(maker.encode(_passages(pair[0])))
                prompts += [maker.prompt("Who slept?", memories, adapter) for adapter in (None, "a")]
        answers.append([event.text for event in LocalEngine(decoder).complete(prompts, Sampling(max_tokens=6))])
    assert answers[1] == answers[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_lesson_costs_and_teaches_the_same(pair, name):
    losses, gradients = [], []
    for decoder in pair:
        with METHODS[name].attach(pair[0]) as maker:
            prompt = maker.prompt("Who slept?", list(maker.encode(_passages(pair[0]))), "a")
        objective = AnswerObjective(decoder, "a", distil=0.0)
        decoder.adapters["a"].eval()  # no dropout
        loss = objective([Lesson(prompt, decoder.tokens("nobody"))])["answer"]
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([b.grad.flatten().cpu() for b in decoder.adapters["a"].b.values()]))
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert gradients[0].any()
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)
