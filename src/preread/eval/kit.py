"""What answerers and tasks work with: the decoder, the embedder, and the passages of what they read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from preread.core.types import Document, Passage
from preread.data.passages import split
from preread.nn.hf import Decoder
from preread.retrieval.embedder import Embedder

PASSAGE_TOKENS = 240
"""Of a passage, as a collection has them by default."""


@dataclass(frozen=True)
class Kit:
    """One for a run.

    Args:
        decoder: who answers; the same for every answerer.
        data: folder of the question sets (`qa/`) and texts (`text/`).
        work: folder for what outlasts the run, such as adapters trained for a row.
    """

    decoder: Decoder
    data: Path
    work: Path
    _passages: dict[tuple[str, int], list[Passage]] = field(default_factory=dict)

    @cached_property
    def embedder(self) -> Embedder:
        """Of the retrieval, loaded when first needed."""
        return Embedder()

    def passages(self, document: Document, size: int = PASSAGE_TOKENS) -> list[Passage]:
        """The document as passages of at most `size` tokens; the last document's are kept."""
        key = (document.hash, size)
        if key not in self._passages:
            if any(kept != document.hash for kept, _ in self._passages):
                self._passages.clear()
            self._passages[key] = split(document, self.decoder.tokenizer, size)
        return self._passages[key]
