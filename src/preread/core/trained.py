"""Folders of trained parts, each with a manifest that names the decoder it was trained for."""

from __future__ import annotations

import json
from pathlib import Path

from preread.core.errors import IntegrityError


def trained_for(base: str, own: Path, shipped: Path) -> Path | None:
    """The folder of what was trained for the decoder with this fingerprint, if there is one.

    Args:
        base: fingerprint of the decoder.
        own: where the user's own are, a folder each; they come first, the newest of them before all.
        shipped: where those of the package are.

    Raises:
        IntegrityError: a manifest cannot be read.
    """
    newest = sorted(own.glob("*/manifest.json"), key=lambda manifest: -manifest.stat().st_mtime_ns)
    for manifest in [*newest, *sorted(shipped.glob("*/manifest.json"))]:
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))["base"]
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                expected=f"trained weights in {manifest.parent}",
                got=f"{type(error).__name__}: {error}",
                consequence="They were not loaded.",
                remedy="Train them again, or delete the folder.",
            ) from error
        if found == base:
            return manifest.parent
    return None
