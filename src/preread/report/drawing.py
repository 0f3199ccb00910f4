"""How plots look, and how they become pictures that any browser shows: SVG whose letters are outlines."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from preread.report.families import FRAME, MEANING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.4
"""Inches; on a phone a picture is shrunk to the screen, and its letters must stay legible then."""
INK, SOFT, LINE, CARD = "#1d2327", "#5b656c", "#d3cfc5", "#fdfcfa"
"""The card is the same by day and by night, as `report.css` has it."""
COLOURS: Mapping[str, str] = {FRAME: "#868b8f", "text": "#b5651d", "memory": "#12767b", "tuned": "#7b4fa3"}
OTHER_COLOUR = "#3f6fb5"
MARKS: Mapping[str, str] = {FRAME: "D", "text": "o", "memory": "s", "tuned": "^"}
OTHER_MARK = "v"
LONGEST = 34
"""Letters of a label in a picture; the table beside it has the whole."""
STYLE = {
    "svg.fonttype": "path",
    "svg.hashsalt": "preread",  # the same numbers give the same bytes
    "text.parse_math": False,  # a label is no formula
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture: what it shows, its address in full, and what it says to those who do not see it."""

    title: str
    address: str
    alt: str


@contextmanager
def style() -> Iterator[None]:
    """The project's look, whatever the user's own settings of matplotlib are."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a label; the table has it
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def canvas(height: float, across: int = 1, down: int = 1) -> tuple[Figure, list[Axes]]:
    """A picture `height` inches high, and its panels row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.patch.set_alpha(0)
    panels = figure.subplots(down, across, squeeze=False)
    for panel in panels.flat:
        panel.patch.set_alpha(0)
    return figure, list(panels.flat)


def finished(figure: Figure, title: str, alt: str) -> Plot:
    """The picture as one `data:` address."""
    held = io.BytesIO()
    figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None})
    return Plot(title, f"data:image/svg+xml;base64,{base64.b64encode(held.getvalue()).decode()}", alt)


def legend(panel: Axes, families: Sequence[str]) -> None:
    """What the colours and marks mean, below a panel."""
    from matplotlib.lines import Line2D

    handles: list[Artist] = [
        Line2D([], [], linestyle="", marker=mark(one), color=colour(one), label=MEANING.get(one, one), markersize=5)
        for one in dict.fromkeys(families)
    ]
    panel.figure.legend(handles=handles, loc="outside lower left", ncols=1, handletextpad=0.3, borderpad=0)


def short(label: str) -> str:
    """A label that fits a picture, on one line."""
    line = " ".join(label.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def colour(family: str) -> str:
    """Of a family."""
    return COLOURS.get(family, OTHER_COLOUR)


def mark(family: str) -> str:
    """Of a family, so that colour is not needed to tell them apart."""
    return MARKS.get(family, OTHER_MARK)
