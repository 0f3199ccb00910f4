"""Parsing at arm's length: a child process with limits of time and memory, kept from file to file.

A file can make a parser run for ever, fill the memory or crash. Here that costs the child alone: it is ended, the file
is refused in one line, and the next file gets a new child. It is started as a fresh interpreter, never forked from a
process that has threads and models, and what comes back from it is JSON, which runs no code.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from multiprocessing import Pipe
from typing import Any

from preread.core.errors import Interrupted, ResourceError
from preread.core.progress import Advance, progress
from preread.data.readers.reading import Refused, megabytes

MEMORY_MOST = 1_000_000_000
"""Bytes that a child may hold."""
SECONDS, SECONDS_A_MEGABYTE = 15.0, 4.0
"""Time for any file, and for each of its megabytes: small ones have under 20 seconds, long honest ones enough."""
POLL_S = 0.05
QUIET_S = 2.0
"""Seconds of work after which its progress is shown."""
STARTING_S = 120.0
PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from preread.data.serving import serve
serve(int(sys.argv[2]), int(sys.argv[3]))
"""
SLOWER = "Convert it to plain text, or split it."


def time_for(size: int) -> float:
    """Seconds that a file of `size` bytes may take."""
    return SECONDS + SECONDS_A_MEGABYTE * size / 1e6


class Child:
    """One parsing process.

    Raises:
        ResourceError: the system starts no process.
    """

    def __init__(self) -> None:
        ours, theirs = Pipe()
        arguments = ["-c", PROGRAM, json.dumps(sys.path), str(theirs.fileno()), str(MEMORY_MOST)]
        try:
            with theirs:
                self.process = subprocess.Popen(  # noqa: S603  # this interpreter, and this project's own program
                    [sys.executable, "-I", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
        except OSError as error:
            ours.close()
            raise _unstarted(str(error)) from error
        self.connection = ours
        try:
            started = ours.poll(STARTING_S)
            self.limited = bool(json.loads(ours.recv_bytes())["limited"]) if started else False
        except BaseException as error:
            self.close()
            if isinstance(error, (EOFError, OSError)):
                raise _unstarted(f"one that ended at once (exit code {self.process.returncode})") from error
            raise
        if not started:
            self.close()
            raise _unstarted(f"none within {STARTING_S:.0f} seconds")

    def ask(self, request: Mapping[str, Any], what: str, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """The child's reply; `serving.serve` says what goes there and back. After any error the child is of no use.

        Raises:
            Refused: it took too long or too much memory, or the parser crashed.
            Interrupted: `cancelled` became true.
        """
        start = time.monotonic()
        advance: Advance | None = None
        with ExitStack() as shown:
            try:
                self.connection.send_bytes(json.dumps(request).encode())
                while not self.connection.poll(POLL_S):
                    seconds = time.monotonic() - start
                    self._check(seconds, request["seconds"], what, cancelled)
                    if seconds > QUIET_S:
                        advance = advance or shown.enter_context(progress(f"reading {what}", None))
                        advance(0, f"{seconds:.0f} s")
                reply: dict[str, Any] = json.loads(self.connection.recv_bytes())
            except (EOFError, OSError) as error:
                raise Refused("a whole file", self._end(), "Repair it, or convert it to plain text.") from error
        if reply.get("exhausted"):
            raise _exhausted()
        return reply

    def close(self) -> None:
        """End the process and leave nothing of it behind."""
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def _check(self, seconds: float, most: float, what: str, cancelled: Callable[[], bool]) -> None:
        if cancelled():
            raise Interrupted(f"to read {what}", "a cancellation", "It was not added.", "The same call starts again.")
        if seconds > most:
            raise Refused(f"a file that is read within {most:.0f} seconds", "one that takes longer", SLOWER)
        if not self.limited and self._held() > MEMORY_MOST:
            raise _exhausted()

    def _held(self) -> int:
        """Bytes the process holds, watched from here where the system keeps no limit."""
        import psutil

        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.Error:  # it has just ended, and its pipe will tell
            return 0

    def _end(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(POLL_S)  # its own end, before ours comes over it
        self.close()
        code = self.process.returncode
        by = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"one over which its parser was ended ({by})"


_idle: list[Child] = []  # those that wait for their next file; each caller's thread takes one, or starts one


def run(request: Mapping[str, Any], what: str, cancelled: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """What a child says to a request; threads that call at once have a child each.

    Args:
        request: as `serving.serve` takes it.
        what: the file's name, for progress.
        cancelled: asked many times a second, possibly answered by another thread.

    Raises:
        Refused: the file is no document, or exceeds a limit.
        Interrupted: `cancelled` became true.
        ResourceError: no process can be started.
    """
    child = _waiting() or Child()
    try:
        reply = child.ask(request, what, cancelled)
    except BaseException:  # Ctrl-C too
        child.close()
        raise
    if reply["last"] or len(_idle) >= (os.cpu_count() or 1):
        child.close()
    else:
        _idle.append(child)
    if "refused" in reply:
        raise Refused(*reply["refused"])
    return reply


def _waiting() -> Child | None:
    while True:
        try:
            child = _idle.pop()
        except IndexError:
            return None
        if child.process.poll() is None:
            return child
        child.close()  # it was ended from outside meanwhile


def _close_all() -> None:
    while child := _waiting():
        child.close()


def _let_go() -> None:
    """In a process forked from ours: its children are not its own to wait for."""
    for child in _idle:
        child.connection.close()
        child.process.returncode = 0
    _idle.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_let_go)


def _exhausted() -> Refused:
    return Refused(f"a file that is read in {megabytes(MEMORY_MOST)} of memory", "one that takes more", SLOWER)


def _unstarted(got: str) -> ResourceError:
    return ResourceError("a process to parse files in", got, "Nothing was read.", "Free memory or processes.")
