"""StreamingLLM answers as the full text where all of it is held, and reads any length."""

from __future__ import annotations

import pytest
import torch

from preread.core.types import Document
from preread.eval.answerers.plain import Full, Nothing
from preread.eval.answerers.streaming import Streaming
from preread.eval.case import Case, Item, Stretch, Unfit

TALE = Document("a", "a", "The keeper of the lighthouse slept. In winter the storm reached the island at night. " * 4)
CASE = Case(
    "a",
    TALE,
    (
        Item("1", "Who slept?", ("The keeper", "he"), choices=("the keeper", "the storm"), gold=0),
        Item("2", "Who?", ("nobody knows at all",)),
        Item("3", "Who slept where, and why?", ()),
    ),
)


def stretch_of(decoder, far, near, target):
    ids = tuple(decoder.tokens(TALE.text * 40).tolist()[: far + near + target])
    return Stretch("s", "a", "h", ids[:far], ids[far : far + near], ids[far + near :])


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_with_room_for_everything_it_is_the_full_text(tiny_decoder, kit_of, family):
    kit = kit_of(tiny_decoder(family))
    streamed, full = (one.respond(kit, CASE, 12) for one in (Streaming(4, 1500), Full()))
    for a, b in zip(streamed.responses, full.responses, strict=True):
        assert (a.answer, a.written, a.positions) == (b.answer, b.written, b.positions)
        for one, other in zip((*a.references, *a.choices), (*b.references, *b.choices), strict=True):
            assert one.tokens == other.tokens
            assert one.nats == pytest.approx(other.nats, abs=2e-3)
    stretch = stretch_of(kit.decoder, 60, 20, 30)
    mine, theirs = (one.losses(kit, stretch) for one in (Streaming(4, 1500), Full()))
    torch.testing.assert_close(mine.nats, theirs.nats, atol=1e-4, rtol=1e-4)
    assert mine.positions == theirs.positions


def test_what_is_shared_is_read_once_and_changes_nothing(tiny_decoder, kit_of):
    kit = kit_of(tiny_decoder("llama"))
    answerer = Streaming(4, 30)
    together = answerer.respond(kit, CASE, 8).responses
    alone = [answerer.respond(kit, Case("a", TALE, (item,)), 8).responses[0] for item in CASE.items]
    for a, b in zip(together, alone, strict=True):
        assert a.answer == b.answer
        assert [one.nats for one in a.references] == pytest.approx([one.nats for one in b.references], abs=1e-4)
    assert all(response.positions == 34 for response in together)


def test_any_length_is_read_in_the_same_room(tiny_decoder, kit_of):
    kit = kit_of(tiny_decoder("llama"))
    long = stretch_of(kit.decoder, 2500, 20, 10)
    with pytest.raises(Unfit):
        Full().losses(kit, long)
    found = Streaming(4, 60).losses(kit, long)
    assert found.nats.shape == (10,)
    assert found.nats.isfinite().all()
    assert found.positions == 65
    assert found.stored_bytes == Streaming(4, 60).losses(kit, stretch_of(kit.decoder, 100, 20, 10)).stored_bytes
    assert not torch.equal(found.nats, Nothing().losses(kit, long).nats)


def test_labels_say_the_room():
    assert Streaming().label == "StreamingLLM 4+2044"
