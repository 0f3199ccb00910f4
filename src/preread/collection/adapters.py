"""Which adapter a collection uses for which method: a record in its settings, weights in the library's folder."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from preread.core.errors import IntegrityError
from preread.core.method import Handle
from preread.core.types import sha256
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, digest
from preread.store.store import Store


@dataclass(frozen=True, slots=True)
class Record:
    """An adapter in use.

    Args:
        version: names it.
        producer: key of the producer whose memories it learned to read.
        documents: hash of each document that it was taught from, by source.
        weights: hash of its weights.
    """

    version: str
    producer: str
    documents: dict[str, str]
    weights: str


class CollectionAdapters:
    """The adapters of one collection.

    Args:
        store: the library's.
        collection: the collection's name.
    """

    def __init__(self, store: Store, collection: str) -> None:
        self.store, self.collection = store, collection

    def folder(self, method: str, version: str) -> Path:
        """Where an adapter's weights are."""
        return self._root / method / version

    def name(self, method: str, version: str) -> str:
        """Under which name the decoder knows an adapter."""
        return f"{self.collection}/{method}/{version}"

    def record(self, method: str) -> Record | None:
        """The adapter in use for a method."""
        kept = self.store.settings(self.collection).get("adapters", {}).get(method)
        return Record(**kept) if kept else None

    def attach(self, handle: Handle, decoder: Decoder) -> str | None:
        """Attach the adapter for a method, if it is not yet; its name, or None where none fits (`caveats` tells why).

        Raises:
            IntegrityError: its files are damaged.
        """
        record = self.record(handle.name)
        if record is None or record.producer != handle.producer("passage").key:
            return None
        name = self.name(handle.name, record.version)
        if name not in decoder.adapters:
            folder = self.folder(handle.name, record.version)
            try:
                lora = Lora.load(folder, decoder.projections)
            except IntegrityError:
                if self.record(handle.name) != record:  # a study or a `forget` came in between
                    return self.attach(handle, decoder)
                raise
            if digest(lora) != record.weights:
                raise IntegrityError(
                    expected=f"the adapter in {folder} as it was taught",
                    got="other numbers",
                    consequence="The question was not asked.",
                    remedy=f"Study again: preread study --collection {self.collection}",
                )
            decoder.adapters.add(name, lora)
        return name

    def intact(self, method: str, version: str, decoder: Decoder) -> bool:
        """Whether this version is in use and its weights are as they were taught."""
        record = self.record(method)
        if record is None or record.version != version:
            return False
        try:
            return digest(Lora.load(self.folder(method, version), decoder.projections)) == record.weights
        except IntegrityError:
            return False

    def caveats(self, handle: Handle) -> tuple[str, ...]:
        """What an answer must say of the adapter in use, or of the one that no longer fits."""
        record = self.record(handle.name)
        if record is None:
            return ()
        if record.producer != handle.producer("passage").key:
            return ("the adapter was taught to read memories of other weights and is not used; study again",)
        held = {entry.hash for entry in self.store.documents(self.collection)}
        new = len(held - set(record.documents.values()))
        note = f"the adapter was taught before {new} of the documents came; study again to include them"
        return (note,) if new else ()

    def publish(self, method: str, record: Record) -> bool:
        """Put an adapter in use, in one write, and remove the one before it.

        Returns:
            False, and nothing is done, if a document that it was taught from is not there any more as it was.
        """
        with self.store.writing():
            held = {entry.source: entry.hash for entry in self.store.documents(self.collection)}
            if not record.documents.items() <= held.items():
                return False
            before = self.record(method)
            self._write({method: asdict(record)})
            if before and before.version != record.version:
                shutil.rmtree(self.folder(method, before.version))
            return True

    def forget(self, sources: Collection[str] | None) -> None:
        """Remove every adapter taught from some documents, of any version of them, and all that are not in use, which
        may be; with None every adapter.

        Raises:
            OSError: a file cannot be removed; the adapters are out of use nevertheless.
        """
        kept = self.store.settings(self.collection).get("adapters", {})
        taught = [
            m for m, record in kept.items() if sources is None or not record["documents"].keys().isdisjoint(sources)
        ]
        if taught:
            self._write(dict.fromkeys(taught))
        used = {self.folder(method, record.version) for method in kept if (record := self.record(method))}
        for folder in self._root.glob("*/*"):
            if folder not in used:
                shutil.rmtree(folder)
        if not used and self._root.exists():
            shutil.rmtree(self._root)

    @property
    def _root(self) -> Path:
        return self.store.path / "adapters" / sha256(self.collection)[:16]

    def _write(self, changes: dict[str, dict[str, object] | None]) -> None:
        with self.store.writing():
            settings = self.store.settings(self.collection)
            adapters = {**settings.get("adapters", {}), **changes}
            left = {method: record for method, record in adapters.items() if record is not None}
            self.store.configure(self.collection, {**settings, "adapters": left})
