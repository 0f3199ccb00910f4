"""`cepe`: chunks read side by side by an encoder, whose states the frozen decoder attends to (arXiv 2402.16617).

The states take none of the decoder's positions, and a chunk's hang on nothing but the chunk: they are computed once,
kept, and put together in any number and order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from preread.core.errors import UsageError
from preread.core.memory import Memory, Producer
from preread.core.method import Handle, Method, Objective
from preread.core.paths import readers_home
from preread.core.trained import trained_for
from preread.core.types import Passage, Prompt, Scope, Turn, sha256
from preread.methods.cepe.kept import Kept, kept, restored
from preread.methods.cepe.masked import MaskedObjective
from preread.methods.cepe.moving import shares
from preread.methods.cepe.objective import CopyObjective, DistilObjective, ReaderObjective, ReadObjective
from preread.methods.cepe.reader import Reader, ReaderConfig, damaged
from preread.methods.cepe.recall import RecallObjective
from preread.nn.activations import Levers, frugal
from preread.nn.answering import adapter_objective
from preread.nn.hf import Decoder

STAGES: Mapping[str, type[ReaderObjective]] = {
    "mlm": MaskedObjective,
    "copy": CopyObjective,
    "lm": ReadObjective,
    "recall": RecallObjective,
    "distil": DistilObjective,
}
SHIPPED = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Cepe(Method):
    """Which reader.

    Args:
        moved: of the memories, how many are read as text, those that a question attends to most (`moving`).
        kept: how states are kept: `whole`, in the decoder's dtype, or `int8`, half of that and less exact.
        weights: folder of a trained reader, or the name of an installed one; None takes the user's own for the decoder,
            or the one that ships for it, or else starts an untrained one.
        fresh: start an untrained one even where one ships, as a training recipe does.
        shape: shape of an untrained reader.
        levers: how a training saves memory.
    """

    name: ClassVar[str] = "cepe"
    moved: int = 4
    kept: Kept = "whole"
    weights: Path | None = None
    fresh: bool = False
    shape: ReaderConfig = ReaderConfig()
    levers: Levers = Levers("none")

    def __post_init__(self) -> None:
        if self.moved < 0:
            raise UsageError(
                expected="0 memories or more to be read as text",
                got=str(self.moved),
                consequence="Nothing was done.",
                remedy="Correct `moved`.",
            )

    def attach(self, decoder: Decoder) -> CepeHandle:
        """Load or make the reader and put it on the decoder.

        Raises:
            UsageError: a shape is asked for, and there is a trained reader.
            IntegrityError: the reader is damaged, or not there.
            FingerprintMismatch: it was trained for another decoder.
        """
        folder = self.weights
        if folder is None and not self.fresh:
            folder = trained_for(decoder.fingerprint, readers_home(), SHIPPED)
        if folder and not folder.exists():
            folder = readers_home() / folder  # by its name
            if not folder.exists():
                raise damaged(folder, "no such folder, and no installed reader of that name")
        if folder:
            if self.shape != ReaderConfig():
                raise UsageError(
                    expected="`shape` for a reader that is not trained yet",
                    got=f"one for the reader in {folder}, which has its own",
                    consequence="Nothing was attached.",
                    remedy="Leave `shape` out, or say `fresh: true` to start another reader.",
                )
            made = Reader.load(folder, decoder)
        else:
            with torch.random.fork_rng():
                torch.manual_seed(0)  # an untrained reader is the same one tomorrow, so its memories stay valid
                made = Reader(decoder, self.shape)
        return CepeHandle(self, decoder, made.eval().requires_grad_(False))


class CepeHandle(Handle):
    """A memory is the encoder's states of a passage, [N, S], at none of the decoder's positions."""

    name: ClassVar[str] = "cepe"
    needs: ClassVar[frozenset[str]] = frozenset({"ids", "states", "adapter"})
    reads: ClassVar[Scope] = "document"

    def __init__(self, method: Cepe, decoder: Decoder, reader: Reader) -> None:
        self.method, self.decoder, self.reader = method, decoder, reader
        self._weights, self._training = reader.hash, ExitStack()
        reader.round_to(decoder.dtype)  # what a layer computes in, and not anew for every token
        reader.attach()

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Passages: each is a chunk of its own."""
        return ("passage",)

    @property
    def trained_on(self) -> frozenset[str]:
        """The reader's documents."""
        return self.reader.documents

    def caveats(self, memories: Sequence[Memory]) -> tuple[str, ...]:
        """What the reader's manifest says of its quality, and where these memories go past its training."""
        trained = self.reader.trained
        notes = (f"reader: {trained.note}",) if trained.note else ()
        states = sum(len(memory.tensors["states"]) for memory in memories if memory.plain is None)
        if 0 < trained.states < states:
            return (*notes, f"beyond the reader's training: {states} states at once (trained: {trained.states})")
        return notes

    def producer(self, scope: Scope) -> Producer:
        """Bound to the decoder, the reader's weights, and how states are kept."""
        settings = json.dumps({"kept": self.method.kept, "scope": scope}, sort_keys=True)
        dtype = str(self.decoder.dtype).removeprefix("torch.")
        return Producer(self.name, self.decoder.fingerprint, self._weights, settings, dtype)

    @torch.inference_mode()
    def encode(self, passages: Iterable[Passage], scope: Scope = "passage") -> Iterator[Memory]:
        """The states of each passage, some at a time, or of all of them one behind the other."""
        encoder = self.reader.encoder
        pieces = map(attrgetter("ids"), passages)
        if scope == "document":
            pieces = map(tuple, [chain.from_iterable(pieces)])
        while some := list(islice(pieces, encoder.together)):
            chunks = [torch.split(torch.tensor(ids), encoder.chunk) for ids in some]
            states = iter(encoder(list(chain.from_iterable(chunks))))
            for ids, parts in zip(some, chunks, strict=True):
                yield self._memory(ids, [next(states) for _ in parts], scope)

    def prompt(
        self,
        question: str,
        memories: Sequence[Memory],
        adapter: str | None = None,
        history: Sequence[Turn] = (),
    ) -> Prompt:
        """The states beside all positions; plain text where it stands among the memories, then the question."""
        ids, shared = self.decoder.frame(question, _texts(memories), history)
        return Prompt(ids, **self._beside(memories), adapter=adapter, shared=shared)

    def continuation(self, ids: Tensor, memories: Sequence[Memory]) -> Prompt:
        """The start token and the text, with the states beside them."""
        return Prompt(torch.cat([self.decoder.start_ids, *_texts(memories), ids]), **self._beside(memories))

    def moving(self, prompt: Prompt, memories: Sequence[Memory]) -> Mapping[int, float]:
        """The memories with the largest shares of the cross-attention of what the prompt asks; costs reading it."""
        numbers = [number for number, memory in enumerate(memories) if memory.plain is None]
        if not numbers or not self.method.moved:
            return {}
        sizes = [len(memories[number].tensors["states"]) for number in numbers]
        found = dict(zip(numbers, shares(self.decoder, self.reader.crossings, prompt, sizes), strict=True))
        attended = [number for number in found if found[number]]
        most = sorted(attended, key=lambda number: -found[number])[: self.method.moved]
        return {number: found[number] for number in most}

    def objective(self, stage: str, **settings: Any) -> Objective:
        """`mlm` trains the encoder alone; `copy`, `lm`, `recall`, `distil` the reader; `adapter` a LoRA that answers.

        Raises:
            UsageError: another stage.
        """
        if stage == "adapter":
            return adapter_objective(self.decoder, stage, settings)
        if stage not in STAGES:
            raise UsageError(
                expected=f"stage {', '.join(STAGES)} or adapter",
                got=stage,
                consequence="Nothing was trained.",
                remedy="Choose one of them.",
            )
        self._training.close()  # of the phase before
        self._training.enter_context(frugal(self.decoder.model, self.method.levers, self.decoder.acting))
        return STAGES[stage](self.reader, self._training.close, **settings)

    def detach(self) -> None:
        """Take the reader off the decoder."""
        self._training.close()
        self.reader.detach()

    def _beside(self, memories: Sequence[Memory]) -> dict[str, Any]:
        """The fields of a prompt for the states of those memories that have them, in order."""
        states = [restored(memory.tensors, self.decoder.dtype) for memory in memories if memory.plain is None]
        if not states:
            return {}
        return {"states": self.reader.joined(states), "reader": self.reader.crossings.name}

    def _memory(self, ids: Sequence[int], states: Sequence[Tensor], scope: Scope) -> Memory:
        source = sha256(np.asarray(ids, dtype="<i4").tobytes())
        return Memory(self.producer(scope), scope, source, len(ids), kept(torch.cat(list(states)), self.method.kept))


def _texts(memories: Sequence[Memory]) -> list[Tensor]:
    """[T_i] ids of those memories that are plain text."""
    return [memory.plain for memory in memories if memory.plain is not None]
