"""Answerers side by side, and what they keep against what they read."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING

from preread.eval.tables import Row, Table, Value
from preread.report.drawing import CARD, INK, SOFT, Plot, canvas, colour, finished, legend, mark, short, style
from preread.report.families import FRAME, family
from preread.report.numbers import between, decimals, fixed, plain
from preread.report.outcome import Standing
from preread.report.sheets import name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OFF = (-50.0, 130.0)
"""Shares, in percent, past which a plot does not reach: what lies beyond is drawn at its edge."""
LEFT = 0.35
"""Room for labels to the left of the points, in parts of the width between them."""
BESIDE = ((-5, 5, "right"), (6, -12, "left"), (-5, -12, "right"), (6, 5, "left"))
"""Where a label may stand, in points from its spot: first where nothing better can be, above to the left."""
SPOT = 3.5
"""Half of a spot's width, in points."""


def dots(table: Table) -> Plot | None:
    """The headline of every answerer with its interval, best first."""
    rows = [row for row in table.rows if _defined(row.metrics.get(table.headline))]
    if not rows:
        return None
    rows.sort(key=lambda row: row.metrics[table.headline].value, reverse=table.higher)
    with style():
        figure, [panel] = canvas(1.2 + 0.21 * len(rows))
        for place, row in enumerate(rows):
            _dot(panel, row, row.metrics[table.headline], place)
        panel.set_yticks(range(len(rows)), [short(row.answerer) for row in rows], color=INK)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.spines["left"].set_visible(False)
        panel.set_xlabel(f"{name(table.headline)} ({'higher' if table.higher else 'lower'} is better)")
        legend(panel, [family(row) for row in rows])
        places = decimals(table.headline, [row.metrics[table.headline].value for row in rows])
        told = "; ".join(f"{row.answerer} {_told(row.metrics[table.headline], places)}" for row in rows)
        hollow = " (hollow: some units left out)" if any(row.unfit for row in rows) else ""
        return finished(
            figure, f"{name(table.headline)} by answerer{hollow}", f"Best first, with 95 % intervals: {told}."
        )


def frontier(standings: Sequence[Standing], of: str) -> Plot | None:
    """The share of the gap against the positions read; a line joins those that nothing cheaper beats."""
    if len(standings) < 3:
        return None
    with style():
        figure, [panel] = canvas(4.1)
        panel.set_xscale("log")
        panel.axhline(0, color=SOFT, linewidth=0.8)
        panel.axhline(100, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
        for one in standings:
            _spot(panel, one)
        front = unbeaten(standings)
        line = [(one.positions, _within(one.share)) for one in front]
        panel.plot(*zip(*line, strict=True), color=INK, linewidth=0.9, alpha=0.5, drawstyle="steps-post", zorder=1)
        panel.set_xlabel(f"positions read for a question{of} (logarithmic)")
        panel.set_ylabel("share of the gap, %")
        panel.margins(x=0.05, y=0.1)
        least, most = min(one.positions for one in standings), max(one.positions for one in standings)
        panel.set_xlim(left=least / (most / least) ** LEFT)
        _ticks(panel)
        legend(panel, [family(one.row) for one in standings])
        ends = [one for one in standings if one.row.kind in ("none", "full")]
        figure.draw_without_rendering()  # from here on it is known what stands where
        _name(panel, [*ends, *front], standings)
        told = "; ".join(f"{one.row.answerer} {one.share:.0f} % at {plain(one.positions)}" for one in standings)
        return finished(figure, "Share of the gap against positions read", f"Positions read and shares: {told}.")


def unbeaten(standings: Sequence[Standing]) -> list[Standing]:
    """Of those that are compared, what nothing that reads as little beats; fewest positions first."""
    best, found = -inf, []
    for one in sorted(standings, key=lambda one: (one.positions, -one.share)):
        if family(one.row) != FRAME and one.share > best:
            found.append(one)
            best = one.share
    return found


def _dot(panel: Axes, row: Row, value: Value, place: int) -> None:
    tone = colour(family(row))
    if isfinite(value.low) and isfinite(value.high):
        panel.plot([value.low, value.high], [place, place], color=tone, linewidth=2, alpha=0.45, solid_capstyle="butt")
    whole = tone if row.unfit is None else "white"
    panel.plot(value.value, place, mark(family(row)), color=tone, markerfacecolor=whole, markersize=5)


def _spot(panel: Axes, one: Standing) -> None:
    kind = family(one.row)
    panel.plot(one.positions, _within(one.share), mark(kind), color=colour(kind), markersize=6, alpha=0.9, zorder=3)


def _name(panel: Axes, named: Sequence[Standing], standings: Sequence[Standing]) -> None:
    """Labels where they hide neither a spot nor a label before them; the table has those for which there is no room."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    inside = panel.get_window_extent().padded(SPOT)
    spots = panel.transData.transform([(one.positions, _within(one.share)) for one in standings])
    taken = [Bbox.from_extents(x - SPOT, y - SPOT, x + SPOT, y + SPOT) for x, y in spots]
    for one in named:
        beyond = "" if one.share == _within(one.share) else f" ({one.share:.0f} %)"
        for right, up, side in BESIDE:
            label = panel.annotate(
                short(one.row.answerer) + beyond,
                (one.positions, _within(one.share)),
                (right, up),
                textcoords="offset points",
                ha=side,
                fontsize=8,
                color=colour(family(one.row)),
                path_effects=[withStroke(linewidth=2.5, foreground=CARD)],
            )
            box = label.get_window_extent()
            if not box.count_overlaps(taken) and inside.count_contains(box.corners()) == 4:
                taken.append(box)
                break
            label.remove()


def _ticks(panel: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda at, _: plain(at)))
    panel.minorticks_off()


def _within(share: float) -> float:
    return min(max(share, OFF[0]), OFF[1])


def _defined(value: Value | None) -> bool:
    return value is not None and isfinite(value.value)


def _told(value: Value, places: int) -> str:
    return f"{fixed(value.value, places)} ({between(value.low, value.high, places)})"
