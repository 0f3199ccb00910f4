"""`kv` behind the door: each passage's keys and values, kept in part, side by side before the question.

A passage is read on its own behind the beginning of the chat template, so every passage's keys stand at the same
positions, and all of them lie within what the decoder was trained for however many there are (as in Parallel Context
Windows, Ratner et al., arXiv 2212.10947). Only what can be heard from the question matters then, not the order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from preread.core.errors import WindowExceeded
from preread.core.memory import Memory, Producer
from preread.core.method import Handle, Method, Objective, expect_ratio
from preread.core.types import MEMORY, KeyValues, Passage, Prompt, Scope, Turn, sha256
from preread.methods.kv.selection import select
from preread.nn.answering import adapter_objective
from preread.nn.cpu import require_weighted
from preread.nn.hf import Decoder
from preread.nn.observed import observe

SIDE_BY_SIDE = 18
"""Most passages at once that were tried and still told the decoder nearly what the best five do (docs/log.md)."""


@dataclass(frozen=True)
class Kv(Method):
    """How passages are thinned.

    Args:
        ratio: tokens that a kept position stands for.
        match: fit weights and values of what is kept to attention over all (arXiv 2602.16284); off, because for the
            default decoder it loses to plain selection (docs/log.md).
    """

    name: ClassVar[str] = "kv"
    ratio: float = 4.0
    match: bool = False

    def __post_init__(self) -> None:
        expect_ratio(self.ratio, "Choose 2 to 50 tokens for each kept position.")

    def attach(self, decoder: Decoder) -> KvHandle:
        """Bind to a decoder; nothing is attached to it.

        Raises:
            UnsupportedModel: the decoder's keys and values cannot be kept position by position; or they are to be
                matched, and its attention cannot read keys with a weight.
        """
        decoder.cache(0)
        if self.match:
            require_weighted(decoder)
        return KvHandle(self, decoder)


class KvHandle(Handle):
    """A memory is the kept keys and values of a passage, [N, L, K, E] in the decoder's dtype, and their biases."""

    name: ClassVar[str] = "kv"
    needs: ClassVar[frozenset[str]] = frozenset({"ids", "kv", "adapter"})
    reads: ClassVar[Scope] = "passage"

    def __init__(self, method: Kv, decoder: Decoder) -> None:
        self.method, self.decoder = method, decoder
        ids, shared = decoder.frame("")
        self.lead = ids[:shared]
        self._settings = json.dumps(
            {"ratio": method.ratio, "match": method.match, "lead": sha256(_raw(self.lead.tolist()))}, sort_keys=True
        )

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Passages: each is read on its own."""
        return ("passage",)

    def caveats(self, memories: Sequence[Memory]) -> tuple[str, ...]:
        """That passages are more than are known to be heard beside one another."""
        if len(memories) <= SIDE_BY_SIDE:
            return ()
        return (f"{len(memories)} passages side by side may drown each other out (tried: up to {SIDE_BY_SIDE})",)

    def producer(self, scope: Scope) -> Producer:  # noqa: ARG002 the same for every scope
        """Bound to the decoder, the ratio, and the beginning of the chat template that every passage is read behind."""
        dtype = str(self.decoder.dtype).removeprefix("torch.")
        return Producer(self.name, self.decoder.fingerprint, weights="", settings=self._settings, dtype=dtype)

    def encode(self, passages: Iterable[Passage], scope: Scope = "passage") -> Iterator[Memory]:
        """The kept keys and values of each passage, or of all read as one.

        One at a time: which keys are kept hangs on small differences, so a memory must not depend on its neighbours.

        Raises:
            WindowExceeded: a passage is longer than the decoder's window.
        """
        pieces = (passage.ids for passage in passages)
        for ids in pieces if scope == "passage" else (tuple(chain.from_iterable(pieces)),):
            yield self._memory(ids, scope)

    def prompt(
        self,
        question: str,
        memories: Sequence[Memory],
        adapter: str | None = None,
        history: Sequence[Turn] = (),
    ) -> Prompt:
        """The kept keys and values side by side, plain text behind the longest passage, then the question."""
        kept, texts = _divided(memories)
        ids, shared = self.decoder.frame(question, [_holes(kept), *texts] if memories else [], history)
        return replace(self._placed(ids, kept), adapter=adapter, shared=shared)

    def continuation(self, ids: Tensor, memories: Sequence[Memory]) -> Prompt:
        """The beginning of the chat template, behind which the passages were read, their keys and values, the text."""
        kept, texts = _divided(memories)
        lead = self.lead if kept else self.decoder.start_ids
        return self._placed(torch.cat([lead, _holes(kept), *texts, ids]), kept)

    def objective(self, stage: str, **settings: Any) -> Objective:
        """Stage `adapter`: a LoRA that reads the kept keys and values, which stay those of the bare decoder."""
        return adapter_objective(self.decoder, stage, settings)

    def detach(self) -> None:
        """Nothing was attached."""

    def _placed(self, ids: Tensor, memories: Sequence[Memory]) -> Prompt:
        """The prompt of `ids`, whose `MEMORY` positions stand behind the lead, with the memories in them."""
        if not memories:
            return Prompt(ids)
        lead, rows = len(self.lead), sum(memory.positions for memory in memories)
        behind = lead + max(memory.tokens for memory in memories)
        after = behind + torch.arange(len(ids) - lead - rows)
        positions = torch.cat([torch.arange(lead), torch.full((rows,), lead), after])
        kv = KeyValues(*(_joined(memories, name) for name in ("keys", "values", "bias")))
        return Prompt(ids, kv=kv, positions=positions)

    def _memory(self, ids: tuple[int, ...], scope: Scope) -> Memory:
        whole = torch.cat([self.lead, torch.tensor(ids, dtype=torch.int64)])
        if len(whole) > self.decoder.window:
            raise WindowExceeded(
                expected=f"a passage of at most {self.decoder.window - len(self.lead)} tokens",
                got=f"{len(ids)}",
                consequence="No memory was made.",
                remedy="Choose shorter passages (passage_tokens).",
            )
        keep = math.ceil(len(ids) / self.method.ratio)
        kept = select(observe(self.decoder, whole), len(self.lead), keep, self.method.match)
        tensors = {
            "keys": _rows_first(kept.keys).to(self.decoder.dtype),
            "values": _rows_first(kept.values).to(self.decoder.dtype),
            "bias": _rows_first(kept.bias),
        }
        return Memory(self.producer(scope), scope, sha256(_raw(ids)), len(ids), tensors)


def _divided(memories: Sequence[Memory]) -> tuple[list[Memory], list[Tensor]]:
    """The memories with keys and values, and [T_i] ids of those that are plain text."""
    texts = [memory.plain for memory in memories if memory.plain is not None]
    return [memory for memory in memories if memory.plain is None], texts


def _holes(memories: Sequence[Memory]) -> Tensor:
    """[N] the positions that all memories take in a prompt."""
    return torch.full((sum(memory.positions for memory in memories),), MEMORY, dtype=torch.int64)


def _rows_first(states: Tensor) -> Tensor:
    """[L, K, N, ...] -> [N, L, K, ...] on the CPU: a memory's first dimension counts its positions."""
    return states.movedim(2, 0).contiguous().cpu()


def _joined(memories: Sequence[Memory], name: str) -> Tensor:
    """One tensor of all memories, [L, K, N, ...]."""
    return torch.cat([memory.tensors[name] for memory in memories]).movedim(0, 2)


def _raw(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, dtype="<i4").tobytes()
