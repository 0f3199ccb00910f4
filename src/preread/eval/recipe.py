"""An evaluation as YAML: tasks, answerers and the decoder that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeVar

from preread.core.config import build
from preread.core.errors import UsageError
from preread.eval.answerer import Answerer
from preread.eval.answerers import ANSWERERS
from preread.eval.task import Task
from preread.eval.tasks import TASKS

T = TypeVar("T", Task, Answerer)


@dataclass(frozen=True)
class EvalRecipe:
    """What is held against what.

    Args:
        tasks: `kind` and settings of each.
        answerers: `kind` and settings of each.
        model: decoder, as `preread.models.loading.load` takes it.
        what: a line for the report that says what the table decides.
        window: positions that the decoder reads at once, fewer than it was trained for; None takes all.
    """

    tasks: list[dict[str, Any]]
    answerers: list[dict[str, Any]] = field(default_factory=lambda: [{"kind": "none"}, {"kind": "full"}])
    model: str = "default"
    what: str = ""
    window: int | None = None

    def chosen_tasks(self, only: Sequence[str] | None = None) -> list[Task]:
        """The tasks, built; `only` those of some labels, if given.

        Raises:
            UsageError: an unknown kind, setting or label, none at all, or two of one label.
        """
        found = {task.label: task for task in _chosen(TASKS, self.tasks, "task")}
        if unknown := [label for label in only or () if label not in found]:
            raise UsageError(
                expected=f"tasks of the recipe ({', '.join(found)})",
                got=", ".join(unknown),
                consequence="Nothing was judged.",
                remedy="Correct --only.",
            )
        return [found[label] for label in only or found]

    def chosen_answerers(self) -> list[Answerer]:
        """The answerers, built; raises as `chosen_tasks`."""
        return _chosen(ANSWERERS, self.answerers, "answerer")


def built(table: Mapping[str, type[T]], spec: Mapping[str, Any], what: str) -> T:
    """One entry of a recipe: its `kind` out of the table, and the rest as its settings.

    Raises:
        UsageError: an unknown kind or setting.
    """
    settings = dict(spec)
    kind = str(settings.pop("kind", ""))
    if kind not in table:
        near = get_close_matches(kind, table, n=1)
        raise UsageError(
            expected=f"a kind of {what} ({', '.join(table)})",
            got=kind or f"none in {settings}",
            consequence="Nothing was judged.",
            remedy=f"Did you mean {near[0]}?" if near else "Correct `kind` in the recipe.",
        )
    return build(table[kind], settings)


def _chosen(table: Mapping[str, type[T]], specs: Sequence[Mapping[str, Any]], what: str) -> list[T]:
    found = [built(table, spec, what) for spec in specs]
    labels = [one.label for one in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if not found or twice:
        raise UsageError(
            expected=f"one {what} or more, each of another label",
            got=f"{', '.join(twice)} twice" if twice else "none",
            consequence="Nothing was judged.",
            remedy=f"Correct the {what}s in the recipe.",
        )
    return found
