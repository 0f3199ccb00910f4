"""Every answerer on every unit of every task: cached, resumable, and refused where a model has seen the answers."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from preread.core.errors import Interrupted, PrereadWarning, UnsupportedModel
from preread.core.progress import Advance, progress
from preread.eval.answerer import Answerer
from preread.eval.cache import Cache
from preread.eval.case import Outcome, Unfit, Unit, with_others
from preread.eval.kit import Kit
from preread.eval.leaks import refuse_leaks
from preread.eval.peak import peak
from preread.eval.task import Task


@dataclass(frozen=True, slots=True)
class Judged:
    """What all answerers did with one task.

    Args:
        task: what was asked.
        units: keys of its units, in order.
        outcomes: label of the answerer -> an outcome a unit, in order.
        kinds: label of the answerer -> its kind.
        caveats: label of the answerer -> what its row must say.
    """

    task: Task
    units: Sequence[str]
    outcomes: Mapping[str, Sequence[Outcome]]
    kinds: Mapping[str, str]
    caveats: Mapping[str, Sequence[str]]


def run(
    kit: Kit,
    tasks: Sequence[Task],
    answerers: Sequence[Answerer],
    cache: Cache,
    limit: int | None = None,
    minutes: float | None = None,
) -> list[Judged]:
    """Judge everything that the cache does not know; deterministic on a CPU.

    A unit is done by every answerer before the next one begins, so that their times are of one stretch of the machine
    and an interrupted run has whole columns.

    Args:
        kit: decoder and data.
        tasks: what is asked.
        answerers: who is held against whom.
        cache: what is known already, and where the rest is kept.
        limit: most units of a task.
        minutes: stop after about so long, between two units or two steps of training; None runs to the end.

    Raises:
        UsageError: an answerer's weights were trained on a document that it would be judged on.
        Interrupted: the minutes are over; what is done is kept, and the same call goes on with the rest.
        KeyboardInterrupt: by the user; what is done is kept, and the same call goes on with the rest.
    """
    until = None if minutes is None else time.monotonic() + 60 * minutes
    plans = [(task, with_others(task.units(kit))[:limit], {a.label: a.on(task) for a in answerers}) for task in tasks]
    for task, units, rows in plans:
        for answerer in rows.values():
            refuse_leaks(kit, task, answerer, units)
    for _, _, rows in plans:
        for answerer in rows.values():
            if not answerer.ready(kit, until):
                raise _out_of_time(f"training {answerer.label}")
    known = {(task.label, label): cache.read(kit, task, row) for task, _, rows in plans for label, row in rows.items()}
    left = sum(
        unit.key not in known[task.label, label] for task, units, rows in plans for unit in units for label in rows
    )
    with progress("judging", left) as advance:
        for task, units, rows in plans:
            for unit in units:
                _judge_unit(kit, task, unit, rows, cache, known, advance, until)
    return [_judged(kit, task, units, rows, known) for task, units, rows in plans]


def _judge_unit(
    kit: Kit,
    task: Task,
    unit: Unit,
    rows: Mapping[str, Answerer],
    cache: Cache,
    known: Mapping[tuple[str, str], dict[str, Outcome]],
    advance: Advance,
    until: float | None,
) -> None:
    for label, answerer in rows.items():
        outcomes = known[task.label, label]
        if unit.key in outcomes:
            continue
        if until is not None and time.monotonic() >= until:
            raise _out_of_time(f"judging {task.label}")
        plain, stored = answerer.plainly(kit, unit)
        twin = next((name for name, row in rows.items() if name != label and row == plain), None)
        done = None if twin is None else known[task.label, twin].get(unit.key)
        outcome = replace(done, stored_bytes=stored) if done else judge(kit, task, answerer, unit)
        cache.write(kit, task, answerer, outcome)
        outcomes[unit.key] = outcome
        advance(note=f"{task.label}: {label}")


def _out_of_time(during: str) -> Interrupted:
    return Interrupted(
        expected="all rows trained and all units judged in the minutes that were given",
        got=f"their end while {during}",
        consequence="What is done is kept; no table was made.",
        remedy="Run the same command again: it goes on from there.",
    )


def judge(kit: Kit, task: Task, answerer: Answerer, unit: Unit) -> Outcome:
    """What one answerer does with one unit, with time and memory."""
    kit.clear()
    with peak(kit.decoder.device) as memory, _heard() as notes:
        start = time.perf_counter()
        try:
            records, stored = task.judge(kit, answerer, unit)
        except (Unfit, UnsupportedModel) as error:
            return Outcome(unit.key, (), unfit=f"{error.expected}; got {error.got}")
        seconds = time.perf_counter() - start
    return Outcome(unit.key, tuple(records), seconds, memory.bytes, stored, notes=tuple(notes))


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What our own warnings said, once the block has ended; others are passed on."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", PrereadWarning)
        yield notes
    for one in heard:
        if issubclass(one.category, PrereadWarning):
            notes.append(str(one.message))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _judged(
    kit: Kit,
    task: Task,
    units: Sequence[Unit],
    rows: Mapping[str, Answerer],
    known: Mapping[tuple[str, str], Mapping[str, Outcome]],
) -> Judged:
    keys = [unit.key for unit in units]
    outcomes = {label: [known[task.label, label][key] for key in keys] for label in rows}
    kinds = {label: answerer.kind for label, answerer in rows.items()}
    caveats = {label: (*a.caveats(kit), *_furthest(outcomes[label])) for label, a in rows.items()}
    return Judged(task, keys, outcomes, kinds, caveats)


def _furthest(outcomes: Sequence[Outcome]) -> list[str]:
    """What was noted of any unit; of notes that differ in numbers alone, the one with the largest."""
    notes = {note for outcome in outcomes for note in outcome.notes}
    in_order = sorted(notes, key=lambda note: ([int(number) for number in re.findall(r"\d+", note)], note))
    return list({re.sub(r"\d+", "", note): note for note in in_order}.values())
