"""`add`: a collection takes over what files, folders and addresses hold now: new, changed and removed documents."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from preread.collection.intake import Added, Intake, interrupted, source_of
from preread.collection.states import is_address
from preread.core.errors import Interrupted, UnreadableDocument
from preread.core.paths import in_one_line
from preread.core.progress import progress
from preread.core.stopping import deferred_interrupt
from preread.data.folders import survey
from preread.store.jobs import Job

if TYPE_CHECKING:
    from preread.library import Collection

LEAST_LEFT = 0.5
"""Share of a folder's documents whose files must still be there for the others to be forgotten unasked: a disk that is
not mounted, or a folder moved away, looks like a folder whose files were all removed."""
BETWEEN_TIDYING = 20
"""Documents that are learned before the indexes take them up; they can be found before, more slowly."""


@dataclass(frozen=True, slots=True)
class Synced:
    """What was done with all that was given; with `dry_run`, what would be.

    Args:
        added: sources of new documents.
        replaced: of documents that changed.
        unchanged: of documents that were left as they are.
        forgotten: of documents whose files were removed from a folder.
        kept: of documents whose files are gone too, but so many at once that they are kept until `remove` is given.
        failed: why a source could not be read.
        skipped: how many files of folders have a suffix that is not read, by suffix.
        seconds: how long it took.
    """

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


OnAdded = Callable[[Added], object]
OnFailed = Callable[[str, UnreadableDocument], object]


@dataclass(frozen=True, slots=True)
class _Found:
    """What the paths hold: sources that were named, those that folders hold, those that were learned and left their
    folder, and those that left it before they could be.
    """

    named: dict[str, Path | str] = field(default_factory=dict)
    held: dict[str, Path | str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def add(collection: Collection, path: Path | str) -> Added:
    """As `Collection.add`, which says what it promises."""
    source = source_of(path)
    intake = Intake(collection)
    if same := intake.unchanged(source, thoroughly=True):
        return same
    with collection.store.jobs.running(collection.name, [source]) as job:
        intake.stopped = job.cancelled
        with progress(f"adding {in_one_line(Path(source).name)}, %", 100) as advance:
            added = _learn(intake, path, job, lambda share: advance(100 * share))
        intake.tidy()
    return added


def sync(
    collection: Collection,
    paths: Iterable[Path | str],
    remove: bool,
    dry_run: bool,
    on_added: OnAdded,
    on_failed: OnFailed,
) -> Synced:
    """As `Collection.sync`, which says what the arguments mean and what it promises."""
    start, result = time.perf_counter(), Synced()

    def fail(source: str, error: UnreadableDocument) -> None:
        result.failed[source] = str(error)
        on_failed(source, error)

    intake = Intake(collection)
    found = _survey(collection, paths, remove, result, fail)
    todo = _changed(intake, found, result, on_added, fail)
    known = {entry.source for entry in collection.documents()}
    if dry_run:
        for source in todo:
            (result.replaced if source in known else result.added).append(source)
    else:
        collection.store.jobs.forget(collection.name, found.lost)
        if todo:
            _learn_all(intake, todo, result, on_added, fail)
        found = replace(found, gone=_forget(collection, found.gone))
    result.forgotten.extend(found.gone)
    return replace(result, seconds=time.perf_counter() - start)


def _survey(
    collection: Collection, paths: Iterable[Path | str], remove: bool, result: Synced, fail: OnFailed
) -> _Found:
    """All that the paths hold; folders that cannot be listed are told, and nothing of theirs is gone."""
    found = _Found()
    for path in paths:
        folder = source_of(path)
        below = [entry.source for entry in collection.documents() if entry.source.startswith(folder + os.sep)]
        vanished = not os.path.lexists(folder) and len(below) > 0
        if is_address(folder) or not (vanished or Path(folder).is_dir()):
            found.named[folder] = path
            continue
        try:
            holds = survey(Path(folder), but=[collection.library.path])
        except UnreadableDocument as error:
            fail(folder, error)
            continue
        found.held.update((str(file), file) for file in holds.files)
        for suffix, number in holds.skipped.items():
            result.skipped[suffix] = result.skipped.get(suffix, 0) + number
        for closed, reason in holds.closed.items():
            fail(closed, _closed(closed, reason))
        gone = [source for source in below if _is_gone(source, holds.closed)]
        unlearned = [work.source for work in collection.store.jobs.work(collection.name) if not work.alive]
        found.lost.extend(
            source
            for source in set(unlearned).difference(below)
            if source.startswith(folder + os.sep) and _is_gone(source, holds.closed)
        )
        if remove or len(below) - len(gone) >= LEAST_LEFT * len(below):
            found.gone.extend(gone)
        else:
            result.kept.extend(gone)
    # Folders may lie in one another: what one of them has kept, none forgets.
    return replace(found, gone=sorted(set(found.gone).difference(result.kept)))


def _forget(collection: Collection, gone: Iterable[str]) -> list[str]:
    """Forget those that are still held and still gone: what was learned first took its time. Which they were."""
    with collection.store.writing():
        held = {entry.source for entry in collection.documents()}
        still = [source for source in gone if source in held and _is_gone(source, closed=())]
        if still:
            collection.forget(*still)
    return still


def _changed(intake: Intake, found: _Found, result: Synced, on_added: OnAdded, fail: OnFailed) -> dict[str, Path | str]:
    """The sources that must be read; the others are told to be unchanged, one by one where they were named."""
    todo: dict[str, Path | str] = {}
    every = {**found.held, **found.named}
    with progress(f"looking at {len(every)} files", len(every)) if len(every) > 1 else nullcontext() as advance:
        for source, path in every.items():
            try:
                same = intake.unchanged(source, thoroughly=source in found.named)
            except UnreadableDocument as error:
                fail(source, error)
                continue
            if same is None:
                todo[source] = path
            else:
                result.unchanged.append(source)
                if source in found.named:
                    on_added(same)
            if advance:
                advance()
    return todo


def _learn_all(intake: Intake, todo: dict[str, Path | str], result: Synced, on_added: OnAdded, fail: OnFailed) -> None:
    """Read and learn one source after the other; one that cannot be read stops no other.

    Raises:
        Interrupted: by Ctrl-C or `preread cancel`, behind the batch in hand; all that is finished is kept.
    """
    collection, sizes = intake.collection, {source: _kilobytes(source) for source in todo}
    what = f"adding {len(todo)} of {len(todo) + len(result.unchanged)} files, kB"
    with (
        collection.store.jobs.running(collection.name, list(todo)) as job,
        deferred_interrupt() as pressed,
        progress(what, sum(sizes.values())) as advance,
    ):
        intake.stopped = lambda: pressed() or job.cancelled()
        for source, path in todo.items():
            shares = _Shares(sizes[source], partial(advance, note=in_one_line(Path(source).name)))
            try:
                added = _learn(intake, path, job, shares)
            except UnreadableDocument as error:
                fail(source, error)
            else:
                getattr(result, added.change).append(source)
                on_added(added)
            shares.finish()
            if (len(result.added) + len(result.replaced)) % BETWEEN_TIDYING == 0:
                intake.tidy()
        intake.tidy()


def _learn(intake: Intake, path: Path | str, job: Job, advance: Callable[[float], object]) -> Added:
    """Learn one source, or leave a record of why that failed."""
    source = source_of(path)
    try:
        if intake.stopped():
            raise interrupted()
        return intake.learn(path, job, advance)
    except UnreadableDocument as error:
        if is_address(source) or os.path.lexists(source):
            job.failed(source, str(error))
        else:  # a slip of the pen is no document
            job.done(source)
        raise
    except Interrupted:
        intake.tidy()
        raise


class _Shares:
    """Shares of one file's work as kilobytes of all files' work, which add up whatever the file turns out to be."""

    def __init__(self, kilobytes: float, advance: Callable[[float], object]) -> None:
        self._left, self._all, self._advance = kilobytes, kilobytes, advance

    def __call__(self, share: float) -> None:
        units = min(self._left, share * self._all)
        self._left -= units
        self._advance(units)

    def finish(self) -> None:
        self._advance(self._left)
        self._left = 0


def _kilobytes(source: str) -> float:
    try:
        return max(1.0, os.stat(source).st_size / 1000)  # noqa: PTH116  # a source may be any string
    except (OSError, ValueError):
        return 1.0


def _is_gone(source: str, closed: Iterable[str]) -> bool:
    """Whether a file is surely not there, rather than out of reach."""
    if any(source.startswith(folder + os.sep) for folder in closed):
        return False
    try:
        os.lstat(source)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _closed(folder: str, reason: str) -> UnreadableDocument:
    return UnreadableDocument(
        expected=f"a folder that can be listed at {folder}",
        got=reason,
        consequence="Nothing was added from it, and nothing that came from it was forgotten.",
        remedy="Check its permissions.",
    )
