"""Language modelling with retrieved passages, as CEPE measures it (arXiv 2402.16617, section 4.2; RePlug's setting)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from preread.eval.case import Stretch
from preread.eval.kit import Kit
from preread.eval.tasks.datastore import PASSAGE, Datastore, as_text
from preread.eval.tasks.sets import drawn, expect
from preread.eval.tasks.texts import RunningText, Text, in_turn, texts

WINDOW = 2_048
"""Tokens in the decoder: that text, and the 1,792 behind it that are judged."""


@dataclass(frozen=True)
class Ralm(RunningText):
    """Windows of text, with passages found by the 256 tokens before what is judged.

    The datastore is the set itself, every document that is judged, in pieces of 256 tokens, and what `also` names.
    Of a stretch's own document only what ends before the window counts, so that no judged token, and nothing written
    after it, is ever found. The paper's datastore is of other documents alone, and larger by orders of magnitude.

    Passages are `far`, the best last, next to the text. Their scores are cosines of the embedder's vectors, or BM25 as
    a share of the best passage's, so that RePlug's weights do not hang on how long the question is. What a control
    reads is another document's window's, and none of them of the own document: they could hold the very tokens that are
    judged.

    Args:
        passages: for each window.
        stretches: most windows of a document, drawn; they do not overlap.
        own: whether the earlier text of the window's own document is in the datastore.
        also: further sets with their split, such as `books.train`, whose documents are in the datastore.
        search: `dense` by the embedder, to which a large datastore on a CPU is hours, or `words` by BM25.
    """

    passages: int = 8
    stretches: int = 4
    own: bool = True
    also: tuple[str, ...] = ()
    search: Literal["dense", "words"] = "dense"
    kind: ClassVar[str] = "ralm"

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(1, passages=self.passages, stretches=self.stretches)

    @property
    def label(self) -> str:
        """As tables name it."""
        wider = f" of {len(self.also)} more files" if self.also else ""
        how = "" if self.search == "dense" else " by words"
        own = "" if self.own else " of other documents"
        return f"{self.name}, {self.passages} retrieved passages{wider}{how}{own}"

    @property
    def note(self) -> str:
        """What is searched."""
        own = " and the earlier text of the same one" if self.own else ""
        also = f", and from {', '.join(self.also)}" if self.also else ""
        how = "Dense retrieval" if self.search == "dense" else "Retrieval by BM25"
        return f"{how} of {PASSAGE}-token passages from the other documents of the set{own}{also}."

    def units(self, kit: Kit) -> Sequence[Stretch]:
        """As `Task.units`.

        Raises:
            UsageError: no document is long enough, or there are fewer passages than are wanted.
        """
        found = self.texts(kit, WINDOW)
        store = Datastore.of(kit, [*found, *self._further(kit, found)])
        windows = in_turn(
            [
                [(text, place * WINDOW) for place in drawn(text.id, len(text.ids) // WINDOW, self.stretches)]
                for text in found
            ]
        )
        asking = [as_text(kit, text.ids[start : start + PASSAGE]) for text, start in windows]
        scores = store.by_words(asking) if self.search == "words" else store.by_vectors(kit, asking)
        asked = [(text, start, own) for (text, start), own in zip(windows, scores, strict=True)]
        stretches = []
        for i, one in enumerate(asked):
            other = next((two for two in (*asked[i:], *asked[:i]) if two[0].id != one[0].id), None)
            beside = other and self._stretch(store, *other, apart=one[0].id)
            stretches.append(replace(self._stretch(store, *one), other=beside))
        return stretches

    def _further(self, kit: Kit, found: Sequence[Text]) -> list[Text]:
        """The documents of `also` that are not judged; of one that is, what ends before a window counts already."""
        split = [name.rpartition(".") for name in self.also]
        known = {text.id for text in found}
        further = (text for name, _, part in split for text in texts(kit, name, part, PASSAGE, None))
        return [text for text in further if text.id not in known]

    def _stretch(self, store: Datastore, text: Text, start: int, scores: np.ndarray, apart: str = "") -> Stretch:
        best = store.nearest(scores, text.id, start if self.own else 0, self.passages, apart)
        near, end = start + PASSAGE, start + WINDOW
        return Stretch(
            f"{text.id}:{start}",
            text.id,
            text.document,
            far=tuple(token for piece, _ in best for token in piece.ids),
            near=text.ids[start:near],
            target=text.ids[near:end],
            passages=tuple((i * PASSAGE, (i + 1) * PASSAGE) for i in range(len(best))),
            scores=tuple(score for _, score in best),
        )
