"""The state of every document: `queued`, `reading`, `learned`, `stale` or `failed`.

Only what cannot be derived is recorded (`store/jobs.py`); the passages table alone says what is learned.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from preread.collection.as_text import places
from preread.collection.stamps import stamp
from preread.core.errors import UnreadableDocument
from preread.data.ingest import fingerprint
from preread.store.jobs import Seen, Work
from preread.store.rows import Entry
from preread.store.store import Store

State = Literal["queued", "reading", "learned", "stale", "failed"]
INTERRUPTED = "interrupted; `preread add` of it goes on from there"


@dataclass(frozen=True, slots=True)
class Status:
    """How a document stands.

    Args:
        collection: where it belongs.
        source: path or address.
        state: `queued` and `reading` while a job is at it, or was when it was interrupted; `learned`; `stale`, if the
            library holds what the source was and no longer is, or memories of other weights; `failed`.
        reason: why it is stale or failed, or that it was interrupted.
        done: tokens read so far, while it is being read.
        tokens: tokens of all; 0 while they are not counted.
        entry: what the library holds and answers from, whatever the state; None if nothing.
        as_text: how many of its passages stay text.
    """

    collection: str
    source: str
    state: State
    reason: str
    done: int
    tokens: int
    entry: Entry | None
    as_text: int = 0


def statuses(store: Store, collection: str | None = None) -> list[Status]:
    """Every document of one collection or of all that the library holds, is to hold, or could not be given."""
    entries = {(entry.collection, entry.source): entry for entry in store.documents(collection)}
    work = {(one.collection, one.source): one for one in store.jobs.work(collection)}
    seen = {name: store.jobs.seen(name) for name, _ in entries}
    producers = {name: present_producer(store, name) for name in seen}
    staying = {name: places(store.settings(name)) for name in seen}
    found = []
    for name, source in sorted(entries.keys() | work.keys()):
        entry, doing = entries.get((name, source)), work.get((name, source))
        why = ""
        if entry is not None:
            why = _stale(entry, seen[name].get((source, entry.hash)), producers[name])
        stay = sum(document == entry.hash for document, _ in staying[name]) if entry else 0
        found.append(replace(_status(name, source, entry, doing, why), as_text=stay))
    return found


def unlearned(store: Store, collection: str) -> tuple[str, ...]:
    """What an answer must say of documents of the collection that it could not know yet; empty if there are none."""
    held = {entry.source for entry in store.documents(collection)}
    waiting = [one for one in store.jobs.work(collection) if one.state != "failed"]
    running = sum(one.alive for one in waiting)
    interrupted = sum(not one.alive and one.source not in held for one in waiting)
    notes = []
    if running:
        notes.append(f"{running} of the collection's documents are still queued or being read: ask again later")
    if interrupted:
        notes.append(f"{interrupted} of the collection's documents are not learned: their `add` was {INTERRUPTED}")
    return tuple(notes)


def present_producer(store: Store, collection: str) -> str | None:
    """The key of what makes the collection's memories now; None where the decoder must be loaded to know."""
    kept = store.settings(collection).get("settings")
    mark = stamp(kept) if kept else None
    return store.jobs.producer(mark) if mark else None


def is_address(source: str) -> bool:
    """Whether a source is on the web, where looking costs a visit."""
    return source.startswith(("http://", "https://"))


def same_file(seen: Seen) -> bool:
    """Whether the source file is as it was: by size and time, else by its bytes.

    Raises:
        OSError: it is gone, or cannot be looked at.
    """
    stat = os.stat(seen.source)  # noqa: PTH116  # a source may be any string
    if (stat.st_size, stat.st_mtime_ns) == (seen.size, seen.changed):
        return True
    try:
        return stat.st_size == seen.size and fingerprint(seen.source) == seen.bytes
    except UnreadableDocument:
        return False


def _stale(entry: Entry, seen: Seen | None, producer: str | None) -> str:
    """Why what the library holds is out of date; empty if it is not."""
    if not is_address(entry.source):
        try:
            if seen is None:
                changed = datetime.fromtimestamp(os.stat(entry.source).st_mtime, UTC) > entry.added  # noqa: PTH116
            else:
                changed = not same_file(seen)
        except (FileNotFoundError, NotADirectoryError):
            return "its file is gone"
        except OSError as error:
            return f"its file cannot be looked at ({error.strerror})"
        if changed:
            return "its file changed since it was learned"
    if seen is not None and producer is not None and seen.producer != producer:
        return "its memories are by other weights or settings than the collection uses now"
    return ""


def _status(name: str, source: str, entry: Entry | None, work: Work | None, why: str) -> Status:
    if work is not None and work.alive and work.state != "failed":
        return Status(name, source, work.state, "", work.done, work.tokens, entry)
    if entry is not None:
        if why and work is not None:
            why = f"{why}; {f'it could not be read again: {work.reason}' if work.state == 'failed' else INTERRUPTED}"
        return Status(name, source, "stale" if why else "learned", why, 0, entry.tokens, entry)
    assert work is not None, "a source is listed for its entry or its work"
    if work.state == "failed":
        return Status(name, source, "failed", work.reason, 0, 0, None)
    return Status(name, source, "queued", INTERRUPTED, work.done, work.tokens, None)
