"""The answerers by kind: the one table that names them all."""

from __future__ import annotations

from collections.abc import Mapping

from preread.eval.answerer import Answerer
from preread.eval.answerers.plain import Full, Nothing

ANSWERERS: Mapping[str, type[Answerer]] = {kind.kind: kind for kind in (Nothing, Full)}
"""Every answerer by the kind that recipes name."""
