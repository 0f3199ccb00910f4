"""Perplexity in sliding windows, as LongLoRA measures it (arXiv 2309.12307, section 4.1), and corrected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from preread.eval.case import Stretch
from preread.eval.kit import Kit
from preread.eval.tasks.sets import expect
from preread.eval.tasks.texts import RunningText, Text, in_turn


@dataclass(frozen=True)
class Sliding(RunningText):
    """Windows of one length that begin every `stride` tokens, each a stretch that is all `near`.

    `paper` counts every token of a window but its first: all but the outermost are counted length / stride times, and
    most behind far less text than a window holds. `corrected` counts the last `stride` tokens of each: none twice,
    each behind at least length - stride tokens. (What stands before those in a document's first window is not counted,
    as no window of this length would show it.)

    Windows stay inside documents; the paper's run over the documents joined.

    Args:
        length: tokens of a window.
        count: which of its tokens are judged.
        stride: tokens from a window's end to the next one's.
        windows: most of a document, evenly over it; None takes all.
        earliest: tokens of a document before the first window's end. As large as the longest window of a recipe, it
            has all lengths judged on the same tokens.
    """

    length: int = 2_048
    count: Literal["corrected", "paper"] = "corrected"
    stride: int = 256
    windows: int | None = None
    earliest: int = 0
    kind: ClassVar[str] = "sliding"

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(1, stride=self.stride, windows=self.windows)
        expect(self.stride + 1, length=self.length)

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"{self.name}, sliding {self.length:,} ({self.count})"

    @property
    def note(self) -> str:
        """Which tokens count."""
        counted = f"the last {self.stride}" if self.count == "corrected" else "all"
        return f"Sliding windows of {self.length:,} tokens every {self.stride}; {counted} of each are judged."

    @property
    def first(self) -> int:
        """Where in a document the first window ends."""
        return max(self.length, self.earliest)

    def units(self, kit: Kit) -> Sequence[Stretch]:
        """As `Task.units`."""
        return in_turn([self.cut(text) for text in self.texts(kit, self.first)])

    def cut(self, text: Text) -> Iterable[Stretch]:
        """The windows of a document."""
        ends = range(self.first, len(text.ids) + 1, self.stride)
        judged = self.stride if self.count == "corrected" else self.length - 1
        for pick in np.linspace(0, len(ends) - 1, min(self.windows or len(ends), len(ends))).round().astype(int):
            end = ends[pick]
            window = text.ids[end - self.length : end]
            yield Stretch(f"{text.id}:{end}", text.id, text.document, (), window[:-judged], window[-judged:])
