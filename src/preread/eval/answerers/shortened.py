"""The text cut to a budget: its beginning, its beginning and end, or its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from preread.eval.answerer import Answerer, Layout
from preread.eval.answerers.budgeted import Budgeted, beside, beside_text
from preread.eval.answerers.plain import Full, text_lead, text_prompts
from preread.eval.case import Case, Item, Stretch, Unit
from preread.eval.kit import Kit

T = TypeVar("T")


@dataclass(frozen=True)
class Shortened(Budgeted):
    """Reads one or both ends of a text, all of it where the budget is as large.

    Of running text it shortens what is far; `last` is then the window slid along the text, the floor that a method with
    as many positions must clear.

    Args:
        keep: `head` the first tokens, `last` the last, `head+tail` half of the budget each.
    """

    keep: Literal["head", "head+tail", "last"] = "head"
    kind: ClassVar[str] = "shortened"

    @property
    def label(self) -> str:
        """As tables name it."""
        return self.keep + self.size

    def plainly(self, kit: Kit, unit: Unit) -> tuple[Answerer, int]:
        """Where the budget is as large as the unit's context, the full text."""
        if not isinstance(unit, Case):
            return self, 0
        tokens = len(kit.decoder.tokens(unit.document.text))
        whole = tokens <= self.limit(tokens, beside(kit.decoder, unit.items))
        return (Full(), len(unit.document.text.encode())) if whole else (self, 0)

    def short(self, ids: Sequence[T], limit: int) -> Sequence[T]:
        """At most `limit` of the ids, in order."""
        if len(ids) <= limit:
            return ids
        head = {"head": limit, "head+tail": limit - limit // 2, "last": 0}[self.keep]
        return [*ids[:head], *ids[len(ids) - (limit - head) :]]

    @contextmanager
    def laid(self, kit: Kit, case: Case, items: Sequence[Item], adapter: str | None = None) -> Iterator[Layout]:
        """As `Prompted.laid`."""
        ids = kit.decoder.tokens(case.document.text).tolist()
        read = self.short(ids, self.limit(len(ids), beside(kit.decoder, items)))
        kept = case.document.text if len(read) == len(ids) else kit.decoder.tokenizer.decode(read)
        yield Layout(kit.decoder, text_prompts(kit.decoder, read, items, adapter), len(kept.encode()))

    @contextmanager
    def continued(self, kit: Kit, stretch: Stretch) -> Iterator[Layout]:
        """As `Prompted.continued`."""
        read = self.short(stretch.far, self.limit(len(stretch.far), beside_text(kit.decoder, stretch)))
        yield Layout(kit.decoder, [text_lead(kit.decoder, (*read, *stretch.near))])
