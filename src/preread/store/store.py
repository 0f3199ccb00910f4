"""A library's folder: documents, passages, vectors and memories, added and forgotten as wholes.

    library/
      library.json     format, schema version and the embedder whose vectors are here
      collections/     settings of each collection
      passages.lance/  the passages table; its commits decide which documents are there
      payloads/        memories and full texts, named by what they were made of

Payloads are written first, the commit of the rows second: a process that dies in between leaves payloads that
no row names, which a repeated `add` finds again (`missing`) and `collect` removes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preread.core.errors import IntegrityError, UsageError
from preread.core.types import Document, Hit, Mark, Passage
from preread.store.folder import Folder
from preread.store.passages import PassageTable
from preread.store.payloads import Payloads
from preread.store.rows import Entry, Stored, text_key


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was forgotten.

    Args:
        documents: how many documents.
        passages: how many passages they had.
        payloads: how many payloads went, orphans of earlier interruptions included.
        bytes_freed: by how much the library's folder shrank.
    """

    documents: int
    passages: int
    payloads: int
    bytes_freed: int


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

    def commit(
        self,
        collection: str,
        document: Document,
        passages: Sequence[Passage],
        vectors: np.ndarray,
        keys: Sequence[Mapping[str, str]],
        document_keys: Mapping[str, str],
    ) -> None:
        """Add the document, or replace that of the same collection and source, at one instant for all.

        Args:
            collection: the collection's name.
            document: the document; its text and marks are stored as a payload.
            passages: all its passages, in order.
            vectors: [n, d] one vector a passage.
            keys: for each passage, the payload key of each method's memory.
            document_keys: payload key of each method's memory of the whole document.

        Raises:
            IntegrityError: a named payload is not stored.
            FingerprintMismatch: the vectors have another width than those in the library.
            ResourceError: the disk is full; the library is as it was.
        """
        for name in (collection, document.source, document.title, document.text):
            _expect_unicode(name)
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
            self._passages.replace(collection, document, passages, vectors, keys, document_keys)

    def documents(self, collection: str | None = None) -> list[Entry]:
        """The documents of one collection, or of all, by collection and source."""
        return self._passages.entries(collection)

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

    def nearest(self, collection: str, vector: np.ndarray, k: int) -> list[Hit]:
        """The k passages of the collection nearest to a [d] vector; the score is the cosine."""
        return self._passages.nearest(collection, vector, k)

    def matching(self, collection: str, words: str, k: int) -> list[Hit]:
        """The k passages of the collection that match any text best; the score is BM25."""
        return self._passages.matching(collection, words, k)

    def forget(self, collection: str, source: str | None = None) -> Receipt:
        """Remove a document, or a whole collection with its settings, and every trace of it in the folder.

        Rewrites the passages table (7 s for 100,000 passages on two cores). A killed `forget` is finished by
        the next write.

        Raises:
            UsageError: there is no such document or collection.
            ResourceError: the disk is full; the document is out of sight, and the next write clears the disk.
        """
        with self.writing():
            entries = self._passages.entries(collection, source)
            if not entries and (source is not None or self._folder.settings(collection) is None):
                raise _no_document(collection, source)
            before = self._folder.size()
            self._unfinished.touch()
            self._passages.delete(collection, source)
            if source is None:
                self._folder.unset(collection)
            payloads = self._clear()
            freed = max(0, before - self._folder.size())
            return Receipt(len(entries), sum(entry.passages for entry in entries), payloads, freed)

    def discard(self, keys: set[str]) -> int:
        """Remove those of the payloads that no passage names any more; how many."""
        with self.writing():
            return self._payloads.remove(keys - self._passages.keys())

    def collect(self) -> int:
        """Remove the payloads that no passage names; how many there were."""
        with self.writing():
            return self._payloads.keep_only(self._passages.keys())

    def optimize(self) -> None:
        """Fold new rows into the search indexes, merge small files and drop old versions."""
        with self.writing():
            self._passages.optimize()

    def collections(self) -> list[str]:
        """Names of the collections that have settings or documents, sorted."""
        return sorted({*self._folder.collections(), *(entry.collection for entry in self.documents())})

    def settings(self, collection: str) -> dict[str, Any]:
        """The settings of a collection; empty where none were made."""
        return self._folder.settings(collection) or {}

    def configure(self, collection: str, settings: Mapping[str, Any]) -> None:
        """Replace the settings of a collection, as JSON; readers see the old or the new."""
        _expect_unicode(collection)
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
        gone = self._payloads.keep_only(self._passages.keys())
        self._unfinished.unlink(missing_ok=True)
        return gone


def _expect_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            expected="names and text in Unicode",
            got=f"a lone surrogate at character {error.start} of {text[:40]!r}",
            consequence="The document was not added.",
            remedy="Rename the file, or save its text as UTF-8.",
        ) from error


def _no_document(collection: str, source: str | None) -> UsageError:
    what = f'a collection "{collection}"' if source is None else f'a document "{source}" in "{collection}"'
    return UsageError(
        expected=what,
        got="none of that name",
        consequence="Nothing was changed.",
        remedy="`preread list` shows what the library holds.",
    )
