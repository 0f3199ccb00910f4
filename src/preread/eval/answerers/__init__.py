"""The answerers by kind: the one table that names them all."""

from __future__ import annotations

from collections.abc import Mapping

from preread.eval.answerer import Answerer
from preread.eval.answerers.hybrid import Hybrid
from preread.eval.answerers.memory import Remembered
from preread.eval.answerers.oracle import Oracle
from preread.eval.answerers.other import Other
from preread.eval.answerers.plain import Full, Nothing
from preread.eval.answerers.replug import Replug
from preread.eval.answerers.retrieved import Retrieved
from preread.eval.answerers.shortened import Shortened
from preread.eval.answerers.streaming import Streaming
from preread.eval.answerers.stretched import Stretched
from preread.eval.answerers.tuned import Tuned

ANSWERERS: Mapping[str, type[Answerer]] = {
    kind.kind: kind
    for kind in (
        Nothing,
        Full,
        Shortened,
        Stretched,
        Retrieved,
        Oracle,
        Replug,
        Streaming,
        Remembered,
        Hybrid,
        Other,
        Tuned,
    )
}
"""Every answerer by the kind that recipes name."""
