"""LLoCO behind the door: compress offline, store, prepend (arXiv 2404.07979, section 3)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from preread.core.errors import BeyondTraining, UsageError
from preread.core.memory import Memory, Producer
from preread.core.method import Handle, Method, Objective, expect_ratio
from preread.core.paths import compressors_home
from preread.core.trained import trained_for
from preread.core.types import MEMORY, Passage, Prompt, Scope, Turn, sha256
from preread.methods.lloco.compressor import Compressor
from preread.methods.lloco.objective import CompressObjective
from preread.methods.lloco.shape import CompressorConfig
from preread.nn.answering import AnswerObjective
from preread.nn.hf import Decoder

PAPER_SEGMENT = 1536
"""Tokens a segment in AutoCompressor and LLoCO."""
SHIPPED = Path(__file__).parent / "weights"
"""Compressors that come with the package, a folder each."""


@dataclass(frozen=True)
class Lloco(Method):
    """How documents are compressed.

    Args:
        ratio: tokens a summary embedding stands for.
        segments: `independent` reads each passage on its own; `recursive` also reads a document's segments in order,
            every one behind the summaries of those before it.
        segment_tokens: longest segment of the recursive reading; None takes the longest that the compressor was trained
            for, or the paper's.
        batch_tokens: tokens compressed at the same time.
        compressor: folder of a trained compressor, or the name of an installed one; None takes the user's own for the
            decoder, or the one that ships for it, or else starts an untrained one.
        fresh: start an untrained one even where one ships, as a training recipe does.
        shape: shape of an untrained compressor; an anchored one is of use to any decoder before it is trained.
    """

    name: ClassVar[str] = "lloco"
    ratio: float = 30.0
    segments: Literal["independent", "recursive"] = "independent"
    segment_tokens: int | None = None
    batch_tokens: int = 4096
    compressor: Path | None = None
    fresh: bool = False
    shape: CompressorConfig = CompressorConfig(summary="anchored")

    def __post_init__(self) -> None:
        expect_ratio(self.ratio, "Choose 4 to 32 tokens for each summary embedding.")

    def attach(self, decoder: Decoder) -> LlocoHandle:
        """Load or make the compressor and hang its LoRA on the decoder."""
        folder = self.compressor
        if folder is None and not self.fresh:
            folder = trained_for(decoder.fingerprint, compressors_home(), SHIPPED)
        if folder and not folder.exists():
            folder = compressors_home() / folder  # by its name
        if folder:
            made = Compressor.load(folder, decoder)
        else:
            with torch.random.fork_rng():
                torch.manual_seed(0)  # an untrained compressor is the same one tomorrow, so its memories stay valid
                made = Compressor(decoder, self.shape)
        return LlocoHandle(self, decoder, made.eval().requires_grad_(False))


class LlocoHandle(Handle):
    """A memory is a segment's summary embeddings, [N, D] in the decoder's dtype."""

    name: ClassVar[str] = "lloco"
    needs: ClassVar[frozenset[str]] = frozenset({"ids", "embeds", "adapter"})
    reads: ClassVar[Scope] = "document"

    def __init__(self, method: Lloco, decoder: Decoder, compressor: Compressor) -> None:
        self.method, self.decoder, self.compressor = method, decoder, compressor
        self._weights = compressor.hash
        self._warned: set[str] = set()
        compressor.attach()

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Passages always (for passage mode); the whole document too where reading is recursive."""
        return ("passage", "document") if self.method.segments == "recursive" else ("passage",)

    @property
    def trained_on(self) -> frozenset[str]:
        """The compressor's documents."""
        return self.compressor.documents

    def caveats(self, memories: Sequence[Memory]) -> tuple[str, ...]:
        """What the compressor's manifest says of its quality, and where these memories go past its training."""
        trained = self.compressor.trained
        notes = [f"compressor: {trained.note}"] if trained.note else []
        if not trained.tokens:
            selects = self.compressor.config.summary == "anchored"
            return (*notes, *(["its memories are the text's most surprising clauses, as they are"] if selects else []))
        positions, (low, high) = sum(memory.positions for memory in memories), trained.ratios
        past = []
        if positions > trained.positions:
            past.append(f"{positions} summary embeddings at once (trained: {trained.positions})")
        if not low <= self.method.ratio <= high:
            past.append(f"ratio {self.method.ratio:g} (trained: {low:g} to {high:g})")
        segments = max((-(-m.tokens // self.segment_tokens) for m in memories if m.scope == "document"), default=1)
        if segments > trained.segments:
            past.append(f"{segments} segments in a row (trained: {trained.segments})")
        longest = max((m.tokens for m in memories if m.scope == "passage"), default=0)
        if longest > trained.segment_tokens:
            past.append(f"segments of {longest} tokens (trained: {trained.segment_tokens})")
        return (*notes, *(f"beyond the compressor's training: {what}" for what in past))

    @property
    def segment_tokens(self) -> int:
        """Longest segment of the recursive reading."""
        return self.method.segment_tokens or self.compressor.trained.segment_tokens or PAPER_SEGMENT

    def producer(self, scope: Scope) -> Producer:
        """Bound to the decoder, the compressor's weights, the ratio and, for a document, the segment length."""
        settings: dict[str, Any] = {"ratio": self.method.ratio, "scope": scope}
        if scope == "document":
            settings["segment_tokens"] = self.segment_tokens
        return Producer(
            self.name,
            self.decoder.fingerprint,
            self._weights,
            json.dumps(settings, sort_keys=True),
            str(self.decoder.dtype).removeprefix("torch."),
            self.compressor.trained.segments,
        )

    def encode(self, passages: Iterable[Passage], scope: Scope = "passage") -> Iterator[Memory]:
        """Summary embeddings of each passage, or of them all read in order; warns (`BeyondTraining`) past what the
        compressor was trained for.
        """
        if scope == "passage":
            yield from self._each(passages)
        else:
            yield self._whole(chain.from_iterable(passage.ids for passage in passages))

    def prompt(
        self,
        question: str,
        memories: Sequence[Memory],
        adapter: str | None = None,
        history: Sequence[Turn] = (),
    ) -> Prompt:
        """The summary embeddings in the order given, plain text where it stands among them, then the question."""
        embeds, pieces = _joined(memories)
        ids, shared = self.decoder.frame(question, pieces, history)
        return Prompt(ids, embeds, adapter=adapter, shared=shared)

    def continuation(self, ids: Tensor, memories: Sequence[Memory]) -> Prompt:
        """The start token, the summary embeddings, then the text, as the compressor is trained."""
        embeds, pieces = _joined(memories)
        return Prompt(torch.cat([self.decoder.start_ids, *pieces, ids]), embeds)

    def objective(self, stage: str, **settings: Any) -> Objective:
        """`compress` trains the compressor, `adapter` a LoRA that reads its memories."""
        if stage == "compress":
            return CompressObjective(self.compressor, **settings)
        if stage == "adapter":
            return AnswerObjective(self.decoder, **settings)
        raise UsageError(
            expected="stage compress or adapter",
            got=stage,
            consequence="Nothing was trained.",
            remedy="Choose one of the two.",
        )

    def detach(self) -> None:
        """Take the compressor's LoRA off the decoder."""
        self.compressor.detach()

    @torch.inference_mode()
    def _each(self, passages: Iterable[Passage]) -> Iterator[Memory]:
        batch: list[Passage] = []
        for passage in passages:
            if batch and sum(len(p.ids) for p in batch) + len(passage.ids) > self.method.batch_tokens:
                yield from self._batch(batch)
                batch = []
            batch.append(passage)
        if batch:
            yield from self._batch(batch)

    def _batch(self, passages: Sequence[Passage]) -> Iterator[Memory]:
        ids = [torch.tensor(passage.ids) for passage in passages]
        self._warn("tokens a segment", max(map(len, ids)), self.compressor.trained.segment_tokens)
        for passage, (summary,) in zip(
            passages, self.compressor.independent([[i] for i in ids], self.method.ratio), strict=True
        ):
            yield self._memory(summary, "passage", sha256(_raw(passage.ids)), len(passage.ids))

    @torch.inference_mode()
    def _whole(self, ids: Iterator[int]) -> Memory:
        """Only the summaries so far and one segment are held at any time."""
        summaries = self.compressor.nothing
        source, tokens, segments = sha256(), 0, 0
        while segment := list(islice(ids, self.segment_tokens)):
            length = self.compressor.length(len(segment), self.method.ratio)
            self._warn("segments in a row", segments + 1, self.compressor.trained.segments)
            self._warn("tokens a segment", len(segment), self.compressor.trained.segment_tokens)
            self._warn("positions", len(summaries) + len(segment) + length, self.decoder.window)
            (made,) = self.compressor.extend([summaries], [torch.tensor(segment)], [length])
            summaries = torch.cat([summaries, made])
            source, tokens, segments = sha256(source, _raw(segment)), tokens + len(segment), segments + 1
        return self._memory(summaries, "document", source, tokens)

    def _memory(self, summary: Tensor, scope: Scope, source: str, tokens: int) -> Memory:
        embeds = summary.to(self.decoder.dtype).cpu().clone()
        return Memory(self.producer(scope), scope, source, tokens, {"embeds": embeds})

    def _warn(self, what: str, value: int, limit: int) -> None:
        """Say once, at the first step past it, that a limit of training is passed; 0 is no limit."""
        if 0 < limit < value and what not in self._warned:
            self._warned.add(what)
            message = f"more than {limit} {what}, which is what the weights were trained for: the memory may be poor."
            warnings.warn(message, BeyondTraining, stacklevel=4)


def _joined(memories: Sequence[Memory]) -> tuple[Tensor | None, list[Tensor]]:
    """[N, D] embeddings of all memories that have them, or None; and [T_i] ids of each memory's place in a prompt."""
    embeds = [memory.tensors["embeds"] for memory in memories if memory.plain is None]
    pieces = [torch.full((m.positions,), MEMORY) if m.plain is None else m.plain for m in memories]
    return torch.cat(embeds) if embeds else None, pieces


def _raw(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, dtype="<i4").tobytes()
