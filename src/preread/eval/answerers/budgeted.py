"""Answerers that read a part of the text: how much of it, and passages of it, the same for all of them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from preread.core.errors import UsageError
from preread.core.method import expect_ratio
from preread.core.types import Document, Passage
from preread.eval.answerer import Layout, Prompted
from preread.eval.answerers.plain import text_prompts
from preread.eval.case import Case, Item, Stretch
from preread.eval.kit import PASSAGE_TOKENS, Kit
from preread.eval.measuring import answer_room
from preread.nn.hf import Decoder


@dataclass(frozen=True)
class Budgeted(Prompted):
    """Reads no more of a text than a budget; of the two at most one, with neither all that the window leaves free.

    Args:
        positions: of the decoder, for context.
        ratio: as many positions as a memory at that ratio takes: the text's tokens / ratio, rounded up.

    Raises:
        UsageError: both, or a budget that nothing could be read with.
    """

    positions: int | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None:
            expect_ratio(self.ratio, "Choose 16 for one position in 16.")
        if self.positions is not None and (self.positions < 1 or self.ratio is not None):
            raise UsageError(
                expected="a budget of at least one position, or a ratio",
                got=f"{self.positions} positions" + ("" if self.ratio is None else f" and ratio {self.ratio:g}"),
                consequence="Nothing was judged.",
                remedy="Correct it in the recipe.",
            )

    @property
    def size(self) -> str:
        """The budget as labels say it, behind a space; nothing for the window."""
        if self.positions is not None:
            return f" {self.positions}"
        return "" if self.ratio is None else f" {self.ratio:g}x"

    def limit(self, tokens: int, free: int) -> int:
        """Positions of context that may be read.

        Args:
            tokens: of the whole text.
            free: what the window leaves.
        """
        if self.positions is not None:
            return self.positions
        return max(0, free) if self.ratio is None else math.ceil(tokens / self.ratio)


def beside(decoder: Decoder, items: Sequence[Item]) -> int:
    """Positions that the window leaves for context beside the longest of the questions and its answer."""
    framed = (decoder.frame(item.question, [torch.empty(0, dtype=torch.int64)])[0] for item in items)
    return decoder.window - max(map(len, framed), default=0) - answer_room(decoder, items)


def beside_text(decoder: Decoder, stretch: Stretch) -> int:
    """Positions that the window leaves for far text beside what stands in it anyway."""
    return decoder.window - len(decoder.start_ids) - len(stretch.near) - len(stretch.target)


@dataclass(frozen=True)
class Selected(Budgeted):
    """Reads the passages that are best for each item, in the order of the document.

    Args:
        passages: how many, instead of a budget of positions.
        passage_tokens: of each, at most.

    Raises:
        UsageError: as `Budgeted`, or passages and a budget of positions.
    """

    passages: int | None = None
    passage_tokens: int = PASSAGE_TOKENS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passages is not None and (self.passages < 1 or self.positions or self.ratio):
            raise UsageError(
                expected="one passage or more, or another budget",
                got=f"{self.passages} passages" + (f" and{super().size}" if super().size else ""),
                consequence="Nothing was judged.",
                remedy="Correct it in the recipe.",
            )

    @property
    def size(self) -> str:
        """As `Budgeted.size`."""
        return super().size if self.passages is None else f" {self.passages} x {self.passage_tokens}"

    def limit(self, tokens: int, free: int) -> int:
        """As `Budgeted.limit`."""
        return super().limit(tokens, free) if self.passages is None else self.passages * self.passage_tokens

    @abstractmethod
    def ranked(self, kit: Kit, case: Case, items: Sequence[Item], count: int) -> Iterable[Sequence[Passage]]:
        """For each item passages of `kit.passages(case.document, self.passage_tokens)`, best first; any number.

        Args:
            kit: the run's.
            case: whose document is read.
            items: what is asked.
            count: how many will be read, about.
        """

    def stored(self, kit: Kit, document: Document) -> int:  # noqa: ARG002 for those that keep more than the text
        """Bytes that are kept of a document."""
        return len(document.text.encode())

    @contextmanager
    def laid(self, kit: Kit, case: Case, items: Sequence[Item], adapter: str | None = None) -> Iterator[Layout]:
        """As `Prompted.laid`."""
        tokens = sum(len(passage.ids) for passage in kit.passages(case.document, self.passage_tokens))
        limit = self.limit(tokens, beside(kit.decoder, items))
        rankings = self.ranked(kit, case, items, math.ceil(limit / self.passage_tokens))
        prompts = [
            text_prompts(kit.decoder, self.read(ranking, limit), [item], adapter)[0]
            for item, ranking in zip(items, rankings, strict=True)
        ]
        yield Layout(kit.decoder, prompts, self.stored(kit, case.document))

    def read(self, ranking: Sequence[Passage], limit: int) -> list[int]:
        """Token ids of the best passages in the order of the document; the last that fits in part is cut."""
        kept: list[tuple[int, tuple[int, ...]]] = []
        for passage in ranking[: self.passages]:
            kept.append((passage.index, passage.ids[:limit]))
            limit -= len(kept[-1][1])
        return [token for _, ids in sorted(kept) for token in ids]
