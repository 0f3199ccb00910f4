"""The full text past the decoder's window, by slower rotary frequencies and without training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

from preread.eval.answerer import Answerer, Layout
from preread.eval.answerers.plain import Full
from preread.eval.case import Case, Item, Stretch, Unit
from preread.eval.kit import Kit
from preread.eval.measuring import answer_room
from preread.nn.rope import RULES, Rule, stretched


@dataclass(frozen=True)
class Stretched(Full):
    """The whole context as plain text in a window that a rule of `preread.nn.rope` makes larger.

    Args:
        rule: name of the rule.
        factor: new window / old window; None takes the smallest whole number that prompt and answer need, which within
            the window is 1: the full text as it is.
    """

    rule: Literal["linear", "ntk", "yarn", "longrope"] = "yarn"
    factor: float | None = None
    kind: ClassVar[str] = "stretched"

    def __post_init__(self) -> None:
        self._rule(1)

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"full text, {self.rule}" + ("" if self.factor is None else f" x{self.factor:g}")

    def caveats(self, kit: Kit) -> tuple[str, ...]:  # noqa: ARG002
        """That nobody trained it for this."""
        return ("the window is stretched without training",)

    def plainly(self, kit: Kit, unit: Unit) -> tuple[Answerer, int]:
        """Where the unit fits the window as it is, the full text."""
        if self.factor not in (None, 1) or not isinstance(unit, Case):
            return self, 0
        with super().laid(kit, unit, unit.items) as plain:
            needed = max(map(len, plain.prompts), default=0) + answer_room(kit.decoder, unit.items)
        return (Full(), plain.stored_bytes) if needed <= kit.decoder.window else (self, 0)

    @contextmanager
    def laid(self, kit: Kit, case: Case, items: Sequence[Item], adapter: str | None = None) -> Iterator[Layout]:
        """As `Prompted.laid`."""
        with super().laid(kit, case, items, adapter) as plain:
            needed = max(map(len, plain.prompts), default=0) + answer_room(kit.decoder, items)
            with stretched(kit.decoder, self._rule(needed / kit.decoder.window)) as view:
                yield Layout(view, plain.prompts, plain.stored_bytes)

    @contextmanager
    def continued(self, kit: Kit, stretch: Stretch) -> Iterator[Layout]:
        """As `Prompted.continued`."""
        with super().continued(kit, stretch) as plain:
            needed = len(plain.prompts[0]) + len(stretch.target)
            with stretched(kit.decoder, self._rule(needed / kit.decoder.window)) as view:
                yield Layout(view, plain.prompts, plain.stored_bytes)

    def _rule(self, times: float) -> Rule:
        """The rule for a text that is so many times as long as the window."""
        return RULES[self.rule](max(1, math.ceil(times)) if self.factor is None else self.factor)
