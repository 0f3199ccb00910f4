"""What a folder of results holds; what cannot be read is said, and the rest is kept."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from preread.bench.figures import Figure
from preread.core.errors import PrereadError, first_line
from preread.core.paths import in_one_line
from preread.eval.tables import RESULTS, Evaluation, evaluation

FIGURES, GOALS = "figures.jsonl", "goals.csv"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should reach.

    Args:
        id: the figure's.
        part: of the work that owes it.
        better: which way is better.
        goal: the least or the most that it may be.
        unit: of value and goal.
        what: is measured, and how.
    """

    id: str
    part: str
    better: Literal["higher", "lower"]
    goal: float
    unit: str
    what: str


@dataclass
class Results:
    """Everything that could be read.

    Args:
        evaluations: by name.
        figures: as published.
        goals: in the order of their file.
        faults: one for each thing that could not be read.
    """

    evaluations: list[Evaluation] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    faults: list[PrereadError] = field(default_factory=list)


def read(folder: Path) -> Results:
    """Read `eval/*.json`, `figures.jsonl` and `goals.csv`.

    Raises:
        PrereadError: nothing of them could be read.
    """
    found = Results()
    paths = sorted((folder / RESULTS).glob("*.json"))
    for path in paths:
        found.evaluations += _tried(found, str(path), _evaluation, path)
    if not paths:
        found.faults.append(_fault(str(folder / RESULTS), "no evaluation"))
    for place, line in _lines(found, folder / FIGURES):
        found.figures += _tried(found, place, TypeAdapter(Figure).validate_json, line)
    (_, header), *rows = _lines(found, folder / GOALS) or [("", "")]
    for place, line in rows:
        found.goals += _tried(found, place, _goal, header, line)
    if not (found.evaluations or found.figures):
        raise PrereadError(
            expected=f"results in {in_one_line(str(folder))} ({RESULTS}/*.json, {FIGURES})",
            got="; ".join([fault.got for fault in found.faults]) or "none",
            consequence="No report was made.",
            remedy="Name the folder with --results, or make some: preread eval RECIPE --data DATA.",
        )
    return found


def _evaluation(path: Path) -> Evaluation:
    return evaluation(path.read_bytes())


def _goal(header: str, line: str) -> Goal:
    names, values = csv.reader([header, line])
    return TypeAdapter(Goal).validate_python(dict(zip(names, values, strict=True)))


def _lines(found: Results, path: Path) -> list[tuple[str, str]]:
    """The lines of a file that are not blank, each with its place."""
    texts = _tried(found, str(path), path.read_text, "utf-8")
    numbered = [(f"{path}, line {n}", line) for text in texts for n, line in enumerate(text.splitlines(), 1)]
    return [(place, line) for place, line in numbered if line.strip()]


def _tried(found: Results, place: str, read: Callable[..., T], *given: Any) -> list[T]:
    """What `read` makes of what it is given; nothing where it cannot, and a fault then."""
    try:
        return [read(*given)]
    except (OSError, ValueError) as error:
        found.faults.append(_fault(place, _why(error)))
        return []


def _fault(place: str, got: str) -> PrereadError:
    return PrereadError(
        expected=f"results in {in_one_line(place)}",
        got=got,
        consequence="They are not shown; the rest is.",
        remedy="Mend or remove it, or take it again with its command.",
    )


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        return in_one_line(f"{where}: {first['msg']}" if where else first["msg"])
    return in_one_line(str(error.strerror) if isinstance(error, OSError) else first_line(error))
