"""A list of the documents beside the table, so that listing them need not open it: a copy, and checked to be one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from preread.store.faults import replace
from preread.store.rows import Entry

_FILE = "documents.json"


class Catalog:
    """A copy of the table's entries that names the commit it is of; of any other commit it is as good as absent."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / _FILE

    def read(self, version: Sequence[tuple[str, int, int]]) -> list[Entry] | None:
        """The documents at this version of the table; None where the copy is of another, damaged, or not there."""
        if not version:
            return []
        with suppress(OSError, ValueError, KeyError, TypeError):
            copy: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
            if [tuple(file) for file in copy["version"]] == list(version):
                return [Entry(**row | {"added": datetime.fromisoformat(row["added"])}) for row in copy["documents"]]
        return None

    def write(self, version: Sequence[tuple[str, int, int]], entries: Sequence[Entry]) -> None:
        """Copy the documents at this version. A full disk leaves no copy: the table is read instead."""
        copy = {"version": version, "documents": [asdict(entry) for entry in entries]}
        self._file.unlink(missing_ok=True)  # what was forgotten stands in the old one
        with suppress(OSError):
            replace(self._file, json.dumps(copy, default=datetime.isoformat).encode())
