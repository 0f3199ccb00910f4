"""What answerers and tasks work with: the decoder, the embedder, and the passages of what they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from preread.core.types import Document, Passage
from preread.data.passages import split
from preread.nn.hf import Decoder
from preread.retrieval.bm25 import Words
from preread.retrieval.embedder import Embedder

PASSAGE_TOKENS = 240
"""Of a passage, as a collection has them by default."""

T = TypeVar("T")


@dataclass(frozen=True)
class Kit:
    """One for a run. What it makes of a document is kept until it is asked about another one; tokens of texts are kept.

    Args:
        decoder: who answers; the same for every answerer.
        data: folder of the question sets (`qa/`) and texts (`text/`).
        work: folder for what outlasts the run, such as adapters trained for a row.
    """

    decoder: Decoder
    data: Path
    work: Path
    _kept: dict[tuple[str, str, int], Any] = field(default_factory=dict)
    _ids: dict[str, Tensor] = field(default_factory=dict)

    @property
    def reader(self) -> str:
        """What tells the decoder from any other that would answer otherwise: its fingerprint, and a narrowed window."""
        narrowed = self.decoder.narrowed
        return self.decoder.fingerprint + (f" within {narrowed}" if narrowed else "")

    @cached_property
    def embedder(self) -> Embedder:
        """Of the retrieval, loaded when first needed; a first text is embedded, so that none pays for the loading."""
        embedder = Embedder()
        embedder.embed(["warm"])
        return embedder

    def tokens(self, text: str) -> Tensor:
        """[T] int64 token ids of a text that several tasks cut: a book takes the tokenizer a second."""
        if text not in self._ids:
            self._ids[text] = self.decoder.tokens(text)
        return self._ids[text]

    def passages(self, document: Document, size: int = PASSAGE_TOKENS) -> list[Passage]:
        """The document as passages of at most `size` tokens."""
        return self._once(document, "passages", size, lambda: split(document, self.decoder.tokenizer, size))

    def vectors(self, document: Document, size: int = PASSAGE_TOKENS) -> np.ndarray:
        """[n, d] float32 of length 1: the embedder's vector of each passage."""
        texts = [passage.text for passage in self.passages(document, size)]
        return self._once(document, "vectors", size, lambda: self.embedder.embed(texts))

    def words(self, document: Document, size: int = PASSAGE_TOKENS) -> Words:
        """The passages to be searched by words."""
        texts = [passage.text for passage in self.passages(document, size)]
        return self._once(document, "words", size, lambda: Words(texts))

    def clear(self) -> None:
        """Forget what was made of documents, so that whoever is timed next makes its own."""
        self._kept.clear()

    def _once(self, document: Document, what: str, size: int, make: Callable[[], T]) -> T:
        key = (document.hash, what, size)
        if key not in self._kept:
            if any(kept != document.hash for kept, _, _ in self._kept):
                self._kept.clear()
            self._kept[key] = make()
        made: T = self._kept[key]
        return made
