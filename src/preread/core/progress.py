"""Progress on stderr for anything that takes over two seconds; silent where nobody looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Report that some units of work are done."""

    def __call__(self, units: float = 1, note: str = "") -> None:
        """Add `units` to what is done; `note` is shown beside the bar, such as a live loss."""


@contextmanager
def progress(what: str, total: float | None) -> Iterator[Advance]:
    """A bar with a count and the time left; where stderr is no terminal, a plain line every ten seconds."""
    if not sys.stderr.isatty():
        yield _plain(what, total)
        return
    columns = (  # what is named may hold brackets, which are no markup
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, note="")

        def advance(units: float = 1, note: str = "") -> None:
            bar.update(task, advance=units, note=note)

        yield advance


def _plain(what: str, total: float | None) -> Advance:
    done, last = 0.0, time.monotonic()
    sys.stderr.write(f"{what} ...\n")

    def advance(units: float = 1, note: str = "") -> None:
        nonlocal done, last
        done += units
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            sys.stderr.write(
                f"{what}: {done:,.0f}{'' if total is None else f' of {total:,.0f}'} {note}".rstrip() + "\n"
            )

    return advance
