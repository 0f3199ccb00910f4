"""The torch engine against `model.generate`, and every row against itself alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from preread.core.errors import EngineMismatch, IntegrityError, UsageError, WindowExceeded
from preread.core.types import MEMORY, Prompt, Sampling
from preread.engines.base import Engine, check
from preread.engines.local import LocalEngine
from preread.engines.stream import HALF
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, LoraConfig

FAMILIES = ["llama", "qwen2", "gemma"]


def text_prompt(length: int, seed: int = 0, adapter: str | None = None) -> Prompt:
    draw = torch.Generator().manual_seed(seed)
    return Prompt(torch.randint(3, 300, (length,), generator=draw), adapter=adapter)


def memory_prompt(decoder: Decoder, before: int, vectors: int, after: int, seed: int = 0) -> Prompt:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 300, (before + vectors + after,), generator=draw)
    ids[before : before + vectors] = MEMORY
    return Prompt(ids, torch.randn(vectors, decoder.width, generator=draw) * 0.3)


def add_adapter(decoder: Decoder, name: str, seed: int) -> None:
    torch.manual_seed(seed)
    lora = decoder.adapters.add(name, Lora(LoraConfig(rank=4, dropout=0.0), decoder.adapters.layers).eval())
    for b in lora.b.values():
        b.data.normal_(std=0.3)


class Recorder(LocalEngine):
    """Keeps the logits of every step of every row, so that rows can be compared before anything is rounded to text."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        self.seen: dict[int, list[torch.Tensor]] = {}

    def _row(self, *args):
        row = super()._row(*args)
        seen, take = self.seen.setdefault(id(row.prompt), []), row.take

        def record(logits):
            seen.append(logits.clone())
            take(logits)

        row.take = record
        return row


