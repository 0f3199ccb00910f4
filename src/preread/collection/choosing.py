"""What of a collection a question is put to: a whole document or the best passages, as memory, as text, or as both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from preread.collection.as_text import AsText, Place, place
from preread.collection.context import MOST_PASSAGES, Mode, Piece, of_document, positions, whole_document
from preread.collection.memories import Memories
from preread.core.errors import UsageError
from preread.core.memory import Memory
from preread.core.types import Hit, Passage

if TYPE_CHECKING:
    from preread.library import Collection

MEMORY_SHARE = 0.5
"""Of the positions of a hybrid prompt, the most that memories take; text has the rest."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What will be read as far as the window allows.

    Args:
        hits: passages that were found, best first; those that are read, where it is not a whole document.
        pieces: of the best document in its order, or one a hit.
        whole: whether they are all of the best document.
        texts: plain text of passages that are not read as memory.
        notes: what must be said of the choice.
    """

    hits: Sequence[Hit]
    pieces: list[Piece]
    whole: bool
    texts: Mapping[Place, Memory]
    notes: Sequence[str] = ()


def choose(
    collection: Collection,
    memories: Memories,
    question: str,
    hits: Sequence[Hit],
    mode: Mode | None,
    free: int,
    earlier: Sequence[str],
) -> Chosen:
    """What to read for a question.

    Args:
        collection: what is asked.
        memories: of the method that reads it.
        question: the user's words.
        hits: the best passages.
        mode: what the user wants; None takes a whole document where its memory is cheap.
        free: positions that documents may take.
        earlier: the questions before this one.

    Raises:
        UsageError: what was found was forgotten meanwhile.
    """
    scopes = memories.handle.scopes
    whole = mode == "document" if mode in ("document", "passages") else _whole_is_cheap(collection, memories, hits)
    passages = passages_of(collection, hits[:1]) if whole else [hit.passage for hit in hits]
    if not passages:
        raise UsageError(
            expected=f"documents in {collection.name}, as there were when the question was searched for",
            got="none: what was found was forgotten meanwhile",
            consequence="Nothing was answered.",
            remedy="Ask again.",
        )
    if mode == "hybrid" and scopes:
        return _hybrid(collection, memories, question, hits, passages if whole else [], free, earlier)
    marked = AsText(collection.store, collection.name).places() if scopes else frozenset()
    stay = marked & {place(passage) for passage in passages}
    texts = texts_of(collection, [hit.passage for hit in hits if place(hit.passage) in stay])
    if whole:
        pieces = of_document(hits[0].source, passages, whole_document(memories, passages), texts)
    else:
        pieces = swapped(hits, memories.load(passages), texts)
    note = f"{len(texts)} of the passages that were found stay text (`preread quiz`) and are read so where they fit"
    return Chosen(hits, pieces, whole, texts, [note] if texts else [])


def swapped(hits: Sequence[Hit], memories: Sequence[Memory], texts: Mapping[Place, Memory]) -> list[Piece]:
    """A piece a hit: its text where that is read, else its memory."""
    return [
        Piece(hit.source, [hit.passage], texts.get(place(hit.passage), memory))
        for hit, memory in zip(hits, memories, strict=True)
    ]


def passages_of(collection: Collection, hits: Sequence[Hit]) -> list[Passage]:
    """All passages of the documents that were hit."""
    return [stored.passage for hit in hits for stored in collection.store.passages(collection.name, hit.source)]


def _whole_is_cheap(collection: Collection, memories: Memories, hits: Sequence[Hit]) -> bool:
    """Whether the method reads whole documents, and all of the best one is there as memories."""
    scopes = memories.handle.scopes
    reads_all = memories.handle.reads == "document" and bool(scopes)
    return reads_all and (memories.kept or memories.are_stored(passages_of(collection, hits[:1]), scopes[-1]))


def texts_of(collection: Collection, passages: Sequence[Passage]) -> dict[Place, Memory]:
    """Plain text of some passages."""
    read = collection.handle("text").encode(passages)
    return {place(passage): memory for passage, memory in zip(passages, read, strict=True)}


def _hybrid(
    collection: Collection,
    memories: Memories,
    question: str,
    hits: Sequence[Hit],
    document: Sequence[Passage],
    free: int,
    earlier: Sequence[str],
) -> Chosen:
    """Memories and text in as many positions as the best passages take as text.

    The memories are of all of the best document (`document`, its passages) where those take no more than their share,
    else of as many of the best passages as do. Text are the best passages, while there are positions left.
    """
    budget, source = min(free, sum(len(hit.passage.ids) for hit in hits)), hits[0].source
    most = int(MEMORY_SHARE * budget)
    own = collection.library.retriever.find(collection.name, question, MOST_PASSAGES, earlier).hits
    own = [hit for hit in own if not document or hit.source == source]
    loaded = whole_document(memories, document) if document else []
    whole = bool(loaded) and positions(loaded) <= most
    if not whole:
        own, loaded = _within(memories, own, most)

    def pieces(texts: Mapping[Place, Memory]) -> list[Piece]:
        return of_document(source, document, loaded, texts) if whole else swapped(own, loaded, texts)

    def taken(texts: Mapping[Place, Memory]) -> int:
        return positions(piece.memory for piece in pieces(texts))

    texts: dict[Place, Memory] = {}
    for hit in own:
        more = texts | texts_of(collection, [hit.passage])
        if taken(more) > budget:
            break
        texts = more
    note = f"{len(texts)} of the best passages as text, others as memory: {taken(texts)} positions of at most {budget}"
    return Chosen(own, pieces(texts), whole, texts, [note])


def _within(memories: Memories, hits: Sequence[Hit], most: int) -> tuple[list[Hit], list[Memory]]:
    """The best of the hits whose memories take about `most` positions together, one at least; and the memories."""
    first = memories.load([hits[0].passage])
    count = max(1, round(most / first[0].positions)) if first[0].positions else len(hits)
    rest = memories.load([hit.passage for hit in hits[1:count]])
    return list(hits[:count]), [*first, *rest]
