"""What is being read, what could not be, and what every source file was like when it was: `jobs.sqlite`.

Nothing here decides whether a document is there: the passages table does, and a record here counts only where it names
the very document that the table holds. Losing this file costs some reading again and never a document.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from preread.core.errors import IntegrityError
from preread.store.faults import room

_TABLES = (
    "job (id text primary key, process text, cancelled integer default 0)",
    "work (collection text, source text, job text, state text, reason text, done integer, tokens integer,"
    " primary key (collection, source))",
    "seen (collection text, source text, document text, size integer, changed integer, bytes text, producer text,"
    " positions integer, stored integer, primary key (collection, source, document))",
    "producer (stamp text primary key, producer text)",
)
_BETWEEN_S = 0.5
"""Seconds between two notes of progress, and between two looks for a cancellation."""


@dataclass(frozen=True, slots=True)
class Work:
    """A document that a job has yet to learn, or could not.

    Args:
        collection: where it belongs.
        source: path or address.
        state: `queued`, `reading` or `failed`.
        reason: why it failed.
        done: tokens read so far.
        tokens: tokens of all; 0 while they are not counted yet.
        alive: whether its job still runs; a job that died is gone on with by the next `add`.
    """

    collection: str
    source: str
    state: Literal["queued", "reading", "failed"]
    reason: str
    done: int
    tokens: int
    alive: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What a source file was like when a document was made of it.

    Args:
        collection: where the document belongs.
        source: path or address.
        document: `Document.hash` of what was read; the record counts only while the library holds that document.
        size: bytes of the file; -1 for an address.
        changed: its time of change, in nanoseconds.
        bytes: hex SHA-256 of its bytes.
        producer: key of what made the memories.
        positions: positions that the memories take.
        stored: bytes of the payloads that the document names.
    """

    collection: str
    source: str
    document: str
    size: int
    changed: int
    bytes: str
    producer: str
    positions: int
    stored: int


