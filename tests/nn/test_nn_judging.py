"""Likelihoods of answers against the model's own forward pass."""

from __future__ import annotations

import pytest
import torch

from preread.core.types import Document, Prompt
from preread.data.passages import split
from preread.methods.kv.method import Kv
from preread.methods.lloco.method import Lloco
from preread.methods.text import Text
from preread.nn.judging import answer_nats
from preread.nn.lora import Lora, LoraConfig
from preread.nn.reading import followed, read

LOG = Document("log", "log", "The keeper wrote down every ship. In winter the storm reached the island at night. " * 4)
ANSWERS = ("The keeper", "a storm at night, in winter", "it")


@pytest.mark.parametrize("method", [Text(), Kv(ratio=4), Lloco(ratio=4)], ids=lambda method: method.name)
@pytest.mark.parametrize("adapter", [None, "a"])
def test_nats_are_those_of_each_answer_read_alone(tiny_decoder, method, adapter):
    decoder = tiny_decoder("llama")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        lora = Lora(LoraConfig(rank=2), decoder.projections).eval()
        for b in lora.b.values():
            torch.nn.init.normal_(b, std=0.2)
    decoder.adapters.add("a", lora)
    answers = [decoder.tokens(answer) for answer in ANSWERS]
    with method.attach(decoder) as handle:
        memories = list(handle.encode(split(LOG, decoder.tokenizer, 60)))
        prompts = [handle.prompt(question, memories, adapter) for question in ("Who?", "When did it come?", "What?")]
        found = answer_nats(decoder, prompts, answers)
        with torch.no_grad(), decoder.adapters.use(adapter):
            for nats, prompt, answer in zip(found, prompts, answers, strict=True):
                states = read(decoder, followed(prompt, answer))
                steps = torch.log_softmax(decoder.logits(states).float(), -1)[-len(answer) - 1 : -1]
                alone = -sum(float(step[token]) for step, token in zip(steps, answer, strict=True))
                assert nats == pytest.approx(alone, rel=1e-4)


def test_plain_text_is_judged_as_the_model_judges_it(tiny_decoder):
    decoder = tiny_decoder("llama")
    prompt, answer = decoder.tokens("Who kept the lighthouse?"), decoder.tokens("The keeper did.")
    labels = torch.cat([torch.full_like(prompt, -100), answer])[None]
    with torch.no_grad():
        mean = decoder.model(torch.cat([prompt, answer])[None], labels=labels).loss
    assert answer_nats(decoder, [Prompt(prompt)], [answer]) == pytest.approx([float(mean) * len(answer)], rel=1e-5)
