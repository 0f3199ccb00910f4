"""`ask`: a question becomes a prompt, and the prompt an answer, with what it rests on and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from preread.collection.adapters import Choice
from preread.collection.as_text import Place, place
from preread.collection.choosing import choose, passages_of, swapped
from preread.collection.context import MOST_PASSAGES, Context, Mode, best_passages, context_of, positions
from preread.collection.coverage import coverage
from preread.collection.memories import Memories
from preread.collection.moving import moved
from preread.collection.settings import known
from preread.collection.states import unlearned
from preread.core.answer import Answer, Citation, Usage
from preread.core.errors import UsageError
from preread.core.memory import Memory
from preread.core.method import Handle
from preread.core.types import Hit, Prompt, Sampling, Turn
from preread.data.language import warn_of_language
from preread.engines.base import Event, check
from preread.nn.hf import INSTRUCTION
from preread.retrieval.retriever import Found
from preread.retrieval.router import route

if TYPE_CHECKING:
    from preread.library import Collection, Library

HISTORY_SHARE = 4
"""Earlier turns take at most one position in so many where the documents alone fill the window."""


def ask(
    collection: Collection,
    question: str,
    method: str | None,
    mode: Mode | None,
    k: int,
    sampling: Sampling | None,
    on_text: Callable[[str], None],
    history: Sequence[Turn],
    strict: bool,
    on_doubt: Callable[[str], None],
    choice: Choice,
) -> Answer:
    """As `Collection.ask`, which says what the arguments mean."""
    collection.require_documents()
    if not question.strip():
        raise UsageError("a question", "none", "Nothing was asked.", "Say what you want to know.")
    method, sampling = method or collection.settings.method, sampling or Sampling()
    known(method)
    retriever = collection.library.retriever.ready()
    start = time.perf_counter()
    found = retriever.find(collection.name, question, k, [turn.question for turn in history])
    doubt = _doubt(found)
    if doubt:
        on_doubt(doubt)
    if doubt and strict:
        return _withheld(collection, method, found, doubt)
    searched = time.perf_counter() - start
    warn_of_language(question, "the question", collection.readers)
    handle = collection.handle(method)
    check(handle.needs, collection.engine)
    start = time.perf_counter()
    asked = [*(turn.question for turn in history), question]
    adapter, use = collection.adapters.choose(handle, collection.decoder, retriever, asked, choice)
    context, turns = _context(collection, handle, question, found.hits, mode, sampling.max_tokens, history)
    prompt = handle.prompt(question, context.memories, adapter, turns)
    waited = searched + time.perf_counter() - start
    text, event = _written(collection, prompt, sampling, on_text)
    assert event.finish is not None
    entries = collection.documents()
    return Answer(
        text=text,
        method=handle.name,
        collection=collection.name,
        relevance=found.relevance,
        doubt=doubt,
        route=None,
        citations=tuple(_citation(hit) for hit in context.hits[:k]),
        read=coverage(collection.store, entries, context.read, context.text, context.positions),
        usage=Usage(
            tokens_read=len(prompt),
            tokens_of_source=sum(len(passage.ids) for passages in context.read.values() for passage in passages),
            tokens_of_documents=sum(entry.tokens for entry in entries if entry.source in context.read),
            tokens_written=event.tokens,
            first_token_s=waited + event.first_token_s,
            per_token_s=event.per_token_s,
        ),
        finish=event.finish,
        notes=(
            *handle.caveats([memory for memory in context.memories if memory.plain is None]),
            *collection.adapters.caveats(handle, use),
            *unlearned(collection.store, collection.name),
            *context.notes,
        ),
        adapter=use,
    )


def ask_library(
    library: Library, question: str, history: Sequence[Turn], ask_it: Callable[[Collection], Answer]
) -> Answer:
    """Put a question to the collection that it belongs to.

    Args:
        library: whose collections are looked at.
        question: the user's words.
        history: turns before it.
        ask_it: puts it to the collection.
    """
    names = sorted({entry.collection for entry in library.store.documents()})
    if len(names) < 2:
        return ask_it(library.opened(names[0] if names else "default"))
    retriever = library.retriever.ready()
    start = time.perf_counter()
    chosen = route(retriever, question, names, [turn.question for turn in history])
    routed = time.perf_counter() - start
    answer = ask_it(library.opened(chosen.collection))
    usage = replace(answer.usage, first_token_s=answer.usage.first_token_s + routed)
    return replace(answer, route=chosen, usage=usage)


def _written(
    collection: Collection, prompt: Prompt, sampling: Sampling, on_text: Callable[[str], None]
) -> tuple[str, Event]:
    """The answer's text, and the engine's last word on it."""
    pieces: list[str] = []
    event: Event | None = None
    for event in collection.engine.generate([prompt], sampling):
        pieces.append(event.text)
        on_text(event.text)
    assert event is not None
    return "".join(pieces).strip(), event


def _doubt(found: Found) -> str:
    """What a reader must hear before the answer, if the documents do not seem to hold it."""
    if found.relevance >= found.threshold:
        return ""
    return (
        f"The documents do not seem to hold an answer to this: relevance {found.relevance:.2f}, and "
        f"{1 - found.missed:.0%} of the questions that documents did answer had at least {found.threshold:.2f}."
    )


def _withheld(collection: Collection, method: str, found: Found, doubt: str) -> Answer:
    """An answer without words, because none could be trusted; the nearest passages are cited, nothing was read."""
    return Answer(
        text="",
        method=method,
        collection=collection.name,
        relevance=found.relevance,
        doubt=doubt,
        route=None,
        citations=tuple(_citation(hit) for hit in found.hits),
        read=coverage(collection.store, collection.documents(), {}, {}, {}),
        usage=Usage(0, 0, 0, 0, 0.0, 0.0),
        finish="withheld",
        notes=unlearned(collection.store, collection.name),
    )


def _context(
    collection: Collection,
    handle: Handle,
    question: str,
    hits: Sequence[Hit],
    mode: Mode | None,
    answer: int,
    history: Sequence[Turn],
) -> tuple[Context, Sequence[Turn]]:
    """What the prompt will hold, leaving room for frame and answer: the documents first, then the newest turns."""
    own = collection.settings.method
    decoder, memories = collection.decoder, Memories(collection.store, handle, kept=handle.name == own)
    bare = len(handle.prompt(question, [])) + len(decoder.tokens(INSTRUCTION))
    free = decoder.window - bare - answer
    earlier = [turn.question for turn in history]
    chosen = choose(collection, memories, question, hits, mode, free, earlier)
    if mode != "hybrid":
        chosen = moved(collection, handle, question, earlier, chosen, free)
    needed = positions(piece.memory for piece in chosen.pieces)
    turns, taken = _newest(handle, question, history, free - needed if needed <= free else free // HISTORY_SHARE)
    room, dropped = free - taken, len(history) - len(turns)
    notes = [f"{dropped} of {len(history)} earlier turns were left out: the window is full"] if dropped else []
    if not chosen.whole:
        context = best_passages(chosen.hits, [piece.memory for piece in chosen.pieces], room)
    elif needed <= room:
        context = context_of(chosen.pieces, [hit for hit in chosen.hits if hit.source == chosen.pieces[0].source])
    else:
        context = _instead(collection, memories, question, hits[0], chosen.texts, needed, room, earlier)
    notes += chosen.notes
    if memories.made:
        notes.append(
            f"{collection.name} keeps memories of {own}: {memories.made} of {handle.name} were made for this once"
        )
    return replace(context, notes=[*notes, *context.notes]), turns


def _newest(handle: Handle, question: str, history: Sequence[Turn], spare: int) -> tuple[Sequence[Turn], int]:
    """The newest turns that fit into `spare` positions, and how many they take."""
    bare = len(handle.prompt(question, []))
    for first in range(len(history)):
        taken = len(handle.prompt(question, [], history=history[first:])) - bare
        if taken <= spare:
            return history[first:], taken
    return (), 0


def _instead(
    collection: Collection,
    memories: Memories,
    question: str,
    best: Hit,
    texts: Mapping[Place, Memory],
    needed: int,
    room: int,
    earlier: Sequence[str],
) -> Context:
    """All of a document that is too large for the window but the passages that are furthest from the question."""
    passages = passages_of(collection, [best])
    wider = collection.library.retriever.find(collection.name, question, max(MOST_PASSAGES, len(passages)), earlier)
    own = [hit for hit in wider.hits if hit.source == best.source]
    near = {place(hit.passage) for hit in own}
    own += [replace(best, passage=passage, score=0.0) for passage in passages if place(passage) not in near]
    pieces = swapped(own, memories.load([hit.passage for hit in own]), texts)
    context = best_passages(own, [piece.memory for piece in pieces], room)
    note = f"all of {best.title} takes {needed} positions and {room} are free: its best passages were read"
    return replace(context, notes=[note, *context.notes])


def _citation(hit: Hit) -> Citation:
    passage = hit.passage
    return Citation(
        passage.document, hit.title, hit.source, passage.place, passage.start, passage.end, hit.score, passage.text
    )
