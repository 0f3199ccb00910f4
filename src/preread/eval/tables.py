"""A result as it is kept: an evaluation, its tables, and every number with its interval; as objects and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, TypeAdapter

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESULTS = "eval"
"""Folder of evaluations in the folder of results."""
Measured = Annotated[float, BeforeValidator(lambda read: nan if read is None else read)]
Low = Annotated[float, BeforeValidator(lambda read: -inf if read is None else read)]
High = Annotated[float, BeforeValidator(lambda read: inf if read is None else read)]
"""JSON has no such numbers, so they are null there."""


@dataclass(frozen=True, slots=True)
class Value:
    """A mean, 95 % of its values over documents drawn again with all their records, and how many records there are.

    The ends are infinite where the documents do not bound it, and the value is NaN where it is not defined.
    """

    value: Measured
    low: Low
    high: High
    n: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in a grid, such as a length and a depth."""

    at: Mapping[str, float]
    metrics: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Unfits:
    """Units that an answerer could not do, and why it could not do the first."""

    units: int
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """One answerer on one task.

    Args:
        answerer: its label.
        kind: as recipes name it.
        caveats: what must be said of it.
        units: how many it did.
        items: questions or stretches in them.
        unfit: what it could not do; its means are over the others.
        metrics: by name; `share` is (none - own) / (none - full) in percent, of summed likelihoods over the items that
            all three could do; `perplexity` is the exponential of `nll`.
        positions: mean positions that the decoder read for an item.
        seconds: mean time of an item, on a GPU; None on a CPU, where only ratios mean something elsewhere.
        times: the same relative to no context, over the units that both did; None where that was not run.
        peak_bytes: most memory above what was there before a unit.
        stored_bytes: mean bytes kept of a unit's context.
        cells: the metrics at each place of the grid.
    """

    answerer: str
    kind: str
    caveats: Sequence[str]
    units: int
    items: int
    unfit: Unfits | None
    metrics: Mapping[str, Value]
    positions: float
    seconds: float | None
    times: float | None
    peak_bytes: int
    stored_bytes: float
    cells: Sequence[Cell] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """One task with a row for each answerer.

    Args:
        label: the task's.
        kind: as recipes name it.
        group: which tasks it belongs with.
        headline: its first metric.
        higher: whether more of that is better.
        note: what must be said of it.
        units: documents or stretches.
        items: questions or stretches.
        rows: in the recipe's order.
    """

    label: str
    kind: str
    group: str
    headline: str
    higher: bool
    note: str
    units: int
    items: int
    rows: Sequence[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Gain:
    """What tuning gives an answerer on a group of question sets.

    Args:
        group: of the sets, or `all` of them.
        answerer: label of the untuned row.
        sets: how many.
        untuned: mean over the sets of their headline metrics.
        tuned: the same of the tuned row.
        gain: their difference, with its interval; documents are drawn again within their sets.
    """

    group: str
    answerer: str
    sets: int
    untuned: float
    tuned: float
    gain: Value


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one recipe gave.

    Args:
        name: of the recipe.
        what: what it decides.
        recipe: tasks and answerers with their settings.
        command: what to type to take it again.
        commit: of the code.
        device: it ran on.
        date: UTC.
        model: the decoder.
        weights: what must be said of the decoder's weights.
        tasks: a table each.
        limit: most units of a task, where there was one.
        window: positions that the decoder read at most.
        gains: what tuning gave, where rows were judged before and after.
    """

    name: str
    what: str
    recipe: Mapping[str, Any]
    command: str
    commit: str
    device: str
    date: str
    model: str
    weights: str
    tasks: Sequence[Table]
    limit: int | None = None
    window: int | None = None
    gains: Sequence[Gain] = ()


def plain(of: DataclassInstance) -> dict[str, Any]:
    """A table, or whatever else holds numbers, as JSON has it: numbers that are none are null."""
    return {key: _finite(value) for key, value in asdict(of).items()}


def evaluation(raw: bytes) -> Evaluation:
    """An evaluation from its JSON.

    Raises:
        pydantic.ValidationError: it is not JSON, or a field is missing or of another type.
    """
    return TypeAdapter(Evaluation).validate_json(raw)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
