"""A report as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from preread.core.progress import Advance, progress
from preread.eval.tables import Table
from preread.html import standalone
from preread.report.drawing import Plot
from preread.report.grids import grid_plot
from preread.report.outcome import standings, with_shares
from preread.report.plots import dots, frontier
from preread.report.sections import Report, Section, ends, goal, value
from preread.report.sheets import BOLD, Sheet, grid_sheet, task_sheet
from preread.report.tuning import PUBLISHED, gains_sheet, published


@dataclass(frozen=True, slots=True)
class Shown:
    """A task on the page: its number among those of its evaluation, its table and its pictures."""

    number: int
    table: Table
    sheet: Sheet
    grid: Sheet | None
    plots: Sequence[Plot]


@dataclass(frozen=True, slots=True)
class Part:
    """An evaluation on the page."""

    section: Section
    groups: Sequence[tuple[str, Sequence[Shown]]]
    frontier: Plot | None
    gains: Sheet | None


def page(report: Report) -> str:
    """The whole page; the same results give the same bytes."""
    with progress("drawing", sum(len(section.evaluation.tasks) for section in report.sections)) as advance:
        parts = [_part(section, advance) for section in report.sections]
    said = {"value": value, "ends": ends, "goal": goal}
    paper = published() if any(part.gains for part in parts) else None
    return standalone(
        "report", images=True, it=report, parts=parts, bold=BOLD, said=said, paper=paper, about_paper=PUBLISHED
    )


def _part(section: Section, advance: Advance) -> Part:
    number = count(1)
    groups = [
        (group, [_shown(next(number), table, advance) for table in tables]) for group, tables in section.groups.items()
    ]
    sets = with_shares(section.evaluation)
    over = frontier(standings(sets), f", mean of {len(sets)} sets" if len(sets) > 1 else "")
    return Part(section, groups, over, gains_sheet(section.evaluation))


def _shown(number: int, table: Table, advance: Advance) -> Shown:
    drawn = [dots(table), frontier(standings([table]), ""), grid_plot(table)]
    advance(note=table.label)
    return Shown(number, table, task_sheet(table), grid_sheet(table), [plot for plot in drawn if plot])
