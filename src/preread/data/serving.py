"""The process that parses: it takes one file after the other and imports no model library.

Its limits are its own where the system keeps them, so that they hold even when whoever started it is gone.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import sys
import warnings
from math import ceil
from multiprocessing.connection import Connection
from typing import Any

from preread.core.errors import PartlyRead
from preread.data.readers import parse
from preread.data.readers.reading import FILE_MOST, Reading, Refused, megabytes
from preread.data.readers.web import fetch

GRACE_S = 5
"""Seconds after its time that a process whose starter is gone ends itself."""


def serve(descriptor: int, memory: int) -> None:
    """Answer requests until the other end is closed, or until a file has left the process large.

    A request is a JSON object with `seconds` and either `address`, or `path` and `suffix`; what comes back has the
    fields of a `Reading` and `warnings`, or `refused`, or `exhausted`; and `last` where no other request is taken.
    First of all, whether the system keeps the process under `memory` bytes is told.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the starter, which then ends this process
    connection = Connection(descriptor)
    limited = _limit(memory)
    connection.send_bytes(json.dumps({"limited": limited}).encode())
    last = False
    while not last:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.alarm(ceil(request["seconds"]) + GRACE_S)
        reply = _reply(request)
        last = "exhausted" in reply or _held(limited) > memory / 2
        connection.send_bytes(json.dumps({**reply, "last": last}, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        signal.alarm(0)


def _limit(memory: int) -> bool:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "darwin":  # takes the limit, and does not keep it
        return False
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (ValueError, OSError):
        return False
    return True


def _held(limited: bool) -> int:
    """Bytes that count against the limit: of address space where the system keeps it, else of memory."""
    import psutil

    held = psutil.Process().memory_info()
    return int(held.vms if limited else held.rss)


def _reply(request: dict[str, Any]) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", PartlyRead)
        try:
            reading = _read(request)
        except Refused as refusal:
            return {"refused": [refusal.expected, refusal.got, refusal.remedy]}
        except MemoryError:
            return {"exhausted": True}
    told = [str(warning.message) for warning in caught]
    marks = [(mark.start, mark.kind, mark.label) for mark in reading.marks]
    return {"text": reading.text, "marks": marks, "title": reading.title, "warnings": told}


def _read(request: dict[str, Any]) -> Reading:
    if "address" in request:
        return parse(*fetch(request["address"]))
    try:
        # A pipe must not keep us waiting for its writer; what was opened is what is looked at.
        with open(os.open(request["path"], os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise Refused("a file", "not a regular file", "Check the path.")
            raw = file.read(FILE_MOST + 1)
    except OSError as error:
        raise Refused("a readable file", error.strerror or str(error), "Check its permissions.") from error
    if len(raw) > FILE_MOST:
        remedy = "Split it, or convert it to plain text."
        raise Refused(f"a file of at most {megabytes(FILE_MOST)}", "a larger one", remedy)
    return parse(raw, request["suffix"])
