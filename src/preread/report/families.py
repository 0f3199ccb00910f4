"""What kinds of answerers there are for a reader: what frames a comparison, and what is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from preread.eval.tables import Row

FRAME = "frame"
FAMILIES: Mapping[str, str] = {
    "none": FRAME,
    "full": FRAME,
    "oracle": FRAME,
    "other": FRAME,
    "shortened": "text",
    "stretched": "text",
    "retrieved": "text",
    "replug": "text",
    "streaming": "text",
    "memory": "memory",
    "hybrid": "hybrid",
    "tuned": "tuned",
}
"""Family of each kind of answerer; one that is not here is a family by itself."""
MEANING: Mapping[str, str] = {
    FRAME: "frame: no context, full text, oracle, another document's memory",
    "text": "plain text, shortened or retrieved",
    "memory": "memories",
    "hybrid": "memory and text together",
    "tuned": "tuned on training questions",
}
OTHERS = ", another document's"
"""Behind the label of an answerer that reads another document, so that its own row is found."""


def family(row: Row) -> str:
    """Of an answerer."""
    return FAMILIES.get(row.kind, row.kind)


def contenders(rows: Sequence[Row]) -> list[Row]:
    """Those that are compared; what frames the comparison is no solution."""
    return [row for row in rows if family(row) != FRAME]


def only(rows: Sequence[Row], kind: str) -> Row | None:
    """The row of a kind that a table has once, such as `full`."""
    return next((row for row in rows if row.kind == kind), None)
