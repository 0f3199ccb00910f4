"""One published figure, with all that is needed to take it again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from preread.core.provenance import commit, device
from preread.eval.tables import Value


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the scoreboard.

    Args:
        id: as in the list of goals.
        value: what was measured.
        low: lower end of its interval.
        high: upper end.
        unit: `x`, `share`, `s`, ...
        n: how many measurements stand behind it.
        recipe: the settings.
        command: what to type to take it again.
        note: what a reader must know to judge it.
        commit: of the code.
        device: it was measured on.
        date: of the measurement, UTC.
    """

    id: str
    value: float
    low: float
    high: float
    unit: str
    n: int
    recipe: str
    command: str
    note: str
    commit: str = field(default_factory=commit)
    device: str = field(default_factory=device)
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))

    @staticmethod
    def of(id: str, values: Sequence[float], unit: str, recipe: str, command: str, note: str) -> Figure:  # noqa: A002
        """The median of repeated measurements, between the least and the greatest of them."""
        return Figure(id, median(values), min(values), max(values), unit, len(values), recipe, command, note)


@dataclass(frozen=True, slots=True)
class Made:
    """A figure of an evaluation, without where it comes from."""

    id: str
    value: Value
    unit: str
    note: str


def publish(figures: Iterable[Figure], path: Path) -> None:
    """Write figures into a file of JSON lines, each in the place of an older one of the same id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = {json.loads(line)["id"]: line for line in old}
    kept |= {figure.id: json.dumps(asdict(figure), ensure_ascii=False) for figure in figures}
    half = path.with_name(path.name + ".part")
    half.write_text("".join(f"{line}\n" for line in kept.values()), encoding="utf-8")
    half.replace(path)
