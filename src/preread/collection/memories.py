"""The memories of one method in a store: named by what was read and who read it, so that none is made twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np

from preread.core.errors import FingerprintMismatch
from preread.core.memory import Memory
from preread.core.method import Handle
from preread.core.progress import progress
from preread.core.types import Passage, Scope, sha256
from preread.store.store import Store

BEFORE_A_PAUSE = 32
"""Memories made before they are stored: an interrupted `make` loses at most so many."""


class Memories:
    """What a method made of the passages in a store.

    Args:
        store: where they are.
        handle: the method, attached to the decoder that reads them.
        kept: whether the store should hold them; memories of another method than a collection's are made when needed.

    Attributes:
        made: how many `load` had to make because they should not be stored, or are not yet.
    """

    def __init__(self, store: Store, handle: Handle, kept: bool = True) -> None:
        self.store, self.handle, self.kept, self.made = store, handle, kept, 0

    def keys(self, passages: Sequence[Passage], scope: Scope) -> list[str]:
        """Payload keys: one a passage, or a single one for a document."""
        producer = self.handle.producer(scope).key
        raw = [np.asarray(passage.ids, dtype="<i4").tobytes() for passage in passages]
        return [sha256(producer, *raw)] if scope == "document" else [sha256(producer, ids) for ids in raw]

    def make(
        self,
        passages: Sequence[Passage],
        scope: Scope,
        advance: Callable[[float], object] = lambda _: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Make and store those that are not stored yet, some at a time; an interrupted call is gone on with.

        Args:
            passages: what they are of; all of a document's, in order, for its own memory.
            scope: whether one a passage, or one for all.
            advance: told of each number of tokens more that is read.
            check: called between two batches; what it raises ends the call, and what was stored stays.
        """
        names, wanted = self._missing(passages, scope)
        if not names:
            return
        advance(sum(len(passage.ids) for passage in passages) - sum(len(passage.ids) for passage in wanted))
        made = zip(names, self.handle.encode(_watched(wanted, advance), scope), strict=True)
        while some := dict(islice(made, BEFORE_A_PAUSE)):
            self.store.put({key: memory.to_bytes() for key, memory in some.items()})
            check()

    def load(self, passages: Sequence[Passage], scope: Scope = "passage") -> list[Memory]:
        """The memories of some passages, made on the spot where none are kept.

        Raises:
            FingerprintMismatch: they should be stored, but those that are were made by other weights or settings.
        """
        if scope not in self.handle.scopes:
            return list(self.handle.encode(passages, scope))
        keys, expect = self.keys(passages, scope), self.handle.producer(scope)
        missing, wanted = self._missing(passages, scope)
        if missing and self.kept:
            raise FingerprintMismatch(
                expected=f"memories by {expect.method} for base {expect.base[:12]} ({expect.settings})",
                got=f"none of that kind, or damaged ones, for {len(missing)} of {len(keys)}",
                consequence="Nothing was computed; memories of other weights mean nothing to these.",
                remedy="Add the documents again if they were not forgotten meanwhile, or use --method text.",
            )
        made = dict(zip(missing, self._spot(wanted, scope), strict=True))
        raw = self.store.mapped([key for key in keys if key not in made])
        return [made[key] if key in made else Memory.from_bytes(raw[key], expect) for key in keys]

    def are_stored(self, passages: Sequence[Passage], scope: Scope = "passage") -> bool:
        """Whether not one would have to be made."""
        return scope in self.handle.scopes and not self._missing(passages, scope)[0]

    def _missing(self, passages: Sequence[Passage], scope: Scope) -> tuple[list[str], Sequence[Passage]]:
        """Keys of the memories that are not stored, and the passages that they are to be made of."""
        keys = self.keys(passages, scope)
        missing = self.store.missing(keys)
        if scope == "document":
            return (keys, passages) if missing else ([], [])
        pairs = {key: passage for passage, key in zip(passages, keys, strict=True) if key in missing}
        return list(pairs), list(pairs.values())

    def _spot(self, passages: Sequence[Passage], scope: Scope) -> list[Memory]:
        """Memories for this once."""
        if not passages:
            return []
        tokens = sum(len(passage.ids) for passage in passages)
        with progress(f"reading by {self.handle.name}, tokens", tokens) as advance:
            made = list(self.handle.encode(_watched(passages, advance), scope))
        self.made += len(made)
        return made


def _watched(passages: Sequence[Passage], advance: Callable[[float], object]) -> Iterable[Passage]:
    for passage in passages:
        yield passage
        advance(len(passage.ids))
