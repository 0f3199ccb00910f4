"""No model is judged on what it was trained on: manifests say which documents that was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from preread.core.errors import UsageError
from preread.core.types import text_hash
from preread.eval.answerer import Answerer
from preread.eval.case import Case, Unit
from preread.eval.kit import Kit


class Labelled(Protocol):
    """A task, or whatever else is judged under a name."""

    @property
    def label(self) -> str:
        """Its name."""


def refuse_leaks(kit: Kit, task: Labelled, answerer: Answerer, units: Sequence[Unit]) -> None:
    """See that an answerer's weights have not seen a document of a task.

    Raises:
        UsageError: they have.
    """
    seen = answerer.trained_on(kit)
    leaked = [unit.id for unit in units if seen and _hash(unit) in seen]
    if leaked:
        raise UsageError(
            expected=f"documents of {task.label} that {answerer.label} was not trained on",
            got=f"{len(leaked)} of {len(units)} that it was, such as {leaked[0]}",
            consequence="Nothing was judged.",
            remedy="Judge it on documents that its manifest does not name, or train another on other documents.",
        )


def _hash(unit: Unit) -> str:
    return text_hash(unit.document.text) if isinstance(unit, Case) else unit.document