def logits_of(engine: Recorder, prompts: Sequence[Prompt], sampling) -> list[torch.Tensor]:
    engine.seen.clear()
    engine.complete(prompts, sampling)
    return [torch.stack(engine.seen[id(prompt)]) for prompt in prompts]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_that_of_generate(tiny_decoder, family: str):
    decoder = tiny_decoder(family)
    prompt = text_prompt(40)
    [written] = LocalEngine(decoder).complete([prompt], Sampling(max_tokens=30))
    theirs = decoder.model.generate(
        prompt.ids[None], attention_mask=torch.ones(1, 40), max_new_tokens=30, do_sample=False
    )[0, 40:]
    assert written.text == decoder.tokenizer.decode(theirs, skip_special_tokens=True).rstrip(HALF)
    ended = bool(torch.isin(theirs, torch.tensor(sorted(decoder.end_ids))).any())
    assert (written.tokens, written.finish) == ((len(theirs) - 1, "stop") if ended else (30, "length"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_its_neighbours(tiny_decoder, family: str):
    decoder = tiny_decoder(family)
    prompts = [text_prompt(7, 1), memory_prompt(decoder, 4, 20, 9, 2), text_prompt(60, 3), text_prompt(1, 4)]
    # Rows leave at different times, the longest of them first.
    sampling = [Sampling(max_tokens=n, temperature=t, seed=5) for n, t in ((30, 0), (12, 0.8), (5, 0), (20, 1.0))]
    engine = Recorder(decoder)
    together = logits_of(engine, prompts, sampling)
    texts = [event.text for event in engine.complete(prompts, sampling)]
    for i, prompt in enumerate(prompts):
        alone = logits_of(engine, [prompt], sampling[i])[0]
        torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=0)
        assert engine.complete([prompt], sampling[i])[0].text == texts[i]


def test_more_rows_than_a_batch_holds_are_all_written(tiny_decoder):
    decoder = tiny_decoder()
    prompts = [text_prompt(5 + i, i) for i in range(5)]
    few, many = LocalEngine(decoder, rows_at_once=2), LocalEngine(decoder, rows_at_once=5)
    texts = [[e.text for e in engine.complete(prompts, Sampling(max_tokens=6))] for engine in (few, many)]
    assert texts[0] == texts[1]


def test_embeddings_of_tokens_read_like_the_tokens(tiny_decoder):
    decoder = tiny_decoder("gemma")
    plain = text_prompt(12)
    mixed = Prompt(plain.ids.clone().index_fill_(0, torch.arange(3, 8), MEMORY), decoder.embed(plain.ids[3:8]))
    engine = Recorder(decoder)
    a, b = logits_of(engine, [plain, mixed], Sampling(max_tokens=8))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_rows_of_one_call_may_use_different_adapters(tiny_decoder):
    decoder = tiny_decoder()
    add_adapter(decoder, "a", 1)
    add_adapter(decoder, "b", 2)
    engine = Recorder(decoder)
    prompts = [text_prompt(9, adapter=name) for name in ("a", None, "b", "a")]
    together = logits_of(engine, prompts, Sampling(max_tokens=6))
    torch.testing.assert_close(together[0], together[3], atol=1e-5, rtol=0)
    assert not torch.allclose(together[0][0], together[1][0], atol=1e-2)
    assert not torch.allclose(together[0][0], together[2][0], atol=1e-2)
    bare = decoder.logits(decoder.hidden(decoder.embed(prompts[1].ids)[None])[:, -1])[0]
    torch.testing.assert_close(together[1][0], bare, atol=1e-5, rtol=0)


def test_between_tokens_the_decoder_is_bare(tiny_decoder):
    decoder = tiny_decoder()
    add_adapter(decoder, "a", 1)
    embeds = decoder.embed(torch.arange(3, 9))[None]
    before = decoder.hidden(embeds)
    for _ in LocalEngine(decoder).generate([text_prompt(9, adapter="a")], Sampling(max_tokens=3)):
        assert not torch.is_inference_mode_enabled()
        torch.testing.assert_close(decoder.hidden(embeds), before, atol=0, rtol=0)


def test_a_stop_string_ends_the_text_before_it(tiny_decoder):
    engine, prompt = LocalEngine(tiny_decoder()), text_prompt(20, 6)
    whole = engine.complete([prompt], Sampling(max_tokens=24))[0].text
    middle = len(whole) // 2
    stop = whole[middle : middle + 6]
    assert len(stop) == 6
    events = list(engine.generate([prompt], Sampling(max_tokens=24, stop=(stop,))))
    text = "".join(event.text for event in events)
    assert text == whole[: whole.index(stop)]
    assert [event.finish for event in events] == [None] * (len(events) - 1) + ["stop"]
    assert events[-1].tokens < 24


def test_text_held_back_for_a_stop_comes_when_the_limit_ends_it(tiny_decoder):
    engine, prompt = LocalEngine(tiny_decoder()), text_prompt(20, 6)
    whole = engine.complete([prompt], Sampling(max_tokens=10))[0].text
    stop = whole[-3:] + "\u2603 never written"
    written = engine.complete([prompt], Sampling(max_tokens=10, stop=(stop,)))[0]
    assert (written.text, written.finish) == (whole, "length")


def test_cancelling_stops_every_row_between_tokens(tiny_decoder):
    engine, seen = LocalEngine(tiny_decoder()), []
    prompts = [text_prompt(8, 1), text_prompt(9, 2)]
    seen.extend(engine.generate(prompts, Sampling(max_tokens=50), cancelled=lambda: len(seen) >= 6))
    last = [[e for e in seen if e.row == row][-1] for row in (0, 1)]
    assert [e.finish for e in last] == ["cancelled", "cancelled"]
    assert [e.tokens for e in last] == [3, 3]


def test_closing_the_iterator_stops_the_work(tiny_decoder):
    engine = Recorder(tiny_decoder())
    prompt = text_prompt(8)
    events = engine.generate([prompt], Sampling(max_tokens=50))
    for _ in range(3):
        next(events)
    events.close()
    assert len(engine.seen[id(prompt)]) == 3


def test_times_are_seconds_since_the_call(tiny_decoder):
    events = list(LocalEngine(tiny_decoder()).generate([text_prompt(300)], Sampling(max_tokens=8)))
    assert events[0].first_token_s > 0
    assert events[0].per_token_s == 0
    assert len({event.first_token_s for event in events}) == 1
    assert events[-1].per_token_s > 0


def test_what_cannot_be_done_is_refused_before_any_work(tiny_decoder):
    decoder = tiny_decoder()
    engine = Recorder(decoder)
    good = text_prompt(5)
    with pytest.raises(WindowExceeded, match="2049"):
        engine.generate([good, text_prompt(2000)], [Sampling(), Sampling(max_tokens=49)])
    with pytest.raises(UsageError, match="nobody"):
        engine.generate([good, text_prompt(5, adapter="nobody")])
    with pytest.raises(UsageError, match="one sampling for each"):
        engine.generate([good], [])
    with pytest.raises(UsageError, match="empty"):
        engine.generate([good, Prompt(torch.tensor([], dtype=torch.int64))])
    broken = Prompt(torch.tensor([MEMORY, 5]), torch.full((1, decoder.width), float("nan")))
    with pytest.raises(IntegrityError):
        engine.generate([good, broken])
    assert not any(engine.seen.values())
    assert engine.complete([]) == []


def test_the_whole_window_can_be_used(tiny_decoder):
    [written] = LocalEngine(tiny_decoder()).complete([text_prompt(2040, 3)], Sampling(max_tokens=8))
    assert written.tokens == 8 or written.finish == "stop"


class IdsOnly(Engine):
    name, accepts = "plain", frozenset({"ids"})

    def generate(self, prompts, sampling=None, cancelled=lambda: False):
        yield from ()


def test_a_mismatch_names_an_engine_that_would_do():
    check(frozenset({"ids"}), IdsOnly())
    with pytest.raises(EngineMismatch, match=r"plain, which does not accept embeds\..*Use the engine local"):
        check(frozenset({"ids", "embeds"}), IdsOnly())
    with pytest.raises(EngineMismatch, match="choose another method"):
        check(frozenset({"ids", "pictures"}), IdsOnly())
