"""Which passages of a collection stay text: where a question finds them, they are read as plain tokens, not as memory.

A record in the collection's settings, replaced in one write. It names a document by its hash, so that passages of
another version of it are never meant.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from preread.core.types import Passage
from preread.store.rows import Entry
from preread.store.store import Store

KEY = "as_text"
"""Of the record in the settings."""

Place = tuple[str, int]
"""The hash of a passage's document, and the passage's number in it."""


def place(passage: Passage) -> Place:
    """What names a passage wherever it is stored."""
    return passage.document, passage.index


class AsText:
    """The passages of one collection that stay text.

    Args:
        store: the library's.
        collection: the collection's name.
    """

    def __init__(self, store: Store, collection: str) -> None:
        self.store, self.collection = store, collection

    def places(self) -> frozenset[Place]:
        """All of them."""
        return places(self.store.settings(self.collection))

    def mark(self, chosen: Iterable[tuple[Entry, Iterable[int]]]) -> int:
        """Have these passages, and no others, of some documents stay text, in one write; how many.

        Args:
            chosen: documents and the numbers of their passages; what was replaced or forgotten meanwhile is left out.
        """
        with self.store.writing():
            held = {(entry.source, entry.hash) for entry in self.store.documents(self.collection)}
            wanted = {
                entry.source: {"document": entry.hash, "passages": sorted(numbers)}
                for entry, numbers in chosen
                if (entry.source, entry.hash) in held
            }
            self._write({**self._records(), **wanted})
            return sum(len(record["passages"]) for record in wanted.values())

    def clear(self, sources: Collection[str] | None) -> int:
        """Have no passage of these documents stay text, or with None of any; how many did."""
        with self.store.writing():
            records = self._records()
            gone = records.keys() if sources is None else records.keys() & set(sources)
            if gone:
                self._write({source: record for source, record in records.items() if source not in gone})
            return sum(len(records[source]["passages"]) for source in gone)

    def _records(self) -> dict[str, dict[str, Any]]:
        records: dict[str, dict[str, Any]] = self.store.settings(self.collection).get(KEY, {})
        return records

    def _write(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        kept = {source: record for source, record in records.items() if record["passages"]}
        self.store.configure(self.collection, {**self.store.settings(self.collection), KEY: kept})


def places(settings: Mapping[str, Any]) -> frozenset[Place]:
    """The passages that stay text, as a collection's settings say."""
    records = settings.get(KEY, {}).values()
    return frozenset((record["document"], number) for record in records for number in record["passages"])
