"""What a report says, before it is a page or Markdown: the scoreboard, and a section for each evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import yaml

from preread.eval.tables import Evaluation, Table
from preread.report.families import contenders
from preread.report.numbers import plain
from preread.report.outcome import findings, with_shares
from preread.report.reading import Results
from preread.report.scoreboard import Entry, by_part, counted, scoreboard

NOTHING = "No evaluation was read, so nothing can be said of answers."

UNITS = {"share": "", "abs": ""}
"""That say nothing beside a number."""


@dataclass(frozen=True, slots=True)
class Section:
    """An evaluation: what it shows, its tables by group, and what it was made of."""

    evaluation: Evaluation
    findings: Sequence[str]
    groups: Mapping[str, Sequence[Table]]

    @property
    def facts(self) -> dict[str, str]:
        """What it was run with; nothing that is not known."""
        it = self.evaluation
        part = f"no more than {it.limit} units of a task" if it.limit else ""
        model = f"{it.model}, {it.weights}" if it.weights else it.model
        window = f"{it.window:,} positions" if it.window else ""
        found = {
            "Model": model,
            "Window": window,
            "Part": part,
            "Device": it.device,
            "Commit": it.commit,
            "Date": it.date,
        }
        return {name: value for name, value in found.items() if value}

    @property
    def recipe(self) -> str:
        """Its tasks and answerers as YAML."""
        return yaml.safe_dump(dict(self.evaluation.recipe), sort_keys=False, allow_unicode=True, width=100)


@dataclass(frozen=True)
class Report:
    """All that is told of a folder of results."""

    results: Results

    @cached_property
    def entries(self) -> list[Entry]:
        """The scoreboard."""
        return scoreboard(self.results)

    @property
    def parts(self) -> dict[str, list[Entry]]:
        """The scoreboard by part."""
        return by_part(self.entries)

    @cached_property
    def sections(self) -> list[Section]:
        """One for each evaluation; first the one that compares most answerers on most sets."""
        return [_section(one) for one in sorted(self.results.evaluations, key=_weight, reverse=True)]

    @property
    def outcome(self) -> Sequence[str]:
        """The first things to know."""
        return self.sections[0].findings if self.sections else [NOTHING]

    @property
    def score(self) -> str:
        """The scoreboard in a line."""
        counts = counted(self.entries)
        return ", ".join(f"{number} {kind}" for kind, number in counts.items())

    @property
    def faults(self) -> list[str]:
        """What could not be read."""
        return [str(fault) for fault in self.results.faults]


def value(entry: Entry) -> str:
    """A figure's value with its unit."""
    return _with_unit(plain(entry.figure.value), entry.figure.unit) if entry.figure else ""


def ends(entry: Entry) -> str:
    """A figure's interval; nothing where it has none."""
    figure = entry.figure
    return f"{plain(figure.low)} to {plain(figure.high)}" if figure and figure.low != figure.high else ""


def goal(entry: Entry) -> str:
    """A goal with its unit."""
    if entry.goal is None:
        return ""
    way = "at least" if entry.goal.better == "higher" else "at most"
    return f"{way} {_with_unit(plain(entry.goal.goal), entry.goal.unit)}"


def _with_unit(number: str, unit: str) -> str:
    return f"{number}{unit}" if unit in ("x", "%") else f"{number} {UNITS.get(unit, unit)}".rstrip()


def _section(one: Evaluation) -> Section:
    groups: dict[str, list[Table]] = {}
    for table in one.tasks:
        groups.setdefault(table.group, []).append(table)
    return Section(one, findings(one), groups)


def _weight(one: Evaluation) -> tuple[int, int]:
    tables = with_shares(one)
    return len(tables), sum(len(contenders(table.rows)) for table in tables or one.tasks)
