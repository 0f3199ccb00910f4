"""What the commands take where no flag says otherwise, and where each value comes from.

A flag wins over the environment, that over the project's `preread.toml` (the nearest from the working directory
upwards), that over the user's `config.toml`, and that over what is written here.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_config_path

from preread.core.errors import UsageError

PROJECT_FILE = "preread.toml"
PREFIX = "PREREAD_"


@dataclass(frozen=True, slots=True)
class Defaults:
    """Values that a user may want to say once; `None` leaves the choice to the command.

    Args:
        library: folder of the library; a relative one in a file is relative to that file.
        collection: name of the collection; without one, questions find theirs and documents go to `default`.
        model: decoder of new collections.
        method: who reads the documents.
        ratio: tokens a summary embedding stands for, in new collections.
        segments: `independent` or `recursive`, in new collections.
        mode: read the best `document`, the best `passages`, or both as memory and text (`hybrid`).
        passages: passages to cite, and to read in mode `passages`.
        max_tokens: most tokens of an answer.
        temperature: 0 takes the likeliest token.
        top_p: smallest set of tokens with this probability.
        seed: makes a drawn answer repeatable.
    """

    library: Path | None = None
    collection: str | None = None
    model: str | None = None
    method: str | None = None
    ratio: float | None = None
    segments: Literal["independent", "recursive"] | None = None
    mode: Literal["document", "passages", "hybrid"] | None = None
    passages: int = 5
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


KEYS = tuple(field.name for field in fields(Defaults))


@dataclass(frozen=True, slots=True)
class Chosen:
    """A value and who chose it: `default`, an environment variable, or a file and its line."""

    value: Any
    origin: str


def user_file() -> Path:
    """The user's configuration file, whether or not it is there."""
    return user_config_path("preread", appauthor=False) / "config.toml"


def project_file(start: Path | None = None) -> Path | None:
    """The nearest `preread.toml` of a folder and those above it, or None."""
    start = (start or Path.cwd()).absolute()
    return next((file for folder in (start, *start.parents) if (file := folder / PROJECT_FILE).is_file()), None)


def resolve(environment: Mapping[str, str] = os.environ, start: Path | None = None) -> dict[str, Chosen]:
    """Every key of `Defaults` with its value and origin; later sources win.

    Raises:
        UsageError: a file that is not TOML, an unknown key, or a value that does not fit; the message says where.
    """
    chosen = {key: Chosen(value, "default") for key, value in asdict(Defaults()).items()}
    for file in (user_file(), project_file(start)):
        if file is not None and file.is_file():
            chosen.update(_of_file(file))
    chosen.update(_of_environment(environment))
    return chosen


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names that look like a setting of ours and differ from one by a slip of the pen."""
    from difflib import get_close_matches

    known = [f"{PREFIX}{key.upper()}" for key in KEYS]
    ours = (name for name in environment if name.startswith(PREFIX) and name not in known)
    return sorted(name for name in ours if get_close_matches(name, known, n=1, cutoff=0.85))


def assign(file: Path, key: str, value: str | None) -> None:
    """Set a key in a configuration file, or take it out; comments and other lines stay.

    Args:
        file: made if it is not there.
        key: one of `KEYS`.
        value: as a user types it; None takes the key out.

    Raises:
        UsageError: an unknown key, a value that does not fit, or a file that cannot be changed line by line.
    """
    fitting = _fit(key, getattr(Defaults(), key, None) if value is None else value, f"{key} = {value}")
    text = _text(file) if file.exists() else ""
    kept = [line for line in text.splitlines() if not _assigns(line, key)]
    if value is not None:
        plain = str(fitting.absolute()) if isinstance(fitting, Path) else fitting
        kept.append(f"{key} = {json.dumps(plain, ensure_ascii=False)}")
    new = "\n".join(kept) + "\n"
    _parse(new, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.part")
    aside.write_text(new, encoding="utf-8")
    aside.replace(file)


def _of_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, Chosen]]:
    for key in KEYS:
        name = f"{PREFIX}{key.upper()}"
        if raw := environment.get(name):  # an empty variable is none
            yield key, Chosen(_fit(key, raw, f"{name}={raw}"), name)


def _of_file(file: Path) -> Iterator[tuple[str, Chosen]]:
    text = _text(file)
    for key, raw in _parse(text, file).items():
        line = next((n for n, line in enumerate(text.splitlines(), start=1) if _assigns(line, key)), None)
        place = f"{file}:{line}" if line else str(file)
        value = _fit(key, raw, f"{key} = {raw!r} in {place}")
        if key == "model" and isinstance(value, str) and value.startswith("."):
            value = str(file.parent / value)
        yield key, Chosen(file.parent / value if isinstance(value, Path) else value, place)


def _assigns(line: str, key: str) -> bool:
    return re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", line) is not None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, str(error)) from error


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(file, str(error)) from error


def _unreadable(file: Path, got: str) -> UsageError:
    return UsageError(
        expected=f"a configuration in TOML at {file}",
        got=got,
        consequence="Nothing was started.",
        remedy="Correct the file or remove it; its lines read key = value.",
    )


def _fit(key: str, raw: Any, where: str) -> Any:
    """The value in the type of the key."""
    from preread.core.config import build  # validation costs more than the rest of a command's start

    try:
        value = getattr(build(Defaults, {key: raw}), key)
    except UsageError as error:
        remedy = error.remedy if key not in KEYS else "Correct it there, or take it out."
        raise UsageError(error.expected, where, "Nothing was started.", remedy) from error
    return value.expanduser() if isinstance(value, Path) else value
