"""The passages that a retriever finds for each question, as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from preread.core.types import Document, Hit, Passage
from preread.eval.answerer import Answerer, Layout
from preread.eval.answerers.budgeted import Selected, beside, beside_text
from preread.eval.answerers.plain import Full, text_lead
from preread.eval.case import Case, Item, Stretch, Unit
from preread.eval.kit import Kit
from preread.retrieval.bm25 import Words
from preread.retrieval.fusing import fuse, pool

QUERY_TOKENS = 64
"""Of running text, the last so many tokens before its target are what passages are searched for."""


@dataclass(frozen=True)
class Retrieved(Selected):
    """Ranks passages as the product does, over one document: the hybrid rule is its own, BM25 that of its store.

    Passages that a ranking does not reach follow in their order, so that every budget is filled while there is text.
    Of running text the far passages are ranked by the end of what is near.

    Args:
        mode: by meaning, by words, or by both.
    """

    mode: Literal["dense", "bm25", "hybrid"] = "hybrid"
    kind: ClassVar[str] = "retrieved"

    @property
    def label(self) -> str:
        """As tables name it."""
        return self.mode + self.size

    def plainly(self, kit: Kit, unit: Unit) -> tuple[Answerer, int]:
        """Where the budget is as large as the unit's context, the full text."""
        if not isinstance(unit, Case):
            return self, 0
        passages = kit.passages(unit.document, self.passage_tokens)
        tokens = sum(len(passage.ids) for passage in passages)
        limit = self.limit(tokens, beside(kit.decoder, unit.items))
        whole = tokens <= limit and len(passages) <= (self.passages or len(passages))
        return (Full(), self.stored(kit, unit.document)) if whole else (self, 0)

    def ready(self, kit: Kit, until: float | None = None) -> bool:  # noqa: ARG002
        """Has the embedder loaded before anything is timed."""
        return self.mode == "bm25" or kit.embedder is not None

    def stored(self, kit: Kit, document: Document) -> int:
        """The text, and the vectors where there are any; an index of words is made from the text again."""
        vectors = 0 if self.mode == "bm25" else kit.vectors(document, self.passage_tokens).nbytes
        return super().stored(kit, document) + vectors

    def ranked(self, kit: Kit, case: Case, items: Sequence[Item], count: int) -> list[list[Passage]]:
        """As `Selected.ranked`."""
        passages = kit.passages(case.document, self.passage_tokens)
        queries = [item.query or item.question for item in items]
        sides: dict[str, np.ndarray] = {}
        if passages and self.mode != "bm25":
            vectors = kit.vectors(case.document, self.passage_tokens)
            sides["dense"] = kit.embedder.embed(queries, "question") @ vectors.T
        if passages and self.mode != "dense":
            words = kit.words(case.document, self.passage_tokens)
            sides["bm25"] = np.stack([words.scores(query) for query in queries])
        return [self._order(passages, {name: s[i] for name, s in sides.items()}, count) for i in range(len(items))]

    @contextmanager
    def continued(self, kit: Kit, stretch: Stretch) -> Iterator[Layout]:
        """As `Prompted.continued`."""
        passages = _pieces(kit, stretch, self.passage_tokens)
        texts, query = (
            [passage.text for passage in passages],
            kit.decoder.tokenizer.decode(stretch.near[-QUERY_TOKENS:]),
        )
        sides: dict[str, np.ndarray] = {}
        stored = len("".join(texts).encode())
        if passages and self.mode != "bm25":
            vectors = kit.embedder.embed(texts)
            sides["dense"], stored = vectors @ kit.embedder.embed([query], "question")[0], stored + vectors.nbytes
        if passages and self.mode != "dense":
            sides["bm25"] = Words(texts).scores(query)
        limit = self.limit(len(stretch.far), beside_text(kit.decoder, stretch))
        order = self._order(passages, sides, math.ceil(limit / self.passage_tokens))
        yield Layout(kit.decoder, [text_lead(kit.decoder, (*self.read(order, limit), *stretch.near))], stored)

    def _order(self, passages: Sequence[Passage], scores: Mapping[str, np.ndarray], count: int) -> list[Passage]:
        """All passages, best first; `scores` has [n] a side, and a side without a word in common has 0."""
        wanted = pool(count) if self.mode == "hybrid" else len(passages)
        found = fuse({name: _hits(passages, own, name)[:wanted] for name, own in scores.items()})
        best = dict.fromkeys(hit.passage.index for hit in found)
        return [passages[index] for index in (*best, *(i for i in range(len(passages)) if i not in best))]


def _hits(passages: Sequence[Passage], scores: np.ndarray, name: str) -> list[Hit]:
    """Best first, ties by place; by words only what shares one."""
    order = sorted(range(len(passages)), key=lambda i: (-scores[i], i))
    return [Hit(passages[i], float(scores[i])) for i in order if name == "dense" or scores[i] > 0]


def _pieces(kit: Kit, stretch: Stretch, size: int) -> list[Passage]:
    """The far text's own passages, or pieces of `size` tokens where it is one text."""
    whole = range(0, len(stretch.far), size)
    borders = stretch.passages or [(start, min(start + size, len(stretch.far))) for start in whole]
    pieces, at = [], 0
    for index, (start, end) in enumerate(borders):
        ids = stretch.far[start:end]
        text = kit.decoder.tokenizer.decode(ids)
        pieces.append(Passage(stretch.document, index, ids, at, at + len(text), text, "", start))
        at += len(text)
    return pieces
