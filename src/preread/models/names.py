"""How a decoder is named: a packaged name, a path or a hub id, and the dtype behind it."""

from __future__ import annotations

DTYPES = {"bfloat16": "bfloat16", "float32": "float32", "int8": "bfloat16", "int4": "bfloat16"}
"""What a decoder can be loaded as, and torch's dtype of what is not quantised then."""


def divided(name: str) -> tuple[str, str | None]:
    """The name alone, and the dtype that stands behind it, as in `default:int8`; None where none does."""
    bare, _, behind = name.rpartition(":")
    return (bare, behind) if bare and behind in DTYPES else (name, None)
