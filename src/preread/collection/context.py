"""What a prompt will hold: all of a document where it fits, else its best passages; and what must be said of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from preread.collection.as_text import Place, place
from preread.collection.memories import Memories
from preread.core.errors import WindowExceeded
from preread.core.memory import Memory
from preread.core.types import Hit, Passage

Mode = Literal["document", "passages", "hybrid"]
MOST_PASSAGES = 200
"""Passages that a fall-back looks at."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one memory stands for: passages of one document, in order."""

    source: str
    passages: Sequence[Passage]
    memory: Memory


@dataclass(frozen=True, slots=True)
class Context:
    """What is read.

    Args:
        memories: in reading order; some may be plain text.
        hits: the passages among them that the retriever found, best first.
        read: every passage that the memories stand for, by source.
        text: those of them that are read as plain text, by source.
        positions: positions that they take, by source.
        notes: what was left out.
    """

    memories: list[Memory]
    hits: list[Hit]
    read: Mapping[str, Sequence[Passage]]
    text: Mapping[str, Sequence[Passage]]
    positions: Mapping[str, int]
    notes: list[str]


def whole_document(memories: Memories, passages: Sequence[Passage]) -> list[Memory]:
    """All of a document, given its passages in order."""
    return memories.load(passages, "document" if "document" in memories.handle.scopes else "passage")


def positions(memories: Iterable[Memory]) -> int:
    """Positions of the decoder that some memories take together."""
    return sum(memory.positions for memory in memories)


def of_document(
    source: str, passages: Sequence[Passage], memories: Sequence[Memory], texts: Mapping[Place, Memory]
) -> list[Piece]:
    """All of a document, with some passages as text: in the place of their memories, or behind one undivided memory.

    Args:
        source: of the document.
        passages: all of it, in order.
        memories: as `whole_document` gives them.
        texts: plain text of the passages that stay text.
    """
    if memories[0].scope == "document":
        stay = [Piece(source, [passage], texts[place(passage)]) for passage in passages if place(passage) in texts]
        return [Piece(source, passages, memories[0]), *stay]
    return [
        Piece(source, [passage], texts.get(place(passage), memory))
        for passage, memory in zip(passages, memories, strict=True)
    ]


def context_of(pieces: Sequence[Piece], hits: Sequence[Hit], notes: Sequence[str] = ()) -> Context:
    """The context of pieces in reading order."""
    read: dict[str, dict[Place, Passage]] = defaultdict(dict)
    text: dict[str, list[Passage]] = defaultdict(list)
    taken: dict[str, int] = defaultdict(int)
    for piece in pieces:
        read[piece.source] |= {place(passage): passage for passage in piece.passages}
        taken[piece.source] += piece.memory.positions
        if piece.memory.plain is not None:
            text[piece.source].extend(piece.passages)
    passages = {source: list(found.values()) for source, found in read.items()}
    return Context([piece.memory for piece in pieces], list(hits), passages, text, taken, list(notes))


def best_passages(hits: Sequence[Hit], memories: Sequence[Memory], room: int) -> Context:
    """The best passages that fit into `room` positions, in the order of their documents.

    The order does not depend on which is best, so that two questions of the same passages begin with the same prompt.

    Args:
        hits: best first.
        memories: of each of them.
        room: positions that are free.

    Raises:
        WindowExceeded: not one fits.
    """
    kept: list[tuple[Hit, Memory]] = []
    notes: list[str] = []
    used = 0
    for hit, memory in zip(hits, memories, strict=True):
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
    pieces = [Piece(hit.source, [hit.passage], memory) for hit, memory in in_order]
    return context_of(pieces, [hit for hit, _ in kept], notes)
