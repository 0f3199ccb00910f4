"""A file becomes a document of a collection, with its passages, vectors and memories, in one commit."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from preread.collection.context import positions, whole_document
from preread.collection.memories import Memories
from preread.collection.settings import Settings
from preread.collection.stamps import stamp
from preread.collection.states import is_address, same_file
from preread.core.config import build
from preread.core.errors import Interrupted, UnreadableDocument, UsageError
from preread.core.types import Passage, sha256
from preread.data.ingest import expect_unicode, fingerprint, read
from preread.data.language import warn_of_language
from preread.data.passages import split
from preread.store.jobs import Job, Seen
from preread.store.rows import Entry, text_key

if TYPE_CHECKING:
    from preread.library import Collection

Change = Literal["added", "replaced", "unchanged"]
Advance = Callable[[float], object]


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


def source_of(path: Path | str) -> str:
    """The name of a document that is read from here: an address as it is, or the absolute path, links kept."""
    return str(path) if is_address(str(path)) else os.path.abspath(path)  # noqa: PTH100  # takes `..` out


class Intake:
    """One call's work on a collection: what is unchanged is told without loading a model, the rest is learned.

    Args:
        collection: where documents go.
        stopped: asked between two steps, so that another thread or process can stop the work.
    """

    def __init__(self, collection: Collection, stopped: Callable[[], bool] = lambda: False) -> None:
        self.collection, self.store, self.stopped = collection, collection.store, stopped
        self._replaced: set[str] = set()
        self._learned = 0

    def unchanged(self, source: str, thoroughly: bool) -> Added | None:
        """What the library holds of a source, if that is all whole and what reading it again would give.

        Args:
            source: as `source_of` names it.
            thoroughly: read every stored byte, rather than trust the sizes of the files.

        Raises:
            UnreadableDocument: no record can bear such a name.
        """
        start = time.perf_counter()
        expect_unicode(source)
        entry = self._entries.get(source)
        seen = self._seen.get((source, entry.hash)) if entry else None
        if entry is None or seen is None or is_address(source):
            return None
        try:
            if not same_file(seen) or seen.producer != self.producer or not self._sound(entry, seen, thoroughly):
                return None
        except OSError:  # gone, or not to be looked at: reading it says which
            return None
        return Added(entry, "unchanged", seen.positions, time.perf_counter() - start)

    @cached_property
    def producer(self) -> str:
        """The key of what makes the collection's memories now; loads the decoder only if its files changed."""
        mark = stamp(asdict(self.collection.settings))
        return (mark and self.store.jobs.producer(mark)) or self._made_by(mark)

    def learn(self, path: Path | str, job: Job, advance: Advance = lambda _: None) -> Added:
        """Read a source and keep its memories; an unchanged document is left, a changed one replaced.

        Args:
            path: file or address.
            job: told how far it is.
            advance: told each share of the work, from 0 to 1, that is done.

        Raises:
            UnreadableDocument: the source is no document.
            Interrupted: `stopped` became true; finished memories are kept.
        """
        start = time.perf_counter()
        source = source_of(path)
        job.reading(source)
        looks = (-1, 0, "") if is_address(source) else _looks(source)
        document = read(path if is_address(source) else Path(path), self.stopped)
        collection = self.collection
        warn_of_language(document.text, source, collection.readers)
        passages = split(document, collection.decoder.tokenizer, collection.settings.passage_tokens)
        handle = collection.handle(collection.settings.method)
        memories = Memories(self.store, handle)
        keys = {scope: memories.keys(passages, scope) for scope in handle.scopes}
        wanted = {key for own in keys.values() for key in own}
        done = _Progress(passages, 1 + len(keys), source, job, advance, self._check)
        with self.store.writing():
            self._same_settings()
            before = {entry.source: entry for entry in collection.documents()}.get(source)
            change: Change = "replaced" if before else "added"
            if before and before.hash == document.hash and self._whole(before, wanted):
                change = "unchanged"
            else:
                vectors = collection.library.retriever.vectors(passages, done.passages)
                for scope in handle.scopes:
                    memories.make(passages, scope, done.tokens, self._check)
            held = positions(whole_document(memories, passages)) if handle.scopes else 0
            stored = sum(map(len, self.store.payloads(sorted(wanted)).values()))
            seen = Seen(collection.name, source, document.hash, *looks, self._made_by(), held, stored)
            if change == "unchanged":
                self.store.jobs.note([seen])
                self.store.jobs.settle(collection.name, source, document.hash)
            else:
                old = self._keys_of(before) if before else set()
                self._configure()
                passage_keys = [{handle.name: key} for key in keys.get("passage", [])] or [{}] * len(passages)
                document_keys = {handle.name: keys["document"][0]} if "document" in keys else {}
                self.store.commit(collection.name, document, passages, vectors, passage_keys, document_keys, seen)
                self._replaced |= old
                self._learned += 1
        return Added(collection.entry(source), change, held, time.perf_counter() - start)

    def tidy(self) -> None:
        """Fold what was learned into the indexes, and remove what nothing names any more."""
        if self._learned:
            with self.store.writing():
                self.store.optimize()
                self.store.discard(self._replaced)
        self._replaced, self._learned = set(), 0

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        return {entry.source: entry for entry in self.collection.documents()}

    @cached_property
    def _seen(self) -> dict[tuple[str, str], Seen]:
        return self.store.jobs.seen(self.collection.name)

    @cached_property
    def _stored(self) -> tuple[dict[str, set[str]], dict[str, int]]:
        return self.store.stored(self.collection.name)

    def _sound(self, entry: Entry, seen: Seen, thoroughly: bool) -> bool:
        """Whether all payloads that the document names are stored; `thoroughly`, bit for bit, else by their sizes."""
        if thoroughly:
            return not self.store.missing(self._keys_of(entry))
        named, sizes = self._stored
        own, text = named.get(entry.source), text_key(entry.hash)
        if own is None:  # it was forgotten since the entries were looked up
            return False
        return own <= sizes.keys() and sum(sizes[key] for key in own if key != text) == seen.stored

    def _whole(self, entry: Entry, wanted: set[str]) -> bool:
        """Whether a document's memories are those wanted, and stored with its text, undamaged."""
        own = self._keys_of(entry)
        return wanted <= own and not self.store.missing(own)

    def _keys_of(self, entry: Entry) -> set[str]:
        stored = self.store.passages(self.collection.name, entry.source)
        own = {key for passage in stored for key in passage.keys.values()}
        return own | set(entry.keys.values()) | {text_key(entry.hash)}

    def _made_by(self, mark: str | None = None) -> str:
        """The producer's key from the decoder and method themselves, kept for the next time."""
        handle, settings = self.collection.handle(self.collection.settings.method), self.collection.settings
        scopes = sorted({"passage", *handle.scopes})
        key = sha256(*(handle.producer(scope).key for scope in scopes), str(settings.passage_tokens))
        if mark := mark or stamp(asdict(settings)):
            self.store.jobs.remember(mark, key)
        return key

    def _check(self) -> None:
        if self.stopped():
            raise interrupted()

    def _configure(self) -> None:
        """The first document makes the collection."""
        if not self.collection.documents():
            settings = json.loads(json.dumps(asdict(self.collection.settings), default=str))
            self.store.configure(self.collection.name, {"settings": settings, "adapters": {}})

    def _same_settings(self) -> None:
        """Refuse to add to a collection that another made first, with other settings."""
        collection, kept = self.collection, self.store.settings(self.collection.name)
        if kept and collection.documents() and build(Settings, kept["settings"]) != collection.settings:
            raise UsageError(
                expected=f"the settings that {collection.name} was made with meanwhile: {kept['settings']}",
                got=str(asdict(collection.settings)),
                consequence="Nothing was added.",
                remedy="Open the collection again, or choose another one.",
            )


