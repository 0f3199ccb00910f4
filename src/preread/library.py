"""The whole flow on one page: Document -> Passage -> Memory -> Prompt -> Answer.

A library is a folder; a collection in it is a group of documents that share settings and adapters.

    collection = Library("papers").collection("contracts")
    collection.add("contract.pdf")
    print(collection.ask("Who may end the contract?").text)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

from preread.collection.adapters import Choice, CollectionAdapters
from preread.collection.as_text import AsText
from preread.collection.asking import ask, ask_library
from preread.collection.context import Mode
from preread.collection.intake import Added, source_of
from preread.collection.lessons import StudyConfig
from preread.collection.settings import Settings, attach, expect_name
from preread.collection.study import Studied, study
from preread.collection.sync import OnAdded, OnFailed, Synced, add, sync
from preread.core.answer import Answer
from preread.core.config import build
from preread.core.errors import UsageError
from preread.core.method import Handle
from preread.core.paths import data_home
from preread.core.types import Sampling, Turn
from preread.data.questions import Question
from preread.engines.base import Engine
from preread.engines.local import LocalEngine
from preread.models.loading import load
from preread.nn.hf import Decoder
from preread.nn.views import within
from preread.retrieval.embedder import Embedder
from preread.retrieval.retriever import Retriever
from preread.store.receipt import Receipt
from preread.store.rows import Entry
from preread.store.store import Store

WAIT_S = 600.0
"""Seconds that a write waits for another writer: about as long as a large document takes."""


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
        self._opened: dict[str, Collection] = {}

    @cached_property
    def retriever(self) -> Retriever:
        """Finds passages; its embedder is loaded on first use."""
        return Retriever(self.store, Embedder())

    def decoder(self, model: str, window: int | None = None) -> Decoder:
        """A decoder by name, loaded once; with a window, a view of it that reads no more positions."""
        if model not in self._decoders:
            self._decoders[model] = load(model)
        return self._decoders[model] if window is None else within(self._decoders[model], window)

    def collections(self) -> list[str]:
        """Names of the collections."""
        return self.store.collections()

    def collection(self, name: str, settings: Settings | None = None) -> Collection:
        """A collection by name; a new one has the settings, or the default ones, from its first document on.

        Raises:
            UsageError: it was made with other settings, or no list could show such a name.
        """
        expect_name(name)
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

    def opened(self, name: str) -> Collection:
        """As `collection`, with the methods that an earlier call of this attached."""
        collection = self.collection(name)
        if name not in self._opened or self._opened[name].settings != collection.settings:
            self._opened[name] = collection
        return self._opened[name]

    def ask(
        self,
        question: str,
        method: str | None = None,
        mode: Mode | None = None,
        k: int = 5,
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] = lambda _: None,
        history: Sequence[Turn] = (),
        strict: bool = False,
        on_doubt: Callable[[str], None] = lambda _: None,
        adapter: Choice = "auto",
    ) -> Answer:
        """Answer from the collection whose documents most likely hold the answer, with its decoder and its adapter.

        `Answer.route` says which it is, why, and which is the next. Arguments and errors are `Collection.ask`'s.
        """
        rest = (method, mode, k, sampling, on_text, history, strict, on_doubt, adapter)
        return ask_library(self, question, history, lambda collection: collection.ask(question, *rest))


class Collection:
    """Documents that share settings and adapters: add them, study them, ask them, forget them."""

    def __init__(self, library: Library, name: str, settings: Settings) -> None:
        self.library, self.store, self.name, self.settings = library, library.store, name, settings
        self.adapters = CollectionAdapters(self.store, name)
        self._handles: dict[str, Handle] = {}

    @cached_property
    def decoder(self) -> Decoder:
        """The decoder that its memories are for."""
        return self.library.decoder(self.settings.model, self.settings.window)

    @property
    def readers(self) -> list[str]:
        """Names of the models that read its documents and questions."""
        return [self.decoder.name, self.library.retriever.embedder.name]

    @cached_property
    def engine(self) -> Engine:
        """What writes the answers."""
        return LocalEngine(self.decoder)

    def handle(self, method: str) -> Handle:
        """A method attached to the collection's decoder."""
        if method not in self._handles:
            options = self.settings.options if method == self.settings.method else {}
            self._handles[method] = attach(method, options, self.decoder)
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

        When it returns, the document outlasts a kill at any moment. An interrupted call has stored the memories it
        finished, and the next call goes on from them; until its end the library shows the document as it was before.

        Args:
            path: a file, or a web address.

        Raises:
            UnreadableDocument: it is no document.
            Interrupted: `preread cancel` was called meanwhile.
            ResourceError: the disk is full.
        """
        return add(self, path)

    def sync(
        self,
        paths: Iterable[Path | str],
        remove: bool = False,
        dry_run: bool = False,
        on_added: OnAdded = lambda _: None,
        on_failed: OnFailed = lambda *_: None,
    ) -> Synced:
        """Take over what files, folders and web addresses hold now.

        A folder is looked through; what is new is added, what changed replaced, and documents whose files were removed
        from it are forgotten. They are kept if it cannot be listed, or if more than half of its documents are gone at
        once, as when a disk is not mounted. What did not change is told by size and time, without a model.

        Args:
            paths: files, folders and addresses.
            remove: forget documents whose files are gone from the folders, however many they are.
            dry_run: say what would be done, and do nothing.
            on_added: called with each document as soon as it is safe, and with the unchanged ones that were named.
            on_failed: called with each source that cannot be read, and why.

        Raises:
            Interrupted: Ctrl-C, or `preread cancel`; all that was finished is kept, and the same call goes on from it.
            ResourceError: the disk is full.
        """
        return sync(self, paths, remove, dry_run, on_added, on_failed)

    def forget(self, *sources: Path | str) -> Receipt:
        """Remove documents and every trace of them, the adapters that were taught from them included.

        Raises:
            UsageError: the collection does not hold one of them; nothing is removed.
        """
        return self._forget([self._source(source) for source in sources])

    def forget_all(self) -> Receipt:
        """Remove the collection: its documents, adapters and settings."""
        return self._forget(None)

    def _source(self, source: Path | str) -> str:
        """The name of a document that is held, or that could not be read."""
        name = source_of(source)
        unlearned = {work.source for work in self.store.jobs.work(self.name)}
        return name if name in unlearned else self.entry(source).source

    def _forget(self, sources: Sequence[str] | None) -> Receipt:
        with self.store.writing():
            before = self.store.size()
            self.adapters.forget(sources)
            AsText(self.store, self.name).clear(sources)
            receipt = self.store.forget(self.name, sources)
            return replace(receipt, bytes_freed=max(0, before - self.store.size()))

    def ask(
        self,
        question: str,
        method: str | None = None,
        mode: Mode | None = None,
        k: int = 5,
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] = lambda _: None,
        history: Sequence[Turn] = (),
        strict: bool = False,
        on_doubt: Callable[[str], None] = lambda _: None,
        adapter: Choice = "auto",
    ) -> Answer:
        """Answer from the collection's documents.

        Args:
            question: the user's words.
            method: who reads the documents; None is the collection's own.
            mode: `document` reads all of the best document, `passages` the k best passages, `hybrid` memory and the
                best passages as text in as many positions as those k take; None chooses by what a memory costs.
            k: most passages to cite, and to read in mode `passages`.
            sampling: how tokens are drawn; greedy by default.
            on_text: called with each piece of the answer as it is written.
            history: turns before this question, oldest first; the oldest are left out where the window is full.
            strict: write no answer where the documents do not seem to hold one.
            on_doubt: called before the first piece with a sentence for the reader, where that is so.
            adapter: whether the collection's adapter answers: `auto`, where its gate accepts; `always`; or `never`.

        Raises:
            UsageError: the collection is empty, or an unknown method.
        """
        return ask(self, question, method, mode, k, sampling, on_text, history, strict, on_doubt, adapter)

    def study(self, questions: Sequence[Question] = (), config: StudyConfig | None = None) -> Studied:
        """Teach the collection's adapter to answer from its memories, or go on where an interrupted call stopped.

        Args:
            questions: labelled ones; none means templates over the collection's own passages.
            config: how; None is the default.

        Raises:
            UsageError: the collection is empty, or its method has no adapter stage.
        """
        return study(self, questions, config)
