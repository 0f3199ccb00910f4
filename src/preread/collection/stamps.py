"""Whether models changed, told from their files' sizes and times, so that they need not be loaded to know."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from preread.core.paths import compressors_home, readers_home
from preread.core.types import sha256

_PINNED = re.compile(r".+@[0-9a-f]{40}")
_SOURCE = Path(__file__).parents[1]


def stamp(settings: Mapping[str, Any]) -> str | None:
    """A hash of all that decides the producer of a collection with these settings, as the disk has it now.

    Equal stamps mean equal producers. A file counts by size and time; so do the models' and the method's code.

    Args:
        settings: fields of the collection's `Settings`.

    Returns:
        None where nothing on this disk decides it, such as a hub id without a commit.
    """
    from preread.models.names import divided
    from preread.models.packaged import PACKAGED

    (name, _), options = divided(str(settings["model"])), settings["options"]
    named = [Path(options[key]) for key in ("compressor", "weights") if options.get(key)]
    model = Path(name).expanduser()
    if not (model.exists() or name in PACKAGED or _PINNED.fullmatch(name)):
        return None
    code = [_SOURCE / "models", _SOURCE / "methods" / settings["method"]]
    files = sorted(_files([model, *code, compressors_home(), readers_home(), *named]))
    deciding = {name: value for name, value in settings.items() if name != "window"}  # memories are the same in any
    return sha256(json.dumps(deciding, sort_keys=True, default=str), json.dumps(files))


def _files(roots: Iterable[Path]) -> Iterable[tuple[str, int, int]]:
    for root in roots:
        for file in [root, *root.rglob("*")] if root.exists() else []:
            if file.is_file() and file.suffix != ".pyc":
                stat = file.stat()
                yield str(file), stat.st_size, stat.st_mtime_ns
