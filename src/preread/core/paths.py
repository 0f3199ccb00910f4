"""Where things live: `PREREAD_HOME`, or the platform's data and cache directories; and how paths are shown."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path


def data_home() -> Path:
    """The directory of libraries: `PREREAD_HOME`, else the XDG data directory."""
    home = os.environ.get("PREREAD_HOME")
    return Path(home).expanduser() if home else user_data_path("preread", appauthor=False)


def compressors_home() -> Path:
    """The directory of compressors of the user's own training, a folder each."""
    return data_home() / "compressors"


def readers_home() -> Path:
    """The directory of `cepe` readers of the user's own training, a folder each."""
    return data_home() / "readers"


def cache_home() -> Path:
    """The directory of what can be fetched again: `PREREAD_HOME/cache`, else the XDG cache directory."""
    home = os.environ.get("PREREAD_HOME")
    return Path(home).expanduser() / "cache" if home else user_cache_path("preread", appauthor=False)


def in_one_line(name: Path | str) -> str:
    """A path or title as messages show it: whatever it holds, it neither breaks a line nor commands a terminal."""
    return str(name) if str(name).isprintable() else repr(str(name))
