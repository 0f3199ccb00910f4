"""Rows that share a batch: whatever comes, goes, fails or is asked from another thread, each is as if it were alone."""

from __future__ import annotations

import gc
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from preread.core.errors import IntegrityError, ResourceError, UnsupportedModel, UsageError, WindowExceeded
from preread.core.types import MEMORY, KeyValues, Prompt, Sampling
from preread.engines.local import LocalEngine
from preread.nn.cache import SlotCache
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, LoraConfig

ADAPTERS = (None, "a", "b", "c")


def with_adapters(decoder: Decoder) -> Decoder:
    for seed, name in enumerate(ADAPTERS[1:], 1):
        add_adapter(decoder, name, seed)
    return decoder


def add_adapter(decoder: Decoder, name: str, seed: int) -> None:
    torch.manual_seed(seed)
    lora = Lora(LoraConfig(rank=2 + seed % 5, dropout=0.0), decoder.projections).eval()
    for b in lora.b.values():
        b.data.normal_(std=0.2)
    decoder.adapters.add(name, lora)


def ids_of(draw: random.Random, length: int) -> torch.Tensor:
    return torch.tensor([draw.randrange(3, 300) for _ in range(length)])


def text(draw: random.Random, longest: int = 90, **fields) -> Prompt:
    return Prompt(ids_of(draw, draw.randrange(1, longest)), **fields)


def embedded(decoder: Decoder, draw: random.Random, **fields) -> Prompt:
    before, rows, after = (draw.randrange(1, 40) for _ in range(3))
    ids = ids_of(draw, before + rows + after)
    ids[before : before + rows] = MEMORY
    return Prompt(ids, torch.randn(rows, decoder.width) * 0.3, **fields)


def given(decoder: Decoder, draw: random.Random, weighted: bool = True, lead: int = 20, **fields) -> Prompt:
    """Keys and values as reading some text leaves them, weighted, behind a few tokens and before some."""
    before, rows, after = draw.randrange(lead), draw.randrange(1, 40), draw.randrange(1, 20)
    cache, ids = decoder.cache(before + rows), ids_of(draw, before + rows + after)
    with torch.no_grad():
        decoder.hidden(decoder.embed(ids[: before + rows])[None], cache=cache)
    keys, values = (
        torch.stack([s[0, :, before:] for s in states])
        for states in ([layer.keys for layer in cache.layers], [layer.values for layer in cache.layers])
    )
    ids[before : before + rows] = MEMORY
    positions = torch.arange(len(ids))
    positions[before + rows :] += 50  # what was thinned keeps its room
    return Prompt(
        ids, kv=KeyValues(keys, values, torch.randn(keys.shape[:3]) * weighted), positions=positions, **fields
    )


def any_prompt(decoder: Decoder, draw: random.Random) -> Prompt:
    adapter = draw.choice(ADAPTERS)
    kind = draw.choice(["text", "embedded", "given", "unweighted"])
    if kind == "text":
        return text(draw, adapter=adapter)
    if kind == "embedded":
        return embedded(decoder, draw, adapter=adapter)
    return given(decoder, draw, kind == "given", adapter=adapter)


def any_sampling(draw: random.Random) -> Sampling:
    warm = draw.random() < 0.3
    return Sampling(draw.randrange(1, 25), temperature=0.9 * warm, top_k=draw.choice([0, 20]), seed=draw.randrange(99))


def alone(decoder: Decoder, prompt: Prompt, sampling: Sampling) -> tuple[str, int, str | None]:
    [event] = LocalEngine(decoder, prefix_bytes=0).complete([prompt], sampling)
    return event.text, event.tokens, event.finish


@pytest.fixture(params=["llama", "qwen2"], scope="module")
def decoder(request: pytest.FixtureRequest, tiny_decoder) -> Decoder:
    decoder = with_adapters(tiny_decoder(request.param))
    LocalEngine(decoder)  # attends as the engine does from the beginning
    return decoder


@pytest.fixture
def small_pieces(monkeypatch) -> None:
    monkeypatch.setattr("preread.engines.batch.PIECE", 16)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("seed", range(12))
