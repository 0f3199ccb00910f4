"""Questions to passages: by meaning, by words, or by both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from preread.core.errors import FingerprintMismatch, UsageError
from preread.core.types import Hit, Passage
from preread.retrieval.embedder import Embedder
from preread.retrieval.fusing import LEAST_POOL, average, fuse, pool
from preread.retrieval.relevance import Evidence, calibration, evidence, mean
from preread.store.store import Store

Mode = Literal["hybrid", "dense", "bm25"]

EARLIER = 2
"""Questions of the same conversation that a follow-up is joined with.

Recall@5 over training questions of SQuAD 2 that lost their names to "it" and follow two of the same paragraph: 0.98
by the average, 0.97 joined alone, 0.84 by themselves, 0.94 if one question is joined; behind two of another article,
whole: 0.94, 0.42, 0.97 and 0.94.
"""
JUDGED = 5
"""Passages of which one must hold the question's words for them to count as evidence."""


_QUESTIONS_KEPT = 64
"""Vectors of the last questions."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a collection has for a question.

    Args:
        hits: the best passages, best first, as `Retriever.search` gives them.
        relevance: how likely the collection holds the answer, from 0 to 1; compares between questions and collections.
        threshold: relevance below which that is to be doubted.
        missed: the share of answerable questions that fall below it.
    """

    hits: list[Hit]
    relevance: float
    threshold: float
    missed: float


class Retriever:
    """Search in one library with the embedder whose vectors it holds."""

    def __init__(self, store: Store, embedder: Embedder) -> None:
        self._store, self.embedder = store, embedder
        self._vectors: dict[str, np.ndarray] = {}

    def ready(self) -> Retriever:
        """Load the embedder now, so that the first search takes no longer than the next."""
        assert self.embedder.fingerprint
        return self

    def vectors(self, passages: Sequence[Passage], advance: Callable[[float], object] | None = None) -> np.ndarray:
        """[n, d] vectors to commit the passages with; binds a new library to the embedder.

        Raises:
            FingerprintMismatch: the library holds another embedder's vectors.
        """
        self._store.bind(self.embedder.fingerprint)
        return self.embedder.embed([passage.text for passage in passages], "passage", advance)

    def search(self, collection: str, question: str, k: int = 5, mode: Mode = "hybrid") -> list[Hit]:
        """The k best passages of a collection, best first; ties by source and place in the document.

        Args:
            collection: the collection's name; an unknown one has no passages.
            question: any text.
            k: how many.
            mode: `dense` scores by cosine, `bm25` by words. `hybrid` weighs both, each scaled from 0 for the
                worst to 1 for the best that it found: 1 is first in both; two questions do not compare.

        Returns:
            Hits whose `extra` holds, where the passage was found that way, `dense` and `dense_rank`, `bm25`
            and `bm25_rank`; ranks count from 1.

        Raises:
            UsageError: `k` is below 1, or there is no such mode.
            FingerprintMismatch: the library holds another embedder's vectors.
        """
        return fuse(self._sides(collection, question, k, mode))[:k]

    def find(self, collection: str, question: str, k: int = 5, earlier: Sequence[str] = ()) -> Found:
        """The k best passages of a hybrid search, and how likely the collection holds the answer.

        Args:
            collection: the collection's name.
            question: any text.
            k: how many.
            earlier: questions before it in the same conversation, oldest first. What a follow-up leaves out stands in
                them: it is searched for by itself and behind the last two of them, and the scores are averaged.

        Raises:
            UsageError: `k` is below 1.
            FingerprintMismatch: the library holds another embedder's vectors.
        """
        asked = wordings(question, earlier)
        searches = [self._sides(collection, words, k, "hybrid") for words in asked]
        fitted = calibration(self.embedder.fingerprint)
        hits = average([fuse(sides) for sides in searches])[:k]
        relevance = fitted.relevance(mean(map(_evidence, asked, searches)))
        return Found(hits, relevance, fitted.threshold, fitted.missed)

    def evidence(self, collection: str, question: str) -> Evidence:
        """What speaks for a collection that holds the answer; relevance is a function of it."""
        return _evidence(question, self._sides(collection, question, 1, "hybrid"))

    def vector(self, question: str) -> np.ndarray:
        """[d] unit vector of a question; the last ones are kept.

        Raises:
            FingerprintMismatch: the library holds another embedder's vectors.
        """
        held, ours = self._store.embedder, self.embedder.fingerprint
        if held not in (None, ours):
            raise FingerprintMismatch(
                expected=f"the embedder {held[:12] if held else ''}, whose vectors this library holds",
                got=f"{self.embedder.name} ({ours[:12]})",
                consequence="Nothing was searched, because their vectors cannot be compared.",
                remedy="Use the embedder that the library was made with, or search by words (bm25).",
            )
        if question not in self._vectors:  # several collections are asked the same
            if len(self._vectors) >= _QUESTIONS_KEPT:
                self._vectors = {}
            self._vectors[question] = np.asarray(self.embedder.embed([question], "question")[0])
        return self._vectors[question]

    def _sides(self, collection: str, question: str, k: int, mode: Mode) -> dict[str, list[Hit]]:
        if k < 1 or mode not in ("hybrid", "dense", "bm25"):
            raise UsageError(
                expected="one passage or more to search for, and a mode out of hybrid, dense and bm25",
                got=f"{k} passages, mode {mode!r}",
                consequence="Nothing was searched.",
                remedy="Correct them.",
            )
        wanted = pool(k) if mode == "hybrid" else k
        found: dict[str, list[Hit]] = {}
        if mode != "bm25":
            found["dense"] = self._store.nearest(collection, self.vector(question), wanted)
        if mode != "dense":
            found["bm25"] = self._store.matching(collection, question, wanted)
        return found


def wordings(question: str, earlier: Sequence[str]) -> list[str]:
    """A question by itself, and behind the last ones of its conversation, where what it leaves out stands."""
    return [question, *([" ".join([*earlier[-EARLIER:], question])] if earlier else [])]


def _evidence(question: str, sides: dict[str, list[Hit]]) -> Evidence:
    """Of the same number of passages whatever was asked for, so that it compares."""
    ranked = fuse({name: hits[:LEAST_POOL] for name, hits in sides.items()})
    texts = [hit.passage.text for hit in ranked]
    return evidence(question, sides["dense"][0].score if sides["dense"] else None, texts[:JUDGED], texts)
