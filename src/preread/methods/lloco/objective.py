"""The `compress` stage: train summary embeddings that the unchanged decoder can read.

Four terms over the same memories:

- `lm`: the decoder reads the memory of the segments before and predicts the next segment (AutoCompressor, arXiv
  2305.14788, section 3.2: random segment lengths, gradients through two compressions);
- `distil`: the same positions, KL to the same decoder reading the text itself, top-k plus a rest bucket, the teacher
  computed on the spot;
- `reconstruct`: the decoder reads one segment's memory and a marker and writes the segment out (ICAE, arXiv 2307.06945,
  section 2.2);
- `general`: the decoder reads another document's memory before a segment, KL to the same decoder reading nothing before
  it: a memory must not speak of what it does not hold (ours).

Before a document's own memory may stand those of other documents (`distractors`), as they will when several are read:
memories that were only ever read alone collapse side by side.

AutoCompressor measures `lm` with the compressor's own adapted weights. Ours measures it with the bare decoder, because
that is who reads the memory when a question comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from preread.core.errors import UsageError
from preread.core.method import Objective
from preread.core.types import TextBatch
from preread.methods.lloco.compressor import Compressor
from preread.methods.lloco.shape import Trained
from preread.nn.losses import TopK, answer_losses, teach

MARKER = "\n\nThe text above, word for word:\n\n"
"""Asks for reconstruction; plain words, so that any decoder half understands it from the start."""


class CompressObjective(Objective):
    """Loss terms of the compressor; the decoder stays frozen.

    Args:
        compressor: what trains, all of it.
        lm: weight of the language-modelling term.
        distil: weight of the distillation term.
        reconstruct: weight of the reconstruction term.
        general: weight of the term behind another document's memory; it needs batches of two rows or more.
        distractors: most memories of other documents before a document's own, drawn anew for each; they need such
            batches too.
        segments: how segments are read; `mixed` draws one of the two for each batch.
        segment_tokens: shortest and longest segment.
        ratios: smallest and largest ratio, drawn log-uniformly.
        detach_every: compressions after which gradients stop.
        top_k: how much of the teacher's distribution is used.

    Raises:
        UsageError: a range is none, or there are fewer distractors than none.
    """

    def __init__(
        self,
        compressor: Compressor,
        lm: float = 1.0,
        distil: float = 1.0,
        reconstruct: float = 1.0,
        general: float = 0.0,
        distractors: int = 0,
        segments: Literal["independent", "recursive", "mixed"] = "independent",
        segment_tokens: tuple[int, int] = (120, 240),
        ratios: tuple[float, float] = (4.0, 32.0),
        detach_every: int = 2,
        top_k: int = 16,
    ) -> None:
        super().__init__()
        _require_range("segment_tokens", segment_tokens)
        _require_range("ratios", ratios)
        if distractors < 0:
            raise _senseless("distractors of at least 0", str(distractors))
        self.compressor = compressor.requires_grad_(True).train()
        self.lm, self.distil, self.reconstruct, self.general = lm, distil, reconstruct, general
        self.distractors = distractors
        self.segments, self.segment_tokens, self.ratios = segments, segment_tokens, ratios
        self.detach_every, self.top_k = detach_every, top_k
        self.marker = compressor.decoder.tokens(MARKER)

    def expect(self, rows: int, window: int) -> None:
        """As `Objective.expect`: two of the shortest segments fit, and where others are asked for there are some."""
        if window < 2 * self.segment_tokens[0]:
            raise _senseless(f"a window of two segments at least, {2 * self.segment_tokens[0]} tokens", str(window))
        if rows < 2 and (self.general or self.distractors):
            raise UsageError(
                expected="at least two documents in a batch, for `general` and `distractors`",
                got=f"{rows}",
                consequence="Nothing was trained.",
                remedy="Set `rows` of the recipe to 2 or more.",
            )

    def forward(self, batch: TextBatch) -> dict[str, Tensor]:
        """Loss terms `lm`, `distil`, `reconstruct` and `general`, those of weight zero left out.

        Raises:
            UsageError: as `expect`.
        """
        self.expect(*batch.ids.shape)
        generator = torch.Generator().manual_seed(batch.seed)
        length, ratio, recursive = self._draw(generator, batch.ids.shape[1])
        documents = [list(row.split(length)) for row in batch.ids]
        if recursive:
            summaries = self.compressor.recursive(documents, ratio, self.detach_every)
        else:
            summaries = self.compressor.independent(documents, ratio)
        terms: dict[str, Tensor] = {}
        if self.lm or self.distil:
            lm, distil = self._following(documents, summaries, generator)
            terms |= {"lm": self.lm * lm, "distil": self.distil * distil}
        if self.reconstruct:
            terms["reconstruct"] = self.reconstruct * self._reconstruction(documents, summaries, generator)
        if self.general:
            terms["general"] = self.general * self._off_topic(documents, summaries, generator)
        return {name: value for name, value in terms.items() if getattr(self, name)}

    def settle(self) -> None:
        """Freeze the compressor, rounded to bfloat16: a file of half the size then holds it exactly."""
        self.compressor.requires_grad_(False).eval()
        for parameter in self.compressor.parameters():
            parameter.copy_(parameter.bfloat16())

    def save(self, folder: Path, training: Mapping[str, Any]) -> None:
        """Write the compressor with what it was trained for."""
        window = int(training.get("window", 0))
        before = self.compressor.trained
        self.compressor.trained = Trained(
            segments=max(before.segments, self._segments(window)),
            segment_tokens=max(before.segment_tokens, self.segment_tokens[1]),
            positions=max(before.positions, round((window - self.segment_tokens[0]) / self.ratios[0])),
            ratios=(
                min(before.ratios[0] or self.ratios[0], self.ratios[0]),
                max(before.ratios[1], self.ratios[1]),
            ),
            tokens=before.tokens + int(training.get("tokens", 0)),
            note="",
        )
        documents = sorted({*self.compressor.documents, *training.get("documents", ())})
        self.compressor.save(folder, {**training, "documents": documents})

    def load(self, folder: Path) -> None:
        """As `Objective.load`."""
        before = Compressor.load(folder, self.compressor.decoder)
        if before.config != self.compressor.config:
            raise UsageError(
                expected=f"a compressor of the shape {self.compressor.config}",
                got=f"{before.config} in {folder}",
                consequence="Nothing was trained.",
                remedy="Keep `settings.shape` as it was, or start afresh.",
            )
        self.compressor.load_state_dict(before.state_dict())
        self.compressor.trained, self.compressor.documents = before.trained, before.documents

    def _segments(self, window: int) -> int:
        """Most segments that are read in a row."""
        return window // self.segment_tokens[0] if self.segments != "independent" else 1

    def _draw(self, generator: torch.Generator, window: int) -> tuple[int, float, bool]:
        low, high = self.segment_tokens
        # At least two segments, or there would be nothing to predict from a memory.
        length = int(torch.randint(low, min(high, window // 2) + 1, (), generator=generator))
        u = float(torch.rand((), generator=generator))
        ratio = self.ratios[0] * (self.ratios[1] / self.ratios[0]) ** u
        coin = float(torch.rand((), generator=generator)) < 0.5
        return length, ratio, self.segments == "recursive" or (self.segments == "mixed" and coin)

    def _following(
        self, documents: list[list[Tensor]], summaries: list[list[Tensor]], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """`lm` and `distil` over every segment but the first, each behind the memory of those before it."""
        memories, segments = [], []
        for row, (document, summary) in enumerate(zip(documents, summaries, strict=True)):
            others = self._others(row, summaries, generator)
            for i in range(1, len(document)):
                memories.append(torch.cat([*others, *summary[:i]]))
                segments.append(document[i])
        states = self._read(memories, segments)
        taught = self._teacher(documents) if self.distil else None
        return answer_losses(self.compressor.decoder.logits, states, torch.cat(segments).to(states.device), taught)

    def _others(self, row: int, summaries: list[list[Tensor]], generator: torch.Generator) -> list[Tensor]:
        """The memories of other documents that stand before a row's own."""
        if not self.distractors:
            return []
        count = int(torch.randint(self.distractors + 1, (), generator=generator))
        order = torch.randperm(len(summaries), generator=generator).tolist()
        return [part for other in [o for o in order if o != row][:count] for part in summaries[other]]

    def _teacher(self, documents: list[list[Tensor]]) -> TopK:
        """The bare decoder's next-token distribution where it reads the text itself."""
        decoder = self.compressor.decoder
        start = decoder.start_ids
        with torch.no_grad(), decoder.adapters.use(None):
            texts = torch.stack([torch.cat([start, *document]) for document in documents])
            states = decoder.hidden(decoder.embed(texts))
        kept = [row[len(start) + len(document[0]) - 1 : -1] for row, document in zip(states, documents, strict=True)]
        return teach(decoder.logits, torch.cat(kept), self.top_k)

    def _reconstruction(
        self, documents: list[list[Tensor]], summaries: list[list[Tensor]], generator: torch.Generator
    ) -> Tensor:
        """Cross-entropy of one segment a document, drawn at random, behind its own memory and the marker."""
        picks = [int(torch.randint(len(document), (), generator=generator)) for document in documents]
        memories = [summary[pick] for summary, pick in zip(summaries, picks, strict=True)]
        segments = [document[pick] for document, pick in zip(documents, picks, strict=True)]
        states = self._read(memories, segments, [self.marker] * len(segments))
        targets = torch.cat(segments).to(states.device)
        return answer_losses(self.compressor.decoder.logits, states, targets)[0]

    def _off_topic(
        self, documents: list[list[Tensor]], summaries: list[list[Tensor]], generator: torch.Generator
    ) -> Tensor:
        """KL of one segment a document, drawn at random, behind the next document's memory to it behind nothing."""
        choices = [[segment for segment in document if len(segment) > 1] for document in documents]
        segments = [some[int(torch.randint(len(some), (), generator=generator))] for some in choices]
        # Nothing may stand before the first token, and then no state predicts it: only those after it are judged.
        first, rest = [segment[:1] for segment in segments], [segment[1:] for segment in segments]
        memories = [torch.cat(summaries[(row + 1) % len(summaries)]) for row in range(len(documents))]
        head = self.compressor.decoder.logits
        with torch.no_grad():
            alone = teach(head, self._read([memory[:0] for memory in memories], rest, first), self.top_k)
        states = self._read(memories, rest, first)
        return answer_losses(head, states, torch.cat(rest).to(states.device), alone)[1]

    def _read(self, memories: list[Tensor], segments: list[Tensor], between: list[Tensor] | None = None) -> Tensor:
        """[T, D]: the bare decoder's states that predict each token of each segment behind its memory.

        Args:
            memories: [N, D] each.
            segments: [T] ids each, of which something stands before the first.
            between: [T] ids each that stand between the two.
        """
        decoder = self.compressor.decoder
        lead = decoder.embed(decoder.start_ids)
        marks = [decoder.embed(ids) for ids in between] if between else [lead[:0]] * len(segments)
        heads = [torch.cat([lead, memory.to(lead), mark]) for memory, mark in zip(memories, marks, strict=True)]
        rows = [torch.cat([head, decoder.embed(ids)]) for head, ids in zip(heads, segments, strict=True)]
        with decoder.adapters.use(None):
            states = decoder.hidden(nn.utils.rnn.pad_sequence(rows, batch_first=True))
        return torch.cat(
            [
                row[len(head) - 1 : len(head) - 1 + len(ids)]
                for row, head, ids in zip(states, heads, segments, strict=True)
            ]
        )


def _require_range(name: str, ends: tuple[float, float]) -> None:
    if not 1 <= ends[0] <= ends[1]:
        raise _senseless(f"{name} as a smallest of at least 1 and a largest", f"{ends[0]:g} to {ends[1]:g}")


def _senseless(expected: str, got: str) -> UsageError:
    return UsageError(expected, got, "Nothing was trained.", "Correct it in the recipe.")
