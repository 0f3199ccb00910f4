"""Full text past the window: within it nothing changes, past it nothing stays behind."""

from __future__ import annotations

import pytest
import torch

from preread.core.errors import UsageError
from preread.core.types import Document
from preread.eval.answerers.plain import Full
from preread.eval.answerers.stretched import Stretched
from preread.eval.case import Case, Item, Stretch, Unfit
from preread.nn.rope import RULES, stretched

ITEMS = (
    Item("1", "Who slept?", ("The keeper", "he")),
    Item("2", "Who slept in the house on the island where, and why?", ()),
)


def case(sentences: int) -> Case:
    return Case("c", Document("a", "a", "The keeper slept. The storm came at night. " * sentences), ITEMS)


@pytest.mark.parametrize("rule", RULES)
def test_within_the_window_it_is_the_full_text(kit, rule) -> None:
    assert Stretched(rule).respond(kit, case(8), 6) == Full().respond(kit, case(8), 6)
    stretch = Stretch("s", "s", "", tuple(range(3, 90)), (4, 5, 6), (7, 8))
    assert Stretched(rule).losses(kit, stretch).nats.equal(Full().losses(kit, stretch).nats)


@pytest.mark.parametrize("rule", RULES)
def test_past_the_window_it_takes_the_smallest_factor_and_leaves_nothing_behind(kit, rule) -> None:
    decoder, short, long = kit.decoder, case(8), case(220)
    window, before = decoder.window, Full().respond(kit, short, 6)
    with pytest.raises(Unfit):
        Full().respond(kit, long, 6)
    with Stretched(rule).laid(kit, long, ITEMS) as layout:
        assert window < max(map(len, layout.prompts)) < 2 * window == layout.decoder.window
    found = Stretched(rule).respond(kit, long, 6)
    assert found.responses[0].positions > window
    assert decoder.window == window
    assert Full().respond(kit, short, 6) == before


@pytest.mark.parametrize("rule", RULES)
def test_losses_past_the_window_are_those_of_the_stretched_decoder(kit, rule) -> None:
    ids = torch.randint(3, 390, (2500,), generator=torch.Generator().manual_seed(0))
    stretch = Stretch("s", "s", "", tuple(ids[:2400].tolist()), (), tuple(ids[2400:].tolist()))
    found = Stretched(rule).losses(kit, stretch)
    whole = torch.cat([kit.decoder.start_ids, ids])
    with stretched(kit.decoder, RULES[rule](2)) as view, torch.inference_mode():
        logits = view.logits(view.hidden(view.embed(whole)[None])[0, -101:-1])
    expected = torch.nn.functional.cross_entropy(logits, whole[-100:], reduction="none")
    torch.testing.assert_close(found.nats, expected, rtol=1e-4, atol=1e-4)


def test_a_factor_that_is_named_is_in_force_within_the_window_too(kit) -> None:
    yarn = Stretched("yarn", 4)
    assert yarn.label == "full text, yarn x4"
    with yarn.laid(kit, case(8), ITEMS) as layout:
        assert layout.decoder.window == 4 * 2048
    assert kit.decoder.window == 2048
    assert yarn.respond(kit, case(8), 0) != Full().respond(kit, case(8), 0)


def test_a_factor_that_is_too_small_is_unfit_and_one_below_one_refused(kit) -> None:
    with pytest.raises(Unfit):
        Stretched("ntk", 1.1).respond(kit, case(220), 6)
    with pytest.raises(UsageError, match="factor"):
        Stretched("ntk", 0.5)
