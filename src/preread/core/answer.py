"""An answer: its words, what it rests on, what was read for it and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that stands behind an answer: one that was retrieved, or that the question attended to; never of the
    model's own words.

    Args:
        document: hash of its document.
        title: of the document.
        source: path or address of the document.
        place: page or section.
        start: first character in the document's text.
        end: one past the last character.
        score: the retriever's; the share of the attention of a passage that was chosen by it.
        text: those characters.
    """

    document: str
    title: str
    source: str
    place: str
    start: int
    end: int
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost.

    Args:
        tokens_read: positions of the prompt, memory vectors included.
        tokens_of_source: tokens of the text that the memories in it stand for.
        tokens_of_documents: tokens of the documents that those memories are of.
        tokens_written: tokens of the answer.
        first_token_s: seconds from the request to the first token.
        per_token_s: mean seconds of each further token.
    """

    tokens_read: int
    tokens_of_source: int
    tokens_of_documents: int
    tokens_written: int
    first_token_s: float
    per_token_s: float


@dataclass(frozen=True, slots=True)
class Extent:
    """Parts of a document.

    Args:
        tokens: how many tokens they have together.
        places: where they stand, such as `pages 1-3, 7, part of 8`; empty where there are none.
    """

    tokens: int = 0
    places: str = ""


@dataclass(frozen=True, slots=True)
class DocumentRead:
    """Which parts of a document were read for an answer, and how; the three are all of it.

    Args:
        source: path or address of the document.
        title: a name to show.
        text: read as plain tokens.
        memory: read as what a method made of them.
        unread: not read at all.
        positions: positions of the prompt that text and memory took.
    """

    source: str
    title: str
    text: Extent
    memory: Extent
    unread: Extent
    positions: int


@dataclass(frozen=True, slots=True)
class Route:
    """Why a question went to a collection.

    Args:
        collection: where it went.
        relevance: that of the collection's documents.
        runner_up: the collection with the next highest relevance.
        runner_up_relevance: that of its documents.
    """

    collection: str
    relevance: float
    runner_up: str
    runner_up_relevance: float


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """Whether the collection's adapter wrote an answer.

    Args:
        used: whether it did.
        why: a sentence on the reason.
        score: how like the studied questions the question is, a cosine; None where the gate was not asked.
        threshold: the lowest score that the gate accepts; None where it was not asked, or accepts any.
    """

    used: bool
    why: str
    score: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, what it rests on and what it cost.

    Args:
        text: the reply; empty where it was withheld.
        method: which method read the documents.
        collection: whose documents they are.
        relevance: how likely the documents hold the answer, from 0 to 1; it compares between questions and collections.
        doubt: a sentence for the reader where the relevance is low; empty where it is not.
        route: why this collection was asked; None where it was named or is the only one.
        citations: passages behind it, best first.
        read: every document of the collection, with what was read of it and what was not.
        usage: tokens and seconds.
        finish: `stop` (the model ended it), `length` (the limit did), `cancelled`, or `withheld` (the documents do not
            seem to hold the answer, and that was to be strict).
        notes: what else the reader must know, such as a fall-back.
        adapter: whether the adapter was used; None where the collection has none for the method.
    """

    text: str
    method: str
    collection: str
    relevance: float
    doubt: str
    route: Route | None
    citations: tuple[Citation, ...]
    read: tuple[DocumentRead, ...]
    usage: Usage
    finish: Literal["stop", "length", "cancelled", "withheld"]
    notes: tuple[str, ...] = ()
    adapter: AdapterUse | None = None
