"""Memories that are the text itself: what methods share that put plain tokens before a question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from preread.core.memory import Memory, Producer
from preread.core.method import Handle
from preread.core.types import Passage, Prompt, Scope, Turn, sha256
from preread.nn.hf import Decoder


class PlainHandle(Handle):
    """A memory is the passage's own token ids, [N] int32.

    Args:
        decoder: who reads them.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"ids", "adapter"})

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """None: a passage's ids are its memory, and the library has them."""
        return ()

    def producer(self, scope: Scope) -> Producer:  # noqa: ARG002 the same for every scope
        """Bound to the decoder, whose tokenizer gave the ids."""
        return Producer(self.name, self.decoder.fingerprint, weights="", settings="{}", dtype="int32")

    def encode(self, passages: Iterable[Passage], scope: Scope = "passage") -> Iterator[Memory]:
        """The token ids of each passage, or of all in order."""
        if scope == "passage":
            yield from (self._memory(passage.ids, scope) for passage in passages)
        else:
            yield self._memory(tuple(chain.from_iterable(passage.ids for passage in passages)), scope)

    def prompt(
        self,
        question: str,
        memories: Sequence[Memory],
        adapter: str | None = None,
        history: Sequence[Turn] = (),
    ) -> Prompt:
        """The passages' text, then the question."""
        ids, shared = self.decoder.frame(question, [_ids(memory) for memory in memories], history)
        return Prompt(ids, adapter=adapter, shared=shared)

    def continuation(self, ids: Tensor, memories: Sequence[Memory]) -> Prompt:
        """The passages' text and the given one, in a row."""
        return Prompt(torch.cat([self.decoder.start_ids, *map(_ids, memories), ids]))

    def _memory(self, ids: tuple[int, ...], scope: Scope) -> Memory:
        source = sha256(np.asarray(ids, dtype="<i4").tobytes())
        return Memory(self.producer(scope), scope, source, len(ids), {"ids": torch.tensor(ids, dtype=torch.int32)})


def _ids(memory: Memory) -> Tensor:
    ids = memory.plain
    assert ids is not None, "a memory of this method is the text itself"
    return ids
