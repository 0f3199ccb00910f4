"""Payloads: bytes under a key that the caller derived from what they were made of.

One file a payload. A file is complete or absent (written aside, then renamed), costs the same to remove
whatever else the library holds, and can be removed on a full disk; a table would rewrite its neighbours.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from preread.core.errors import IntegrityError
from preread.store.faults import replace, room, settle

_DIGEST_BYTES = 32
_KEY = re.compile(r"[0-9a-f]{64}")


class Payloads:
    """The payloads below one folder; every file is the SHA-256 of its content, then the content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def missing(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that are not stored, or are damaged and must be made again."""
        return {key for key in keys if not self._whole(key)}

    def put(self, payloads: Mapping[str, bytes]) -> None:
        """Store what is not stored yet; each payload becomes visible whole, in the order given, and outlasts the call.

        Raises:
            ResourceError: the disk is full; the payloads before that point are stored.
        """
        folders = set()
        for key, content in payloads.items():
            if self._whole(key):
                continue
            file = self._file(key)
            with room(f"a payload of {len(content):,} bytes"):
                if not file.parent.exists():
                    file.parent.mkdir(parents=True)
                    folders |= {self.folder, self.folder.parent}
                replace(file, hashlib.sha256(content).digest() + content)
                folders.add(file.parent)
        settle(folders)

    def get(self, key: str) -> bytes:
        """The content, bit for bit.

        Raises:
            IntegrityError: it is not stored, or not what was stored.
        """
        try:
            raw = self._file(key).read_bytes()
        except FileNotFoundError:
            raise _broken(key, "no such payload") from None
        return bytes(_content(key, memoryview(raw)))

    def mapped(self, key: str) -> np.ndarray:
        """[bytes] uint8 of the content, read from the disk as it is looked at, and again where memory is short.

        Writing into it changes nothing but the caller's own copy, and it outlasts the payload's removal. A file is
        never changed in place, so that what was verified here is what is read later.

        Raises:
            IntegrityError: as `get`.
        """
        import torch  # its mapping keeps no file open, where Python's keeps one for each

        file = self._file(key)
        try:
            size = file.stat().st_size
            if not size:
                raise _broken(key, "an empty file")
            raw: np.ndarray = torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8).numpy()
        except (FileNotFoundError, RuntimeError):  # torch's, of a file that went in between
            raise _broken(key, "no such payload") from None
        _content(key, raw.data)
        return raw[_DIGEST_BYTES:]

    def sizes(self) -> dict[str, int]:
        """Bytes of every stored payload by key, without reading any."""
        found: dict[str, int] = {}
        for folder in self.folder.glob("??"):
            with os.scandir(folder) as files:
                found |= {file.name: file.stat().st_size - _DIGEST_BYTES for file in files}
        return found

    def remove(self, keys: set[str]) -> int:
        """Remove payloads, those that are not there included; how many were."""
        gone = [key for key in keys if self._file(key).exists()]
        for key in gone:
            self._file(key).unlink()
        return len(gone)

    def keep_only(self, keys: set[str]) -> int:
        """Remove every other payload and what an interrupted `put` left behind; how many payloads went."""
        gone = 0
        for file in list(self._files()):
            if file.name not in keys:
                file.unlink()
                gone += file.suffix != ".part"
        return gone

    def _whole(self, key: str) -> bool:
        try:
            self.get(key)
        except IntegrityError:
            return False
        return True

    def _files(self) -> Iterator[Path]:
        return (file for file in self.folder.glob("*/*") if file.is_file())

    def _file(self, key: str) -> Path:
        assert _KEY.fullmatch(key), f"{key!r} is not a hex SHA-256"
        return self.folder / key[:2] / key


def _content(key: str, raw: memoryview) -> memoryview:
    """What stands behind the digest, if it is what was digested."""
    digest, content = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise _broken(key, f"{len(content):,} bytes that differ from what was stored")
    return content


def _broken(key: str, got: str) -> IntegrityError:
    return IntegrityError(
        expected=f"the payload {key[:12]}",
        got=got,
        consequence="Nothing was read from it.",
        remedy="Add the document again to rebuild it.",
    )
