"""The cells of a task's grid: curves along one coordinate, a heat map an answerer for two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import TYPE_CHECKING

from preread.eval.tables import Cell, Row, Table, Value
from preread.report.drawing import INK, SOFT, Plot, canvas, finished, mark, short, style
from preread.report.families import family
from preread.report.numbers import plain
from preread.report.sheets import name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 8
"""Times that the largest coordinate is the smallest, from which on an axis is logarithmic."""
MOST_TICKS = 7
DASHES = ("-", "--", ":")
"""Ten colours each."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What of a table is drawn: rows that have the metric at every coordinate of `axes`."""

    rows: Sequence[Row]
    axes: Sequence[str]
    metric: str

    @property
    def title(self) -> str:
        """What it shows."""
        return f"{name(self.metric)} by {' and '.join(self.axes)}"

    def value(self, cell: Cell) -> Value:
        """Of the metric."""
        return cell.metrics[self.metric]

    def ticks(self, axis: str) -> list[float]:
        """All coordinates along an axis, in order."""
        return sorted({cell.at[axis] for row in self.rows for cell in row.cells})


def grid_plot(table: Table) -> Plot | None:
    """The grid as a picture; None where there is none, or more coordinates than a picture has."""
    grid = _grid(table)
    if grid is None:
        return None
    with style():
        return _curves(grid) if len(grid.axes) == 1 else _maps(grid)


def _grid(table: Table) -> Grid | None:
    rows = [row for row in table.rows if row.cells]
    cells = [cell for row in rows for cell in row.cells]
    axes = list(dict.fromkeys(axis for cell in cells for axis in cell.at))
    whole = all(len(cell.at) == len(axes) and all(map(isfinite, cell.at.values())) for cell in cells)
    if not whole or not 1 <= len(axes) <= 2:
        return None
    for metric in ("perplexity", table.headline, *sorted(cells[0].metrics)):
        if all(metric in cell.metrics and isfinite(cell.metrics[metric].value) for cell in cells):
            return Grid(rows, axes, metric)
    return None


def _curves(grid: Grid) -> Plot:
    figure, [panel] = canvas(3.4 + 0.09 * len(grid.rows))
    for number, row in enumerate(grid.rows):
        _curve(panel, grid, row, number)
    [axis] = grid.axes
    ticks = grid.ticks(axis)
    if ticks[0] > 0 and ticks[-1] / ticks[0] >= WIDE:
        panel.set_xscale("log", base=2)
    shown = ticks[:: -(-len(ticks) // MOST_TICKS)]
    panel.set_xticks(shown, [plain(at) for at in shown])
    panel.minorticks_off()
    panel.set_xlabel(axis)
    panel.set_ylabel(name(grid.metric))
    figure.legend(loc="outside lower left", ncols=2)
    return finished(figure, grid.title, f"Curves of {grid.title}; the numbers are in the table below.")


def _curve(panel: Axes, grid: Grid, row: Row, number: int) -> None:
    cells = sorted(row.cells, key=lambda cell: cell.at[grid.axes[0]])
    x, values = [cell.at[grid.axes[0]] for cell in cells], [grid.value(cell) for cell in cells]
    colour, dash = f"C{number % 10}", DASHES[number // 10 % len(DASHES)]
    low, high = zip(*map(_ends, values), strict=True)
    panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    panel.plot(
        x,
        [value.value for value in values],
        color=colour,
        linestyle=dash,
        marker=mark(family(row)),
        markersize=4,
        label=short(row.answerer),
    )


def _maps(grid: Grid) -> Plot:
    x, y = (grid.ticks(axis) for axis in grid.axes)
    across = min(3, len(grid.rows))
    down = -(-len(grid.rows) // across)
    figure, panels = canvas(0.9 + down * (0.55 + 0.24 * len(y)), across, down)
    values = [grid.value(cell).value for row in grid.rows for cell in row.cells]
    percent = all(0 <= value <= 100 for value in values)
    ends = (0.0, 100.0) if percent else (min(values), max(values))
    for panel in panels[len(grid.rows) :]:
        panel.remove()
    for panel, row in zip(panels, grid.rows, strict=False):
        shown = [[nan] * len(x) for _ in y]
        for cell in row.cells:
            shown[y.index(cell.at[grid.axes[1]])][x.index(cell.at[grid.axes[0]])] = grid.value(cell).value
        drawn = panel.imshow(shown, vmin=ends[0], vmax=ends[1], cmap="cividis", aspect="auto")
        panel.set_title(short(row.answerer), fontsize=8, color=INK)
        panel.grid(visible=False)
        panel.set_xticks(range(len(x)), [plain(at) for at in x], fontsize=7, rotation=45)
        panel.set_yticks(range(len(y)), [plain(at) for at in y], fontsize=7)
    figure.supxlabel(grid.axes[0], fontsize=8, color=SOFT)
    figure.supylabel(grid.axes[1], fontsize=8, color=SOFT)
    figure.colorbar(drawn, ax=panels[: len(grid.rows)], label=name(grid.metric), shrink=0.8)
    return finished(
        figure, grid.title, f"Heat maps of {grid.title}, one an answerer; the numbers are in the table below."
    )


def _ends(value: Value) -> tuple[float, float]:
    """Of its interval; an open one is not drawn."""
    return (value.low, value.high) if isfinite(value.low) and isfinite(value.high) else (nan, nan)
