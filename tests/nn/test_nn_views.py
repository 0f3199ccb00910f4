"""A decoder that is opened narrower: the same weights and adapters, and less that it reads."""

from __future__ import annotations

import pytest
import torch

from preread.core.errors import UnsupportedModel, UsageError, WindowExceeded
from preread.core.types import Prompt, Sampling
from preread.engines.local import LocalEngine
from preread.nn.lora import Lora, LoraConfig
from preread.nn.rope import Yarn, stretched
from preread.nn.views import within


def prompt(decoder, length):
    return Prompt(torch.arange(length) % 50)


def test_a_narrower_decoder_refuses_what_the_whole_one_reads_and_answers_the_rest_alike(tiny_decoder):
    decoder = tiny_decoder("llama")
    narrow = within(decoder, 64)
    assert (narrow.window, narrow.fingerprint) == (64, decoder.fingerprint)
    assert decoder.window > 64, "the decoder itself stays as it is"
    short, long = Sampling(max_tokens=4), prompt(decoder, 61)
    LocalEngine(decoder).complete([long], short)
    with pytest.raises(WindowExceeded, match="64 positions"):
        LocalEngine(narrow).complete([long], short)
    fits = prompt(decoder, 60)
    [whole], [same] = (LocalEngine(one).complete([fits], short) for one in (decoder, narrow))
    assert whole.text == same.text


def test_both_have_the_same_adapters(tiny_decoder):
    decoder = tiny_decoder("llama")
    narrow = within(decoder, 64)
    narrow.adapters.add("one", Lora(LoraConfig(), narrow.projections))
    assert decoder.adapters is narrow.adapters
    decoder.adapters.remove("one")


def test_a_window_only_shrinks(tiny_decoder):
    decoder = tiny_decoder("llama")
    assert within(decoder, decoder.window).window == decoder.window
    for wrong in (0, -1, decoder.window + 1):
        with pytest.raises(UsageError, match=f"1 to {decoder.window}"):
            within(decoder, wrong)
    with pytest.raises(UsageError, match="1 to 64"):
        within(within(decoder, 64), 65)


def test_a_narrower_decoder_is_not_stretched(tiny_decoder):
    """It was trained for more than it reads, so that slower turns would only harm it."""
    with pytest.raises(UnsupportedModel, match="opened with 64"), stretched(within(tiny_decoder("llama"), 64), Yarn(2)):
        pass
