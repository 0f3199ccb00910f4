"""Language modelling with retrieved passages, as CEPE measures it (arXiv 2402.16617, section 4.2; RePlug's setting)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from preread.core.errors import UsageError
from preread.core.progress import progress
from preread.core.types import sha256
from preread.eval.case import Stretch
from preread.eval.kit import Kit
from preread.eval.tasks.sets import drawn, expect
from preread.eval.tasks.texts import RunningText, Text, in_turn, texts

PASSAGE = 256
"""Tokens of a passage, and of the text that passages are looked for with."""
WINDOW = 2_048
"""Tokens in the decoder: that text, and the 1,792 behind it that are judged."""


@dataclass(frozen=True)
class Ralm(RunningText):
    """Windows of text, with passages found by the 256 tokens before what is judged.

    The datastore is the set itself, every document that is judged, in pieces of 256 tokens, and what `also` names.
    Of a stretch's own document only what ends before the window counts, so that no judged token, and nothing written
    after it, is ever found. The paper's datastore is of other documents alone, and larger by orders of magnitude.

    Passages are `far`, the best last, next to the text; their scores are cosines. What a control reads is another
    document's window's, and none of them of the own document: they could hold the very tokens that are judged.

    Args:
        passages: for each window.
        stretches: most windows of a document, drawn; they do not overlap.
        own: whether the earlier text of the window's own document is in the datastore.
        also: further sets with their split, such as `books.train`, whose documents are in the datastore.
    """

    passages: int = 8
    stretches: int = 4
    own: bool = True
    also: tuple[str, ...] = ()
    kind: ClassVar[str] = "ralm"

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(1, passages=self.passages, stretches=self.stretches)

    @property
    def label(self) -> str:
        """As tables name it."""
        wider = f" of {len(self.also)} more files" if self.also else ""
        return f"{self.name}, {self.passages} retrieved passages{wider}" + ("" if self.own else " of other documents")

    @property
    def note(self) -> str:
        """What is searched."""
        own = " and the earlier text of the same one" if self.own else ""
        also = f", and from {', '.join(self.also)}" if self.also else ""
        return f"Dense retrieval of {PASSAGE}-token passages from the other documents of the set{own}{also}."

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
        asking = [_words(kit, text.ids[start : start + PASSAGE]) for text, start in windows]
        vectors = kit.embedder.embed(asking, role="question")
        asked = [(text, start, vector) for (text, start), vector in zip(windows, vectors, strict=True)]
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

    def _stretch(self, store: Datastore, text: Text, start: int, vector: np.ndarray, apart: str = "") -> Stretch:
        best = store.nearest(vector, text.id, start if self.own else 0, self.passages, apart)
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


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage of the datastore.

    Args:
        source: id of its document.
        end: how many tokens of that stand before the passage's end.
        ids: its tokens.
    """

    source: str
    end: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Datastore:
    """Passages to search.

    Args:
        pieces: P passages.
        vectors: [P, d] of them, of length 1.
    """

    pieces: Sequence[Piece]
    vectors: np.ndarray

    @staticmethod
    def of(kit: Kit, found: Sequence[Text]) -> Datastore:
        """All whole passages of documents; embedded once, and kept in the kit's folder by content."""
        ends = [(text, end) for text in found for end in range(PASSAGE, len(text.ids) + 1, PASSAGE)]
        pieces = [Piece(text.id, end, text.ids[end - PASSAGE : end]) for text, end in ends]
        passages = [_words(kit, piece.ids) for piece in pieces]
        path = kit.work / "datastore" / f"{sha256(kit.embedder.fingerprint, *passages)[:32]}.npy"
        if path.is_file():
            return Datastore(pieces, np.load(path))
        with progress("embedding the datastore", len(passages)) as advance:
            vectors = kit.embedder.embed(passages, advance=advance)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".part")
        with half.open("wb") as file:
            np.save(file, vectors)
        half.replace(path)
        return Datastore(pieces, vectors)

    def nearest(
        self, vector: np.ndarray, source: str, before: int, count: int, apart: str = ""
    ) -> list[tuple[Piece, float]]:
        """The best passages with their cosines, the best last.

        Args:
            vector: [d] of what is looked for, of length 1.
            source: the document that asks.
            before: of that document, only passages that end within so many of its tokens.
            count: of passages.
            apart: a document from which none is taken; then there may be fewer.

        Raises:
            UsageError: there are fewer.
        """
        reached = [i for i, piece in enumerate(self.pieces) if piece.source != source or piece.end <= before]
        allowed = [i for i in reached if self.pieces[i].source != apart]
        if len(reached) < count:
            raise UsageError(
                expected=f"a datastore of {count} passages of {PASSAGE} tokens besides the text itself",
                got=str(len(reached)),
                consequence="Nothing was judged.",
                remedy="Take more or longer documents, or fewer passages.",
            )
        cosines = self.vectors[allowed] @ vector
        best = np.argsort(-cosines, kind="stable")[:count][::-1]
        return [(self.pieces[allowed[i]], float(cosines[i])) for i in best]


def _words(kit: Kit, ids: Sequence[int]) -> str:
    """Tokens as the text that the embedder reads."""
    return str(kit.decoder.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
