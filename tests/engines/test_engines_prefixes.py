"""A beginning that was read before is not read again, and nobody could tell from the answer."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from preread.core.types import MEMORY, KeyValues, Prompt, Sampling
from preread.engines.local import LocalEngine
from preread.engines.prefixes import LEAST, Prefixes
from preread.nn.cache import Held
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, LoraConfig

SHARED = 70


def prompts_of(kind: str, decoder: Decoder, questions: int = 3) -> list[Prompt]:
    """Questions of one memory: the same beginning, other ends."""
    draw = torch.Generator().manual_seed(0)

    def ids(length: int) -> torch.Tensor:
        return torch.randint(3, 300, (length,), generator=draw)

    begin, embeds, kv = ids(SHARED), None, None
    if kind == "embeds":
        begin[4:60] = MEMORY
        embeds = torch.randn(56, decoder.width, generator=draw) * 0.3
    if kind == "kv":
        begin[40:60] = MEMORY
        layers, heads, width = decoder.kv_shape
        keys, values = torch.randn(2, layers, heads, 20, width, generator=draw)
        kv = KeyValues(keys, values, torch.randn(layers, heads, 20, generator=draw))
    ends = [torch.cat([begin, ids(5 + i)]) for i in range(questions)]
    return [Prompt(e, embeds, kv, positions=torch.arange(len(e)) + 3 if kv else None, shared=SHARED) for e in ends]


def logits(engine: LocalEngine, prompt: Prompt) -> list[torch.Tensor]:
    row, seen = engine.submit(prompt, Sampling(max_tokens=6)), []
    take = row.take

    def record(scores: torch.Tensor) -> None:
        seen.append(scores.clone())
        take(scores)

    row.take = record
    while engine.step():
        pass
    assert row.error is None
    return seen


@pytest.fixture
def decoder(tiny_decoder, monkeypatch) -> Decoder:
    monkeypatch.setattr("preread.engines.batch.PIECE", 16)
    decoder = tiny_decoder("qwen2")
    torch.manual_seed(1)
    for name in "ab":
        lora = Lora(LoraConfig(rank=2, dropout=0.0), decoder.projections).eval()
        for b in lora.b.values():
            b.data.normal_(std=0.2)
        decoder.adapters.add(name, lora)
    return decoder


def read_positions(decoder: Decoder, monkeypatch) -> list[int]:
    counts, hidden = [], Decoder.hidden

    def counted(self, embeds, *args, **kwargs):
        counts.append(embeds.shape[1])
        return hidden(self, embeds, *args, **kwargs)

    monkeypatch.setattr(Decoder, "hidden", counted)
    return counts


@pytest.mark.parametrize("adapter", [None, "a"])
@pytest.mark.parametrize("kind", ["text", "embeds", "kv"])
def test_answers_are_bit_for_bit_those_of_a_fresh_read(decoder: Decoder, monkeypatch, kind: str, adapter: str | None):
    kept, fresh = LocalEngine(decoder), LocalEngine(decoder, prefix_bytes=0)
    prompts = [replace(prompt, adapter=adapter) for prompt in prompts_of(kind, decoder)]
    counts = read_positions(decoder, monkeypatch)
    for i, prompt in enumerate(prompts):
        expected = logits(fresh, prompt)
        counts.clear()
        for ours, theirs in zip(logits(kept, prompt), expected, strict=True):
            assert torch.equal(ours, theirs)
        tail = len(prompt) - SHARED
        assert sum(count for count in counts if count > 1) == (tail if i else len(prompt) - 20 * (kind == "kv"))
    assert (kept.prefixes.hits, kept.prefixes.misses) == (2, 1)
    assert (fresh.prefixes.hits, fresh.prefixes.misses, fresh.prefixes.nbytes) == (0, 0, 0)


def test_questions_asked_at_once_read_their_memory_once(decoder: Decoder):
    engine = LocalEngine(decoder)
    engine.complete(prompts_of("embeds", decoder, 5), Sampling(max_tokens=3))
    assert (engine.prefixes.hits, engine.prefixes.misses) == (4, 1)


def changed(prompt: Prompt, what: str, decoder: Decoder) -> Prompt:
    if what == "a token":
        ids = prompt.ids.clone()
        ids[2] += 1
        return replace(prompt, ids=ids)
    if what == "one bit of an embedding":
        embeds = prompt.embeds.clone()
        embeds.view(torch.int32)[7, 3] ^= 1
        return replace(prompt, embeds=embeds)
    if what == "a bias":
        bias = prompt.kv.bias.clone()
        bias[0, 1, 5] += 0.5
        return replace(prompt, kv=replace(prompt.kv, bias=bias))
    if what == "positions":
        return replace(prompt, positions=prompt.positions + 1)
    if what == "how much is shared":
        return replace(prompt, shared=SHARED - 1)
    if what == "the adapter":
        return replace(prompt, adapter="b")
    assert what == "the adapter's numbers"
    with torch.no_grad():
        next(iter(decoder.adapters["a"].b.values())).add_(0.1)
    return prompt


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("text", "a token"),
        ("embeds", "one bit of an embedding"),
        ("kv", "a bias"),
        ("kv", "positions"),
        ("text", "how much is shared"),
        ("text", "the adapter"),
        ("text", "the adapter's numbers"),
    ],
)
def test_whatever_the_beginning_depends_on_makes_it_another(decoder: Decoder, kind: str, what: str):
    engine, fresh = LocalEngine(decoder), LocalEngine(decoder, prefix_bytes=0)
    prompt = replace(prompts_of(kind, decoder)[0], adapter="a")
    logits(engine, prompt)
    other = changed(prompt, what, decoder)
    after = logits(engine, other)
    assert (engine.prefixes.hits, engine.prefixes.misses) == (0, 2)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(after, logits(fresh, other), strict=True))


def test_an_adapter_replaced_under_its_name_is_another(decoder: Decoder):
    engine, prompt = LocalEngine(decoder), replace(prompts_of("text", decoder)[0], adapter="a")
    logits(engine, prompt)
    decoder.adapters.add("a", decoder.adapters["b"])
    logits(engine, prompt)
    assert (engine.prefixes.hits, engine.prefixes.misses) == (0, 2)


def test_tiny_beginnings_are_not_kept(decoder: Decoder):
    prefixes, kv = Prefixes(2**20), prompts_of("kv", decoder)[0]
    text = prompts_of("text", decoder)[0]
    assert prefixes.key(replace(text, shared=LEAST), None) is not None
    assert prefixes.key(replace(text, shared=LEAST - 1), None) is None
    assert prefixes.key(replace(text, shared=0), None) is None
    assert prefixes.key(replace(kv, shared=60), None) is not None, "40 positions before the given ones"
    few = replace(kv, ids=kv.ids[20:], positions=kv.positions[20:], shared=50)
    assert prefixes.key(few, None) is None, "30 positions are read, and 20 given"


def test_the_longest_unused_go_first_and_bytes_stay_under_the_limit():
    def held(kilobytes: int) -> Held:
        states = torch.zeros(1, kilobytes * 128, 1)
        return Held(((states, states.clone()),), weighted=False)

    draw, prefixes, sizes, order = random.Random(0), Prefixes(20 * 1024), {}, []
    for _ in range(400):
        key = str(draw.randrange(12))
        if prefixes.get(key) is not None:
            assert key in order
            order.remove(key)
        elif (size := draw.randrange(1, 24)) <= 20:
            assert key not in order
            sizes[key] = size
            prefixes.put(key, held(size))
        else:
            prefixes.put(key, held(size))
            continue
        order.append(key)
        while sum(sizes[kept] for kept in order) > 20:
            order.pop(0)
        assert prefixes.nbytes == 1024 * sum(sizes[kept] for kept in order)
