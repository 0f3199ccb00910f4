"""`text`: passages as plain tokens, the honest baseline that every other method must beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from preread.core.memory import Memory, Producer
from preread.core.method import Handle, Method, Objective
from preread.core.types import Passage, Prompt, Scope, Turn, sha256
from preread.nn.answering import adapter_objective
from preread.nn.hf import Decoder


@dataclass(frozen=True)
class Text(Method):
    """Plain tokens; nothing to set."""

    name: ClassVar[str] = "text"

    def attach(self, decoder: Decoder) -> TextHandle:
        """Bind to a decoder; nothing is attached to it."""
        return TextHandle(decoder)


class TextHandle(Handle):
    """A memory is the passage's own token ids, [N] int32."""

    name: ClassVar[str] = "text"
    needs: ClassVar[frozenset[str]] = frozenset({"ids", "adapter"})
    reads: ClassVar[Scope] = "passage"

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

    def objective(self, stage: str, **settings: Any) -> Objective:
        """Stage `adapter`: a LoRA that answers from the text, the baseline of every tuned method."""
        return adapter_objective(self.decoder, stage, settings)

    def detach(self) -> None:
        """Nothing was attached."""

    def _memory(self, ids: tuple[int, ...], scope: Scope) -> Memory:
        source = sha256(np.asarray(ids, dtype="<i4").tobytes())
        return Memory(self.producer(scope), scope, source, len(ids), {"ids": torch.tensor(ids, dtype=torch.int32)})


def _ids(memory: Memory) -> Tensor:
    ids = memory.plain
    assert ids is not None, "a memory of this method is the text itself"
    return ids
