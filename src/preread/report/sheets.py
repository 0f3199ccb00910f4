"""A task's tables as they are read: columns, numbers in words, what is best, and footnotes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

from preread.eval.tables import Cell, Row, Table, Value
from preread.report.families import contenders, family
from preread.report.numbers import NONE, between, decimals, fixed, plain, size

BOLD = (
    "Bold: the best of the answerers that are compared (not no context, full text, oracle or another document's "
    "memory), where its interval lies apart from each of theirs; only those that did every unit count. All answer the "
    "same questions, so intervals that overlap do not say that two are equal."
)
NAMES = {"share": "share of gap, %", "nll": "nll, nats a token", "em": "exact match", "f1": "F1", "rouge": "ROUGE"}
"""Of metrics, where the name in the file is not what a reader would say."""

COMPARED = ("share", "nll", "perplexity")
"""Metrics of which it is known which way is better, beside the headline."""


@dataclass(frozen=True, slots=True)
class Field:
    """What stands in one place of a table.

    Args:
        text: a number in words, or an answerer.
        below: its interval, and of how many items where it is not the row's number.
        best: whether it is the best of its column.
        notes: numbers of its footnotes.
        family: the answerer's, as plots colour it.
    """

    text: str
    below: str = ""
    best: bool = False
    notes: tuple[int, ...] = ()
    family: str = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table.

    Args:
        head: titles of its columns.
        rows: fields of each row; the first one names it.
        footnotes: the first one is number 1.
        bold: whether anything is the best.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Field]]
    footnotes: Sequence[str] = ()
    bold: bool = False


def name(metric: str) -> str:
    """A metric as readers know it."""
    return NAMES.get(metric, metric.replace("_", " "))


def task_sheet(table: Table) -> Sheet:
    """A row for each answerer: its metrics, then what it cost."""
    footnotes = list(dict.fromkeys(said for row in table.rows for said in _said(row)))
    columns = [_metric(table, metric) for metric in _metrics(table)]
    on_gpu = any(row.seconds is not None for row in table.rows)
    rows = [
        [
            Field(row.answerer, notes=_numbers(row.caveats, footnotes), family=family(row)),
            *(column[number] for column in columns),
            *map(Field, _costs(row, on_gpu).values()),
            _left_out(row, footnotes),
        ]
        for number, row in enumerate(table.rows)
    ]
    costs = _costs(table.rows[0], on_gpu) if table.rows else ()
    bold = any(field.best for fields in rows for field in fields)
    return Sheet(["answerer", *map(name, _metrics(table)), *costs, "left out"], rows, footnotes, bold)


def grid_sheet(table: Table) -> Sheet | None:
    """A row for each answerer at each place of the grid; None where the task has none."""
    cells = [(row, cell) for row in table.rows for cell in row.cells]
    axes = list(dict.fromkeys(axis for _, cell in cells for axis in cell.at))
    metrics = list(dict.fromkeys(metric for _, cell in cells for metric in cell.metrics))
    values = {metric: [cell.metrics.get(metric) for _, cell in cells] for metric in metrics}
    columns = [_fields(values[metric], metric, [_items(cell) for _, cell in cells]) for metric in metrics]
    rows = [
        [
            Field(row.answerer, family=family(row)),
            *(Field(plain(cell.at[axis]) if axis in cell.at else NONE) for axis in axes),
            *(column[number] for column in columns),
            Field(f"{_items(cell):,}"),
        ]
        for number, (row, cell) in enumerate(cells)
    ]
    return Sheet(["answerer", *axes, *map(name, metrics), "items"], rows) if rows else None


def best(table: Table, metric: str) -> Row | None:
    """The contender whose interval lies apart from every other's, and on the better side of it."""
    higher = table.higher if metric == table.headline else metric == "share"
    whole = [row for row in contenders(table.rows) if not row.unfit and metric in row.metrics]
    whole = [row for row in whole if isfinite(row.metrics[metric].value)]
    if len(whole) < 2:
        return None
    first, *others = sorted(whole, key=lambda row: row.metrics[metric].value, reverse=higher)
    own = first.metrics[metric]
    theirs = [row.metrics[metric] for row in others]
    apart = all(own.low > one.high if higher else own.high < one.low for one in theirs)
    return first if apart else None


def _metrics(table: Table) -> list[str]:
    """Every metric that a row has, those that tell answerers apart first."""
    found = dict.fromkeys(metric for row in table.rows for metric in row.metrics)
    first = [metric for metric in dict.fromkeys((table.headline, *COMPARED)) if metric in found]
    return first + [metric for metric in found if metric not in first]


def _metric(table: Table, metric: str) -> list[Field]:
    """A column of the table, with its best."""
    fields = _fields([row.metrics.get(metric) for row in table.rows], metric, [row.items for row in table.rows])
    winner = best(table, metric) if metric in (table.headline, *COMPARED) else None
    return [replace(one, best=row is winner) for one, row in zip(fields, table.rows, strict=True)]


def _fields(values: Sequence[Value | None], metric: str, items: Sequence[int]) -> list[Field]:
    """Values of a metric; the number of items is said where it is not the row's."""
    places = decimals(metric, [value.value for value in values if value])
    return [_field(value, places, count) for value, count in zip(values, items, strict=True)]


def _field(value: Value | None, places: int, items: int) -> Field:
    if value is None:
        return Field(NONE)
    fewer = f", n = {value.n:,}" if value.n != items else ""
    return Field(fixed(value.value, places), between(value.low, value.high, places) + fewer)


def _items(cell: Cell) -> int:
    return max((value.n for value in cell.metrics.values()), default=0)


def _costs(row: Row, on_gpu: bool) -> dict[str, str]:
    """What a row cost, by column; nothing is said of one that did nothing."""
    told = {
        "positions read": plain(row.positions),
        "time": f"{plain(row.times)}x" if row.times is not None else NONE,
        "seconds": f"{plain(row.seconds)} s" if row.seconds is not None else NONE,
        "peak memory": size(row.peak_bytes),
        "stored": size(row.stored_bytes),
    }
    counts = {"items": f"{row.items:,}", "units": f"{row.units:,}"}
    shown = {title: text if row.items else NONE for title, text in told.items() if on_gpu or title != "seconds"}
    return shown | counts


def _left_out(row: Row, footnotes: Sequence[str]) -> Field:
    return Field(f"{row.unfit.units:,}", notes=_numbers([row.unfit.reason], footnotes)) if row.unfit else Field("0")


def _numbers(said: Sequence[str], footnotes: Sequence[str]) -> tuple[int, ...]:
    return tuple(footnotes.index(one) + 1 for one in said)


def _said(row: Row) -> list[str]:
    return [*row.caveats, *([row.unfit.reason] if row.unfit else [])]
