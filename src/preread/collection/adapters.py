"""Which adapter a collection uses for which method: a record in its settings, weights in the library's folder."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from preread.core.answer import AdapterUse
from preread.core.errors import FingerprintMismatch, IntegrityError, UsageError
from preread.core.method import Handle
from preread.core.types import sha256
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, digest
from preread.retrieval.embedder import Embedder
from preread.retrieval.gate import Decision, Gate, subject
from preread.retrieval.retriever import Retriever, wordings
from preread.store.store import Store

Choice = Literal["auto", "always", "never"]
"""When an adapter is used: where its gate accepts the question, for every question, or for none."""


@dataclass(frozen=True, slots=True)
class Record:
    """An adapter in use.

    Args:
        version: names it.
        producer: key of the producer whose memories it learned to read.
        documents: hash of each document that it was taught from, by source.
        weights: hash of its weights.
        gate: hash to load its gate by; empty for an adapter from before there were gates.
    """

    version: str
    producer: str
    documents: dict[str, str]
    weights: str
    gate: str = ""


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

    def choose(
        self, handle: Handle, decoder: Decoder, retriever: Retriever, asked: Sequence[str], choice: Choice = "auto"
    ) -> tuple[str | None, AdapterUse | None]:
        """Decide whether the adapter reads a question's memories, and attach it if so.

        Args:
            handle: the method that reads.
            decoder: what it is attached to.
            retriever: gives the vectors of questions.
            asked: the questions of the conversation, oldest first; the last one is decided on.
            choice: when it is used.

        Returns:
            The adapter's name, or None where it is not used; and why. Both None where the method has no adapter.

        Raises:
            IntegrityError: adapter or gate are damaged.
        """
        use = self._decide(handle, retriever, asked, choice)
        if use is None or not use.used:
            return None, use
        name = self.attach(handle, decoder)
        return name, use if name else None

    def attach(self, handle: Handle, decoder: Decoder) -> str | None:
        """Attach the adapter for a method, if it is not yet; its name, or None where none fits.

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

    def intact(self, method: str, version: str, decoder: Decoder, embedder: Embedder) -> bool:
        """Whether this version is in use, and its weights and its gate are as they were made."""
        record = self.record(method)
        if record is None or record.version != version:
            return False
        folder = self.folder(method, version)
        try:
            if record.gate:
                Gate.load(folder, record.gate, embedder.fingerprint)
            return digest(Lora.load(folder, decoder.projections)) == record.weights
        except IntegrityError:
            return False

    def caveats(self, handle: Handle, use: AdapterUse | None) -> tuple[str, ...]:
        """What an answer must say of the adapter: whether it was used and why, and what it has not seen."""
        if use is None:
            return ()
        record = self.record(handle.name)
        if not use.used or record is None:
            return (use.why,)
        held = {entry.hash for entry in self.store.documents(self.collection)}
        new = len(held - set(record.documents.values()))
        note = f"the adapter was taught before {new} of the documents came; study again to include them"
        return (use.why, note) if new else (use.why,)

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
                folder = self.folder(method, before.version)
                if folder.exists():  # somebody may have removed a damaged one, and studied again as they were told
                    shutil.rmtree(folder)
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

    def _decide(self, handle: Handle, retriever: Retriever, asked: Sequence[str], choice: Choice) -> AdapterUse | None:
        """As `choose`, with nothing attached."""
        record = self.record(handle.name)
        if record is None:
            return None
        if record.producer != handle.producer("passage").key:
            return AdapterUse(
                False, "the adapter was taught to read memories of other weights and is not used; study again"
            )
        if choice != "auto":
            wanted = choice == "always"
            return AdapterUse(wanted, f"the adapter was {'' if wanted else 'not '}used, as was asked for")
        try:
            return self._gated(handle.name, record, retriever, asked)
        except FingerprintMismatch as error:
            return AdapterUse(
                False, f"the adapter is not used: expected {error.expected}, got {error.got}; study again"
            )
        except IntegrityError:
            if self.record(handle.name) != record:  # a study or a `forget` came in between
                return self._decide(handle, retriever, asked, choice)
            raise

    def _gated(self, method: str, record: Record, retriever: Retriever, asked: Sequence[str]) -> AdapterUse:
        """What the gate of the adapter in use says of a question; one from before there were gates has none."""
        if not record.gate:
            return AdapterUse(True, "the adapter was used for every question: it was studied before there were gates")
        gate = Gate.load(self.folder(method, record.version), record.gate, retriever.embedder.fingerprint)
        *earlier, question = asked
        decision = gate.decide(np.stack([retriever.vector(subject(one)) for one in wordings(question, earlier)]))
        return AdapterUse(decision.accepted, _sentence(decision, gate.calibrated), decision.score, decision.threshold)

    @property
    def _root(self) -> Path:
        return self.store.path / "adapters" / sha256(self.collection)[:16]

    def _write(self, changes: dict[str, dict[str, object] | None]) -> None:
        with self.store.writing():
            settings = self.store.settings(self.collection)
            adapters = {**settings.get("adapters", {}), **changes}
            left = {method: record for method, record in adapters.items() if record is not None}
            self.store.configure(self.collection, {**settings, "adapters": left})


def fit_gate(folder: Path, embedder: Embedder, taught: Sequence[str], held_out: Sequence[str]) -> str:
    """Fit the gate of an adapter by the questions that it was studied with; the hash to load it by.

    Args:
        folder: the adapter's; the gate is written beside it.
        embedder: the library's.
        taught: questions about the documents that it was taught.
        held_out: further ones, drawn alike; they stand for the taught ones where a short study taught none.
    """
    own = list(dict.fromkeys(map(subject, taught or held_out)))
    others = [one for one in dict.fromkeys(map(subject, held_out)) if one not in set(own)]
    vectors = embedder.embed([*own, *others], "question")
    return Gate.fit(vectors[: len(own)], vectors[len(own) :], embedder.fingerprint).save(folder)


def choice_of(name: str) -> Choice:
    """When an adapter is used, by name.

    Raises:
        UsageError: there is no such choice.
    """
    for choice in get_args(Choice):
        if name == choice:
            return choice  # type: ignore[no-any-return]  # one of the literals
    known = ", ".join(get_args(Choice))
    raise UsageError(f"when to use the adapter ({known})", name, "Nothing was asked.", "Choose one of them.")


def _sentence(decision: Decision, calibrated: int) -> str:
    """What a reader is told of a gate's decision."""
    if decision.threshold is None:
        return (
            f"the adapter was used: {calibrated} questions are too few to tell which ones it was not studied for "
            f"(likeness {decision.score:.2f})"
        )
    likeness = f"likeness to what was studied {decision.score:.2f}, threshold {decision.threshold:.2f}"
    return f"the adapter was used: {likeness}" if decision.accepted else f"the adapter was not used: {likeness}"
