"""The tasks by kind: the one table that names them all."""

from __future__ import annotations

from collections.abc import Mapping

from preread.eval.task import Task
from preread.eval.tasks.ability import ClosedBook, ShortText
from preread.eval.tasks.abstention import Abstention, OffTopic
from preread.eval.tasks.chunked import Chunked
from preread.eval.tasks.in_context import InContext
from preread.eval.tasks.keyvalue import KeyValue
from preread.eval.tasks.longbench import LongBench
from preread.eval.tasks.needle import BookNeedle, Passkey
from preread.eval.tasks.open_domain import OpenDomain
from preread.eval.tasks.positions import Positions
from preread.eval.tasks.qa import Qa
from preread.eval.tasks.ralm import Ralm
from preread.eval.tasks.ruler import Ruler
from preread.eval.tasks.sliding import Sliding
from preread.eval.tasks.topics import Topics

TASKS: Mapping[str, type[Task]] = {
    kind.kind: kind
    for kind in (
        Qa,
        LongBench,
        Sliding,
        Chunked,
        Positions,
        Ralm,
        ShortText,
        ClosedBook,
        Passkey,
        BookNeedle,
        Topics,
        KeyValue,
        Ruler,
        OpenDomain,
        InContext,
        Abstention,
        OffTopic,
    )
}
"""Every task by the kind that recipes name."""
