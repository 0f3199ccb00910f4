"""The pictures of a certificate, as PNG that reads on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING

from preread.certify.certificate import Certificate
from preread.certify.verdicts import TOLERANCE, Share
from preread.eval.tables import Cell, Table, Value
from preread.report.drawing import CARD, COLOURS, INK, SOFT, canvas, style
from preread.report.numbers import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS = 160
"""Of an inch."""
POSITIONS, LENGTHS, PASSKEY = "certificate-position.png", "certificate-length.png", "certificate-retrieval.png"
BEFORE, BEHIND = COLOURS["text"], COLOURS["memory"]


def draw(certificate: Certificate, folder: Path) -> list[str]:
    """Every picture that there are numbers for, into a folder; their names."""
    by_kind = {table.kind: table for table in certificate.tables}
    drawn: list[str] = []
    with style():
        if certificate.positions and "positions" in by_kind:
            drawn.append(_save(_by_position(certificate, by_kind["positions"]), folder / POSITIONS))
        if certificate.lengths:
            drawn.append(_save(_by_length(certificate), folder / LENGTHS))
        if certificate.passkey or certificate.topics:
            drawn.append(_save(_retrieval(certificate, by_kind.get("passkey")), folder / PASSKEY))
    return drawn


def _by_position(certificate: Certificate, table: Table) -> Figure:
    """Loss of every bucket, and where the window before ended."""
    figure, [panel] = canvas(3.2)
    cells = sorted(table.rows[0].cells, key=lambda cell: cell.at["position"])
    ends, values = [cell.at["position"] for cell in cells], [cell.metrics["nll"] for cell in cells]
    _band(panel, ends, values)
    panel.plot(ends, [value.value for value in values], color=BEHIND, marker="o", markersize=3)
    panel.axvline(certificate.span.before, color=BEFORE, linestyle="--", linewidth=1)
    panel.annotate(
        "window before", (certificate.span.before, 1), (4, -9), ("data", "axes fraction"), "offset points",
        color=BEFORE, fontsize=8,
    )  # fmt: skip
    _ticks(panel, certificate.span.windows)
    panel.set_xlabel("position in the document (end of each bucket)")
    panel.set_ylabel("nats a token")
    return figure


def _by_length(certificate: Certificate) -> Figure:
    """What each longer window changes for the same tokens."""
    figure, [panel] = canvas(2.8)
    windows = [float(one.window) for one in certificate.lengths]
    values = [one.difference for one in certificate.lengths]
    places = range(len(windows))
    panel.axhline(0, color=BEFORE, linewidth=1, linestyle="--")
    panel.axhspan(0, TOLERANCE, color=SOFT, alpha=0.15, linewidth=0)
    for place, one in zip(places, values, strict=True):
        if isfinite(one.low) and isfinite(one.high):
            panel.plot([place, place], [one.low, one.high], color=BEHIND, linewidth=2, alpha=0.45)
        panel.plot(place, one.value, "s", color=BEHIND, markersize=5)
    panel.set_xticks(places, [f"{plain(at)}\n{one.word}" for at, one in zip(windows, certificate.lengths, strict=True)])
    panel.set_xlim(-0.6, len(windows) - 0.4)
    panel.set_xlabel("window")
    panel.set_ylabel(f"nats a token above those\nbehind {plain(certificate.span.before)}")
    return figure


def _retrieval(certificate: Certificate, passkey: Table | None) -> Figure:
    """Passkeys by length and depth, and what was found in each window."""
    figure, [left, right] = canvas(2.9, across=2)
    if passkey is not None:
        _map(left, passkey, [share.window for share in certificate.passkey])
    else:
        left.remove()
    for label, shares, tone, mark in (
        ("passkey", certificate.passkey, BEHIND, "o"),
        ("topic", certificate.topics, BEFORE, "s"),
    ):
        _found(right, label, shares, tone, mark)
    _ticks(right, [share.window for share in certificate.passkey or certificate.topics])
    right.set_ylim(-0.04, 1.04)
    right.set_xlabel("window")
    right.set_title("share found", fontsize=8, color=INK)
    right.legend(loc="best")
    return figure


def _map(panel: Axes, passkey: Table, windows: Sequence[int]) -> None:
    cells: Sequence[Cell] = passkey.rows[0].cells
    lengths = sorted({cell.at["length"] for cell in cells})
    depths = sorted({cell.at["depth"] for cell in cells})
    shown = [[nan] * len(lengths) for _ in depths]
    for cell in cells:
        place = depths.index(cell.at["depth"]), lengths.index(cell.at["length"])
        shown[place[0]][place[1]] = cell.metrics[passkey.headline].value / 100
    drawn = panel.imshow(shown, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    panel.grid(visible=False)
    panel.set_xticks(range(len(windows)), [plain(window) for window in windows], fontsize=7, rotation=45)
    panel.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths], fontsize=7)
    panel.set_xlabel("window")
    panel.set_ylabel("passkey stands at")
    panel.set_title("passkey found", fontsize=8, color=INK)
    panel.figure.colorbar(drawn, ax=panel, shrink=0.8)


def _found(panel: Axes, label: str, shares: Sequence[Share], tone: str, mark: str) -> None:
    if not shares:
        return
    windows, values = [share.window for share in shares], [share.value for share in shares]
    panel.fill_between(windows, [s.low for s in shares], [s.high for s in shares], color=tone, alpha=0.12, linewidth=0)
    panel.plot(windows, values, color=tone, marker=mark, markersize=4, label=label)


def _band(panel: Axes, at: Sequence[float], values: Sequence[Value]) -> None:
    low = [value.low if isfinite(value.low) else nan for value in values]
    high = [value.high if isfinite(value.high) else nan for value in values]
    panel.fill_between(at, low, high, color=BEHIND, alpha=0.12, linewidth=0)


def _ticks(panel: Axes, windows: Sequence[int]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks(windows, [plain(window) for window in windows])
    panel.minorticks_off()


def _save(figure: Figure, path: Path) -> str:
    figure.patch.set(alpha=1, facecolor=CARD)
    figure.savefig(path, format="png", dpi=DOTS, metadata={"Software": None})
    return path.name