class _Progress:
    """Tokens done of one document: each is embedded, and compressed once a scope; `check` may end the embedding."""

    def __init__(
        self,
        passages: Sequence[Passage],
        times: int,
        source: str,
        job: Job,
        advance: Advance,
        check: Callable[[], object],
    ) -> None:
        self._all = sum(len(passage.ids) for passage in passages)
        self._mean, self._times = self._all / len(passages), times
        self._source, self._job, self._advance, self._check = source, job, advance, check
        self._done = 0.0

    def passages(self, count: float) -> None:
        self._check()
        self.tokens(count * self._mean)

    def tokens(self, count: float) -> None:
        self._done += count / self._times
        self._job.reading(self._source, round(self._done), self._all)
        self._advance(count / self._times / self._all)


def interrupted() -> Interrupted:
    """The error of work that was asked to stop."""
    return Interrupted(
        expected="to learn all that was given",
        got="a request to stop",
        consequence="What was finished is kept.",
        remedy="Repeat the command: it goes on from there.",
    )


def _looks(source: str) -> tuple[int, int, str]:
    """Size, time of change and hash of a file before it is read: a change in between is then seen the next time."""
    try:
        stat = os.stat(source)  # noqa: PTH116  # as in `states`
        return stat.st_size, stat.st_mtime_ns, fingerprint(source)
    except (OSError, ValueError, UnreadableDocument):  # reading it says what is wrong
        return -1, 0, ""
