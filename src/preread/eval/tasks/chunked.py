"""Perplexity of the last tokens behind far text in chunks, as CEPE measures it (arXiv 2402.16617, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from preread.eval.case import Stretch
from preread.eval.kit import Kit
from preread.eval.tasks.sets import drawn, expect
from preread.eval.tasks.texts import RunningText, Text, in_turn

CHUNK = 256
"""Tokens of a chunk of far text."""
JUDGED = 256
"""Tokens at the end that are judged."""


@dataclass(frozen=True)
class Chunked(RunningText):
    """The last 256 of `chunks` x 256 far tokens and `near` that stand in the decoder, all in one piece of a document.

    The paper's sizes are 8 x 256 + 2,048 (4K), 16 x 256 + 4,096 (8K), 112 x 256 + 4,096 (32K) and 496 x 256 + 4,096
    (128K). It takes the pieces one stride behind another from a document's beginning; here they are drawn all over it.

    Args:
        chunks: of far text.
        near: tokens in the decoder, those that are judged included.
        stretches: most of a document; no two are judged on the same token.
        earliest: tokens of a document before the first that may be judged ends. As large as the longest stretch of a
            recipe, it has all sizes judged on the same tokens.
    """

    chunks: int = 8
    near: int = 2_048
    stretches: int = 4
    earliest: int = 0
    kind: ClassVar[str] = "chunked"

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(0, chunks=self.chunks)
        expect(1, stretches=self.stretches)
        expect(JUDGED + 1, near=self.near)

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"{self.name}, last {JUDGED} of {self.chunks} x {CHUNK} + {self.near:,}"

    @property
    def total(self) -> int:
        """Tokens of a stretch."""
        return self.chunks * CHUNK + self.near

    @property
    def first(self) -> int:
        """Where in a document the first stretch ends."""
        return max(self.total, self.earliest)

    def units(self, kit: Kit) -> Sequence[Stretch]:
        """As `Task.units`."""
        return in_turn([self.cut(text) for text in self.texts(kit, self.first)])

    def cut(self, text: Text) -> Iterable[Stretch]:
        """The stretches of a document, drawn by its id and their places alone."""
        ends = range(self.first, len(text.ids) + 1, JUDGED)
        for place in drawn(text.id, len(ends), self.stretches):
            end = ends[place]
            near, target = end - self.near, end - JUDGED
            far = text.ids[end - self.total : near]
            yield Stretch(f"{text.id}:{end}", text.id, text.document, far, text.ids[near:target], text.ids[target:end])
