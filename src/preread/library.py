"""The whole flow on one page: Document -> Passage -> Memory -> Prompt -> Answer.

A library is a folder; a collection in it is a group of documents that share settings and adapters.

    library = Library("papers")
    collection = library.collection("contracts")
    collection.add("contract.pdf")
    print(collection.ask("Who may end the contract?").text)
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from preread.adapters import CollectionAdapters
from preread.context import MOST_PASSAGES, Context, Mode, best_passages, positions, whole_document
from preread.core.config import build
from preread.core.errors import UsageError
from preread.core.method import Handle
from preread.core.paths import data_home
from preread.core.progress import progress
from preread.core.types import Answer, Citation, Hit, Sampling, Usage
from preread.data.ingest import read
from preread.data.passages import split
from preread.data.questions import Question
from preread.engines.base import Engine, Event, check
from preread.engines.local import LocalEngine
from preread.lessons import Studied, StudyConfig, study
from preread.memories import Memories
from preread.models.loading import load
from preread.nn.hf import INSTRUCTION, Decoder
from preread.retrieval.embedder import Embedder
from preread.retrieval.retriever import Retriever
from preread.settings import Settings, known
from preread.store.rows import Entry, text_key
from preread.store.store import Receipt, Store

WAIT_S = 600.0
"""Seconds that a write waits for another writer: about as long as a large document takes."""
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


class Library:
    """A folder of collections.

    Args:
        path: the folder, made if it is not there; None is the user's data directory.
        model: decoder of collections that are made without settings of their own.
    """

    def __init__(self, path: Path | str | None = None, model: str = "default") -> None:
        self.model = model
        self.path = Path(path) if path is not None else data_home() / "library"
        self.store = Store(self.path, wait_s=WAIT_S)
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
        """A collection by name; a new one has the settings, or the default ones, from its first document on.

        Raises:
            UsageError: it was made with other settings.
        """
        kept = self.store.settings(name)
        if not kept or not self.store.documents(name):
            return Collection(self, name, settings or Settings(self.model))
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
        self.adapters = CollectionAdapters(self.store, name)
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

    def require_documents(self) -> None:
        """Refuse an empty collection, before anything is loaded.

        Raises:
            UsageError: it holds no documents.
        """
        if not self.documents():
            raise UsageError(
                expected=f"documents in {self.name}",
                got="none",
                consequence="Nothing was done.",
                remedy=f"Add some first: preread add FILE --collection {self.name}",
            )

    def entry(self, source: Path | str) -> Entry:
        """A document by its source as listed, or by a path that leads to the same file.

        Raises:
            UsageError: the collection does not hold it.
        """
        for name in (str(source), os.path.abspath(source)):  # noqa: PTH100  # takes `..` out and keeps links
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
        memories = Memories(self.store, handle)
        keys = {scope: memories.keys(passages, scope) for scope in handle.scopes}
        passage_keys = [{handle.name: key} for key in keys["passage"]] if "passage" in keys else [{}] * len(passages)
        document_keys = {handle.name: keys["document"][0]} if "document" in keys else {}
        with self.store.writing():
            self._same_settings()
            before = {entry.source: entry for entry in self.documents()}.get(document.source)
            wanted = {key for own in keys.values() for key in own}
            change: Change = "replaced" if before else "added"
            if before and before.hash == document.hash and self._whole(before, wanted):
                change = "unchanged"
            else:
                with progress("indexing passages", len(passages)) as advance:
                    vectors = self.library.retriever.vectors(passages, advance)
                for scope in handle.scopes:
                    memories.make(passages, scope)
                if not self.documents():
                    settings = json.loads(json.dumps(asdict(self.settings), default=str))
                    self.store.configure(self.name, {"settings": settings, "adapters": {}})
                old = self._keys_of(before) | {text_key(before.hash)} if before else set()
                self.store.commit(self.name, document, passages, vectors, passage_keys, document_keys)
                self.store.optimize()
                self.store.discard(old)
        entry = self.entry(document.source)
        held = whole_document(memories, passages) if handle.scopes else []
        return Added(entry, change, positions(held), time.perf_counter() - start)

    def forget(self, source: Path | str) -> Receipt:
        """Remove a document and every trace of it, the adapters that were taught from it included."""
        entry = self.entry(source)
        with self.store.writing():
            self.adapters.forget(entry.source)
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
            k: most passages to cite, and to read in mode `passages`.
            sampling: how tokens are drawn; greedy by default.
            on_text: called with each piece of the answer as it is written.

        Raises:
            UsageError: the collection is empty, or an unknown method.
        """
        self.require_documents()
        sampling = sampling or Sampling()
        handle, retriever = self.handle(method or self.settings.method), self.library.retriever.ready()
        check(handle.needs, self.engine)
        start = time.perf_counter()
        hits = retriever.search(self.name, question, k)
        adapter = self.adapters.attach(handle, self.decoder)
        context = self._context(handle, question, hits, mode, sampling.max_tokens)
        prompt = handle.prompt(question, context.memories, adapter)
        waited = time.perf_counter() - start
        pieces: list[str] = []
        event: Event | None = None
        for event in self.engine.generate([prompt], sampling):
            pieces.append(event.text)
            on_text(event.text)
        assert event is not None
        assert event.finish is not None
        usage = Usage(
            tokens_read=len(prompt),
            tokens_of_source=sum(memory.tokens for memory in context.memories),
            tokens_of_documents=sum(entry.tokens for entry in self.documents() if entry.source in context.sources),
            tokens_written=event.tokens,
            first_token_s=waited + event.first_token_s,
            per_token_s=event.per_token_s,
        )
        citations = tuple(_citation(hit) for hit in context.hits[:k])
        left = sum(entry.tokens for entry in self.documents()) - usage.tokens_of_source
        unread = [f"{left:,} tokens of the collection were not read, neither as text nor as memory"] if left else []
        notes = (*handle.caveats(context.memories), *self.adapters.caveats(handle), *context.notes, *unread)
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

    def _context(self, handle: Handle, question: str, hits: Sequence[Hit], mode: Mode | None, answer: int) -> Context:
        """What the prompt will hold, leaving room for frame and answer, and what the reader must be told of it."""
        frame = len(handle.prompt(question, [])) + len(self.decoder.tokens(INSTRUCTION))
        room = self.decoder.window - frame - answer
        memories = Memories(self.store, handle)
        if (mode or ("document" if handle.scopes else "passages")) == "passages":
            return best_passages(memories, hits, room)
        source = hits[0].source
        passages = [stored.passage for stored in self.store.passages(self.name, source)]
        whole = whole_document(memories, passages)
        if positions(whole) <= room:
            return Context(whole, [hit for hit in hits if hit.source == source], [])
        wider = self.library.retriever.search(self.name, question, MOST_PASSAGES)
        best = best_passages(memories, [hit for hit in wider if hit.source == source], room)
        note = f"all of {hits[0].title} takes {positions(whole)} positions and {room} are free"
        return Context(best.memories, best.hits, [f"{note}: its best passages were read", *best.notes])

    def _same_settings(self) -> None:
        """Refuse to add to a collection that another made first, with other settings."""
        kept = self.store.settings(self.name)
        if kept and self.documents() and build(Settings, kept["settings"]) != self.settings:
            raise UsageError(
                expected=f"the settings that {self.name} was made with meanwhile: {kept['settings']}",
                got=str(asdict(self.settings)),
                consequence="Nothing was added.",
                remedy="Open the collection again, or choose another one.",
            )

    def _whole(self, entry: Entry, wanted: set[str]) -> bool:
        """Whether a document's memories and text are all stored, undamaged."""
        return wanted <= self._keys_of(entry) and not self.store.missing(wanted | {text_key(entry.hash)})

    def _keys_of(self, entry: Entry) -> set[str]:
        stored = self.store.passages(self.name, entry.source)
        return {key for passage in stored for key in passage.keys.values()} | set(entry.keys.values())


def _citation(hit: Hit) -> Citation:
    passage = hit.passage
    return Citation(
        passage.document, hit.title, hit.source, passage.place, passage.start, passage.end, hit.score, passage.text
    )
