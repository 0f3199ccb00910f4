"""Which lengths a window is judged at, and what they are held against."""

from __future__ import annotations

from dataclasses import dataclass

from preread.core.errors import UsageError
from preread.nn.hf import Decoder

QUARTER = 4
"""Of the length: what it is held against where nobody knows how far the model read before."""
SHORTEST = 64
"""Positions of a length that quarters can be made of."""


@dataclass(frozen=True, slots=True)
class Span:
    """From the window that a model had before to the length that is certified.

    Args:
        before: positions of the window that longer ones are held against; a multiple of four.
        length: positions that are certified.
        origin: how `before` is known.
    """

    before: int
    length: int
    origin: str

    @property
    def windows(self) -> list[int]:
        """`before`, doubled until it is `length`, with both ends."""
        doubled = (self.before << i for i in range(self.length.bit_length()))
        return [*(window for window in doubled if window < self.length), self.length]


def span(decoder: Decoder, base: Decoder | None = None, length: int | None = None) -> Span:
    """What is certified of a decoder.

    Args:
        decoder: whose window it is.
        base: the decoder that it was made of.
        length: positions to certify; None takes the whole window.

    Raises:
        UsageError: a length that the window does not have, or too short to be cut.
    """
    length = decoder.window if length is None else length
    if not SHORTEST <= length <= decoder.window:
        raise UsageError(
            expected=f"a length of {SHORTEST} to {decoder.window:,} positions, which {decoder.name} reads",
            got=f"{length:,}",
            consequence="Nothing was certified.",
            remedy="Change --length, or leave it out for the whole window.",
        )
    rope = getattr(decoder.model.config.get_text_config(), "rope_parameters", None) or {}
    known = [
        (base.window if base else None, "the window of the base"),
        (rope.get("original_max_position_embeddings"), "the window before its positions were stretched, by its config"),
    ]
    for window, origin in known:
        if window is not None and SHORTEST <= window < length:
            return Span(int(window) // 4 * 4, length, origin)
    return Span(length // QUARTER // 4 * 4, length, "a quarter of the length, as no shorter window of it is known")
