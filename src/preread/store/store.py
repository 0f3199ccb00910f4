"""A library's folder: documents, passages, vectors and memories, added and forgotten as wholes.

    library/
      library.json     format, schema version and the embedder whose vectors are here
      collections/     settings of each collection
      passages.lance/  the passages table; its commits decide which documents are there
      payloads/        memories and full texts, named by what they were made of
      documents.json   a copy of the table's documents, for listing them quickly
      jobs.sqlite      what is being read or could not be, and what each source file was like

Payloads are written first, the commit of the rows second: a process that dies in between leaves payloads that
no row names, which a repeated `add` finds again (`missing`) and `collect` removes. What returned outlasts a kill at
any moment, and a power cut where the disk keeps what it was told to keep (fsync).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from preread.core.errors import IntegrityError, UsageError
from preread.core.types import Document, Hit, Mark, Passage
from preread.store.catalog import Catalog
from preread.store.folder import Folder
from preread.store.jobs import Jobs, Seen
from preread.store.passages import PassageTable
from preread.store.payloads import Payloads
from preread.store.receipt import Receipt, search
from preread.store.rows import Entry, Stored, expect_unicode, row_name, text_key


class Store:
    """One library on disk. Any number of processes may read while one writes.

    Args:
        path: the library's folder; made if it is not there.
        wait_s: seconds that a write waits for another writer.

    Raises:
        UsageError: the folder holds something else, or a library of a newer version.
        IntegrityError: the library's description cannot be read.
        ResourceError: a new library, and the disk is full.
    """

    def __init__(self, path: Path, wait_s: float = 10.0) -> None:
        self.path = path
        self._folder = Folder(path, wait_s)
        self._passages = PassageTable(path)
        self._payloads = Payloads(path / "payloads")
        self._catalog = Catalog(path)
        self.jobs = Jobs(path)
        self._unfinished = path / "forgetting"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer, of all processes and threads; may be nested. Every write does this by itself.

        Finishes first what a killed `forget` left undone.

        Raises:
            LibraryBusy: another writer did not end within `wait_s`.
        """
        with self._folder.writing():
            if self._unfinished.exists():
                self._clear()
            yield

    def missing(self, keys: Iterable[str]) -> set[str]:
        """Which payloads are not stored yet, or are damaged and must be made again."""
        return self._payloads.missing(keys)

    def put(self, payloads: Mapping[str, bytes]) -> None:
        """Store payloads under hex SHA-256 keys that name what they were made of; what is stored stays.

        Raises:
            ResourceError: the disk is full.
        """
        with self.writing():
            self._payloads.put(payloads)

    def payloads(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The payloads by key.

        Raises:
            IntegrityError: one is missing or is not what was stored.
        """
        return {key: self._payloads.get(key) for key in keys}

    def mapped(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """The payloads by key, [bytes] uint8 each, mapped and not read into memory.

        Raises:
            IntegrityError: as `payloads`.
        """
        return {key: self._payloads.mapped(key) for key in keys}

    def commit(
        self,
        collection: str,
        document: Document,
        passages: Sequence[Passage],
        vectors: np.ndarray,
        keys: Sequence[Mapping[str, str]],
        document_keys: Mapping[str, str],
        seen: Seen | None = None,
    ) -> None:
        """Add the document, or replace that of the same collection and source, at one instant for all.

        Args:
            collection: the collection's name.
            document: the document; its text and marks are stored as a payload.
            passages: all its passages, in order.
            vectors: [n, d] one vector a passage.
            keys: for each passage, the payload key of each method's memory.
            document_keys: payload key of each method's memory of the whole document.
            seen: what the source file was like.

        Raises:
            IntegrityError: a named payload is not stored.
            FingerprintMismatch: the vectors have another width than those in the library.
            ResourceError: the disk is full; the library is as it was.
        """
        for name in (collection, document.source, document.title, document.text):
            expect_unicode(name)
        named = {key for own in keys for key in own.values()} | set(document_keys.values())
        text = {
            "title": document.title,
            "text": document.text,
            "marks": [asdict(mark) for mark in document.marks],
        }
        with self.writing():
            if absent := self.missing(named):
                raise IntegrityError(
                    expected=f"{len(named)} payloads to be stored before the passages that name them",
                    got=f"{len(absent)} that are not",
                    consequence=f'"{document.source}" was not added.',
                    remedy="Add the document again.",
                )
            self._payloads.put({text_key(document.hash): json.dumps(text).encode()})
            if seen is not None:  # before the commit: it counts from the commit on
                self.jobs.note([seen])
            self._passages.replace(collection, document, passages, vectors, keys, document_keys)
            self.jobs.settle(collection, document.source, document.hash)

    def documents(self, collection: str | None = None) -> list[Entry]:
        """The documents of one collection, or of all, by collection and source."""
        if (copied := self._catalog.read(self._passages.version)) is None:
            return self._passages.entries(collection)
        return [entry for entry in copied if collection in (None, entry.collection)]

    def document(self, collection: str, source: str) -> Document:
        """A document as it was committed: text, title and marks.

        Raises:
            UsageError: there is no such document.
            IntegrityError: its text is damaged.
        """
        entries = self._passages.entries(collection, source)
        if not entries:
            raise _no_document(collection, source)
        stored = json.loads(self._payloads.get(text_key(entries[0].hash)))
        marks = tuple(Mark(**mark) for mark in stored["marks"])
        return Document(source, stored["title"], stored["text"], marks)

    def passages(self, collection: str, source: str) -> list[Stored]:
        """The passages of one document, in order; empty where there is no such document."""
        return self._passages.passages(collection, source)

    def stored(self, collection: str) -> tuple[dict[str, set[str]], dict[str, int]]:
        """Payload keys that each document names, by source, and the bytes of every payload there is, by key."""
        named = self._passages.keys(collection)
        return {source: keys for (_, source), keys in named.items()}, self._payloads.sizes()

    def nearest(self, collection: str, vector: np.ndarray, k: int) -> list[Hit]:
        """The k passages of the collection nearest to a [d] vector; the score is the cosine."""
        return self._passages.nearest(collection, vector, k)

    def matching(self, collection: str, words: str, k: int) -> list[Hit]:
        """The k passages of the collection that match any text best; the score is BM25."""
        return self._passages.matching(collection, words, k)

    def forget(self, collection: str, sources: str | Sequence[str] | None) -> Receipt:
        """Remove documents, or with None a whole collection with its settings, and every trace of them in the folder.

        Rewrites the passages table (7 s for 100,000 passages on two cores). A killed `forget` is finished by
        the next write.

        Raises:
            UsageError: there is no such document or collection.
            ResourceError: the disk is full; the documents are out of sight, and the next write clears the disk.
            IntegrityError: something of them is left in the folder.
        """
        names = None if sources is None else [sources] if isinstance(sources, str) else list(dict.fromkeys(sources))
        with self.writing():
            held = {entry.source: entry for entry in self.documents(collection)}
            before = self._folder.size()
            known = held.keys() | {work.source for work in self.jobs.work(collection)}
            if absent := [name for name in names or () if name not in known]:
                raise _no_document(collection, absent[0])
            if names is None and not known and self._folder.settings(collection) is None:
                raise _no_document(collection, None)
            gone = [entry for entry in held.values() if names is None or entry.source in names]
            self.jobs.forget(collection, names)
            self._unfinished.touch()
            self._passages.delete(collection, [entry.source for entry in gone])
            if names is None:
                self._folder.unset(collection)
            payloads = self._clear()
            searched = self._searched(gone)
            freed = max(0, before - self._folder.size())
            return Receipt(len(gone), sum(entry.passages for entry in gone), payloads, freed, searched)

    def discard(self, keys: set[str]) -> int:
        """Remove those of the payloads that no passage names any more; how many."""
        with self.writing():
            return self._payloads.remove(keys - self._named())

    def collect(self) -> int:
        """Remove the payloads that no passage names; how many there were."""
        with self.writing():
            return self._payloads.keep_only(self._named())

    def optimize(self) -> None:
        """Fold new rows into the search indexes, merge small files and drop old versions."""
        with self.writing():
            self._passages.optimize()
            self._copy()

    def size(self) -> int:
        """Bytes of all its files."""
        return self._folder.size()

    def collections(self) -> list[str]:
        """Names of the collections that have settings or documents, sorted."""
        return sorted({*self._folder.collections(), *(entry.collection for entry in self.documents())})

    def settings(self, collection: str) -> dict[str, Any]:
        """The settings of a collection; empty where none were made."""
        return self._folder.settings(collection) or {}

    def configure(self, collection: str, settings: Mapping[str, Any]) -> None:
        """Replace the settings of a collection, as JSON; readers see the old or the new."""
        expect_unicode(collection)
        with self.writing():
            self._folder.configure(collection, settings)

    @property
    def embedder(self) -> str | None:
        """Fingerprint of the embedder whose vectors are here; None until `bind`."""
        return self._folder.embedder

    def bind(self, embedder: str) -> None:
        """Take vectors of this embedder, by fingerprint, and of no other.

        Raises:
            FingerprintMismatch: the library holds vectors of another.
        """
        with self.writing():
            self._folder.bind(embedder)

    def _clear(self) -> int:
        """Take off the disk what is out of sight; how many payloads went."""
        self._passages.scrub()
        self._folder.sweep()
        gone = self._payloads.keep_only(self._named())
        self._copy()
        self._unfinished.unlink(missing_ok=True)
        return gone

    def _named(self) -> set[str]:
        return set().union(*self._passages.keys().values())

    def _copy(self) -> None:
        self._catalog.write(self._passages.version, self._passages.entries(None))

    def _searched(self, gone: Sequence[Entry]) -> int:
        """Search what is left for what only the rows of these documents held; how many files.

        Payloads are left out: they are named by what they were made of, and were compared by name.
        """
        kept = {entry.hash for entry in self.documents()}
        marks = {row_name(entry.collection, entry.source) for entry in gone}
        marks |= {entry.hash for entry in gone} - kept
        payloads = self._payloads.folder
        return search((file for file in self._folder.files() if payloads not in file.parents), marks)


def _no_document(collection: str, source: str | None) -> UsageError:
    what = f'a collection "{collection}"' if source is None else f'a document "{source}" in "{collection}"'
    return UsageError(
        expected=what,
        got="none of that name",
        consequence="Nothing was changed.",
        remedy="`preread list` shows what the library holds.",
    )
