"""Perplexity by position: what a decoder makes of the text so far, from a document's beginning on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from preread.eval.answerer import Answerer
from preread.eval.case import Record, Stretch, Unit
from preread.eval.kit import Kit
from preread.eval.tasks.sets import expect
from preread.eval.tasks.texts import RunningText, Text, in_turn

FIRST = 256
"""End of the first bucket where their ends double."""


@dataclass(frozen=True)
class Positions(RunningText):
    """One pass over the first tokens of each document, with a record for each bucket of positions.

    All documents have all buckets, so that a step from one to the next is no change of texts. A bucket is named by its
    end: the token at index i, behind i others, is in the first whose end is above i.

    Args:
        length: tokens that are read of a document.
        every: positions of a bucket; None has their ends double, from 256 on.
    """

    length: int = 131_072
    every: int | None = None
    kind: ClassVar[str] = "positions"

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(2, length=self.length, every=self.every)

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"{self.name}, by position to {self.length:,}"

    @property
    def ends(self) -> Sequence[int]:
        """Where buckets end, the last of them at `length`."""
        if self.every is not None:
            return [*range(self.every, self.length, self.every), self.length]
        doubling = (FIRST << i for i in range(self.length.bit_length()))
        return [*(end for end in doubling if end < self.length), self.length]

    def units(self, kit: Kit) -> Sequence[Stretch]:
        """As `Task.units`."""
        return in_turn([self.cut(text) for text in self.texts(kit, self.length)])

    def cut(self, text: Text) -> Iterable[Stretch]:
        """The beginning of a document."""
        yield Stretch(text.id, text.id, text.document, (), text.ids[:1], text.ids[1 : self.length])

    def judge(self, kit: Kit, answerer: Answerer, unit: Unit) -> tuple[Iterable[Record], int]:
        """As `TextTask.judge`, a record a bucket."""
        assert isinstance(unit, Stretch), "a task of running text has stretches"
        found = answerer.losses(kit, unit)
        records = []
        for start, end in pairwise([1, *self.ends]):  # nothing tells the first token
            nats = found.nats[start - 1 : end - 1]
            scores, at = {"nll": float(nats.double().mean())}, (("position", float(end)),)
            records.append(Record(unit.source, f"{unit.id}:{end}", scores, len(nats), positions=found.positions, at=at))
        return records, found.stored_bytes
