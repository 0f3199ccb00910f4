"""Progress on stderr for anything that takes over two seconds; silent where nobody looks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Report that some units of work are done."""

    def __call__(self, units: float = 1, note: str = "") -> None:
        """Add `units` to what is done; `note` is shown beside the bar, such as a live loss."""


@contextmanager
def progress(what: str, total: float | None, done: int = 0) -> Iterator[Advance]:
    """A bar with a count and the time left; where stderr is no terminal, the same as a line every ten seconds.

    Args:
        what: is done.
        total: units of it; None where nobody knows.
        done: units that an earlier call did, which say nothing of this one's pace.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":  # one of several processes of a run, of which the first one tells
        yield _silent
        return
    if not sys.stderr.isatty():
        yield _plain(what, total, done)
        return
    columns = (  # what is named may hold brackets, which are no markup
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done, note="")

        def advance(units: float = 1, note: str = "") -> None:
            bar.update(task, advance=units, note=note)

        yield advance


def _silent(units: float = 1, note: str = "") -> None:
    del units, note


def _plain(what: str, total: float | None, before: float) -> Advance:
    done, start = before, time.monotonic()
    last = start
    sys.stderr.write(f"{what} ...\n")

    def advance(units: float = 1, note: str = "") -> None:
        nonlocal done, last
        done += units
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            pace = (done - before) / (last - start) if last > start else 0.0
            sys.stderr.write(" ".join(filter(None, [*_counted(what, done, total, pace), note])) + "\n")

    return advance


def _counted(what: str, done: float, total: float | None, pace: float) -> list[str]:
    """What is done of what, and how long the rest takes at the pace so far, in units a second."""
    if total is None:
        return [f"{what}: {done:,.0f}"]
    left = timedelta(seconds=round((total - done) / pace)) if pace > 0 and done <= total else None
    return [f"{what}: {done:,.0f} of {total:,.0f}", f"({left} left)" if left is not None else ""]
