"""The whole flow on one page: Document -> Passage -> Memory -> Prompt -> Answer.

A library is a folder; a collection in it is a group of documents that share settings and adapters.

    library = Library("papers")
    collection = library.collection("contracts")
    collection.add("contract.pdf")
    print(collection.ask("Who may end the contract?").text)
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from preread.core.config import build
from preread.core.errors import FingerprintMismatch, UsageError
from preread.core.memory import Memory
from preread.core.method import Handle
from preread.core.paths import data_home
from preread.core.progress import progress
from preread.core.types import Answer, Citation, Hit, Passage, Sampling, Scope, Usage, sha256
from preread.data.ingest import read
from preread.data.passages import split
from preread.data.questions import Question
from preread.engines.base import Engine, Event, check
from preread.engines.local import LocalEngine
from preread.lessons import Studied, StudyConfig, study
from preread.methods import METHODS
from preread.models.loading import load
from preread.nn.hf import Decoder
from preread.nn.lora import Lora
from preread.retrieval.embedder import Embedder
from preread.retrieval.retriever import Retriever
from preread.store.rows import Entry
from preread.store.store import Receipt, Store

Mode = Literal["document", "passages"]
BEFORE_A_PAUSE = 32
"""Memories made before they are stored: an interrupted `add` loses at most so many."""
MOST_PASSAGES = 200
"""Passages that a fall-back looks at."""


@dataclass(frozen=True)
class Settings:
    """What a collection was made with; it stays so.

    Args:
        model: decoder, as `preread.models.load` takes it.
        method: the method that memories are kept for; `text` works beside every other.
        options: the method's own settings, such as `ratio`.
        passage_tokens: most tokens a passage. 240 is 8 summary embeddings at 30x, and what the embedder reads whole.
    """

    model: str = "default"
    method: str = "lloco"
    options: dict[str, Any] = field(default_factory=dict)
    passage_tokens: int = 240

    def __post_init__(self) -> None:
        known(self.method)


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
    change: Literal["added", "replaced", "unchanged"]
    positions: int
    seconds: float


class Library:
    """A folder of collections.

    Args:
        path: the folder, made if it is not there; None is the user's data directory.
        model: decoder of collections that are made without settings of their own.
    """

    def __init__(self, path: Path | str | None = None, model: str = "default") -> None:
        self.model = model
        self.path = Path(path) if path is not None else data_home() / "library"
        self.store = Store(self.path)
        self._decoders: dict[str, Decoder] = {}

    @cached_property
    def retriever(self) -> Retriever:
        """Finds passages; its embedder is loaded on first use."""
        return Retriever(self.store, Embedder())

    def decoder(self, model: str) -> Decoder:
        """A decoder by name, loaded once."""
        if model not in self._decoders:
            self._decoders[model] = load(model)
        return self._decoders[model]

    def collections(self) -> list[str]:
        """Names of the collections."""
        return self.store.collections()

    def collection(self, name: str, settings: Settings | None = None) -> Collection:
        """A collection by name; a new one gets the settings, or the default ones.

        Raises:
            UsageError: it was made with other settings.
        """
        kept = self.store.settings(name)
        if not kept:
            settings = settings or Settings(self.model)
            self.store.configure(name, {"settings": asdict(settings), "adapters": {}})
            return Collection(self, name, settings)
        made_with = build(Settings, kept["settings"])
        if settings is not None and settings != made_with:
            raise UsageError(
                expected=f"the settings that {name} was made with: {asdict(made_with)}",
                got=str(asdict(settings)),
                consequence="Nothing was changed.",
                remedy="Leave the settings out, or choose another collection.",
            )
        return Collection(self, name, made_with)


class Collection:
    """Documents that share settings and adapters: add them, study them, ask them, forget them."""

    def __init__(self, library: Library, name: str, settings: Settings) -> None:
        self.library, self.name, self.settings = library, name, settings
        self.store = library.store
        self._handles: dict[str, Handle] = {}

    @cached_property
    def decoder(self) -> Decoder:
        """The decoder that its memories are for."""
        return self.library.decoder(self.settings.model)

    @cached_property
    def engine(self) -> Engine:
        """What writes the answers."""
        return LocalEngine(self.decoder)

    def handle(self, method: str) -> Handle:
        """A method attached to the collection's decoder."""
        if method not in self._handles:
            options = self.settings.options if method == self.settings.method else {}
            self._handles[method] = build(known(method), options).attach(self.decoder)
        return self._handles[method]

    def documents(self) -> list[Entry]:
        """What the collection holds."""
        return self.store.documents(self.name)

    def entry(self, source: Path | str) -> Entry:
        """A document by its source as listed, or by a path that leads to the same file.

        Raises:
            UsageError: the collection does not hold it.
        """
        for name in (str(source), str(Path(source).absolute())):
            for entry in self.documents():
                if entry.source == name:
                    return entry
        raise UsageError(
            expected=f"a document of {self.name}",
            got=str(source),
            consequence="Nothing was changed.",
            remedy="`preread list` shows what the library holds.",
        )

    def add(self, path: Path | str) -> Added:
        """Read a document, make its memories and keep both; an unchanged one is left, a changed one replaced.

        An interrupted call has stored the memories it finished, and the next call goes on from them; until its end the
        library shows the document as it was before.

        Raises:
            UnreadableDocument: the file is not one.
            ResourceError: the disk is full.
        """
        start = time.perf_counter()
        document = read(Path(path))
        passages = split(document, self.decoder.tokenizer, self.settings.passage_tokens)
        handle = self.handle(self.settings.method)
        keys = {scope: _keys(handle, passages, scope) for scope in handle.scopes}
        passage_keys = [{handle.name: key} for key in keys["passage"]] if "passage" in keys else [{}] * len(passages)
        document_keys = {handle.name: keys["document"][0]} if "document" in keys else {}
        with self.store.writing():
            before = {entry.source: entry for entry in self.documents()}.get(document.source)
            wanted = {key for own in keys.values() for key in own}
            if before and before.hash == document.hash and self._keys_of(before) >= wanted:
                return Added(before, "unchanged", self._positions(keys), time.perf_counter() - start)
            vectors = self._vectors(passages)
            for scope, own in keys.items():
                self._remember(handle, passages, own, scope)
            self.store.commit(self.name, document, passages, vectors, passage_keys, document_keys)
            self.store.optimize()
        entry = next(entry for entry in self.documents() if entry.source == document.source)
        return Added(entry, "replaced" if before else "added", self._positions(keys), time.perf_counter() - start)

    def forget(self, source: Path | str) -> Receipt:
        """Remove a document and every trace of it, the adapters that were taught from it included."""
        entry = self.entry(source)
        with self.store.writing():
            self._drop_adapters(entry.hash)
            return self.store.forget(self.name, entry.source)

    def ask(
        self,
        question: str,
        method: str | None = None,
        mode: Mode | None = None,
        k: int = 5,
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] = lambda _: None,
    ) -> Answer:
        """Answer from the collection's documents.

        Args:
            question: the user's words.
            method: who reads the documents; None is the collection's own.
            mode: `document` reads all of the best document, `passages` the k best passages; None chooses the first
                where a memory makes it cheap.
            k: passages to cite, and to read in mode `passages`.
            sampling: how tokens are drawn; greedy by default.
            on_text: called with each piece of the answer as it is written.

        Raises:
            UsageError: the collection is empty, or an unknown method.
        """
        sampling = sampling or Sampling()
        handle, retriever = self.handle(method or self.settings.method), self.library.retriever.ready()
        check(handle.needs, self.engine)
        start = time.perf_counter()
        hits = retriever.search(self.name, question, k)
        if not hits:
            raise UsageError(
                expected=f"documents in {self.name}",
                got="none",
                consequence="Nothing was asked.",
                remedy=f"Add some first: preread add FILE --collection {self.name}",
            )
        adapter = self.adapter(handle.name)
        room = self.decoder.window - sampling.max_tokens - len(handle.prompt(question, [], adapter)) - 32
        memories, notes = self._context(handle, question, hits, mode, room)
        notes += self._untaught(handle.name)
        waited = time.perf_counter() - start
        pieces: list[str] = []
        event: Event | None = None
        for event in self.engine.generate([handle.prompt(question, memories, adapter)], sampling):
            pieces.append(event.text)
            on_text(event.text)
        assert event is not None
        assert event.finish is not None
        cited = {hit.source for hit in hits}
        usage = Usage(
            tokens_read=len(handle.prompt(question, memories, adapter)),
            tokens_of_source=sum(entry.tokens for entry in self.documents() if entry.source in cited),
            tokens_written=event.tokens,
            first_token_s=waited + event.first_token_s,
            per_token_s=event.per_token_s,
        )
        citations = tuple(_citation(hit) for hit in hits)
        return Answer("".join(pieces).strip(), handle.name, citations, usage, event.finish, notes)

    def study(self, questions: Sequence[Question] = (), config: StudyConfig | None = None) -> Studied:
        """Teach the collection's adapter to answer from its memories, or go on where an interrupted call stopped.

        Args:
            questions: labelled ones; none means templates over the collection's own passages.
            config: how; None is the default.

        Raises:
            UsageError: the collection is empty, or its method has no adapter stage.
        """
        return study(self, questions, config)

    def adapter(self, method: str) -> str | None:
        """Name of the collection's adapter for a method, attached on first use; None where none was taught."""
        kept = self.store.settings(self.name).get("adapters", {}).get(method)
        if kept is None:
            return None
        name = f"{self.name}/{method}/{kept['version']}"
        if name not in self.decoder.adapters:
            if kept["base"] != self.decoder.fingerprint:
                raise FingerprintMismatch(
                    expected=f"an adapter for {self.decoder.name} ({self.decoder.fingerprint[:12]})",
                    got=f"one for other weights ({kept['base'][:12]})",
                    consequence="The question was not asked.",
                    remedy="Study the collection again.",
                )
            self.decoder.adapters.add(name, Lora.load(self.library.path / kept["folder"], self.decoder.projections))
        return name

    def _untaught(self, method: str) -> tuple[str, ...]:
        """What to say where documents came or changed after the adapter was taught."""
        record = self.store.settings(self.name).get("adapters", {}).get(method)
        new = {entry.hash for entry in self.documents()} - set(record["documents"] if record else ())
        if record is None or not new:
            return ()
        return (f"the adapter was taught before {len(new)} of the documents came; study again to include them",)

    def memories(self, handle: Handle, passages: Sequence[Passage]) -> list[Memory]:
        """The stored memories of some passages, or new ones where the method keeps none."""
        if "passage" not in handle.scopes:
            return list(handle.encode(passages))
        return self._load(handle, _keys(handle, passages, "passage"), "passage")

    def _context(
        self, handle: Handle, question: str, hits: Sequence[Hit], mode: Mode | None, room: int
    ) -> tuple[list[Memory], tuple[str, ...]]:
        """What the prompt will hold, within `room` positions, and what the reader must be told of it."""
        notes = list(handle.caveats)
        mode = mode or ("document" if handle.scopes else "passages")
        if mode == "document":
            source = hits[0].source
            passages = [stored.passage for stored in self.store.passages(self.name, source)]
            whole = "document" in handle.scopes
            memories = (
                self._load(handle, _keys(handle, passages, "document"), "document")
                if whole
                else self.memories(handle, passages)
            )
            needed = sum(memory.positions for memory in memories)
            if needed <= room:
                others = len(self.documents()) - 1
                notes += [f"{others} other documents of the collection were not read."] * (others > 0)
                return memories, tuple(notes)
            notes.append(
                f"All of {hits[0].title} takes {needed} positions and {room} are free: its best passages were read."
            )
            hits = self.library.retriever.search(self.name, question, MOST_PASSAGES)
            hits = [hit for hit in hits if hit.source == source]
        return self._best(handle, hits, room, notes)

    def _best(
        self, handle: Handle, hits: Sequence[Hit], room: int, notes: list[str]
    ) -> tuple[list[Memory], tuple[str, ...]]:
        """The memories of the best passages that fit, in the order of their documents."""
        memories = self.memories(handle, [hit.passage for hit in hits])
        kept: list[tuple[str, int, Memory]] = []
        used = 0
        for hit, memory in zip(hits, memories, strict=True):
            if used + memory.positions > room:
                notes.append(f"Only {len(kept)} of {len(hits)} passages fit the decoder's window.")
                break
            used += memory.positions
            kept.append((hit.source, hit.passage.index, memory))
        kept.sort(key=lambda item: item[:2])
        notes.append(f"{len(kept)} passages were read; the rest of the collection was not.")
        return [memory for _, _, memory in kept], tuple(notes)

    def _vectors(self, passages: Sequence[Passage]) -> np.ndarray:
        with progress("indexing passages", len(passages)) as advance:
            return self.library.retriever.vectors(passages, advance)

    def _remember(self, handle: Handle, passages: Sequence[Passage], keys: Sequence[str], scope: Scope) -> None:
        """Make and store the memories that are not stored yet, some at a time."""
        missing = self.store.missing(keys)
        if scope == "document":
            wanted, names = passages, [key for key in keys if key in missing]
        else:
            pairs = [(passage, key) for passage, key in zip(passages, keys, strict=True) if key in missing]
            wanted, names = [passage for passage, _ in pairs], [key for _, key in pairs]
        if not names:
            return
        with progress(f"compressing ({handle.name})", sum(len(passage.ids) for passage in wanted)) as advance:
            made = zip(names, handle.encode(_watched(wanted, advance), scope), strict=True)
            while some := dict(islice(made, BEFORE_A_PAUSE)):
                self.store.put({key: memory.to_bytes() for key, memory in some.items()})

    def _load(self, handle: Handle, keys: Sequence[str], scope: Scope) -> list[Memory]:
        expect = handle.producer(scope)
        if missing := self.store.missing(keys):
            raise FingerprintMismatch(
                expected=f"memories by {handle.name} for {self.decoder.name} ({expect.base[:12]}, {expect.settings})",
                got=f"none of that kind for {len(missing)} of {len(keys)} passages",
                consequence="The question was not asked; memories of other weights mean nothing to these.",
                remedy=f"Add the documents again: preread add FILE --collection {self.name}; or use --method text.",
            )
        raw = self.store.payloads(keys)
        return [Memory.from_bytes(raw[key], expect) for key in keys]

    def _drop_adapters(self, document: str) -> None:
        """Remove the adapters that were taught from the document with this hash."""
        kept = self.store.settings(self.name)
        tainted = {m: record for m, record in kept["adapters"].items() if document in record["documents"]}
        if tainted:
            left = {method: record for method, record in kept["adapters"].items() if method not in tainted}
            self.store.configure(self.name, {**kept, "adapters": left})
        for record in tainted.values():
            shutil.rmtree(self.library.path / record["folder"], ignore_errors=True)

    def _keys_of(self, entry: Entry) -> set[str]:
        stored = self.store.passages(self.name, entry.source)
        return {key for passage in stored for key in passage.keys.values()} | set(entry.keys.values())

    def _positions(self, keys: Mapping[Scope, Sequence[str]]) -> int:
        raw = self.store.payloads(keys.get("document") or keys.get("passage") or [])
        return sum(Memory.from_bytes(payload).positions for payload in raw.values())


def known(method: str) -> Any:
    """The class of a method by name.

    Raises:
        UsageError: there is no such method.
    """
    if method not in METHODS:
        raise UsageError(
            expected=f"a method ({', '.join(METHODS)})",
            got=method,
            consequence="Nothing was done.",
            remedy="Choose one of them with --method.",
        )
    return METHODS[method]


def _keys(handle: Handle, passages: Sequence[Passage], scope: Scope) -> list[str]:
    """Payload keys: what was read and who read it, so that equal work is found again and never done twice."""
    producer = handle.producer(scope).key
    raw = [np.asarray(passage.ids, dtype="<i4").tobytes() for passage in passages]
    return [sha256(producer, *raw)] if scope == "document" else [sha256(producer, ids) for ids in raw]


def _watched(passages: Sequence[Passage], advance: Callable[[float], None]) -> Iterable[Passage]:
    for passage in passages:
        yield passage
        advance(len(passage.ids))


def _citation(hit: Hit) -> Citation:
    passage = hit.passage
    return Citation(
        passage.document, hit.title, hit.source, passage.place, passage.start, passage.end, hit.score, passage.text
    )
