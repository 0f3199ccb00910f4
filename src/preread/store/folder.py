"""A library's folder: what it is, who writes to it, and the settings of its collections."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from preread.core.errors import FingerprintMismatch, IntegrityError, LibraryBusy, UsageError
from preread.core.types import sha256
from preread.store.faults import replace, room, settle

FORMAT = "preread-library"
SCHEMA = 1
SILENT_S = 2.0
"""Seconds of waiting for another writer before the user is told."""
_LIBRARY, _LOCK, _HOLDER = "library.json", "writer.lock", "writer.json"


class Folder:
    """The folder of one library; made if it is not there.

    Args:
        path: where it is.
        wait_s: seconds that a write waits for another writer.

    Raises:
        UsageError: it holds something else, or a library of a newer version.
        IntegrityError: its description cannot be read.
        ResourceError: the disk is full.
    """

    def __init__(self, path: Path, wait_s: float) -> None:
        self.path, self._wait_s = path, wait_s
        self._lock = FileLock(path / _LOCK)
        if not (path / _LIBRARY).exists():
            with room("a new library"):
                path.mkdir(parents=True, exist_ok=True)
                with self.writing():
                    self._found()
        self._about()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer, of all processes and threads; may be nested.

        Raises:
            LibraryBusy: another writer did not end within `wait_s`.
        """
        try:
            self._wait()
        except Timeout:
            raise LibraryBusy(
                expected=f"to be the only writer of {self.path}",
                got=f"{self._writer()} still writing after {self._wait_s:g} s",
                consequence="Nothing was written; reading and asking work meanwhile.",
                remedy="Wait for it to end and repeat the command.",
            ) from None
        outermost, holder = self._lock.lock_counter == 1, self.path / _HOLDER
        try:
            if outermost:
                with suppress(OSError):  # only for others' errors: a full disk must not keep us from forgetting
                    holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
            yield
        finally:
            if outermost:
                with suppress(OSError):
                    holder.unlink()
            self._lock.release()

    def _wait(self) -> None:
        try:
            self._lock.acquire(timeout=min(SILENT_S, self._wait_s))
        except Timeout:
            if self._wait_s <= SILENT_S:
                raise
            sys.stderr.write(f"waiting for {self._writer()}, which is writing to {self.path} ...\n")
            self._lock.acquire(timeout=self._wait_s - SILENT_S)

    @property
    def embedder(self) -> str | None:
        """Fingerprint of the embedder whose vectors are here; None until `bind`."""
        found: str | None = self._about().get("embedder")
        return found

    def bind(self, embedder: str) -> None:
        """Take vectors of this embedder, by fingerprint, and of no other.

        Raises:
            FingerprintMismatch: the library holds vectors of another.
        """
        with self.writing():
            about = self._about()
            held = about.setdefault("embedder", embedder)
            if held != embedder:
                raise FingerprintMismatch(
                    expected=f"the embedder {held[:12]}, whose vectors this library holds",
                    got=f"the embedder {embedder[:12]}",
                    consequence="Nothing was added or searched, because their vectors cannot be compared.",
                    remedy="Use the embedder that the library was made with, or start a new library.",
                )
            _write(self.path / _LIBRARY, about)

    def collections(self) -> list[str]:
        """Names of the collections that have settings, in no order."""
        kept = (_settings(file) for file in self.path.glob("collections/*.json"))
        return [found["collection"] for found in kept if found is not None]

    def settings(self, collection: str) -> dict[str, Any] | None:
        """The settings of a collection, or None where none were made."""
        kept = _settings(self._settings_file(collection))
        return None if kept is None else kept["settings"]

    def configure(self, collection: str, settings: Mapping[str, Any]) -> None:
        """Replace the settings of a collection; readers see the old or the new."""
        with self.writing():
            _write(self._settings_file(collection), {"collection": collection, "settings": dict(settings)})

    def unset(self, collection: str) -> None:
        """Remove the settings of a collection."""
        with self.writing():
            self._settings_file(collection).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed writers had half written."""
        with self.writing():
            for half in [*self.path.glob("*.part"), *self.path.glob("collections/*.part")]:
                half.unlink()

    def files(self) -> Iterator[Path]:
        """All its files. Another process's locks and journals come and go meanwhile: not each is still there."""
        for folder, _, names in os.walk(self.path):
            yield from (Path(folder, name) for name in names)

    def size(self) -> int:
        """Bytes of all its files."""
        size = 0
        for file in self.files():
            with suppress(FileNotFoundError):
                size += file.stat().st_size
        return size

    def _settings_file(self, collection: str) -> Path:
        return self.path / "collections" / f"{sha256(collection)[:32]}.json"

    def _found(self) -> None:
        if (self.path / _LIBRARY).exists():  # another process was quicker
            return
        ours = {_LOCK, _HOLDER, f"{_LIBRARY}.part"}
        if other := sorted(file.name for file in self.path.iterdir() if file.name not in ours):
            raise UsageError(
                expected=f"a library or an empty folder at {self.path}",
                got=f"a folder with {other[0]!r} and no {_LIBRARY}",
                consequence="Nothing was made in it.",
                remedy="Name another folder.",
            )
        _write(self.path / _LIBRARY, {"format": FORMAT, "schema": SCHEMA})

    def _about(self) -> dict[str, Any]:
        try:
            about: dict[str, Any] = json.loads((self.path / _LIBRARY).read_text())
            known, version = about["format"] == FORMAT, int(about["schema"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                expected=f"a library's description in {self.path / _LIBRARY}",
                got=str(error),
                consequence="The library was not opened.",
                remedy="Restore that file from a copy of the library.",
            ) from error
        if not known or version > SCHEMA:
            raise UsageError(
                expected=f"a {FORMAT} of schema {SCHEMA} or older",
                got=f"a {about['format']} of schema {version}",
                consequence="The library was not opened, and nothing in it was changed.",
                remedy="Update preread, or open another library.",
            )
        return about

    def _writer(self) -> str:
        with suppress(OSError, ValueError, KeyError):
            holder = json.loads((self.path / _HOLDER).read_text())
            return f"process {holder['pid']} on {holder['host']}"
        return "another process"


def _settings(file: Path) -> dict[str, Any] | None:
    """What the file of a collection says; None where there is none, or it has just been removed."""
    try:
        kept: dict[str, Any] = json.loads(file.read_text())
        _ = kept["collection"], kept["settings"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            expected=f"the settings of a collection in {file}",
            got=str(error) or type(error).__name__,
            consequence="The collection was not opened, and nothing was changed.",
            remedy="Restore that file from a copy of the library.",
        ) from error
    return kept


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """JSON, in whole or not at all."""
    with room(file.name):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace(file, json.dumps(content).encode())
        settle([file.parent, file.parent.parent])
