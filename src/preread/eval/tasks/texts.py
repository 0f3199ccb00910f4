"""Running text: documents as tokens, and what tasks that cut stretches out of them share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from preread.core.errors import UsageError
from preread.core.progress import progress
from preread.core.types import text_hash
from preread.eval.kit import Kit
from preread.eval.task import TextTask
from preread.eval.tasks.sets import expect, rows, set_file

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Text:
    """A document as tokens.

    Args:
        id: the document's.
        document: hash of its text, for the leak check.
        ids: its tokens, none of them special.
    """

    id: str
    document: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class RunningText(TextTask):
    """Stretches of the documents of a set.

    Args:
        set: name of the set, or a path of a file in its format.
        split: `test`, or another part where settings are chosen.
        documents: most documents, in the order of a shuffle that depends on their ids alone; None takes all that are
            long enough.
    """

    set: str
    split: str = "test"
    documents: int | None = None

    def __post_init__(self) -> None:
        expect(1, documents=self.documents)

    @property
    def name(self) -> str:
        """The set, and the split where it is not the usual one."""
        return Path(self.set).name.split(".")[0] + ("" if self.split == "test" else f" ({self.split})")

    def texts(self, kit: Kit, least: int) -> list[Text]:
        """The first documents that are long enough; those behind them are not tokenised.

        Args:
            kit: with data and tokenizer.
            least: tokens of the shortest.

        Raises:
            UsageError: no such set, or no document in it is long enough.
            UnreadableDocument: its file is not what it should be.
        """
        return texts(kit, self.set, self.split, least, self.documents)


def texts(kit: Kit, name: str, split: str, least: int, most: int | None) -> list[Text]:
    """As `RunningText.texts`: at most so many documents of a set's split; None takes all."""
    path = set_file(kit.data, "text", name, split)
    found: list[Text] = []
    with progress(f"tokenising {path.name}", None) as advance:
        for row in rows(path, "text"):
            if len(found) == most:
                break
            ids = tuple(kit.tokens(row["text"]).tolist())
            if len(ids) >= least:
                found.append(Text(row["doc_id"], text_hash(row["text"]), ids))
            advance()
    if not found:
        raise UsageError(
            expected=f"a document of at least {least:,} tokens in {path}",
            got="shorter ones alone",
            consequence="Nothing was judged.",
            remedy="Choose shorter stretches in the recipe, or longer texts.",
        )
    return found


def in_turn(cuts: Iterable[Iterable[T]]) -> list[T]:
    """The first of every document, then the second of every one that has a second, and so on: the first are of many."""
    return [one for row in zip_longest(*cuts) for one in row if one is not None]
