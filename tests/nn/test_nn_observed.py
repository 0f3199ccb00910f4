"""What attention sees is seen by the one who looks, whoever else reads with the decoder meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from preread.engines.local import LocalEngine
from preread.nn.cpu import FOLDED, require_weighted
from preread.nn.hf import Decoder
from preread.nn.observed import observe

IDS = torch.arange(5, 25)


def meanwhile(decoder: Decoder, other: Callable[[], object], work: Callable[[], object]) -> list[object]:
    """Do `work`, and `other` in another thread that begins when the decoder's last layer is about to read."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(other())
        except Exception as error:  # for the test to see
            found.append(error)

    thread = threading.Thread(target=run)

    def begin(*_: object) -> None:
        if thread.ident is None:
            thread.start()
            time.sleep(0.1)

    hook = decoder.model.base_model.layers[-1].register_forward_pre_hook(begin)
    try:
        found.insert(0, work())
    finally:
        hook.remove()
        thread.join(10)
    assert not thread.is_alive()
    return found


@pytest.mark.parametrize("another", [False, True])
def test_two_may_observe_at_the_same_time(tiny_decoder, another: bool):
    decoder = tiny_decoder()
    beside = tiny_decoder() if another else decoder  # of the same weights
    alone = observe(decoder, IDS), observe(beside, IDS.flip(0))
    together = meanwhile(decoder, lambda: observe(beside, IDS.flip(0)), lambda: observe(decoder, IDS))
    for seen, expected in zip(together, alone, strict=True):
        assert torch.equal(seen.queries, expected.queries)
        assert torch.equal(seen.keys, expected.keys)
        assert torch.equal(seen.values, expected.values)


def test_what_a_decoder_can_read_is_not_judged_by_what_stands_in_while_it_is_observed(tiny_decoder):
    decoder = tiny_decoder()
    _, refused = meanwhile(decoder, lambda: require_weighted(decoder), lambda: observe(decoder, IDS))
    assert refused is None


def test_an_engine_made_while_its_decoder_is_observed_is_as_quick_as_any(tiny_decoder):
    decoder = tiny_decoder()
    meanwhile(decoder, lambda: LocalEngine(decoder), lambda: observe(decoder, IDS))
    assert decoder.model.config._attn_implementation == FOLDED
