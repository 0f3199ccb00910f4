"""`ask`: a question becomes a prompt, and the prompt an answer, with what it rests on and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from preread.context import MOST_PASSAGES, Context, Mode, best_passages, positions, whole_document
from preread.core.method import Handle
from preread.core.types import Answer, Citation, Hit, Sampling, Usage
from preread.engines.base import Event, check
from preread.memories import Memories
from preread.nn.hf import INSTRUCTION

if TYPE_CHECKING:
    from preread.library import Collection


def ask(
    collection: Collection,
    question: str,
    method: str | None,
    mode: Mode | None,
    k: int,
    sampling: Sampling | None,
    on_text: Callable[[str], None],
) -> Answer:
    """As `Collection.ask`, which says what the arguments mean."""
    collection.require_documents()
    sampling = sampling or Sampling()
    handle, retriever = collection.handle(method or collection.settings.method), collection.library.retriever.ready()
    check(handle.needs, collection.engine)
    start = time.perf_counter()
    hits = retriever.search(collection.name, question, k)
    adapter = collection.adapters.attach(handle, collection.decoder)
    context = _context(collection, handle, question, hits, mode, sampling.max_tokens)
    prompt = handle.prompt(question, context.memories, adapter)
    waited = time.perf_counter() - start
    pieces: list[str] = []
    event: Event | None = None
    for event in collection.engine.generate([prompt], sampling):
        pieces.append(event.text)
        on_text(event.text)
    assert event is not None
    assert event.finish is not None
    usage = Usage(
        tokens_read=len(prompt),
        tokens_of_source=sum(memory.tokens for memory in context.memories),
        tokens_of_documents=sum(entry.tokens for entry in collection.documents() if entry.source in context.sources),
        tokens_written=event.tokens,
        first_token_s=waited + event.first_token_s,
        per_token_s=event.per_token_s,
    )
    citations = tuple(_citation(hit) for hit in context.hits[:k])
    left = sum(entry.tokens for entry in collection.documents()) - usage.tokens_of_source
    unread = [f"{left:,} tokens of the collection were not read, neither as text nor as memory"] if left else []
    notes = (*handle.caveats(context.memories), *collection.adapters.caveats(handle), *context.notes, *unread)
    return Answer("".join(pieces).strip(), handle.name, citations, usage, event.finish, notes)


def _context(
    collection: Collection, handle: Handle, question: str, hits: Sequence[Hit], mode: Mode | None, answer: int
) -> Context:
    """What the prompt will hold, leaving room for frame and answer, and what the reader must be told of it."""
    frame = len(handle.prompt(question, [])) + len(collection.decoder.tokens(INSTRUCTION))
    room = collection.decoder.window - frame - answer
    memories = Memories(collection.store, handle)
    if (mode or ("document" if handle.scopes else "passages")) == "passages":
        return best_passages(memories, hits, room)
    source = hits[0].source
    passages = [stored.passage for stored in collection.store.passages(collection.name, source)]
    whole = whole_document(memories, passages)
    if positions(whole) <= room:
        return Context(whole, [hit for hit in hits if hit.source == source], [])
    wider = collection.library.retriever.search(collection.name, question, MOST_PASSAGES)
    best = best_passages(memories, [hit for hit in wider if hit.source == source], room)
    note = f"all of {hits[0].title} takes {positions(whole)} positions and {room} are free"
    return Context(best.memories, best.hits, [f"{note}: its best passages were read", *best.notes])


def _citation(hit: Hit) -> Citation:
    passage = hit.passage
    return Citation(
        passage.document, hit.title, hit.source, passage.place, passage.start, passage.end, hit.score, passage.text
    )
