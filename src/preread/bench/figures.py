"""One published figure, with all that is needed to take it again."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch


def _commit() -> str:
    """The commit that this code stands at, `+` behind it where files were changed since; empty outside a repository."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603  # no input
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu() -> str:
    """The processor's name and how many threads a product uses."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


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
    commit: str = field(default_factory=_commit)
    device: str = field(default_factory=_cpu)
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))

    @staticmethod
    def of(id: str, values: Sequence[float], unit: str, recipe: str, command: str, note: str) -> Figure:  # noqa: A002
        """The median of repeated measurements, between the least and the greatest of them."""
        return Figure(id, median(values), min(values), max(values), unit, len(values), recipe, command, note)


def publish(figures: Iterable[Figure], path: Path) -> None:
    """Append figures to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(figure), ensure_ascii=False) + "\n" for figure in figures)
