"""The same weights, adapters and tokenizer as another decoder: with a smaller window, or another name to memories."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from preread.core.errors import UsageError
from preread.nn.hf import Decoder


def view(decoder: Decoder, **changes: Any) -> Decoder:
    """A decoder that differs in some fields and shares everything else."""
    made = replace(decoder, **changes)
    # What belongs to the model and the tokenizer, whichever of the two is asked.
    vars(made).update({"adapters": decoder.adapters, "_tokenising": decoder._tokenising})
    return made


def within(decoder: Decoder, window: int) -> Decoder:
    """A view that reads no more than so many positions at once; what it makes of a text is what the decoder would.

    Raises:
        UsageError: the window would not shrink.
    """
    if not 0 < window <= decoder.window:
        raise UsageError(
            expected=f"a window of 1 to {decoder.window} positions, which {decoder.name} reads",
            got=str(window),
            consequence="Nothing was done.",
            remedy="Choose a smaller one or leave it out: a decoder reads no further for being opened so.",
        )
    return view(decoder, narrowed=window)
