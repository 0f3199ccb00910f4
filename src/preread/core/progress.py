"""Progress on stderr for anything that takes over two seconds; silent where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Advance(Protocol):
    """Report that some units of work are done."""

    def __call__(self, units: float = 1) -> None:
        """Add `units` to what is done."""


@contextmanager
def progress(what: str, total: float | None) -> Iterator[Advance]:
    """A bar with a count and the time left; one plain line at start and end where stderr is no terminal."""
    if not sys.stderr.isatty():
        sys.stderr.write(f"{what} ...\n")
        yield lambda units=1: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda units=1: bar.advance(task, units)
