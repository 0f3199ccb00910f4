"""What is asked of a decoder: tasks of the evaluation harness, sized for a span."""

from __future__ import annotations

from dataclasses import dataclass

from preread.certify.span import Span
from preread.eval.case import ROOM
from preread.eval.task import Task
from preread.eval.tasks.ability import ClosedBook, ShortText
from preread.eval.tasks.needle import Passkey
from preread.eval.tasks.positions import Positions
from preread.eval.tasks.sliding import Sliding
from preread.eval.tasks.topics import Topics

BOOKS = "books"
"""The texts that are long enough; their part `test` is in no training."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is judged.

    Args:
        name: as the certificate says it.
        documents: most books, and most texts of each set of short windows.
        windows: of a book, at each length.
        keys: passkeys of a length, each at five depths.
        topics: conversations of a length.
        short: windows of a text.
        questions: without any document.
        places: where tokens are replaced, in each batch of the causality check.
    """

    name: str
    documents: int
    windows: int
    keys: int
    topics: int
    short: int
    questions: int
    places: int


WHOLE = Size("whole", documents=8, windows=8, keys=8, topics=16, short=4, questions=200, places=4)
QUICK = Size("quick", documents=2, windows=2, keys=1, topics=2, short=1, questions=10, places=1)


@dataclass(frozen=True, slots=True)
class Plan:
    """The tasks of a certificate.

    Args:
        span: the lengths.
        size: how much of each.
        start: tokens that stand before every text, which take positions of the window.
    """

    span: Span
    size: Size
    start: int

    @property
    def by_position(self) -> Positions:
        """One pass over the length, a bucket for each quarter of the window before."""
        length, quarter = self.span.length - self.start, self.span.before // 4
        return Positions(BOOKS, documents=self.size.documents, length=length, every=quarter)

    @property
    def by_length(self) -> list[Sliding]:
        """The same tokens behind every length of the span, the window before first."""
        size, longest = self.size, self.span.length - self.start
        return [
            Sliding(
                BOOKS,
                documents=size.documents,
                length=window - self.start,
                stride=min(256, self.span.before // 4),
                windows=size.windows,
                earliest=longest,
            )
            for window in self.span.windows
        ]

    @property
    def asked_windows(self) -> list[int]:
        """Lengths of the span that hold a document beside a question and its answer."""
        return [window for window in self.span.windows if window >= 2 * ROOM]

    @property
    def passkey(self) -> Passkey | None:
        """Documents that fill each of those windows but for the room of question and answer; None where none does."""
        return Passkey(self._documents, self.size.keys) if self.asked_windows else None

    @property
    def topics(self) -> Topics | None:
        """Conversations of the same lengths."""
        return Topics(self._documents, self.size.topics) if self.asked_windows else None

    @property
    def short(self) -> list[Task]:
        """What a longer window must not cost."""
        size = self.size
        return [
            ShortText(documents=size.documents, windows=size.short),
            ClosedBook(questions=size.questions),
        ]

    @property
    def _documents(self) -> tuple[int, ...]:
        return tuple(window - ROOM for window in self.asked_windows)
