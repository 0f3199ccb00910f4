"""Every goal beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from preread.bench.figures import Figure
from preread.report.reading import Goal, Results

Verdict = Literal["hit", "miss", "absent", "no goal"]
OTHERS = "without a goal"
"""Part of figures that nobody set a goal for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the scoreboard; it has a goal or a figure, or both."""

    id: str
    goal: Goal | None
    figure: Figure | None

    @property
    def part(self) -> str:
        """Of the work that owes it."""
        return self.goal.part if self.goal else OTHERS

    @property
    def verdict(self) -> Verdict:
        """What the value alone says; nothing is guessed where there is none."""
        if self.goal is None:
            return "no goal"
        if self.figure is None:
            return "absent"
        return "hit" if self._reaches(self.figure.value) else "miss"

    @property
    def sure(self) -> bool:
        """Whether the whole interval is on the value's side of the goal."""
        if self.goal is None or self.figure is None:
            return True
        return self._reaches(self.figure.low) == self._reaches(self.figure.high) == self._reaches(self.figure.value)

    @property
    def why_absent(self) -> str:
        """Why there is no figure, as far as its goal says."""
        if self.verdict != "absent":
            return ""
        assert self.goal is not None, "what is absent has a goal"
        return "needs a GPU that nobody had" if "GPU" in self.goal.what else "not measured yet"

    def _reaches(self, value: float) -> bool:
        assert self.goal is not None, "without a goal nothing is reached"
        return value >= self.goal.goal if self.goal.better == "higher" else value <= self.goal.goal


def scoreboard(results: Results) -> list[Entry]:
    """An entry for each goal, in their order, then one for each figure without a goal."""
    figures = {figure.id: figure for figure in results.figures}
    goals = [Entry(goal.id, goal, figures.pop(goal.id, None)) for goal in results.goals]
    return goals + [Entry(figure.id, None, figure) for figure in figures.values()]


def by_part(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The entries by part, in the order in which parts first appear."""
    parts: dict[str, list[Entry]] = {}
    for entry in entries:
        parts.setdefault(entry.part, []).append(entry)
    return parts


def counted(entries: Sequence[Entry]) -> dict[Verdict, int]:
    """How many entries have each verdict."""
    kinds: tuple[Verdict, ...] = ("hit", "miss", "absent", "no goal")
    found = {kind: sum(entry.verdict == kind for entry in entries) for kind in kinds}
    return {kind: number for kind, number in found.items() if number}


def plain(entry: Entry) -> dict[str, Any]:
    """An entry as JSON has it."""
    goal = asdict(entry.goal) if entry.goal else {}
    figure = asdict(entry.figure) if entry.figure else {"value": None}
    verdict = {"verdict": entry.verdict, "sure": entry.sure, "why_absent": entry.why_absent}
    return {**goal, **figure, "id": entry.id, "part": entry.part, **verdict}
