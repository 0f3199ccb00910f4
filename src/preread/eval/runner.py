"""Every answerer on every unit of every task: cached, resumable, and refused where a model has seen the answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from preread.core.progress import Advance, progress
from preread.eval.answerer import Answerer
from preread.eval.cache import Cache
from preread.eval.case import Outcome, Unfit, Unit
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
    kit: Kit, tasks: Sequence[Task], answerers: Sequence[Answerer], cache: Cache, limit: int | None = None
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

    Raises:
        UsageError: an answerer's weights were trained on a document that it would be judged on.
        KeyboardInterrupt: by the user; what is done is kept, and the same call goes on with the rest.
    """
    plans = [(task, list(task.units(kit))[:limit]) for task in tasks]
    for task, units in plans:
        for answerer in answerers:
            refuse_leaks(kit, task, answerer, units)
    known = {(task.label, answerer.label): cache.read(kit, task, answerer) for task in tasks for answerer in answerers}
    left = sum(
        unit.key not in known[task.label, answerer.label]
        for task, units in plans
        for unit in units
        for answerer in answerers
    )
    with progress("judging", left) as advance:
        for task, units in plans:
            for unit in units:
                _judge_unit(kit, task, unit, answerers, cache, known, advance)
    return [_judged(kit, task, units, answerers, known) for task, units in plans]


def _judge_unit(
    kit: Kit,
    task: Task,
    unit: Unit,
    answerers: Sequence[Answerer],
    cache: Cache,
    known: Mapping[tuple[str, str], dict[str, Outcome]],
    advance: Advance,
) -> None:
    for answerer in answerers:
        outcomes = known[task.label, answerer.label]
        if unit.key in outcomes:
            continue
        outcome = judge(kit, task, answerer, unit)
        cache.write(kit, task, answerer, outcome)
        outcomes[unit.key] = outcome
        advance(note=f"{task.label}: {answerer.label}")


def judge(kit: Kit, task: Task, answerer: Answerer, unit: Unit) -> Outcome:
    """What one answerer does with one unit, with time and memory."""
    with peak(kit.decoder.device) as memory:
        start = time.perf_counter()
        try:
            records, stored = task.judge(kit, answerer, unit)
        except Unfit as error:
            return Outcome(unit.key, (), unfit=f"{error.expected}; got {error.got}")
        seconds = time.perf_counter() - start
    return Outcome(unit.key, tuple(records), seconds, memory.bytes, stored)


def _judged(
    kit: Kit,
    task: Task,
    units: Sequence[Unit],
    answerers: Sequence[Answerer],
    known: Mapping[tuple[str, str], Mapping[str, Outcome]],
) -> Judged:
    keys = [unit.key for unit in units]
    outcomes = {a.label: [known[task.label, a.label][key] for key in keys] for a in answerers}
    kinds, caveats = {a.label: a.kind for a in answerers}, {a.label: a.caveats(kit) for a in answerers}
    return Judged(task, keys, outcomes, kinds, caveats)
