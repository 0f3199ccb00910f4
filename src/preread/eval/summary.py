"""Outcomes as a table: means with intervals over documents, the share of the likelihood gap, and what each row cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import exp
from statistics import mean

from preread.core.intervals import drawn_interval, interval, ratio_interval
from preread.eval.case import Outcome, Record
from preread.eval.runner import Judged
from preread.eval.tables import Cell, Row, Table, Unfits, Value
from preread.eval.task import Task

FLOOR, CEILING = "none", "full"
"""Kinds of answerers between which the share of the gap is counted."""


def table(judged: Judged, on_gpu: bool) -> Table:
    """A task's table.

    Args:
        judged: what was done.
        on_gpu: whether absolute times mean something.
    """
    task = judged.task
    rows = [_row(judged, label, on_gpu) for label in judged.outcomes]
    return Table(
        task.label,
        task.kind,
        task.group,
        task.headline,
        task.higher,
        task.note,
        len(judged.units),
        max((row.items for row in rows), default=0),
        rows,
    )


def _row(judged: Judged, label: str, on_gpu: bool) -> Row:
    outcomes = judged.outcomes[label]
    done = [outcome for outcome in outcomes if not outcome.unfit]
    unfit = [outcome.unfit for outcome in outcomes if outcome.unfit]
    records = [record for outcome in done for record in outcome.records]
    metrics = _metrics(records) | _overall(judged.task, records)
    if (share := _share(judged, label)) is not None:
        metrics["share"] = share
    grid: dict[tuple[tuple[str, float], ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.at:
            grid[record.at].append(record)
    return Row(
        answerer=label,
        kind=judged.kinds[label],
        caveats=judged.caveats[label],
        units=len(done),
        items=len(records),
        unfit=Unfits(len(unfit), unfit[0]) if unfit else None,
        metrics=metrics,
        positions=mean(record.positions for record in records) if records else 0.0,
        seconds=sum(outcome.seconds for outcome in done) / len(records) if on_gpu and records else None,
        times=_times(judged, label),
        peak_bytes=max((outcome.peak_bytes for outcome in done), default=0),
        stored_bytes=mean(outcome.stored_bytes for outcome in done) if done else 0.0,
        cells=[Cell(dict(at), _metrics(own)) for at, own in sorted(grid.items())],
    )


def _metrics(records: Sequence[Record]) -> dict[str, Value]:
    """Every score of the records: means weighted by the records, drawn again by unit."""
    names = dict.fromkeys(name for record in records for name in record.scores)
    found = {name: _mean(name, records) for name in names}
    if "nll" in found and any(record.weight != 1 for record in records):  # running text
        own = found["nll"]
        found["perplexity"] = Value(exp(own.value), exp(own.low), exp(own.high), own.n)
    return found


def _overall(task: Task, records: Sequence[Record]) -> dict[str, Value]:
    """The task's own metrics of all records together, drawn again by unit."""
    units: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        units[record.unit].append(record)
    found = drawn_interval(units, task.overall) if records else {}
    return {name: Value(*ends, len(records)) for name, ends in found.items()}


def _mean(name: str, records: Iterable[Record]) -> Value:
    units: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        if name in record.scores:
            units[record.unit].append((record.scores[name], record.weight))
    return Value(*interval(units), sum(map(len, units.values())))


def gaps(
    judged: Judged, label: str, floor: str | None = None, ceiling: str | None = None
) -> dict[str, list[tuple[float, float]]] | None:
    """How much likelier the references are to a row than to a floor, and to a ceiling than to the floor, in nats.

    Args:
        judged: a task.
        label: of the row.
        floor: of another; None is the one without context.
        ceiling: of another; None is the one of the full text.

    Returns:
        Both of every item that all three could do, by what an interval draws again; None where a row is missing.
    """
    by_kind = {kind: name for name, kind in judged.kinds.items()}
    rows = [floor or by_kind.get(FLOOR), ceiling or by_kind.get(CEILING), label]
    if any(row not in judged.outcomes for row in rows):
        return None
    below, above, own = (_nlls(judged.outcomes[row]) for row in rows if row is not None)
    units: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key in own:
        if key in below and key in above:
            units[key[0]].append((below[key] - own[key], below[key] - above[key]))
    return dict(units)


def _share(judged: Judged, label: str) -> Value | None:
    """How much of what the full text tells the decoder a row tells it, in percent; by likelihood."""
    units = gaps(judged, label)
    if not units:
        return None
    value, low, high = ratio_interval(units)
    return Value(100 * value, 100 * low, 100 * high, sum(map(len, units.values())))


def _nlls(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], float]:
    """Summed weight times likelihood of each item that has one."""
    return {
        (record.unit, record.item): record.scores["nll"] * record.weight
        for outcome in outcomes
        for record in outcome.records
        if "nll" in record.scores
    }


def _times(judged: Judged, label: str) -> float | None:
    """Time relative to no context over the units that both did."""
    floors = [name for name, kind in judged.kinds.items() if kind == FLOOR]
    if not floors:
        return None
    pairs = [
        (own.seconds, floor.seconds)
        for own, floor in zip(judged.outcomes[label], judged.outcomes[floors[0]], strict=True)
        if not own.unfit and not floor.unfit
    ]
    below = sum(floor for _, floor in pairs)
    return sum(own for own, _ in pairs) / below if below else None
