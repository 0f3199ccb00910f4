"""`compare`: one question by every method, over the same documents, and what each answer cost.

Each method is asked once, in one process with everything loaded, so the seconds show and do not measure: `preread
bench` measures.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from preread.collection.context import Mode
from preread.collection.memories import Memories
from preread.core.answer import Answer
from preread.core.errors import PrereadError
from preread.core.progress import progress
from preread.core.provenance import commit, device
from preread.core.types import Passage, Sampling, Scope
from preread.library import Collection
from preread.methods import METHODS


@dataclass(frozen=True, slots=True)
class Column:
    """One method's answer.

    Args:
        method: its name.
        answer: what it answered, or None where it could not.
        error: why it could not; empty where it could.
        bytes_kept: bytes of its memories of the documents in question; 0 where it reads the text itself.
        made_s: seconds of making those memories now, because the collection does not keep them; 0 where it does.
    """

    method: str
    answer: Answer | None
    error: str
    bytes_kept: int
    made_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One question, all methods.

    Args:
        question: the question.
        collection: name of the collection.
        tokens: tokens of its documents, which the full text would be.
        text_bytes: bytes of the text of the documents in question, which every method keeps.
        decoder: who answered, and what must be said of its weights.
        peak_bytes: most memory that the process had taken at the end; 0 where the system does not tell.
        device, commit, day: where and when.
        columns: by method.
    """

    question: str
    collection: str
    tokens: int
    text_bytes: int
    decoder: str
    peak_bytes: int
    device: str
    commit: str
    day: str
    columns: tuple[Column, ...]


def compare(
    collection: Collection, question: str, mode: Mode | None = None, k: int = 5, sampling: Sampling | None = None
) -> Comparison:
    """Ask one question by every method there is.

    Memories that the collection does not keep are made for the documents in question and stay in its store until the
    next `forget` or clean-up. A method that cannot answer says why in its column.

    Raises:
        UsageError: the collection is empty.
    """
    collection.require_documents()
    at = commit()
    hits = collection.library.retriever.ready().search(collection.name, question, k)
    sources = sorted({hit.source for hit in hits})
    texts = [collection.store.document(collection.name, source).text for source in sources]
    made = {name: _prepare(collection, name, sources) for name in METHODS}
    with progress("asking by each method", len(METHODS)) as advance:
        columns = []
        for name, column in made.items():
            columns.append(column if column.error else _ask(collection, question, column, mode, k, sampling))
            advance(1, name)
    decoder = ", ".join(part for part in (collection.decoder.name, collection.decoder.note) if part)
    return Comparison(
        question=question,
        collection=collection.name,
        tokens=sum(entry.tokens for entry in collection.documents()),
        text_bytes=sum(len(text.encode()) for text in texts),
        decoder=decoder,
        peak_bytes=_peak_bytes(),
        device=device(),
        commit=at,
        day=date.today().isoformat(),
        columns=tuple(columns),
    )


def _prepare(collection: Collection, method: str, sources: Sequence[str]) -> Column:
    """Attach a method, see that its memories of the documents are there, and run it once: the clock starts warm."""
    start, named, missing = time.perf_counter(), set[str](), False
    try:
        handle = collection.handle(method)
        memories = Memories(collection.store, handle)
        for source in sources:
            for scope in handle.scopes:
                passages = _passages(collection, source)
                keys = memories.keys(passages, scope)
                named.update(keys)
                if collection.store.missing(keys):
                    missing = True
                    _make(collection, memories, source, scope)
        made_s = time.perf_counter() - start if missing else 0.0
        for _ in collection.engine.generate([handle.prompt("Ready?", [])], Sampling(max_tokens=2)):
            pass
    except PrereadError as error:
        return Column(method, None, str(error), 0, 0.0)
    _, sizes = collection.store.stored(collection.name)
    return Column(method, None, "", sum(sizes.get(key, 0) for key in named), made_s)


def _make(collection: Collection, memories: Memories, source: str, scope: Scope) -> None:
    """Make what is missing of a document's memories."""
    with collection.store.writing():  # so that no `forget` comes between the passages and their memories
        if passages := _passages(collection, source):
            tokens = sum(len(passage.ids) for passage in passages)
            with progress(
                f"making {memories.handle.name}'s memories of {Path(source).name}, tokens", tokens
            ) as advance:
                memories.make(passages, scope, advance)


def _passages(collection: Collection, source: str) -> list[Passage]:
    return [stored.passage for stored in collection.store.passages(collection.name, source)]


def _ask(
    collection: Collection, question: str, column: Column, mode: Mode | None, k: int, sampling: Sampling | None
) -> Column:
    try:
        answer = collection.ask(question, column.method, mode, k, sampling)
    except PrereadError as error:
        return Column(column.method, None, str(error), column.bytes_kept, column.made_s)
    return Column(column.method, answer, "", column.bytes_kept, column.made_s)


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
