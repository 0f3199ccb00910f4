"""`main`: run the command line; whatever goes wrong is one message and an exit code, never a stack trace."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
import warnings

from typer.exceptions import Abort, TyperException

from preread.cli.app import app, complain, dumps, report, say
from preread.core.errors import Interrupted, PrereadError, PrereadWarning
from preread.core.paths import in_one_line

INTERRUPTED = 130
OUT_OF_REACH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
"""What a user can mend: permissions, and paths that lead elsewhere than meant."""


def main() -> None:
    """Run the command line and exit.

    With `--json` errors and warnings are JSON objects too, a line each, on stderr.
    """
    as_json = "--json" in sys.argv[1:]
    _streams()
    _warnings(as_json)
    code = _run(as_json)
    if code == INTERRUPTED:  # typer makes this of Ctrl-C
        message = "preread: interrupted; what was finished is kept, and the same command goes on from there."
        report("Interrupted", message, code, as_json)
    sys.exit(code)


def _run(as_json: bool) -> int:
    try:
        return int(app(standalone_mode=False) or 0)
    except Interrupted:
        return INTERRUPTED
    except Abort:  # "no" to a question
        report("Abort", "preread: nothing was started.", 1, as_json)
        return 1
    except PrereadError as error:
        complain(error, as_json)
        return error.exit_code
    except TyperException as error:  # a mistake on the command line itself
        if as_json:
            report("UsageError", error.format_message(), error.exit_code, as_json)
        else:
            error.show()  # type: ignore[attr-defined]  # its subclasses have it, all of them
        return error.exit_code
    except Exception as error:  # a stack trace never meets a user
        return _unforeseen(error, as_json)


def _unforeseen(error: Exception, as_json: bool) -> int:
    """Say what went wrong where no error of ours was raised; its exit code."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        what = "disk" if full else "memory"
        remedy = "what was stored is untouched. Free some, or take a smaller document."
        report("ResourceError", f"preread: out of {what} ({error}); {remedy}", 4, as_json)
        return 4
    if os.environ.get("PREREAD_DEBUG"):
        traceback.print_exc()
    if isinstance(error, OSError) and error.errno in OUT_OF_REACH and error.filename:
        complain(_out_of_reach(str(error.filename), str(error.strerror)), as_json)
        return PrereadError.exit_code
    kind = "a file could not be used" if isinstance(error, OSError) else "something unforeseen happened"
    message = f"preread: {kind}: {type(error).__name__}: {error}. Set PREREAD_DEBUG=1 to see where, and report it."
    report(type(error).__name__, message, 1, as_json)
    return 1


def _out_of_reach(path: str, reason: str) -> PrereadError:
    return PrereadError(
        expected=f"to be allowed to use {in_one_line(path)}",
        got=reason,
        consequence="What was finished is kept, nothing else was changed.",
        remedy="Check the path and its permissions; --library or PREREAD_HOME choose another place.",
    )


def _streams() -> None:
    """A letter that the terminal does not have is spelt out, where Python would stop."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _warnings(as_json: bool) -> None:
    """Our own warnings are lines of ours; those of libraries are not for users."""
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=PrereadWarning)

    def show(message: Warning | str, category: type[Warning], *_args: object, **_kwargs: object) -> None:
        say(dumps({"warning": category.__name__, "message": str(message)}) if as_json else f"warning: {message}")

    warnings.showwarning = show
