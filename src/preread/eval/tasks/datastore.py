"""What retrieval-augmented language modelling searches: all documents in passages of 256 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from preread.core.errors import UsageError
from preread.core.progress import progress
from preread.core.types import sha256
from preread.eval.kit import Kit
from preread.eval.tasks.texts import Text
from preread.retrieval.bm25 import Words

PASSAGE = 256
"""Tokens of a passage, and of the text that passages are looked for with."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage of the datastore.

    Args:
        source: id of its document.
        end: how many tokens of that stand before the passage's end.
        ids: its tokens.
        text: they as text, which is searched.
    """

    source: str
    end: int
    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Datastore:
    """Passages to search.

    Args:
        pieces: P of them.
    """

    pieces: Sequence[Piece]

    @staticmethod
    def of(kit: Kit, found: Sequence[Text]) -> Datastore:
        """All whole passages of documents, in an order that depends on the documents alone."""
        ends = [
            (text, end)
            for text in sorted(found, key=lambda text: text.id)
            for end in range(PASSAGE, len(text.ids) + 1, PASSAGE)
        ]
        pieces = []
        with progress("cutting the datastore", len(ends)) as advance:
            for text, end in ends:
                ids = text.ids[end - PASSAGE : end]
                pieces.append(Piece(text.id, end, ids, as_text(kit, ids)))
                advance()
        return Datastore(pieces)

    def by_vectors(self, kit: Kit, questions: Sequence[str]) -> np.ndarray:
        """[Q, P] cosines; passages are embedded once, and kept in the kit's folder by content."""
        passages = [piece.text for piece in self.pieces]
        path = kit.work / "datastore" / f"{sha256(kit.embedder.fingerprint, *passages)[:32]}.npy"
        asked = kit.embedder.embed(questions, role="question")
        if not path.is_file():
            with progress("embedding the datastore", len(passages)) as advance:
                vectors = kit.embedder.embed(passages, advance=advance)
            path.parent.mkdir(parents=True, exist_ok=True)
            half = path.with_suffix(".part")
            with half.open("wb") as file:
                np.save(file, vectors)
            half.replace(path)
        cosines: np.ndarray = asked @ np.load(path).T
        return cosines

    def by_words(self, questions: Sequence[str]) -> np.ndarray:
        """[Q, P] BM25, each question's over its best."""
        with progress("searching the datastore", len(questions)) as advance:
            index = _index(tuple(piece.text for piece in self.pieces))
            found = []
            for question in questions:
                scores = index.scores(question)
                found.append(scores / max(scores.max(), np.finfo(scores.dtype).tiny))
                advance()
        return np.stack(found)

    def nearest(
        self, scores: np.ndarray, source: str, before: int, count: int, apart: str = ""
    ) -> list[tuple[Piece, float]]:
        """The best passages with their scores, the best last.

        Args:
            scores: [P] of what is looked for, higher is better.
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
        best = np.argsort(-scores[allowed], kind="stable")[:count][::-1]
        return [(self.pieces[allowed[i]], float(scores[allowed[i]])) for i in best]


def as_text(kit: Kit, ids: Sequence[int]) -> str:
    """Tokens as the text that is searched, and searched with."""
    return str(kit.decoder.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


@lru_cache(maxsize=1)
def _index(passages: tuple[str, ...]) -> Words:
    """One is kept: the tasks of a recipe mostly search the same."""
    return Words(passages)
