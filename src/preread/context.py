"""What a prompt will hold: all of a document where it fits, else its best passages; and what must be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from preread.core.errors import WindowExceeded
from preread.core.memory import Memory
from preread.core.types import Hit, Passage
from preread.memories import Memories

Mode = Literal["document", "passages"]
MOST_PASSAGES = 200
"""Passages that a fall-back looks at."""


@dataclass(frozen=True, slots=True)
class Context:
    """What is read.

    Args:
        memories: in reading order.
        hits: the passages among them that the retriever found, best first.
        notes: what was left out.
    """

    memories: list[Memory]
    hits: list[Hit]
    notes: list[str]

    @property
    def sources(self) -> set[str]:
        """The documents that they are of."""
        return {hit.source for hit in self.hits}


def whole_document(memories: Memories, passages: Sequence[Passage]) -> list[Memory]:
    """All of a document, given its passages in order."""
    return memories.load(passages, "document" if "document" in memories.handle.scopes else "passage")


def positions(memories: Sequence[Memory]) -> int:
    """Positions of the decoder that some memories take together."""
    return sum(memory.positions for memory in memories)


def best_passages(memories: Memories, hits: Sequence[Hit], room: int) -> Context:
    """The best passages that fit into `room` positions, in the order of their documents.

    Raises:
        WindowExceeded: not one fits.
    """
    kept: list[tuple[Hit, Memory]] = []
    notes: list[str] = []
    used = 0
    for hit, memory in zip(hits, memories.load([hit.passage for hit in hits]), strict=True):
        if used + memory.positions > room:
            notes.append(f"only {len(kept)} of {len(hits)} passages fit the decoder's window")
            break
        used += memory.positions
        kept.append((hit, memory))
    if not kept:
        raise WindowExceeded(
            expected="room for one passage beside the question and the answer",
            got=f"{max(0, room)} positions, and none of {len(hits)} passages takes fewer",
            consequence="Nothing was asked.",
            remedy="Ask a shorter question, or write fewer tokens (--max-tokens).",
        )
    in_order = sorted(kept, key=lambda pair: (pair[0].source, pair[0].passage.index))
    return Context([memory for _, memory in in_order], [hit for hit, _ in kept], notes)
