"""Memory and text together: memories of the document, and the passages that are best for each question as plain text.

In as many positions as a memory alone or retrieved text alone takes, against which it is held.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, ClassVar

from preread.core.config import build
from preread.core.errors import BeyondTraining, UsageError
from preread.core.memory import Memory
from preread.core.method import Handle, expect_ratio
from preread.core.types import Passage
from preread.eval.answerer import Layout, Prompted
from preread.eval.answerers.memory import Remembered, stored_bytes, warn
from preread.eval.answerers.retrieved import Retrieved
from preread.eval.case import Case, Item
from preread.eval.kit import Kit
from preread.methods import METHODS
from preread.methods.text import Text


@dataclass(frozen=True)
class Hybrid(Prompted):
    """Reads memories of all passages, and text in the place of those that are best for an item, while a budget lasts.

    The last passage that fits in part is cut and keeps its memory, so that the budget is used to the last position.
    Where the memories alone take more than the budget, those of the best passages are read.

    Args:
        method: whose memories.
        settings: its own, such as `ratio`.
        ratio: of the budget: as many positions as a memory at that ratio takes, the text's tokens / ratio, rounded up.
        passages: the budget instead: as many positions as so many of the best passages take as text, as `ask` has it.

    Raises:
        UsageError: no such method or setting, no memories, or not one of the two budgets.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    ratio: float | None = None
    passages: int | None = None
    kind: ClassVar[str] = "hybrid"

    def __post_init__(self) -> None:
        if self.ratio is not None and self.passages is None:
            expect_ratio(self.ratio, "Choose 8 for one position in 8.")
        elif self.ratio is not None or self.passages is None or self.passages < 1:
            raise UsageError(
                expected="a ratio, or passages from 1 on, and not both",
                got=f"ratio {self.ratio}, passages {self.passages}",
                consequence="Nothing was judged.",
                remedy="Choose ratio: 8 for one position in 8, or passages: 5 for what five take as text.",
            )
        assert self.memory  # its settings are refused now, not when its turn comes
        if self.method == Text.name:
            raise UsageError("a method with memories", self.method, "Nothing was judged.", "Choose kv, lloco or cepe.")

    @property
    def memory(self) -> Remembered:
        """The same memories alone."""
        return Remembered(self.method, self.settings)

    @property
    def label(self) -> str:
        """As tables name it: `kv 16x + text, 8x in all`, `cepe moved 0 + text, 2 passages in all`."""
        size = f"{self.passages} passages" if self.ratio is None else f"{self.ratio:g}x"
        return f"{self.memory.label} + text, {size} in all"

    def key(self, kit: Kit) -> str:
        """The settings, and who makes the memories."""
        return f"{super().key(kit)} {self.memory.key(kit)}"

    def caveats(self, kit: Kit) -> tuple[str, ...]:
        """As memories alone have them."""
        return self.memory.caveats(kit)

    def trained_on(self, kit: Kit) -> frozenset[str]:
        """As of memories alone."""
        return self.memory.trained_on(kit)

    def ready(self, kit: Kit, until: float | None = None) -> bool:  # noqa: ARG002
        """Has the embedder loaded before anything is timed."""
        return kit.embedder is not None

    @contextmanager
    def laid(self, kit: Kit, case: Case, items: Sequence[Item], adapter: str | None = None) -> Iterator[Layout]:
        """As `Prompted.laid`."""
        passages = kit.passages(case.document)
        rankings = Retrieved().ranked(kit, case, items, len(passages))
        method = build(METHODS[self.method], self.settings)
        with method.attach(kit.decoder) as handle, Text().attach(kit.decoder) as text:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BeyondTraining)  # the handle's caveats say the same with numbers
                own = list(handle.encode(passages))
            warn(handle, own)
            read = [mixed(ranking, own, text, self._budget(ranking)) for ranking in rankings]
            prompts = [handle.prompt(item.question, one, adapter) for item, one in zip(items, read, strict=True)]
            yield Layout(kit.decoder, prompts, stored_bytes(own) + Retrieved().stored(kit, case.document))

    def _budget(self, ranking: Sequence[Passage]) -> int:
        """Positions for an item, all passages of the document being ranked for it."""
        tokens = sum(len(passage.ids) for passage in ranking[: self.passages])
        return ceil(tokens / (self.ratio or 1))


def mixed(ranking: Sequence[Passage], memories: Sequence[Memory], text: Handle, budget: int) -> list[Memory]:
    """What is read of a document, in its order: memories, and text of the best passages, in `budget` positions.

    Args:
        ranking: all passages of the document, best first.
        memories: of each passage, by its number.
        text: reads plain text.
        budget: positions.
    """
    read: dict[int, Memory] = {}
    left = budget
    for passage in ranking:
        if (memory := memories[passage.index]).positions <= left:
            read[passage.index], left = memory, left - memory.positions
    behind: Memory | None = None
    for passage in ranking:
        held = read[passage.index].positions if passage.index in read else 0
        if len(passage.ids) - held > left:
            cut = replace(passage, ids=passage.ids[:left])
            behind = next(iter(text.encode([cut]))) if left else None
            at = passage.index
            break
        [read[passage.index]] = text.encode([passage])
        left -= len(passage.ids) - held
    found = [(index, 0, memory) for index, memory in read.items()]
    if behind is not None:
        found.append((at, 1, behind))
    return [memory for *_, memory in sorted(found, key=lambda one: one[:2])]