def test_a_row_is_as_if_alone_whatever_comes_and_goes(decoder: Decoder, seed: int):
    """Prompts of every kind and adapter, submitted and cancelled at any moment, more than there are slots."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    engine = LocalEngine(decoder, rows_at_once=draw.choice([1, 2, 3, 8]))
    asked = []
    for _ in range(14):
        prompt, sampling = any_prompt(decoder, draw), any_sampling(draw)
        asked.append((engine.submit(prompt, sampling), prompt, sampling, draw.random() < 0.2))
        for _ in range(draw.randrange(6)):
            engine.step()
        for row, _, _, unlucky in asked:
            if unlucky and draw.random() < 0.3:
                engine.cancel(row)
    while engine.step():
        pass
    for row, prompt, sampling, _ in asked:
        assert row.error is None
        events = list(row.events)
        assert [event.finish for event in events[:-1]] == [None] * (len(events) - 1), "one end"
        written, expected = "".join(event.text for event in events), alone(decoder, prompt, sampling)
        if events[-1].finish == "cancelled":
            assert expected[0].startswith(written)
        else:
            assert (written, events[-1].tokens, events[-1].finish) == expected


@pytest.mark.usefixtures("small_pieces")
def test_threads_share_one_batch_and_each_gets_its_own(decoder: Decoder):
    draw = random.Random(5)
    engine, widest = LocalEngine(decoder, rows_at_once=4), []
    at = SlotCache.at
    calls = [[any_prompt(decoder, draw) for _ in range(draw.randrange(1, 4))] for _ in range(6)]

    def seen(cache, first, count=1):
        widest.append(count)
        at(cache, first, count)

    sampling = Sampling(max_tokens=12)
    expected = [[alone(decoder, prompt, sampling) for prompt in prompts] for prompts in calls]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(6) as pool:
        patch.setattr(SlotCache, "at", seen)
        got = list(pool.map(lambda prompts: engine.complete(prompts, sampling), calls))
    assert [[(e.text, e.tokens, e.finish) for e in events] for events in got] == expected
    assert max(widest) == 4


def test_a_long_prompt_does_not_hold_up_those_that_write(decoder: Decoder, monkeypatch):
    monkeypatch.setattr("preread.engines.batch.PIECE", 32)
    engine, draw = LocalEngine(decoder), random.Random(0)
    writing = engine.submit(Prompt(ids_of(draw, 8)), Sampling(max_tokens=60, repetition_penalty=5.0))
    engine.step()
    long = engine.submit(Prompt(ids_of(draw, 640)), Sampling(max_tokens=2))
    short = engine.submit(Prompt(ids_of(draw, 8)), Sampling(max_tokens=2))
    steps = 0
    while not long.events:
        engine.step()
        steps += 1
    assert steps == 2 * 640 // 32
    assert len(writing.events) == 1 + steps // 2
    assert not short.events, "prompts are read in the order they came"
    engine.step()
    engine.step()
    assert short.events


def test_a_cancelled_row_frees_its_slot_at_once(decoder: Decoder):
    engine, draw = LocalEngine(decoder, rows_at_once=1), random.Random(0)
    first, second = (engine.submit(Prompt(ids_of(draw, 8)), Sampling(max_tokens=50)) for _ in range(2))
    engine.step()
    assert engine._batch.waiting
    engine.cancel(first)
    assert first.finish == "cancelled"
    engine.step()
    assert second.events
    engine.cancel(second)
    assert not engine.step()
    assert engine._batch._cache is None, "with the last row its memory is free"


def test_closing_an_iterator_in_another_thread_frees_its_rows(decoder: Decoder):
    engine, draw = LocalEngine(decoder, rows_at_once=2), random.Random(0)
    mine = engine.generate([Prompt(ids_of(draw, 8))], Sampling(max_tokens=400, repetition_penalty=5.0))
    theirs = engine.generate([Prompt(ids_of(draw, 9))] * 3, Sampling(max_tokens=400, repetition_penalty=5.0))
    next(mine)
    next(theirs)
    assert len(engine._batch.rows) == 4
    thread = threading.Thread(target=theirs.close)
    thread.start()
    for _ in range(20):
        next(mine)
    thread.join(30)
    assert not thread.is_alive()
    assert len(engine._batch.rows) == 1
    del mine
    gc.collect()
    assert engine._batch.rows == []


def test_an_iterator_closed_in_the_midst_of_a_step_waits_for_nobody(decoder: Decoder, monkeypatch):
    """As the garbage collector may: the slot is free once the step is over, and nothing hangs."""
    engine, draw = LocalEngine(decoder), random.Random(0)
    other = engine.generate([Prompt(ids_of(draw, 8))], Sampling(max_tokens=50))
    next(other)
    hidden = Decoder.hidden

    def closing(*args, **kwargs):
        other.close()
        return hidden(*args, **kwargs)

    monkeypatch.setattr(Decoder, "hidden", closing)
    prompt = Prompt(ids_of(draw, 9))
    [event] = engine.complete([prompt], Sampling(max_tokens=8))
    monkeypatch.undo()
    assert (event.text, event.tokens, event.finish) == alone(decoder, prompt, Sampling(max_tokens=8))
    assert engine._batch.rows == []


def test_an_error_in_a_step_reaches_all_who_wait_and_the_next_question_is_answered(decoder: Decoder, monkeypatch):
    monkeypatch.setattr(Decoder, "end_ids", frozenset())
    engine, draw = LocalEngine(decoder), random.Random(0)
    prompts = [Prompt(ids_of(draw, 8)) for _ in range(3)]
    expected = alone(decoder, prompts[0], Sampling(max_tokens=8))
    hidden, started = Decoder.hidden, threading.Barrier(3)

    def failing(self, embeds, *args, **kwargs):
        if len(embeds) == 3:
            raise RuntimeError("the device is gone")
        return hidden(self, embeds, *args, **kwargs)

    def ask(prompt: Prompt) -> str:
        started.wait(10)
        with pytest.raises(RuntimeError, match="the device is gone"):
            engine.complete([prompt], Sampling(max_tokens=500, repetition_penalty=5.0))
        return "heard"

    with monkeypatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(Decoder, "hidden", failing)
        assert list(pool.map(ask, prompts)) == ["heard"] * 3
    [event] = engine.complete(prompts[:1], Sampling(max_tokens=8))
    assert (event.text, event.tokens, event.finish) == expected


@pytest.mark.parametrize("stage", ["reading", "memory", "drawing"])
def test_what_goes_wrong_with_one_row_stops_that_row_alone(decoder: Decoder, monkeypatch, stage: str):
    engine, draw = LocalEngine(decoder), random.Random(0)
    good, bad = Prompt(ids_of(draw, 8)), Prompt(ids_of(draw, 33))
    row = engine.submit(good, Sampling(max_tokens=12))
    engine.step()
    engine.step()
    broken = engine.submit(bad, Sampling(max_tokens=12))
    if stage == "drawing":
        broken.take = lambda _: 1 / 0
    with monkeypatch.context() as patch:
        if stage == "reading":
            patch.setattr(Decoder, "hidden", lambda *_, **__: 1 / 0)
        if stage == "memory":
            patch.setattr("preread.nn.cache.torch.empty", lambda *_, **__: exec("raise RuntimeError('no memory')"))
            patch.setattr("preread.engines.batch.ROUND", 4096)
        engine.step()
    assert isinstance(broken.error, ResourceError if stage == "memory" else ZeroDivisionError)
    while engine.step():
        pass
    assert "".join(event.text for event in row.events) == alone(decoder, good, Sampling(max_tokens=12))[0]


def test_an_interrupted_step_is_taken_again_by_the_others(decoder: Decoder, monkeypatch):
    """Ctrl-C in one thread: its rows end, those of others go on as if nothing had been."""
    engine, draw = LocalEngine(decoder), random.Random(0)
    mine, theirs = Prompt(ids_of(draw, 8)), Prompt(ids_of(draw, 19))
    row = engine.submit(theirs, Sampling(max_tokens=12))
    events = engine.generate([mine], Sampling(max_tokens=400))
    next(events)
    logits, calls = Decoder.logits, []

    def interrupted(self, states):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return logits(self, states)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "logits", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(events)
    assert [r is row for r in engine._batch.rows] == [True]
    while engine.step():
        pass
    assert "".join(event.text for event in row.events) == alone(decoder, theirs, Sampling(max_tokens=12))[0]


def test_an_adapter_that_goes_or_changes_does_not_touch_answers_in_the_making(tiny_decoder):
    decoder, draw = with_adapters(tiny_decoder()), random.Random(0)
    engine, prompt = LocalEngine(decoder), Prompt(ids_of(draw, 30), adapter="a", shared=0)
    old = alone(decoder, prompt, Sampling(max_tokens=10))
    replaced, removed = (engine.submit(prompt, Sampling(max_tokens=10)) for _ in range(2))
    engine.step()
    add_adapter(decoder, "a", 7)
    new = alone(decoder, prompt, Sampling(max_tokens=10))
    later = engine.submit(prompt, Sampling(max_tokens=10))
    engine.step()
    for name in ADAPTERS[1:]:
        decoder.adapters.remove(name)
    while engine.step():
        pass
    texts = ["".join(event.text for event in row.events) for row in (replaced, removed, later)]
    assert texts == [old[0], old[0], new[0]]
    assert old != new
    with pytest.raises(UsageError, match="none is"):
        engine.submit(prompt)


def test_given_keys_and_values_are_held_against_the_decoder(decoder: Decoder, tiny_decoder):
    engine, draw = LocalEngine(decoder), random.Random(0)
    good = given(decoder, draw)
    far = torch.arange(len(good)) + 2048 - len(good)
    with pytest.raises(WindowExceeded):
        engine.submit(Prompt(good.ids, kv=good.kv, positions=far), Sampling(max_tokens=1))
    for change in (
        {"keys": good.kv.keys * float("nan")},
        {"values": good.kv.values / 0},
        {"bias": good.kv.bias + float("inf")},
        {"keys": good.kv.keys[:, :, :, :-2]},
        {"keys": good.kv.keys[1:], "values": good.kv.values[1:], "bias": good.kv.bias[1:]},
    ):
        fields = {"keys": good.kv.keys, "values": good.kv.values, "bias": good.kv.bias, **change}
        with pytest.raises(IntegrityError):
            engine.submit(Prompt(good.ids, kv=KeyValues(**fields), positions=good.positions))
    ends = torch.cat([good.ids[good.ids != MEMORY], torch.full((len(good.kv),), MEMORY)])
    with pytest.raises(UsageError, match="at its end"):
        engine.submit(Prompt(ends, kv=good.kv))
    gemma = tiny_decoder("gemma")
    prompt = given(gemma, draw)
    with pytest.raises(UnsupportedModel, match="eager"):
        LocalEngine(gemma).submit(prompt)
