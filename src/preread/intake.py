"""`add`: a file becomes a document of a collection, with its passages, vectors and memories, in one commit."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from preread.context import positions, whole_document
from preread.core.config import build
from preread.core.errors import UsageError
from preread.core.progress import progress
from preread.data.ingest import read
from preread.data.passages import split
from preread.memories import Memories
from preread.settings import Settings
from preread.store.rows import Entry, text_key

if TYPE_CHECKING:
    from preread.library import Collection

Change = Literal["added", "replaced", "unchanged"]


@dataclass(frozen=True, slots=True)
class Added:
    """What `add` did with one file.

    Args:
        entry: the document as the library has it now.
        change: what happened.
        positions: positions that its memories take, against `entry.tokens` of text.
        seconds: how long it took.
    """

    entry: Entry
    change: Change
    positions: int
    seconds: float


def add(collection: Collection, path: Path | str) -> Added:
    """As `Collection.add`, which says what it promises."""
    start = time.perf_counter()
    document = read(Path(path))
    passages = split(document, collection.decoder.tokenizer, collection.settings.passage_tokens)
    handle = collection.handle(collection.settings.method)
    memories = Memories(collection.store, handle)
    keys = {scope: memories.keys(passages, scope) for scope in handle.scopes}
    passage_keys = [{handle.name: key} for key in keys["passage"]] if "passage" in keys else [{}] * len(passages)
    document_keys = {handle.name: keys["document"][0]} if "document" in keys else {}
    with collection.store.writing():
        _same_settings(collection)
        before = {entry.source: entry for entry in collection.documents()}.get(document.source)
        wanted = {key for own in keys.values() for key in own}
        change: Change = "replaced" if before else "added"
        if before and before.hash == document.hash and _whole(collection, before, wanted):
            change = "unchanged"
        else:
            with progress("indexing passages", len(passages)) as advance:
                vectors = collection.library.retriever.vectors(passages, advance)
            for scope in handle.scopes:
                memories.make(passages, scope)
            if not collection.documents():
                settings = json.loads(json.dumps(asdict(collection.settings), default=str))
                collection.store.configure(collection.name, {"settings": settings, "adapters": {}})
            old = _keys_of(collection, before) | {text_key(before.hash)} if before else set()
            collection.store.commit(collection.name, document, passages, vectors, passage_keys, document_keys)
            collection.store.optimize()
            collection.store.discard(old)
    entry = collection.entry(document.source)
    held = whole_document(memories, passages) if handle.scopes else []
    return Added(entry, change, positions(held), time.perf_counter() - start)


def _same_settings(collection: Collection) -> None:
    """Refuse to add to a collection that another made first, with other settings."""
    kept = collection.store.settings(collection.name)
    if kept and collection.documents() and build(Settings, kept["settings"]) != collection.settings:
        raise UsageError(
            expected=f"the settings that {collection.name} was made with meanwhile: {kept['settings']}",
            got=str(asdict(collection.settings)),
            consequence="Nothing was added.",
            remedy="Open the collection again, or choose another one.",
        )


def _whole(collection: Collection, entry: Entry, wanted: set[str]) -> bool:
    """Whether a document's memories and text are all stored, undamaged."""
    return wanted <= _keys_of(collection, entry) and not collection.store.missing(wanted | {text_key(entry.hash)})


def _keys_of(collection: Collection, entry: Entry) -> set[str]:
    stored = collection.store.passages(collection.name, entry.source)
    return {key for passage in stored for key in passage.keys.values()} | set(entry.keys.values())
