"""The most memory that a block of code takes above what was there before."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil
import torch

EVERY_S = 0.05


@dataclass
class Peak:
    """Bytes above those at the beginning; final once the block has ended."""

    bytes: int = 0


def _trim() -> None:
    """Have what was freed go back to the system, so that using it again is seen; glibc alone can."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def peak(device: torch.device) -> Iterator[Peak]:
    """Allocated memory of a GPU where the device is one, else resident memory of the process, looked at often."""
    found = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    process, done = psutil.Process(), threading.Event()
    _trim()
    before = process.memory_info().rss

    def look() -> None:
        while not done.wait(EVERY_S):
            found.bytes = max(found.bytes, process.memory_info().rss - before)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