class Jobs:
    """The records of one library; any number of processes may read and write them.

    Args:
        folder: the library's.

    Raises (every method):
        IntegrityError: the file is damaged.
        ResourceError: the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._locks = folder / "jobs.sqlite", folder / "jobs"

    @contextmanager
    def running(self, collection: str, sources: Sequence[str]) -> Iterator[Job]:
        """A job that has these sources to learn; they are `queued` from now on.

        What is not finished when the block is left by an error, or the process is killed, stays, as an interrupted
        job's.
        """
        name = uuid.uuid4().hex
        with room("the record of a job"):
            self._locks.mkdir(exist_ok=True)
            lock = FileLock(self._locks / f"{name}.lock")
            lock.acquire(timeout=0)
        try:
            with self._open() as base:
                base.execute("insert into job values (?, ?, 0)", (name, f"{os.getpid()} on {socket.gethostname()}"))
                base.executemany(
                    "insert or replace into work values (?, ?, ?, 'queued', '', 0, 0)",
                    [(collection, source, name) for source in sources],
                )
            self._bury()
            yield Job(self, name, collection)
            with self._open() as base:
                base.execute("delete from job where id = ?", (name,))
        finally:
            lock.release()
            (self._locks / f"{name}.lock").unlink(missing_ok=True)

    def work(self, collection: str | None = None) -> list[Work]:
        """What is queued, being read or failed, in one collection or all."""
        alive: dict[str, bool] = {}
        rows = self._rows("select collection, source, state, reason, done, tokens, job from work order by 1, 2")
        found = []
        for name, source, state, reason, done, tokens, job in rows:
            if collection in (None, name):
                if job not in alive:
                    alive[job] = self._alive(job)
                found.append(Work(name, source, state, reason, done, tokens, alive[job]))
        return found

    def seen(self, collection: str) -> dict[tuple[str, str], Seen]:
        """Records of source files, by source and document hash."""
        rows = self._rows("select * from seen where collection = ?", collection)
        return {(row[1], row[2]): Seen(*row) for row in rows}

    def note(self, seen: Iterable[Seen]) -> None:
        """Keep records, beside those of other documents of the same source until `settle`."""
        rows = [astuple(one) for one in seen]
        with self._open() as base:
            base.executemany(f"insert or replace into seen values ({', '.join('?' * 9)})", rows)  # noqa: S608  # marks

    def settle(self, collection: str, source: str, document: str) -> None:
        """The library holds this document of the source now: no other record of it, and no work, is left."""
        with self._open() as base:
            base.execute(
                "delete from seen where collection = ? and source = ? and document != ?",
                (collection, source, document),
            )
            base.execute("delete from work where collection = ? and source = ?", (collection, source))

    def forget(self, collection: str, sources: Iterable[str] | None = None) -> int:
        """Remove every trace of some sources, or of a collection; how many of them were at work or had failed."""
        with self._open() as base:
            if sources is None:
                base.execute("delete from seen where collection = ?", (collection,))
                return base.execute("delete from work where collection = ?", (collection,)).rowcount
            rows = [(collection, source) for source in sources]
            base.executemany("delete from seen where collection = ? and source = ?", rows)
            return base.executemany("delete from work where collection = ? and source = ?", rows).rowcount

    def cancel(self) -> int:
        """Ask every running job to end after what it has in hand; how many there are."""
        running = [name for (name,) in self._rows("select id from job") if self._alive(name)]
        with self._open() as base:
            base.executemany("update job set cancelled = 1 where id = ?", [(name,) for name in running])
        return len(running)

    def producer(self, stamp: str) -> str | None:
        """The producer that models with this stamp were last found to be, or None."""
        return next((row[0] for row in self._rows("select producer from producer where stamp = ?", stamp)), None)

    def remember(self, stamp: str, producer: str) -> None:
        """Keep which producer models with this stamp are."""
        with self._open() as base:
            base.execute("insert or replace into producer values (?, ?)", (stamp, producer))

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        if not self._file.exists():
            return []
        with self._connected() as base:
            made = base.execute("select count(*) from sqlite_master where type = 'table'").fetchone()[0]
            return base.execute(query, values).fetchall() if made else []  # none: it was killed while it made them

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction of its own, so that any process, thread or fork may come at any time.

        The journal is SQLite's own, removed at each commit: no other file stays, and what is deleted is overwritten.
        """
        with self._connected() as base:
            base.execute("pragma secure_delete = on")
            with base:
                base.execute("begin immediate")
                for table in _TABLES:
                    base.execute(f"create table if not exists {table}")
                yield base

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            with room("the records of jobs"), closing(sqlite3.connect(self._file, timeout=30)) as base:
                yield base
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise IntegrityError(
                expected=f"records of jobs in {self._file}",
                got=str(error),
                consequence="Nothing was done; no document is lost.",
                remedy="Delete that file: the next `preread add` makes it anew.",
            ) from error

    def _alive(self, job: str) -> bool:
        """Whether a job runs: it holds its lock, which the system lets go of with the process, however it ends."""
        file = self._locks / f"{job}.lock"
        if not job or not file.exists():
            return False
        try:
            with FileLock(file, timeout=0):
                return False
        except Timeout:
            return True

    def _bury(self) -> None:
        """Remove what killed jobs left of themselves; what they had to learn stays."""
        dead = [name for (name,) in self._rows("select id from job") if not self._alive(name)]
        with self._open() as base:
            base.executemany("delete from job where id = ?", [(name,) for name in dead])
        for name in dead:
            (self._locks / f"{name}.lock").unlink(missing_ok=True)


class Job:
    """One running job; made by `Jobs.running`."""

    def __init__(self, jobs: Jobs, name: str, collection: str) -> None:
        self._jobs, self._name, self._collection = jobs, name, collection
        self._noted = self._looked = 0.0
        self._cancelled = False

    def reading(self, source: str, done: int = 0, tokens: int = 0) -> None:
        """Have a source in hand, so far; written down at most twice a second once it has begun."""
        if done and time.monotonic() - self._noted < _BETWEEN_S:
            return
        self._noted = time.monotonic()
        self._write("update work set state = 'reading', done = ?, tokens = ?", (done, tokens), source)

    def failed(self, source: str, reason: str) -> None:
        """Note that a source cannot be learned; that stays until it can, or is forgotten."""
        self._write("update work set state = 'failed', job = '', reason = ?", (reason,), source)

    def done(self, source: str) -> None:
        """Nothing is left to do for this source."""
        self._write("delete from work", (), source)

    def cancelled(self) -> bool:
        """Whether another process asked the job to end; looked up twice a second."""
        if not self._cancelled and time.monotonic() - self._looked > _BETWEEN_S:
            self._looked = time.monotonic()
            rows = self._jobs._rows("select cancelled from job where id = ?", self._name)
            self._cancelled = any(row[0] for row in rows)
        return self._cancelled

    def _write(self, change: str, values: Sequence[Any], source: str) -> None:
        with self._jobs._open() as base:
            base.execute(f"{change} where collection = ? and source = ?", (*values, self._collection, source))
