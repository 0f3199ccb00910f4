"""A beginning that prompts share, read once: the same states, losses and gradients as each prompt read alone."""

from __future__ import annotations

import pytest
import torch

from preread.core.types import MEMORY, Lesson, Passage, Prompt
from preread.methods.kv.method import Kv
from preread.methods.text import Text
from preread.nn.answering import AnswerObjective
from preread.nn.lora import Lora, LoraConfig
from preread.nn.reading import begins, followed, read, read_behind

TEXT = "In winter the storm reached the island at night; the lamp burned and nobody slept."
ASKED = ["Who slept?", "When did the storm reach the island, and what burned then?", "What?"]
FAMILIES = ["llama", "qwen2", "gemma"]


@pytest.fixture(params=FAMILIES)
def decoder(request, tiny_decoder):
    decoder = tiny_decoder(request.param)
    lora = decoder.adapters.add("taught", Lora(LoraConfig(rank=4, dropout=0.0), decoder.projections))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for b in lora.b.values():
            torch.nn.init.normal_(b, std=0.1)
    return decoder


def passage(decoder, text=TEXT):
    return Passage("doc", 0, tuple(decoder.tokens(text).tolist()), 0, len(text), text, "", 0)


def prompts(decoder) -> list[Prompt]:
    """Three questions of each kind of memory, mixed, and two prompts that begin like no other."""
    made = []
    methods = [Text(), Kv(ratio=4.0), *([Kv(ratio=4.0, match=True)] if "gemma" not in decoder.name else [])]
    for method in methods:
        with method.attach(decoder) as handle:
            memories = list(handle.encode([passage(decoder)]))
            made += [handle.prompt(asked, memories) for asked in ASKED]
            made.append(handle.prompt(ASKED[0], list(handle.encode([passage(decoder, TEXT[::-1])]))))
    vectors = torch.randn(2, decoder.width, generator=torch.Generator().manual_seed(0)) / 5
    ids = [torch.tensor([5, MEMORY, MEMORY, 7, 8, *rest]) for rest in ([9], [10, 11, 12], [13])]
    made += [Prompt(one, vectors, shared=5) for one in ids]
    made.append(Prompt(ids[0], 2 * vectors, shared=5))
    made.append(Prompt(ids[0][3:]))
    return made[::2] + made[1::2]


def test_the_states_are_those_of_each_prompt_alone(decoder):
    laid = prompts(decoder)
    with torch.no_grad(), decoder.adapters.use("taught"):
        for prompt, states in zip(laid, read_behind(decoder, laid), strict=True):
            alone = read(decoder, prompt)
            assert len(states) == len(prompt) - begins(prompt)
            torch.testing.assert_close(states, alone[-len(states) :], atol=1e-4, rtol=1e-4)


def test_losses_and_gradients_are_those_of_a_batch_that_shares_nothing(decoder):
    laid = prompts(decoder)
    answers = [torch.arange(20 + i, 22 + 2 * i) for i in range(len(laid))]
    lessons = [Lesson(prompt, answer, teacher=laid[0]) for prompt, answer in zip(laid, answers, strict=True)]
    found = []
    for together in (False, True):
        objective = AnswerObjective(decoder, "taught", together=together)
        terms = objective(lessons)
        torch.stack(list(terms.values())).sum().backward()
        found.append((terms, {name: p.grad.clone() for name, p in objective.trainable().items()}))
        objective.zero_grad()
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-3)


def test_what_is_shared_is_read_once(decoder, monkeypatch):
    """The positions that go through the decoder: the beginning once, and each question."""
    with Text().attach(decoder) as text:
        memories = list(text.encode([passage(decoder)]))
        laid = [text.prompt(asked, memories) for asked in ASKED]
    seen, hidden = [], type(decoder).hidden
    monkeypatch.setattr(
        type(decoder), "hidden", lambda self, x, *a, **k: seen.append(x.shape[:2].numel()) or hidden(self, x, *a, **k)
    )
    with torch.no_grad():
        read_behind(decoder, [followed(prompt, torch.arange(4)) for prompt in laid])
    shared = begins(laid[0])
    assert shared > 20
    assert sum(seen) == shared + 3 * (max(map(len, laid)) + 4 - shared)
