"""One batch under several adapters against each row alone under its own."""

from __future__ import annotations

import threading

import pytest
import torch

from preread.nn.lora import Lora, LoraConfig


def adapter(decoder, seed: int, **config) -> Lora:
    torch.manual_seed(seed)
    lora = Lora(LoraConfig(**{"rank": 4, "alpha": 8.0, **config}), decoder.projections).eval()
    for b in lora.b.values():
        torch.nn.init.normal_(b, std=0.2)
    return lora


@pytest.fixture
def decoder(tiny_decoder):
    decoder = tiny_decoder("qwen2")
    decoder.adapters.add("a", adapter(decoder, 1))
    decoder.adapters.add("wide", adapter(decoder, 2, rank=7, alpha=3.0))
    decoder.adapters.add("q only", adapter(decoder, 3, rank=1, targets=("q_proj",)))
    return decoder


def states(decoder, rows: int = 5) -> torch.Tensor:
    return decoder.embed(torch.arange(3, 3 + rows * 9).reshape(rows, 9))


def loras(decoder, names):
    return [None if name is None else decoder.adapters[name] for name in names]


@pytest.mark.parametrize(
    "names",
    [
        ["a", None, "wide", "q only", "a"],
        ["wide", "wide", None, None, "wide"],
        ["q only", "a", "a", "a", "q only"],
        ["a"] * 5,
        [None] * 5,
    ],
)
@torch.inference_mode()
def test_each_row_has_its_own_adapter(decoder, names):
    embeds = states(decoder)
    with decoder.adapters.use_rows(loras(decoder, names)):
        together = decoder.hidden(embeds)
    for row, name in enumerate(names):
        with decoder.adapters.use(name):
            torch.testing.assert_close(together[row], decoder.hidden(embeds[row : row + 1])[0], atol=1e-5, rtol=0)
    bare = decoder.hidden(embeds)
    for row, name in enumerate(names):
        assert torch.allclose(together[row], bare[row], atol=1e-3) == (name is None)


@torch.inference_mode()
def test_a_broken_adapter_is_its_own_rows_affair(decoder):
    broken = adapter(decoder, 4)
    for a in broken.a.values():
        a.data.fill_(float("inf"))
    embeds = states(decoder, 2)
    with decoder.adapters.use_rows([broken, decoder.adapters["a"]]):
        together = decoder.hidden(embeds)
    with decoder.adapters.use("a"):
        torch.testing.assert_close(together[1:], decoder.hidden(embeds[1:]), atol=1e-5, rtol=0)
    assert not together[0].isfinite().all()


@torch.inference_mode()
def test_a_row_keeps_the_adapter_it_began_with(decoder):
    embeds, first = states(decoder, 1), decoder.adapters["a"]
    with decoder.adapters.use("a"):
        expected = decoder.hidden(embeds)
    decoder.adapters.add("a", adapter(decoder, 9))
    with decoder.adapters.use_rows([first]):
        torch.testing.assert_close(decoder.hidden(embeds), expected, atol=1e-5, rtol=0)
    for name in list(decoder.adapters):
        decoder.adapters.remove(name)
    assert not any(module._forward_hooks for module in decoder.model.modules())
    with decoder.adapters.use_rows([first]):
        torch.testing.assert_close(decoder.hidden(embeds), expected, atol=1e-5, rtol=0)
    assert not any(module._forward_hooks for module in decoder.model.modules())


def test_numbers_that_changed_are_never_served_from_before(decoder):
    lora, embeds = decoder.adapters["a"], states(decoder, 1)

    def under_rows():
        with torch.inference_mode(), decoder.adapters.use_rows([lora]):
            return decoder.hidden(embeds)

    before, version = under_rows(), lora.version
    optimizer = torch.optim.AdamW(lora.parameters(), lr=0.05)
    with decoder.adapters.use("a"):
        decoder.hidden(embeds).pow(3).sum().backward()
    optimizer.step()
    assert lora.version != version
    with torch.inference_mode(), decoder.adapters.use("a"):
        expected = decoder.hidden(embeds)
    torch.testing.assert_close(under_rows(), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(before, expected, atol=1e-3)


def test_who_changes_adapters_waits_for_those_at_work(decoder):
    removed = threading.Event()

    def remove() -> None:
        decoder.adapters.remove("a")
        removed.set()

    with decoder.adapters.use_rows([decoder.adapters["a"]]):
        thread = threading.Thread(target=remove)
        thread.start()
        assert not removed.wait(0.1)
    thread.join(10)
    assert removed.is_set()
    assert "a" not in decoder.adapters
