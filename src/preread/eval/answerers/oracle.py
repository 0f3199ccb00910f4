"""The passages that hold the answer, as far as a set says or its answers show: what a perfect retriever would read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from preread.core.types import Passage
from preread.eval.answerers.budgeted import Selected
from preread.eval.case import Case, Item
from preread.eval.kit import Kit
from preread.retrieval.relevance import stems


@dataclass(frozen=True)
class Oracle(Selected):
    """Reads the passages that overlap an item's evidence, those with most of it first, and no others.

    An item without evidence has the passages that hold its references: as in extractive oracles of summarisation
    (arXiv 1611.04230), each time the one that adds most of their words, until none adds any; of equals the
    one with most of the question's words. Without references either, the one with most of the question's words.
    """

    kind: ClassVar[str] = "oracle"

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"oracle{self.size}"

    def caveats(self, kit: Kit) -> tuple[str, ...]:  # noqa: ARG002
        """How it cheats."""
        return (
            "its passages are chosen by the set's evidence or, where a set names none, by the words of the reference "
            "answers",
        )

    def ranked(self, kit: Kit, case: Case, items: Sequence[Item], count: int) -> list[list[Passage]]:  # noqa: ARG002
        """As `Selected.ranked`."""
        passages = kit.passages(case.document, self.passage_tokens)
        words = [stems(passage.text) for passage in passages]
        return [
            _holding(passages, item.evidence) if item.evidence else _covering(passages, words, item) for item in items
        ]


def _holding(passages: Sequence[Passage], spans: Sequence[tuple[int, int]]) -> list[Passage]:
    """Passages with characters of the spans, those with most of them first."""

    def held(passage: Passage) -> int:
        return sum(max(0, min(passage.end, end) - max(passage.start, start)) for start, end in spans)

    return sorted((passage for passage in passages if held(passage)), key=lambda one: (-held(one), one.index))


def _covering(passages: Sequence[Passage], words: Sequence[frozenset[str]], item: Item) -> list[Passage]:
    """Passages that together have all of the references' words that any has."""
    asked = stems(item.query or item.question)
    wanted = frozenset().union(*map(stems, item.answers)) or asked
    chosen: list[Passage] = []
    while passages:
        best = max(range(len(passages)), key=lambda i: (len(words[i] & wanted), len(words[i] & asked), -i))
        if not words[best] & wanted:
            break
        chosen.append(passages[best])
        wanted -= words[best]
        if not item.answers:
            break
    return chosen
